//! Who submits what: bursts by chance, or the arrivals of a trace.
//!
//! It remembers of each task what only the world knows: how long it runs, whether it kills its
//! worker, when it was first claimed.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use super::at_once;
use super::faults::Fault;
use super::rng::Rng;
use super::timeline::{DAY, MINUTE};
use super::trace::Trace;
use super::world::{Event, Sim};
use crate::fleet::ids::TaskId;
use crate::fleet::task::NewTask;
use crate::store::Store as _;
use crate::store::memory::MemoryStore;

/// Where tasks come from.
pub(super) struct Load {
    users: u64,
    bursts_a_day: f64,
    burst_max: u64,
    /// The trace, where one is played.
    pub(super) trace: Option<Trace>,
    tasks: HashMap<TaskId, Truth>,
    /// Time from submit to first claim of each task, microseconds.
    pub(super) waits: Vec<i64>,
    last: Option<TaskId>,
}

/// What the world knows of a task.
struct Truth {
    submitted: i64,
    runs: i64,
    is_poison: bool,
    is_claimed: bool,
}

impl Load {
    /// Bursts by chance.
    pub(super) fn drawn(rng: &mut Rng) -> Load {
        let bursts_a_day = [4.0, 20.0, 60.0][usize::try_from(rng.below(3)).unwrap_or(0)];
        Load::new(2 + rng.below(10), bursts_a_day, None)
    }

    /// The arrivals of a trace.
    pub(super) fn of(trace: Trace) -> Load {
        Load::new(0, 0.0, Some(trace))
    }

    fn new(users: u64, bursts_a_day: f64, trace: Option<Trace>) -> Load {
        Load { users, bursts_a_day, burst_max: 12, trace, tasks: HashMap::new(), waits: Vec::new(), last: None }
    }

    /// A worker has claimed the task: how long it will run, and whether it kills its worker.
    pub(super) fn begins(&mut self, task: TaskId, now: i64) -> (i64, bool) {
        let Some(truth) = self.tasks.get_mut(&task) else { return (MINUTE, false) };
        if !std::mem::replace(&mut truth.is_claimed, true) {
            self.waits.push(now - truth.submitted);
        }
        (truth.runs, truth.is_poison)
    }
}

/// 80 % of 1 to 5 minutes, 20 % of 20 to 60.
pub(super) fn duration(rng: &mut Rng) -> i64 {
    if rng.chance(0.8) { rng.between(MINUTE, 5 * MINUTE) } else { rng.between(20 * MINUTE, 60 * MINUTE) }
}

impl Sim {
    /// Begins the bursts, or the trace.
    pub(super) fn begin_load(&mut self) {
        if let Some(trace) = &self.load.trace {
            let (arrivals, steps) = (trace.arrivals.len(), trace.capacity.len());
            (0..steps).for_each(|index| self.plan_step(index));
            (0..arrivals.min(1)).for_each(|index| self.plan_arrival(index));
        } else {
            self.plan_burst();
        }
    }

    fn plan_burst(&mut self) {
        let after = self.rng.exponential(DAY as f64 / self.load.bursts_a_day);
        self.plan(after as i64, Event::Burst);
    }

    /// A user submits some tasks; nobody does while nothing is to go wrong.
    pub(super) fn burst(&mut self, store: &MemoryStore) {
        self.plan_burst();
        if !self.faults.on {
            return;
        }
        let user = format!("user-{}", self.rng.below(self.load.users));
        let count = 1 + self.rng.below(self.load.burst_max);
        let mut tasks = Vec::new();
        for _ in 0..count {
            let runs = duration(&mut self.rng);
            let mut task = self.task(&user, runs);
            if self.rng.chance(0.1) {
                task.dependant_on.extend(self.load.last);
            }
            self.load.last = Some(task.id);
            tasks.push(task);
        }
        at_once(store.submit(&tasks)).unwrap_or_default();
        self.facts.submitted += count;
        self.queue_changed();
    }

    fn task(&mut self, user: &str, runs: i64) -> NewTask {
        let id = TaskId(self.rng.uuid());
        let is_poison = self.strikes(Fault::PoisonTask);
        self.load.tasks.insert(id, Truth { submitted: self.now, runs, is_poison, is_claimed: false });
        new_task(id, user)
    }

    /// Tasks of long ago appear, as after an import.
    pub(super) fn ancient_tasks(&mut self, store: &MemoryStore) {
        let age = self.rng.between(DAY, 400 * DAY);
        let runs = duration(&mut self.rng);
        let tasks: Vec<NewTask> = (0..3).map(|_| self.task("user-0", runs)).collect();
        store.submit_at(&tasks, crate::clock::minus(self.store_time(), micros(age)));
        self.facts.submitted += 3;
        self.queue_changed();
    }

    fn plan_arrival(&mut self, index: usize) {
        let Some(arrival) = self.load.trace.as_ref().and_then(|trace| trace.arrivals.get(index)) else { return };
        let after = arrival.at_micros() - self.now;
        self.plan(after, Event::Arrival(index));
    }

    /// The trace's next arrival.
    pub(super) fn arrival(&mut self, index: usize, store: &MemoryStore) {
        let Some(arrival) = self.load.trace.as_ref().and_then(|trace| trace.arrivals.get(index)).cloned() else {
            return;
        };
        let tasks: Vec<NewTask> =
            arrival.run_seconds.iter().map(|runs| self.task(&arrival.user, super::trace::micros(*runs))).collect();
        at_once(store.submit(&tasks)).unwrap_or_default();
        self.facts.submitted += tasks.len() as u64;
        self.queue_changed();
        self.plan_arrival(index + 1);
    }

    fn plan_step(&mut self, index: usize) {
        let Some(step) = self.load.trace.as_ref().and_then(|trace| trace.capacity.get(index)) else { return };
        let after = super::trace::micros(step.at_seconds) - self.now;
        self.plan(after, Event::CapacityStep(index));
    }

    /// The trace changes a cell's capacity.
    pub(super) fn capacity_step(&mut self, index: usize) {
        let Some(step) = self.load.trace.as_ref().and_then(|trace| trace.capacity.get(index)) else { return };
        if let Some(cell) = self.cells.iter_mut().find(|cell| cell.name == step.cell) {
            cell.capacity = step.pods;
        }
    }
}

fn new_task(id: TaskId, user: &str) -> NewTask {
    NewTask {
        id,
        user: user.to_owned(),
        task_type: "command".to_owned(),
        params: Value::Null,
        run_type: None,
        dependant_on: Vec::new(),
        traceparent: None,
    }
}

fn micros(micros: i64) -> std::time::Duration {
    std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// The id that tests and reports name tasks by.
pub(super) fn short(task: Uuid) -> String {
    task.to_string().chars().take(8).collect()
}
