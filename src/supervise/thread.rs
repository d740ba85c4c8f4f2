//! A supervised thread: restarted when it panics, fenced and replaced when its owner says that it
//! has stalled.
//!
//! The body is called with its [`Pulse`] and the number of its generation, keeps whatever must
//! outlive it behind an `Arc`, and returns when it is done for good. A fenced generation cannot be
//! killed; it is left to find out (`pulse.generation() != generation`) and must write nothing more.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Intensity, Pulse, RestartState, panic_text};
use crate::clock;

type Body = dyn Fn(&Pulse, u64) + Send + Sync;
type OnPanic = dyn Fn(&Fall<'_>) + Send + Sync;

/// A panic of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fall<'a> {
    /// The child's name.
    pub child: &'a str,
    /// The panic's text.
    pub text: &'a str,
    /// The wait before it is started again; None: it stays down.
    pub again_in: Option<Duration>,
}

/// A thread that is started again when it panics.
pub struct Child {
    pulse: Pulse,
    intensity: Intensity,
    body: Arc<Body>,
    on_panic: Arc<OnPanic>,
    done: Receiver<()>,
    done_sender: Sender<()>,
}

impl Child {
    /// Starts the thread. `on_panic` hears of each panic, on the child's thread, before the backoff.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn start(
        name: &str,
        intensity: Intensity,
        on_panic: impl Fn(&Fall<'_>) + Send + Sync + 'static,
        body: impl Fn(&Pulse, u64) + Send + Sync + 'static,
    ) -> io::Result<Child> {
        let (done_sender, done) = bounded(1);
        let child = Child {
            pulse: Pulse::new(name),
            intensity,
            body: Arc::new(body),
            on_panic: Arc::new(on_panic),
            done,
            done_sender,
        };
        child.launch(0)?;
        Ok(child)
    }

    /// The child's vital signs.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Fences the running generation and starts the next one.
    ///
    /// # Errors
    /// The operating system has no thread to give; the old generation is fenced all the same.
    pub fn replace(&self) -> io::Result<()> {
        let generation = self.pulse.fence();
        self.pulse.0.restarts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.pulse.beat();
        self.launch(generation)
    }

    /// Waits until the current generation has returned or was given up. False: not within `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        self.done.recv_timeout(limit).is_ok()
    }

    fn launch(&self, generation: u64) -> io::Result<()> {
        let (pulse, intensity) = (self.pulse.clone(), self.intensity);
        let (body, on_panic) = (Arc::clone(&self.body), Arc::clone(&self.on_panic));
        let done = self.done_sender.clone();
        #[expect(clippy::disallowed_methods, reason = "supervise is the place that starts threads")]
        std::thread::Builder::new().name(format!("dw-{}", self.pulse.name())).spawn(move || {
            run(&pulse, generation, intensity, &*body, &*on_panic);
            if pulse.generation() == generation {
                let _ = done.try_send(());
            }
        })?;
        Ok(())
    }
}

fn run(pulse: &Pulse, generation: u64, intensity: Intensity, body: &Body, on_panic: &OnPanic) {
    let mut restarts = RestartState::new(intensity);
    loop {
        pulse.beat();
        let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(pulse, generation))) else {
            return;
        };
        let text = panic_text(&*payload);
        let is_fenced = pulse.generation() != generation;
        let again_in = restarts.next(clock::monotonic());
        if again_in.is_none() && !is_fenced {
            pulse.0.given_up.store(true, std::sync::atomic::Ordering::Release);
        }
        let fall = Fall { child: pulse.name(), text: &text, again_in };
        let _ = catch_unwind(AssertUnwindSafe(|| on_panic(&fall)));
        let (false, Some(wait)) = (is_fenced, again_in) else { return };
        pulse.0.restarts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        pause(wait);
    }
}

/// Waits without a bare sleep: on a channel that nobody sends to.
fn pause(wait: Duration) {
    let _ = crossbeam_channel::after(wait).recv();
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_panic_restarts_the_body_and_is_told() {
        let (runs, told) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (runs_inside, told_inside) = (Arc::clone(&runs), Arc::clone(&told));
        let child = Child::start(
            "test",
            Intensity::default(),
            move |fall| told_inside.lock().unwrap().push(format!("{}: {}", fall.child, fall.text)),
            move |_, _| assert!(runs_inside.fetch_add(1, Ordering::SeqCst) >= 2, "planted"),
        )
        .unwrap();
        assert!(child.wait(LIMIT));
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        assert_eq!(child.pulse().restarts(), 2);
        assert_eq!(*told.lock().unwrap(), ["test: planted", "test: planted"]);
        assert!(!child.pulse().is_given_up());
    }

    #[test]
    fn too_many_panics_give_the_child_up() {
        let intensity = Intensity { restarts: 2, ..Intensity::default() };
        let child = Child::start("test", intensity, |_| (), |_, _| panic!("always")).unwrap();
        assert!(child.wait(LIMIT));
        assert!(child.pulse().is_given_up());
        assert_eq!(child.pulse().restarts(), 2);
    }

    #[test]
    fn a_stalled_generation_is_fenced_and_replaced() {
        let (release, hold) = bounded::<()>(0);
        let finished = Arc::new(Mutex::new(Vec::new()));
        let finished_inside = Arc::clone(&finished);
        let child = Child::start(
            "test",
            Intensity::default(),
            |_| (),
            move |pulse, generation| {
                if generation == 0 {
                    let _ = hold.recv();
                }
                if pulse.generation() == generation {
                    finished_inside.lock().unwrap().push(generation);
                }
            },
        )
        .unwrap();
        child.replace().unwrap();
        assert!(child.wait(LIMIT));
        drop(release);
        assert_eq!(*finished.lock().unwrap(), [1]);
    }
}
