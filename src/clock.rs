//! The only reader of clocks.
//!
//! Everything else takes `now` as an argument, so that tests and the simulator own time. Wall
//! times are cut to whole microseconds once, here, because the databases that keep them would
//! otherwise round differently and the same record would get two keys. Not for measuring what a
//! database did: database times are compared only with database times (invariant I9).

mod timer;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

pub use timer::{Driven, Sleep, Timer};

/// An instant in UTC, whole microseconds.
pub type Time = jiff::Timestamp;

/// The wall clock, cut to whole microseconds.
pub fn now() -> Time {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    let now = Time::now();
    from_micros(now.as_microsecond())
}

/// Microseconds of the wall clock since 1970: [`now`] for whoever counts nanoseconds of its own.
pub fn unix_micros() -> u64 {
    // Every record asks this: the standard library takes half as long again to make an interval.
    let since = clock_gettime(ClockId::Realtime);
    let micros = since.tv_sec.saturating_mul(1_000_000).saturating_add(since.tv_nsec / 1_000);
    u64::try_from(micros).unwrap_or(0)
}

/// Time since the first call in this process, from a clock that never goes back.
pub fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    let now = Instant::now();
    now.saturating_duration_since(*START.get_or_init(|| now))
}

/// The instant `micros` microseconds after 1970-01-01T00:00:00Z; clamped to what can be represented.
pub fn from_micros(micros: i64) -> Time {
    Time::from_microsecond(micros).unwrap_or(if micros < 0 { Time::MIN } else { Time::MAX })
}

/// `time + duration`, clamped to the last representable instant.
pub fn plus(time: Time, duration: Duration) -> Time {
    let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    from_micros(time.as_microsecond().saturating_add(micros))
}

/// `time - duration`, clamped to the first representable instant.
pub fn minus(time: Time, duration: Duration) -> Time {
    let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    from_micros(time.as_microsecond().saturating_sub(micros))
}

/// How long `earlier` lies before `later`; zero where it does not.
pub fn age(later: Time, earlier: Time) -> Duration {
    let micros = later.as_microsecond().saturating_sub(earlier.as_microsecond());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_has_whole_microseconds() {
        assert_eq!(now().as_nanosecond() % 1_000, 0);
    }

    #[test]
    fn both_wall_clocks_say_the_same() {
        let (before, micros, after) = (now(), unix_micros(), now());
        assert!((before..=after).contains(&from_micros(micros.cast_signed())));
    }

    #[test]
    fn age_of_the_future_is_zero_and_sums_are_clamped() {
        let t = from_micros(1_000_000);
        assert_eq!(age(t, plus(t, Duration::from_secs(5))), Duration::ZERO);
        assert_eq!(age(plus(t, Duration::from_secs(5)), t), Duration::from_secs(5));
        assert_eq!(plus(Time::MAX, Duration::from_secs(1)), Time::MAX);
        assert_eq!(minus(plus(t, Duration::from_secs(5)), Duration::from_secs(5)), t);
    }
}
