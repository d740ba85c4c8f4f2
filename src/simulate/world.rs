//! The simulated world: its time, its database, and everything that lives outside of an orchestrator.
//!
//! One lock around all that is simulated; nothing waits under it. The orchestrators are the real
//! ones and reach the world only through the traits (`hands`). What happens by itself is an event
//! at an instant; events of the same instant happen in the order in which they were planned, so
//! that a seed is a whole history.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bugs::Bug;
use super::facts::{Broken, Facts};
use super::faults::{Fault, Faults};
use super::load::Load;
use super::pods::{Cell, Pod};
use super::processes::Process;
use super::rng::Rng;
use super::timeline::{DAY, Timeline};
use crate::clock::{self, Time};
use crate::fleet::policy::Policy;
use crate::store::TimeSource;
use crate::store::memory::MemoryStore;

/// What the database's clock shows at the beginning of the world.
const START_MICROS: i64 = 1_760_000_000_000_000;
/// Decision rows that the simulated database keeps.
const DECISIONS_KEPT: usize = 8;
/// Name of the simulated fleet.
pub(super) const FLEET: &str = "sim";
/// Its environment.
pub(super) const ENV: &str = "test";

/// The world.
pub(super) struct World {
    pub(super) timeline: Arc<Timeline>,
    pub(super) store: MemoryStore,
    store_micros: Arc<AtomicI64>,
    sim: Mutex<Sim>,
}

/// All that is simulated.
pub(super) struct Sim {
    pub(super) now: i64,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) policy: Policy,
    pub(super) pods: BTreeMap<u32, Pod>,
    pub(super) pods_ever: u32,
    pub(super) cells: Vec<Cell>,
    /// Boot times to be used up in order, microseconds; then chance decides.
    pub(super) boots: Vec<i64>,
    pub(super) load: Load,
    pub(super) facts: Facts,
    pub(super) processes: Vec<Process>,
    /// Idle agents that found nothing to claim.
    pub(super) waiting: Vec<u32>,
    pub(super) outage_until: i64,
    pub(super) store_skew: i64,
    pub(super) provider_skew: i64,
    pub(super) broken: Option<Broken>,
    events: BinaryHeap<Reverse<Planned>>,
    events_ever: u64,
    #[cfg(test)]
    pub(super) planted: Option<Bug>,
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Users submit tasks, and will again.
    Burst,
    /// The trace's next arrival.
    Arrival(usize),
    /// The trace changes a cell's capacity.
    CapacityStep(usize),
    /// A pod's machine runs.
    PodRuns(u32),
    /// The agent in a pod speaks, or goes on speaking.
    AgentStarts(u32),
    /// The image of a pod crashes at boot.
    BootCrash(u32),
    /// An agent's beat is due.
    Beat(u32),
    /// An agent goes on with its work; of that part of its life only.
    Work(u32, u32),
    /// A hung agent wakes up.
    AgentWakes(u32),
    /// A pod that was said to be terminated really is.
    LieEnds(u32),
    /// A pod leaves the listing.
    Unlisted(u32),
    /// A fault that strikes by itself, and will again.
    Mishap(Fault),
    /// The operator's pause is over.
    Resume,
    /// A user has credits again.
    Credits(usize),
    /// An orchestrator starts.
    Start(usize),
}

struct Planned {
    at: i64,
    number: u64,
    event: Event,
}

impl World {
    /// A world at its beginning.
    pub(super) fn new(seed: u64, policy: Policy, faults: Faults, load: Load, cells: Vec<Cell>) -> World {
        let store_micros = Arc::new(AtomicI64::new(START_MICROS));
        let store = MemoryStore::with_decisions(TimeSource::Fixed(Arc::clone(&store_micros)), DECISIONS_KEPT);
        let sim = Sim {
            now: 0,
            rng: Rng::new(seed, 1),
            faults,
            policy,
            pods: BTreeMap::new(),
            pods_ever: 0,
            cells,
            boots: Vec::new(),
            load,
            facts: Facts::default(),
            processes: Vec::new(),
            waiting: Vec::new(),
            outage_until: 0,
            store_skew: 0,
            provider_skew: 0,
            broken: None,
            events: BinaryHeap::new(),
            events_ever: 0,
            #[cfg(test)]
            planted: None,
        };
        World { timeline: Arc::new(Timeline::default()), store, store_micros, sim: Mutex::new(sim) }
    }

    /// All that is simulated, locked.
    pub(super) fn sim(&self) -> MutexGuard<'_, Sim> {
        self.sim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on to that instant, and lets everything happen that was planned until then but the
    /// starts of processes, which are returned.
    pub(super) fn advance(&self, to: i64) -> Vec<usize> {
        self.timeline.advance(to);
        let mut starts = Vec::new();
        let mut sim = self.sim();
        sim.now = to;
        self.set_clock(&sim);
        while sim.events.peek().is_some_and(|Reverse(planned)| planned.at <= to) {
            let Some(Reverse(Planned { event, .. })) = sim.events.pop() else { break };
            if let Event::Start(process) = event {
                starts.push(process);
            } else {
                sim.on(event, &self.store);
                self.set_clock(&sim);
            }
        }
        starts
    }

    /// When the next event is.
    pub(super) fn next_event(&self) -> Option<i64> {
        self.sim().events.peek().map(|Reverse(planned)| planned.at)
    }

    fn set_clock(&self, sim: &Sim) {
        self.store_micros.store(START_MICROS + sim.now + sim.store_skew, Ordering::SeqCst);
    }
}

impl Sim {
    /// Plans an event, that many microseconds from now.
    pub(super) fn plan(&mut self, after: i64, event: Event) {
        self.events_ever += 1;
        self.events.push(Reverse(Planned { at: self.now + after.max(0), number: self.events_ever, event }));
    }

    /// Something was seen that must never be; the first is kept.
    pub(super) fn broke(&mut self, invariant: &'static str, detail: impl Into<String>) {
        let at = self.now;
        self.broken.get_or_insert_with(|| Broken { invariant, at, detail: detail.into() });
    }

    /// Counts a fault that struck.
    pub(super) fn struck(&mut self, fault: Fault) {
        self.faults.count(fault);
    }

    /// Whether the fault strikes on this occasion; counted.
    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        let strikes = self.faults.strikes(fault, &mut self.rng);
        if strikes {
            self.faults.count(fault);
        }
        strikes
    }

    /// Whether that bug is planted. No program that is shipped can plant one.
    #[cfg(test)]
    pub(super) fn has(&self, bug: Bug) -> bool {
        self.planted == Some(bug)
    }

    /// Nothing is planted outside of tests.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests look at the world")]
    pub(super) const fn has(&self, _: Bug) -> bool {
        false
    }

    /// The provider's clock.
    pub(super) fn provider_time(&self) -> Time {
        clock::from_micros(START_MICROS + self.now + self.provider_skew)
    }

    /// The database's clock.
    pub(super) fn store_time(&self) -> Time {
        clock::from_micros(START_MICROS + self.now + self.store_skew)
    }

    /// Begins what strikes by itself.
    pub(super) fn begin_mishaps(&mut self) {
        for fault in super::mishaps::BY_THEMSELVES {
            self.plan_mishap(*fault);
        }
    }

    /// The next time a fault strikes by itself.
    pub(super) fn plan_mishap(&mut self, fault: Fault) {
        let a_day = self.faults.a_day(fault);
        if a_day > 0.0 {
            let after = self.rng.exponential(DAY as f64 / a_day);
            self.plan(after as i64, Event::Mishap(fault));
        }
    }

    fn on(&mut self, event: Event, store: &MemoryStore) {
        match event {
            Event::Burst => self.burst(store),
            Event::Arrival(index) => self.arrival(index, store),
            Event::CapacityStep(index) => self.capacity_step(index),
            Event::PodRuns(pod) => self.pod_runs(pod),
            Event::AgentStarts(pod) => self.agent_starts(pod, store),
            Event::BootCrash(pod) => self.pod_over(pod, Some(1), None),
            Event::Beat(pod) => self.beat(pod, store),
            Event::Work(pod, part) => self.work(pod, part, store),
            Event::AgentWakes(pod) => self.agent_wakes(pod),
            Event::LieEnds(pod) => self.pod_gone(pod),
            Event::Unlisted(pod) => {
                self.pods.remove(&pod);
            }
            Event::Mishap(fault) => self.mishap(fault, store),
            Event::Resume => self.resume(store),
            Event::Credits(user) => self.credits(user, store),
            Event::Start(_) => {}
        }
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
