//! An exporter that takes nothing while records wait: noticed inside, within seconds, whatever the
//! cause: a call that hangs, a destination that is away or locked, rights that were revoked. Pure.

use std::time::Duration;

use crate::telemetry::shipper::{Facts, State};

/// Time without anything taken after which it is said. With the watchdog's turn it stays below
/// ten seconds.
pub(in crate::telemetry) const OVERDUE_AFTER: Duration = Duration::from_secs(8);

/// What is remembered of one exporter.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    done: u64,
    waiting_since: Option<Duration>,
    told: bool,
}

/// What there is to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It has begun to be overdue.
    Begins,
    /// It takes records again.
    Ends,
}

impl Overdue {
    /// One look; for how long it has taken nothing although something waits, and what is new.
    pub(super) fn look(&mut self, facts: &Facts, now: Duration) -> (Duration, Option<Word>) {
        let done = facts.delivered + facts.rejected + facts.quarantined;
        let waits = facts.pending.records > 0 || facts.state != State::Idle;
        if !waits || done != self.done {
            (self.done, self.waiting_since) = (done, None);
        }
        let since = *self.waiting_since.get_or_insert(now);
        let overdue = if waits { now.saturating_sub(since) } else { Duration::ZERO };
        let is_overdue = overdue >= OVERDUE_AFTER;
        let word = match (self.told, is_overdue) {
            (false, true) => Some(Word::Begins),
            (true, false) => Some(Word::Ends),
            _ => None,
        };
        self.told = is_overdue;
        (overdue, word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::telemetry::shipper::Pending;

    fn facts(delivered: u64, pending: u64, state: State) -> Facts {
        Facts {
            exporter: "sqlite",
            state,
            last_error: None,
            delivered,
            rejected: 0,
            quarantined: 0,
            dropped: 0,
            retries: 0,
            delivered_at: None,
            newest_seq: None,
            pending: Pending { records: pending, oldest_unix_micros: None },
        }
    }

    /// Seconds at which something is said, as `+` and `-`.
    fn check(looks: impl Iterator<Item = Facts>, expected: &str) {
        let (mut overdue, mut said) = (Overdue::default(), String::new());
        for (second, facts) in (0..).zip(looks) {
            match overdue.look(&facts, Duration::from_secs(second)).1 {
                Some(Word::Begins) => said += &format!("+{second} "),
                Some(Word::Ends) => said += &format!("-{second} "),
                None => {}
            }
        }
        assert_eq!(said.trim(), expected);
    }

    #[test]
    fn what_hangs_is_said_within_ten_seconds_and_over_with_the_next_record() {
        let until = State::Retrying { until: clock::from_micros(0) };
        check((0..30).map(|_| facts(5, 0, State::Idle)), "");
        check((0..30).map(|second| facts(second, 9, State::Delivering)), "");
        check((0..30).map(|_| facts(0, 0, State::Delivering)), "+8");
        check((0..30).map(|second| facts(u64::from(second > 20), 3, until.clone())), "+8 -21 +29");
        check((0..30).map(|second| facts(0, u64::from(second < 12), State::Idle)), "+8 -12");
        assert!(OVERDUE_AFTER + Duration::from_secs(2) <= Duration::from_secs(10));
    }
}
