//! What session, heartbeat and runner of one agent know together.
//!
//! Orders come in from the base and the stop signal; the heartbeat tells where the agent stands.
//! Everything that waits for an order waits on one value, [`Control`].

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::AgentEnd;
use super::crash::EndWhy;
use crate::clock;
use crate::rpc::{Orders, Phase};

/// Until the base says otherwise: how long an agent goes on without it.
pub(super) const DEAD_MAN_DEFAULT: Duration = Duration::from_secs(1_800);

/// Orders in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// Claim no more and leave.
    pub(super) leave: Option<AgentEnd>,
    /// End the program now.
    pub(super) end: Option<EndWhy>,
    /// End this task's program now.
    pub(super) cancel: Option<Uuid>,
}

impl Control {
    /// Why the program of `task` is to be ended, if it is.
    pub(super) fn must_end(&self, task: Uuid) -> Option<EndWhy> {
        self.end.or_else(|| (self.cancel == Some(task)).then_some(EndWhy::Cancelled))
    }
}

/// Where the agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doing {
    pub(super) phase: Phase,
    pub(super) task: Option<Uuid>,
    /// Raised by each change of task, so that an answer to an earlier beat cannot cancel the
    /// next attempt at the same task.
    number: u64,
}

/// The agent's state in memory.
#[derive(Debug)]
pub(super) struct Shared {
    control: watch::Sender<Control>,
    doing: Mutex<Doing>,
    progress: AtomicI64,
    contact_ms: AtomicU64,
    dead_man_ms: AtomicU64,
    beat_now: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        let shared = Shared {
            control: watch::Sender::default(),
            doing: Mutex::new(Doing { phase: Phase::Starting, task: None, number: 0 }),
            progress: AtomicI64::new(0),
            contact_ms: AtomicU64::new(0),
            dead_man_ms: AtomicU64::new(millis(DEAD_MAN_DEFAULT)),
            beat_now: Notify::new(),
        };
        shared.in_contact();
        shared
    }
}

impl Shared {
    /// Orders, and a way to wait for them.
    pub(super) fn control(&self) -> watch::Receiver<Control> {
        self.control.subscribe()
    }

    /// Claim no more. The first reason stays, but for being superseded, which overrules all.
    pub(super) fn leave(&self, end: AgentEnd) {
        let is_superseded = matches!(end, AgentEnd::Superseded { .. });
        self.control.send_if_modified(|control| {
            let is_changed = control.leave.is_none() || is_superseded;
            if is_changed {
                control.leave = Some(end);
            }
            if is_superseded {
                control.end = Some(EndWhy::Superseded);
            }
            is_changed
        });
        self.beat_now.notify_one();
    }

    /// End the program now; the first reason stays.
    pub(super) fn end_program(&self, why: EndWhy) {
        self.control.send_modify(|control| control.end = control.end.or(Some(why)));
    }

    /// Does what the answer to a beat says that was sent while the agent stood at `then`.
    pub(super) fn obey(&self, orders: &Orders, then: Doing) {
        {
            // Held over the change: the task cannot be another one in between.
            let doing = self.lock();
            let cancel = orders.cancel.filter(|_| doing.number == then.number);
            self.control.send_if_modified(|control| std::mem::replace(&mut control.cancel, cancel) != cancel);
        }
        if orders.drain || orders.stop {
            self.leave(AgentEnd::Ordered);
        }
        if orders.stop {
            self.end_program(EndWhy::Stopped);
        }
    }

    /// Where the agent stands, for the heartbeat.
    pub(super) fn doing(&self) -> Doing {
        let doing = *self.lock();
        let is_leaving = self.control.borrow().leave.is_some();
        Doing { phase: if is_leaving { Phase::Draining } else { doing.phase }, ..doing }
    }

    pub(super) fn set_doing(&self, phase: Phase, task: Option<Uuid>) {
        let mut doing = self.lock();
        *doing = Doing { phase, task, number: doing.number + 1 };
        self.control.send_if_modified(|control| control.cancel.take().is_some());
    }

    fn lock(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program moves.
    pub(super) fn progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn progress_seq(&self) -> i64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// The base has answered.
    pub(super) fn in_contact(&self) {
        self.contact_ms.store(millis(clock::monotonic()), Ordering::Relaxed);
    }

    pub(super) fn set_dead_man(&self, limit: Duration) {
        self.dead_man_ms.store(millis(limit), Ordering::Relaxed);
    }

    /// Whether the base has not answered for longer than an agent goes on without it.
    pub(super) fn is_cut_off(&self) -> bool {
        let silent = millis(clock::monotonic()).saturating_sub(self.contact_ms.load(Ordering::Relaxed));
        silent > self.dead_man_ms.load(Ordering::Relaxed)
    }

    /// Waits until a beat should be sent before its time.
    pub(super) async fn beat_now(&self) {
        self.beat_now.notified().await;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_but_superseded_overrules() {
        let (shared, task) = (Shared::default(), Uuid::from_u128(7));
        let order = |drain, stop, cancel| shared.obey(&Orders { drain, stop, cancel }, shared.doing());
        let control = || shared.control().borrow().clone();
        order(false, false, Some(Uuid::from_u128(8)));
        assert_eq!((control().must_end(task), control().leave), (None, None));
        order(false, false, Some(task));
        assert_eq!(control().must_end(task), Some(EndWhy::Cancelled));
        order(true, false, None);
        assert_eq!((control().must_end(task), control().leave), (None, Some(AgentEnd::Ordered)));
        assert_eq!(shared.doing().phase, Phase::Draining);
        shared.leave(AgentEnd::Stopped);
        assert_eq!(control().leave, Some(AgentEnd::Ordered));
        order(true, true, None);
        assert_eq!(control().must_end(task), Some(EndWhy::Stopped));
        shared.leave(AgentEnd::Superseded { detail: "x".into() });
        assert_eq!(control().must_end(task), Some(EndWhy::Superseded));
    }

    #[test]
    fn an_answer_to_an_earlier_beat_does_not_cancel_the_next_attempt() {
        let (shared, task) = (Shared::default(), Uuid::from_u128(7));
        let cancel = Orders { drain: false, stop: false, cancel: Some(task) };
        shared.set_doing(Phase::Busy, Some(task));
        let then = shared.doing();
        shared.obey(&cancel, then);
        assert_eq!(shared.control().borrow().must_end(task), Some(EndWhy::Cancelled));
        shared.set_doing(Phase::Busy, Some(task));
        assert_eq!(shared.control().borrow().must_end(task), None);
        shared.obey(&cancel, then);
        assert_eq!(shared.control().borrow().must_end(task), None);
    }
}
