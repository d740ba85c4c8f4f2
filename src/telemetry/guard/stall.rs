//! Whether a thread has stalled so long that it is fenced and replaced.
//!
//! A stalled thread cannot be killed, so each replacement leaves one behind: the patience doubles
//! with each, until there is progress, and after [`REPLACED_MAX`] it is given up and said. Pure.

use std::time::Duration;

use crate::supervise::Pulse;

/// Replacements in a row without progress.
const REPLACED_MAX: u32 = 8;

/// What is remembered of one thread.
#[derive(Debug, Default)]
pub(super) struct Stall {
    replaced: u32,
    progress: u64,
}

/// What to do about a thread.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It beats, or has time left.
    Fine,
    /// Fence it and start another.
    Replace,
    /// Replacing it has not helped.
    GivenUp,
}

impl Stall {
    pub(super) fn judge(&mut self, pulse: &Pulse, limit: Duration) -> Verdict {
        self.decide(pulse.silent_for(), pulse.progress_count(), limit)
    }

    fn decide(&mut self, silent_for: Duration, progress: u64, limit: Duration) -> Verdict {
        if progress != self.progress {
            *self = Stall { replaced: 0, progress };
        }
        if silent_for <= limit.saturating_mul(1 << self.replaced.min(REPLACED_MAX)) {
            return Verdict::Fine;
        }
        if self.replaced >= REPLACED_MAX {
            return Verdict::GivenUp;
        }
        self.replaced += 1;
        Verdict::Replace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_doubles_until_there_is_progress() {
        let (mut stall, limit) = (Stall::default(), Duration::from_secs(5));
        let at = Duration::from_secs;
        assert_eq!(stall.decide(at(5), 0, limit), Verdict::Fine);
        assert_eq!(stall.decide(at(6), 0, limit), Verdict::Replace);
        assert_eq!(stall.decide(at(6), 0, limit), Verdict::Fine);
        assert_eq!(stall.decide(at(11), 0, limit), Verdict::Replace);
        assert_eq!(stall.decide(at(6), 1, limit), Verdict::Replace, "progress begins anew");
        for _ in 1..REPLACED_MAX {
            assert_eq!(stall.decide(at(100_000), 1, limit), Verdict::Replace);
        }
        assert_eq!(stall.decide(at(100_000), 1, limit), Verdict::GivenUp);
    }
}
