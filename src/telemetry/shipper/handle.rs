//! The thread around a [`Shipper`], and how others speak to it.
//!
//! Control messages go over a small channel; a full one means that the shipper is awake anyway.
//! Every wait of a caller has a limit, also where the shipper's thread hangs.

use std::io;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use uuid::Uuid;

use super::{Feed, Moment, Shipper, Standing, Step};
use crate::clock;
use crate::supervise::thread::Child;
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
}

impl Handle {
    /// Starts the thread. `on_panic` gets the thread's name and the panic's text.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn start(shipper: Shipper, on_panic: impl Fn(&str, &str) + Send + Sync + 'static) -> io::Result<Handle> {
        let (control, inbox) = bounded(CONTROL_MAX);
        let standing = shipper.standing();
        let name = format!("ship-{}", standing.facts().exporter);
        // What must outlive a panic: the feeds' uncommitted batches and the state of delivery.
        let shared = Arc::new(Mutex::new((shipper, Waiters::default())));
        let child = Child::start(&name, Intensity::default(), on_panic, move |pulse, generation| {
            quiet(|| run(&shared, &inbox, pulse, generation));
        })?;
        Ok(Handle { child, control, standing })
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

/// The loop. A fenced generation leaves at the next turn; its successor waits for the lock until
/// then, because two of them must never move the same cursor.
fn run(shared: &Mutex<(Shipper, Waiters)>, inbox: &Receiver<Control>, pulse: &Pulse, generation: u64) {
    let mut wait = Duration::ZERO;
    while pulse.generation() == generation {
        pulse.beat();
        let message = match inbox.recv_timeout(wait) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut guard = match shared.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => {
                shared.clear_poison();
                poisoned.into_inner()
            }
            Err(TryLockError::WouldBlock) => {
                wait = LOOK_EVERY;
                continue;
            }
        };
        let (shipper, waiters) = &mut *guard;
        match message {
            Some(Control::Stop) => return,
            Some(Control::Wake) | None => {}
            Some(Control::Adopt(feed)) => shipper.adopt(feed),
            Some(Control::Flush { deadline, ack }) => {
                shipper.hurry(clock::monotonic());
                waiters.0.push((deadline, ack));
            }
        }
        let step = shipper.step(moment());
        if step == Step::Worked {
            pulse.progress();
        }
        let now = clock::monotonic();
        waiters.answer(shipper, now);
        wait = until(step, waiters.next_deadline(), now);
    }
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
