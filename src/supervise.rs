//! Children that are started, watched, restarted and reported: the only place that starts threads
//! and tasks.
//!
//! Erlang's words: a child runs a body; a body that panics is started again after a backoff; more
//! than `restarts` within `within` (the intensity) and the child is given up, which its owner can
//! see. A child has a [`Pulse`]: it beats while it lives and makes progress when it gets work
//! done, two separate facts, because a thread that spins is alive and useless. [`thread`] is for
//! the flight recorder, which must live in any host; [`task`] is for everything on tokio.
//!
//! It promises that no panic of a child reaches its owner and that every restart is counted. It
//! does not decide what a stall is: the owner knows the deadlines.

#[cfg(feature = "full")]
pub mod task;
pub mod thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::clock;

/// How often a child may be restarted before it is given up.
///
/// The default never gives up: of a task that nothing can stand in for, a start every few seconds
/// is worth more than none. [`Intensity::BOUNDED`] is for children whose work something else takes
/// over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intensity {
    /// Restarts allowed within the window.
    pub restarts: u32,
    /// The window.
    pub within: Duration,
    /// Wait before each restart.
    pub backoff: Backoff,
}

/// Waits before restarts: 20 ms, doubling up to 5 s.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(20), ceiling: Duration::from_secs(5), jitter: 0.0 };

impl Intensity {
    /// A child that panics at once on every start has had its 12 restarts after about 25 s and is
    /// given up; one that panics every 10 s or less often is started again for ever.
    pub const BOUNDED: Intensity = Intensity { restarts: 12, within: Duration::from_secs(120), backoff: BACKOFF };
}

impl Default for Intensity {
    fn default() -> Self {
        Intensity { restarts: u32::MAX, within: Duration::from_secs(60), backoff: BACKOFF }
    }
}

/// A child's vital signs, shared with its owner. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Signs>);

#[derive(Debug)]
struct Signs {
    name: String,
    beat_ms: AtomicU64,
    progress: AtomicU64,
    restarts: AtomicU64,
    generation: AtomicU64,
    given_up: AtomicBool,
}

impl Pulse {
    /// The pulse of a child that has just been started.
    pub fn new(name: &str) -> Pulse {
        let pulse = Pulse(Arc::new(Signs {
            name: name.to_owned(),
            beat_ms: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
        }));
        pulse.beat();
        pulse
    }

    /// The child's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Says "I live". Called at least once a turn of the child's loop.
    pub fn beat(&self) {
        self.0.beat_ms.store(monotonic_ms(), Ordering::Relaxed);
    }

    /// Says "I got work done".
    pub fn progress(&self) {
        self.0.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Time since the last beat.
    pub fn silent_for(&self) -> Duration {
        Duration::from_millis(monotonic_ms().saturating_sub(self.0.beat_ms.load(Ordering::Relaxed)))
    }

    /// How often work got done.
    pub fn progress_count(&self) -> u64 {
        self.0.progress.load(Ordering::Relaxed)
    }

    /// How often the child was started again.
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Ordering::Relaxed)
    }

    /// The generation that may act. A body keeps the number it was started with and stops where
    /// it finds another here: it has been fenced.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Whether the intensity was exceeded: nobody will start it again.
    pub fn is_given_up(&self) -> bool {
        self.0.given_up.load(Ordering::Acquire)
    }

    fn fence(&self) -> u64 {
        self.0.generation.fetch_add(1, Ordering::AcqRel) + 1
    }
}

fn monotonic_ms() -> u64 {
    u64::try_from(clock::monotonic().as_millis()).unwrap_or(u64::MAX)
}

/// The restarts of one child, and whether the next one is still allowed.
#[derive(Debug)]
struct RestartState {
    intensity: Intensity,
    at: std::collections::VecDeque<Duration>,
}

impl RestartState {
    fn new(intensity: Intensity) -> Self {
        RestartState { intensity, at: std::collections::VecDeque::new() }
    }

    /// The wait before the restart that is due at `now` (monotonic), or None: give it up.
    fn next(&mut self, now: Duration) -> Option<Duration> {
        while self.at.front().is_some_and(|at| now.saturating_sub(*at) > self.intensity.within) {
            self.at.pop_front();
        }
        if self.at.len() >= self.intensity.restarts as usize {
            return None;
        }
        let attempt = u32::try_from(self.at.len()).unwrap_or(u32::MAX);
        self.at.push_back(now);
        Some(self.intensity.backoff.delay(attempt, 0.0))
    }
}

/// The text of a panic's payload.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the bounded child is given up that runs for `life` after each start, if ever.
    fn given_up_after(life: Duration) -> Option<Duration> {
        let (mut state, mut now) = (RestartState::new(Intensity::BOUNDED), life);
        while now < Duration::from_secs(86_400) {
            let Some(wait) = state.next(now) else { return Some(now) };
            now += wait + life;
        }
        None
    }

    #[test]
    fn who_panics_at_once_is_given_up_in_half_a_minute_and_who_panics_seldom_never() {
        assert_eq!(given_up_after(Duration::ZERO), Some(Duration::from_millis(25_100)));
        assert_eq!(given_up_after(Duration::from_secs(10)), None);
        let mut endless = RestartState::new(Intensity::default());
        assert!((0..10_000).all(|at| endless.next(Duration::from_millis(at)).is_some()));
    }

    #[test]
    fn intensity_gives_up_and_forgets() {
        let mut state =
            RestartState::new(Intensity { restarts: 2, within: Duration::from_secs(10), ..Intensity::default() });
        let at = Duration::from_secs;
        assert_eq!(state.next(at(0)), Some(Duration::from_millis(20)));
        assert_eq!(state.next(at(1)), Some(Duration::from_millis(40)));
        assert_eq!(state.next(at(2)), None);
        assert_eq!(state.next(at(12)), Some(Duration::from_millis(20)));
    }
}
