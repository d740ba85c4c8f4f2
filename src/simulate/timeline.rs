//! Virtual time: it stands still while anything can run, and jumps to the next instant at which
//! something is due.
//!
//! Instants are microseconds of the simulated world since its beginning. A process sees them through
//! a clock of its own, which may run a little fast or slow.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::{Driven, Sleep};

/// Microseconds of a second.
pub(super) const SECOND: i64 = 1_000_000;
/// Microseconds of a minute.
pub(super) const MINUTE: i64 = 60 * SECOND;
/// Microseconds of an hour.
pub(super) const HOUR: i64 = 60 * MINUTE;
/// Microseconds of a day.
pub(super) const DAY: i64 = 24 * HOUR;

/// The simulated world's time, and who waits for it.
#[derive(Default)]
pub(super) struct Timeline {
    now: AtomicI64,
    sleepers: Mutex<Sleepers>,
}

#[derive(Default)]
struct Sleepers {
    heap: BinaryHeap<Reverse<Sleeper>>,
    ever: u64,
}

/// Whom to wake when; in the order in which they fell asleep, where the instant is the same.
struct Sleeper {
    at: i64,
    number: u64,
    waker: Waker,
}

impl Timeline {
    /// The instant.
    pub(super) fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Goes on to that instant; never back.
    pub(super) fn advance(&self, to: i64) {
        self.now.fetch_max(to, Ordering::Relaxed);
    }

    /// When the next sleeper wakes.
    pub(super) fn next_wake(&self) -> Option<i64> {
        self.sleepers().heap.peek().map(|Reverse(sleeper)| sleeper.at)
    }

    /// Wakes all that are due.
    pub(super) fn wake(&self) {
        let now = self.now();
        loop {
            let mut sleepers = self.sleepers();
            if sleepers.heap.peek().is_none_or(|Reverse(sleeper)| sleeper.at > now) {
                return;
            }
            let due = sleepers.heap.pop();
            drop(sleepers);
            if let Some(Reverse(sleeper)) = due {
                sleeper.waker.wake();
            }
        }
    }

    /// Ends at that instant.
    pub(super) fn until(self: &Arc<Self>, at: i64) -> impl Future<Output = ()> + Send + use<> {
        Until { timeline: Arc::clone(self), at, asleep: false }
    }

    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Until {
    timeline: Arc<Timeline>,
    at: i64,
    asleep: bool,
}

impl Future for Until {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.timeline.now() >= self.at {
            return Poll::Ready(());
        }
        if !self.asleep {
            self.asleep = true;
            let mut sleepers = self.timeline.sleepers();
            sleepers.ever += 1;
            let sleeper = Sleeper { at: self.at, number: sleepers.ever, waker: context.waker().clone() };
            sleepers.heap.push(Reverse(sleeper));
        }
        Poll::Pending
    }
}

/// A process's monotonic clock.
pub(super) struct ProcessClock {
    pub(super) timeline: Arc<Timeline>,
    /// What it shows at the beginning of the world, microseconds.
    pub(super) offset: i64,
    /// How much too fast it runs, parts in a million.
    pub(super) ppm: i64,
}

impl Driven for ProcessClock {
    fn monotonic(&self) -> Duration {
        let now = self.timeline.now();
        let shown = self.offset + now + now * self.ppm / 1_000_000;
        Duration::from_micros(u64::try_from(shown).unwrap_or(0))
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        // Rounded up: a sleep is never too short, also by a slow clock.
        let micros = i64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
        let slack = if self.ppm == 0 { 0 } else { micros / 1_000 * self.ppm.abs() / 900 + self.ppm.abs() };
        Box::pin(self.timeline.until(self.timeline.now().saturating_add(micros).saturating_add(slack)))
    }
}

impl fmt::Debug for ProcessClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessClock({} ppm)", self.ppm)
    }
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Sleeper {}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn sleepers_end_at_their_instant_and_not_before() {
        let timeline = Arc::new(Timeline::default());
        let mut sleep = Box::pin(timeline.until(5 * SECOND));
        assert!((&mut sleep).now_or_never().is_none());
        assert_eq!(timeline.next_wake(), Some(5 * SECOND));
        timeline.advance(5 * SECOND);
        timeline.wake();
        assert!(sleep.now_or_never().is_some());
        assert_eq!(timeline.next_wake(), None);
    }

    #[test]
    fn a_slow_clock_sleeps_until_it_shows_the_time() {
        let timeline = Arc::new(Timeline::default());
        let clock = ProcessClock { timeline: Arc::clone(&timeline), offset: 7, ppm: -9_000 };
        let from = clock.monotonic();
        let _ = clock.sleep(Duration::from_secs(30)).now_or_never();
        timeline.advance(timeline.next_wake().unwrap());
        assert!(clock.monotonic() - from >= Duration::from_secs(30));
    }
}
