//! What goes wrong by itself, at moments of its own: machines, images, outages, clocks, people.

use super::at_once;
use super::faults::Fault;
use super::timeline::{HOUR, MINUTE, SECOND};
use super::world::{Event, Sim};
use crate::store::Store as _;
use crate::store::memory::MemoryStore;

/// Faults that strike by themselves.
pub(super) const BY_THEMSELVES: &[Fault] = &[
    Fault::CapacityGone,
    Fault::CapacityShort,
    Fault::BadImage,
    Fault::PodVanishes,
    Fault::AgentHangs,
    Fault::AgentWakes,
    Fault::AgentCrashes,
    Fault::StoreOutage,
    Fault::StoreClockJumps,
    Fault::GracefulRestart,
    Fault::AncientTasks,
    Fault::ForeignPod,
    Fault::OperatorPause,
    Fault::UserWithoutCredits,
];

impl Sim {
    /// One of them strikes, where anything does at the moment.
    pub(super) fn mishap(&mut self, fault: Fault, store: &MemoryStore) {
        self.plan_mishap(fault);
        if self.faults.on && self.befalls(fault, store) {
            self.struck(fault);
        }
    }

    /// Whether it found something to befall.
    fn befalls(&mut self, fault: Fault, store: &MemoryStore) -> bool {
        match fault {
            Fault::CapacityGone | Fault::CapacityShort | Fault::BadImage => self.cell_fails(fault),
            Fault::PodVanishes => self.some_agent().map(|pod| self.pod_gone(pod)).is_some(),
            Fault::AgentCrashes => self.some_agent().map(|pod| self.pod_over(pod, None, Some(11))).is_some(),
            Fault::AgentHangs => self.some_agent().map(|pod| self.agent_hangs(pod, false)).is_some(),
            Fault::AgentWakes => self.some_agent().map(|pod| self.agent_hangs(pod, true)).is_some(),
            Fault::StoreOutage => {
                self.outage_until = self.now + self.rng.between(20 * SECOND, 15 * MINUTE);
                true
            }
            Fault::StoreClockJumps => {
                self.store_skew += self.rng.between(-MINUTE, 2 * MINUTE);
                self.provider_skew += self.rng.between(-MINUTE, MINUTE);
                true
            }
            Fault::GracefulRestart => self.asks_to_leave(),
            Fault::AncientTasks => {
                self.ancient_tasks(store);
                true
            }
            Fault::ForeignPod => {
                self.foreign_pod();
                true
            }
            Fault::OperatorPause => self.operator_pauses(store),
            Fault::UserWithoutCredits => self.user_without_credits(store),
            _ => false,
        }
    }

    fn cell_fails(&mut self, fault: Fault) -> bool {
        let cell = usize::try_from(self.rng.below(self.cells.len() as u64)).unwrap_or(0);
        let until = self.now + self.rng.between(10 * MINUTE, 2 * HOUR);
        let few = if fault == Fault::CapacityShort { 1 + self.rng.below(2) } else { 0 };
        let cell = &mut self.cells[cell];
        if fault == Fault::BadImage {
            cell.broken_until = until;
        } else {
            (cell.few, cell.few_until) = (u32::try_from(few).unwrap_or(0), until);
        }
        true
    }

    /// Everything that was broken is mended: a calm begins.
    pub(super) fn mend(&mut self) {
        let now = self.now;
        for cell in &mut self.cells {
            (cell.few_until, cell.broken_until) = (now, now);
        }
        self.outage_until = now;
    }

    fn operator_pauses(&mut self, store: &MemoryStore) -> bool {
        let wait = self.rng.between(5 * MINUTE, HOUR);
        let until = crate::clock::plus(self.store_time(), std::time::Duration::from_micros(wait.unsigned_abs()));
        let until = self.rng.chance(0.5).then_some(until);
        self.plan(wait, Event::Resume);
        self.facts.paused_until = self.facts.paused_until.max(self.now + wait);
        at_once(store.pause("simulated operator", "simulated", until)).is_ok()
    }

    /// The operator's pause is over.
    pub(super) fn resume(&mut self, store: &MemoryStore) {
        if at_once(store.resume("simulated operator", "simulated")).is_err() {
            self.broke("operators", "a pause cannot be ended");
        }
    }

    fn user_without_credits(&mut self, store: &MemoryStore) -> bool {
        let user = self.rng.below(4);
        let wait = self.rng.between(10 * MINUTE, 3 * HOUR);
        self.plan(wait, Event::Credits(usize::try_from(user).unwrap_or(0)));
        at_once(store.set_user(&format!("user-{user}"), Some(0.0), Some(true))).is_ok()
    }

    /// A user has credits again.
    pub(super) fn credits(&mut self, user: usize, store: &MemoryStore) {
        if at_once(store.set_user(&format!("user-{user}"), Some(10.0), Some(true))).is_ok() {
            self.queue_changed();
        }
    }
}
