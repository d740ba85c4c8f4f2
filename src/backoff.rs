//! How long to wait before the next try.
//!
//! Exponential growth with a ceiling and proportional jitter, as a pure function: the caller
//! counts its attempts, owns its clock and brings its randomness. It promises a delay between
//! `base * (1 - jitter)` and `ceiling`; it is not a retry loop and never gives up by itself.

use std::time::Duration;

/// A growing delay. `base` for the first retry, doubled each time, never above `ceiling`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Delay before the first retry.
    pub base: Duration,
    /// Longest delay.
    pub ceiling: Duration,
    /// Share of the delay that randomness may take away, 0 to 1.
    pub jitter: f64,
}

impl Backoff {
    /// The delay before retry number `attempt` (0 = the first retry). `random` is uniform in 0..1.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let doubled = self.base.saturating_mul(1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX));
        let full = doubled.min(self.ceiling);
        let kept = 1.0 - self.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0);
        full.mul_f64(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { base: Duration::from_millis(100), ceiling: Duration::from_secs(5), jitter: 0.5 };

    #[test]
    fn doubles_up_to_the_ceiling() {
        let delays: Vec<_> = (0..8).map(|n| BACKOFF.delay(n, 0.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(BACKOFF.delay(u32::MAX, 0.0), BACKOFF.ceiling);
    }

    #[test]
    fn jitter_only_shortens_and_is_bounded() {
        for attempt in 0..40 {
            for random in [0.0, 0.3, 0.999] {
                let full = BACKOFF.delay(attempt, 0.0);
                let delay = BACKOFF.delay(attempt, random);
                assert!(delay <= full && delay >= full.mul_f64(0.5));
            }
        }
    }
}
