//! The thread around a [`Shipper`], and how others speak to it.
//!
//! Control messages go over a small channel; a full one means that the shipper is awake anyway.
//! Every wait of a caller has a limit, also where the shipper's thread hangs. Such a thread is fenced
//! and replaced; its successor makes a shipper of its own, and the late answer has no effect.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use uuid::Uuid;

use super::{Config, Feed, Moment, Origin, Shipper, Standing, Step};
use crate::clock;
use crate::supervise::thread::{Child, Fall};
use crate::supervise::{Intensity, Pulse};
use crate::telemetry::quiet::quiet;

/// Messages that may wait.
const CONTROL_MAX: usize = 64;
/// The thread looks for records at least this often, woken or not, and beats.
const LOOK_EVERY: Duration = Duration::from_millis(500);

enum Control {
    Wake,
    Flush { deadline: Duration, ack: Sender<u64> },
    Adopt(Box<dyn Feed>),
    Stop,
}

/// Why a flush did not deliver everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// Time is up.
    #[error("{pending} records are still to be delivered")]
    Pending {
        /// How many.
        pending: u64,
    },
    /// The thread does not answer.
    #[error("the shipper does not answer")]
    NoAnswer,
}

/// A running shipper. Dropping it stops the thread after the export in hand.
pub struct Handle {
    child: Child,
    control: Sender<Control>,
    standing: Standing,
    /// A thread without a beat for longer hangs: an exporter has its deadline twice in a turn, for
    /// the export and for maintenance.
    patience: Duration,
}

/// What the generations of a shipper's thread share.
struct Shared {
    /// The newest generation's shipper. What must outlive a panic: the feeds' uncommitted batches
    /// and the state of delivery.
    newest: Mutex<(u64, Arc<Mutex<Shipper>>)>,
    waiters: Mutex<Waiters>,
    /// Messages that a fenced generation had already taken.
    carried: Mutex<Vec<Control>>,
    inbox: Receiver<Control>,
    origin: Option<Box<dyn Origin>>,
    config: Config,
    standing: Standing,
}

impl Handle {
    /// Starts the thread. `on_panic` hears of each panic. With an `origin` the thread can be
    /// replaced when it hangs.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn start(
        shipper: Shipper,
        origin: Option<Box<dyn Origin>>,
        intensity: Intensity,
        on_panic: impl Fn(&Fall<'_>) + Send + Sync + 'static,
    ) -> io::Result<Handle> {
        let (control, inbox) = bounded(CONTROL_MAX);
        let (standing, config) = (shipper.standing(), shipper.config);
        let name = format!("ship-{}", standing.facts().exporter);
        let shared = Shared {
            newest: Mutex::new((0, Arc::new(Mutex::new(shipper)))),
            waiters: Mutex::default(),
            carried: Mutex::default(),
            inbox,
            origin,
            config,
            standing: standing.clone(),
        };
        let child = Child::start(&name, intensity, on_panic, move |pulse, generation| {
            quiet(|| shared.run(pulse, generation));
        })?;
        Ok(Handle { child, control, standing, patience: config.export_deadline.saturating_mul(2) })
    }

    /// Fences the thread that hangs and starts another, with an exporter and feeds of its own.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn replace(&self) -> io::Result<()> {
        self.child.replace()
    }

    /// How long a thread that keeps its exporter's contract may be without a beat.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// There are more records.
    pub fn wake(&self) {
        let _ = self.control.try_send(Control::Wake);
    }

    /// Serves one more feed. False: the thread does not listen.
    pub fn adopt(&self, feed: Box<dyn Feed>) -> bool {
        self.control.send_timeout(Control::Adopt(feed), LOOK_EVERY).is_ok()
    }

    /// Tries hard until everything in the feeds is delivered, at most for `limit`.
    ///
    /// # Errors
    /// Not everything was.
    pub fn flush(&self, limit: Duration) -> Result<(), FlushError> {
        let deadline = clock::monotonic().saturating_add(limit);
        let (ack, acked) = bounded(1);
        self.control.send_timeout(Control::Flush { deadline, ack }, limit).map_err(|_| FlushError::NoAnswer)?;
        // The thread answers at the deadline by itself; an export in hand may make it late.
        let left = deadline.saturating_sub(clock::monotonic());
        match acked.recv_timeout(left.saturating_add(LOOK_EVERY)) {
            Ok(0) => Ok(()),
            Ok(pending) => Err(FlushError::Pending { pending }),
            Err(_) => Err(FlushError::NoAnswer),
        }
    }

    /// Ends the thread after the export in hand. False: not within `limit`.
    pub fn stop(&self, limit: Duration) -> bool {
        self.control.send_timeout(Control::Stop, limit).is_ok() && self.child.wait(limit)
    }

    /// Where the exporter stands.
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// The thread's vital signs.
    pub fn pulse(&self) -> &Pulse {
        self.child.pulse()
    }
}

/// Those who wait for a flush.
#[derive(Default)]
struct Waiters(Vec<(Duration, Sender<u64>)>);

impl Waiters {
    /// Answers all whose time is up, or everybody if nothing is pending.
    fn answer(&mut self, shipper: &mut Shipper, now: Duration) {
        if self.0.is_empty() {
            return;
        }
        let pending = shipper.pending().records;
        self.0.retain(|(deadline, ack)| {
            let is_over = pending == 0 || now >= *deadline;
            if is_over {
                let _ = ack.try_send(pending);
            }
            !is_over
        });
        if self.0.is_empty() {
            shipper.calm();
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        self.0.iter().map(|(deadline, _)| *deadline).min()
    }
}

impl Shared {
    fn run(&self, pulse: &Pulse, generation: u64) {
        let mut shipper = None;
        while shipper.is_none() && pulse.generation() == generation {
            pulse.beat();
            shipper = self.shipper_of(generation);
            if shipper.is_none() {
                // The spool cannot be read at the moment; whoever waits has a limit of his own.
                let _ = crossbeam_channel::after(LOOK_EVERY).recv();
            }
        }
        if let Some(shipper) = shipper {
            self.serve(&shipper, pulse, generation);
        }
    }

    /// The shipper of that generation, made where it is not there yet. None: it cannot be made.
    fn shipper_of(&self, generation: u64) -> Option<Arc<Mutex<Shipper>>> {
        {
            let newest = lock(&self.newest);
            if newest.0 == generation {
                return Some(Arc::clone(&newest.1));
            }
        }
        let origin = self.origin.as_ref()?;
        let made = origin.exporter().and_then(|exporter| Ok((exporter, origin.feeds()?)));
        let (exporter, feeds) = made.inspect_err(|error| self.standing.broken(error)).ok()?;
        let shipper = Shipper::new(exporter, feeds, self.config).in_place(self.standing.clone());
        let shipper = Arc::new(Mutex::new(shipper));
        *lock(&self.newest) = (generation, Arc::clone(&shipper));
        if !lock(&self.waiters).0.is_empty() {
            lock(&shipper).hurry(clock::monotonic());
        }
        Some(shipper)
    }

    /// The loop. A fenced generation leaves at the next turn.
    fn serve(&self, shipper: &Mutex<Shipper>, pulse: &Pulse, generation: u64) {
        let current = pulse.clone();
        lock(shipper).serve_while(move || current.generation() == generation);
        let mut wait = Duration::ZERO;
        while pulse.generation() == generation {
            pulse.beat();
            let carried = lock(&self.carried).pop();
            let message = match carried.map_or_else(|| self.inbox.recv_timeout(wait), Ok) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if pulse.generation() != generation {
                return lock(&self.carried).extend(message);
            }
            // Nobody else waits for it: a panic in it was this thread's own.
            let mut shipper = lock(shipper);
            match message {
                Some(Control::Stop) => return,
                Some(Control::Wake) | None => {}
                Some(Control::Adopt(feed)) => shipper.adopt(feed),
                Some(Control::Flush { deadline, ack }) => {
                    shipper.hurry(clock::monotonic());
                    lock(&self.waiters).0.push((deadline, ack));
                }
            }
            let step = shipper.step(moment());
            if pulse.generation() != generation {
                return;
            }
            if step == Step::Worked {
                pulse.progress();
            }
            let now = clock::monotonic();
            let mut waiters = lock(&self.waiters);
            waiters.answer(&mut shipper, now);
            wait = until(step, waiters.next_deadline(), now);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn until(step: Step, flush_deadline: Option<Duration>, now: Duration) -> Duration {
    let wait = match step {
        Step::Worked => Duration::ZERO,
        Step::Idle => LOOK_EVERY,
        Step::Wait(at) => at.saturating_sub(now).min(LOOK_EVERY),
    };
    flush_deadline.map_or(wait, |deadline| wait.min(deadline.saturating_sub(now)))
}

fn moment() -> Moment {
    // 53 random bits: all that a double holds.
    let bits = (Uuid::new_v4().as_u128() & ((1 << 53) - 1)) as f64;
    Moment { now: clock::monotonic(), wall: clock::now(), random: bits / (1_u64 << 53) as f64 }
}
