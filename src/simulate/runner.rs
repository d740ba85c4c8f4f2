//! Drives a world: jumps from instant to instant, lets happen what is due, polls the orchestrators.

use std::sync::Arc;
use std::time::Duration;

use super::at_once;
use super::facts::Broken;
use super::processes::{Process, Slot};
use super::timeline::{HOUR, SECOND};
use super::world::{Event, World};
use crate::clock;
use crate::fleet::snapshot::Demand;
use crate::fleet::task::Bucket;
use crate::orchestrator::Method;
use crate::store::Store as _;

/// A pod of ours without an open row may be so old at the end of a calm.
const ORPHAN_AGE_MAX: i64 = HOUR;

/// Whoever has just come up or finished a task is kept for something: a user's credits, which come back
/// in the middle of a calm, may have brought the last task a moment ago.
const KEPT_MAX: Duration = Duration::from_secs(15 * 60);

/// A world and its orchestrators.
pub(super) struct Runner {
    world: Arc<World>,
    slots: Vec<Slot>,
    method: Method,
}

impl Runner {
    /// Orchestrators that start one second after each other.
    pub(super) fn new(world: Arc<World>, orchestrators: usize, method: Method) -> Runner {
        let mut sim = world.sim();
        for number in 0..orchestrators {
            sim.processes.push(Process::default());
            sim.plan(i64::try_from(number).unwrap_or(0) * SECOND, Event::Start(number));
        }
        drop(sim);
        let slots = (0..orchestrators).map(|_| Slot::empty()).collect();
        Runner { world, slots, method }
    }

    /// The world's instant.
    pub(super) fn now(&self) -> i64 {
        self.world.timeline.now()
    }

    /// From now on faults strike, or do not.
    pub(super) fn chaos(&mut self, on: bool) {
        let mut sim = self.world.sim();
        sim.faults.on = on;
        if !on {
            sim.mend();
        }
    }

    /// Lets time pass until that instant.
    ///
    /// # Errors
    /// The first thing that was seen and must never be.
    pub(super) fn run_until(&mut self, end: i64) -> Result<(), Broken> {
        while let Some(at) = self.next().filter(|at| *at <= end) {
            let starts = self.world.advance(at);
            self.world.timeline.wake();
            for number in starts {
                self.slots[number].start(&self.world, number, self.method);
            }
            self.poll(at);
            if let Some(broken) = self.world.sim().broken.take() {
                return Err(broken);
            }
        }
        self.world.advance(end);
        Ok(())
    }

    /// The next instant at which something is due.
    fn next(&self) -> Option<i64> {
        let sim = self.world.sim();
        let paused = self.slots.iter().zip(&sim.processes).filter(|(slot, _)| slot.is_woken());
        let resumed = paused.map(|(_, process)| process.paused_until).min();
        drop(sim);
        [self.world.next_event(), self.world.timeline.next_wake(), resumed]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(self.now()))
    }

    fn poll(&mut self, now: i64) {
        for number in 0..self.slots.len() {
            let is_paused = self.world.sim().processes[number].paused_until > now;
            if !is_paused && self.slots[number].is_woken() && !self.slots[number].go_on(&self.world, number) {
                self.world.sim().process_ended(number);
            }
        }
    }

    fn demand(&self) -> Demand {
        let limit = self.world.sim().policy.user_task_limit;
        at_once(self.world.store.observe(Duration::ZERO, limit)).map(|read| read.demand).unwrap_or_default()
    }

    /// Whether no task can be claimed and none is in anybody's hands.
    pub(super) fn is_served(&self) -> bool {
        let demand = self.demand();
        let claimable = demand.live.as_ref().and_then(|live| live.buckets.get(&Bucket::Claimable)).copied();
        claimable.unwrap_or(0) == 0 && demand.users.iter().all(|user| user.in_progress == 0)
    }

    /// The end of a calm that did not serve all.
    pub(super) fn not_served(&self) -> Broken {
        let demand = self.demand();
        let detail = format!("after {} h of calm: {:?}", super::CALM_MAX / HOUR, demand.live);
        Broken { invariant: "every claimable task is served", at: self.now(), detail }
    }

    /// At the end of a calm nothing is left over.
    ///
    /// # Errors
    /// What is.
    pub(super) fn is_quiet(&mut self) -> Result<(), Broken> {
        let now = self.now();
        let broken = |invariant, detail| Err(Broken { invariant, at: now, detail });
        let open = self.world.store.open_workers();
        let mut sim = self.world.sim();
        for pod in sim.pods.values().filter(|pod| pod.over.is_none()) {
            let Some(worker) = &pod.worker else { continue };
            if !open.contains(worker) && now - pod.created > ORPHAN_AGE_MAX {
                let age = (now - pod.created) / SECOND;
                return broken("no orphan stays", format!("{} of {worker} runs, {age} s old, and no row", pod.id));
            }
        }
        for worker in &open {
            let has_pod = sim.pod_of(worker).is_some_and(|(_, pod)| pod.over.is_none());
            if !has_pod && !sim.facts.is_acting {
                return broken("no row stays without a pod", format!("{worker} has none and nobody minds"));
            }
        }
        let limit = sim.policy.min_workers.max(sim.policy.idle_buffer) as usize;
        let database_now = sim.store_time();
        let kept = open.iter().filter_map(|worker| self.world.store.peek(worker)?.live);
        let kept = kept.filter(|live| {
            let since = live.idle_since.max(Some(live.state_since)).unwrap_or(live.state_since);
            clock::age(database_now, since) > KEPT_MAX
        });
        let kept = kept.count();
        if kept > limit {
            let detail = format!("{kept} of {} workers have been idle for too long, {limit} wanted", open.len());
            return broken("nobody is kept for nothing", detail);
        }
        sim.facts.calms += 1;
        Ok(())
    }
}
