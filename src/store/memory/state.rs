//! The tables, and the indexes that keep a long simulation fast.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use uuid::Uuid;

use crate::clock::Time;
use crate::fleet::ids::{BootId, TaskId, Term, WorkerId};
use crate::fleet::snapshot::Pause;
use crate::fleet::task::{Bucket, Task, TaskStatus};
use crate::store::worker_row::WorkerData;
use crate::store::{AuditRow, DecisionRow, LogRow, OrderRow, Process};

/// Everything.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tasks: HashMap<TaskId, TaskRow>,
    /// Queued tasks by (queued at, id).
    pub(super) queued: BTreeSet<(Time, TaskId)>,
    /// Tasks in progress by (claimed at, id).
    pub(super) in_progress: BTreeSet<(Time, TaskId)>,
    pub(super) attempts: HashMap<(TaskId, i64), Attempt>,
    pub(super) claims: HashMap<(WorkerId, Uuid), (TaskId, i64)>,
    pub(super) holds: HashMap<TaskId, Bucket>,
    /// Credits and whether cloud workers are allowed.
    pub(super) users: HashMap<String, (Option<f64>, Option<bool>)>,
    pub(super) workers: HashMap<WorkerId, WorkerData>,
    /// Workers that have not ended by (created at, id).
    pub(super) not_ended: BTreeSet<(Time, WorkerId)>,
    /// Workers that have ended by (ended at, id).
    pub(super) ended: BTreeSet<(Time, WorkerId)>,
    pub(super) incarnations: HashSet<(WorkerId, Uuid)>,
    pub(super) decisions: VecDeque<DecisionRow>,
    pub(super) decisions_ever: i64,
    /// Rows of `decisions` that are kept.
    pub(super) decisions_kept: usize,
    pub(super) processes: Vec<Process>,
    pub(super) leases: BTreeMap<String, LeaseRow>,
    pub(super) pause: Option<Pause>,
    pub(super) orders: Vec<OrderRow>,
    pub(super) audit: VecDeque<AuditRow>,
    /// Which pool takes which task type; '' is all that no other pool takes.
    pub(super) pools: BTreeMap<String, String>,
    /// When a task was let go that had been held.
    pub(super) let_go: HashMap<TaskId, Time>,
    /// Since when writes have arrived, and the last one.
    pub(super) writes: Option<(Time, Time)>,
    pub(super) logs: VecDeque<LogRow>,
    pub(super) logs_ever: i64,
}

/// A task and what its owner does not see.
#[derive(Debug)]
pub(super) struct TaskRow {
    pub(super) task: Task,
    pub(super) dependant_on: Vec<TaskId>,
}

/// A claim.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) worker: WorkerId,
    pub(super) incarnation: Uuid,
    pub(super) answer: Option<TaskStatus>,
    pub(super) claimed_at: Time,
    pub(super) ended_at: Option<Time>,
}

/// Leadership.
#[derive(Debug)]
pub(super) struct LeaseRow {
    pub(super) holder: Option<BootId>,
    pub(super) term: Term,
    pub(super) until: Time,
}

impl State {
    /// Changes a task's row and keeps the indexes true.
    pub(super) fn change_task(&mut self, id: TaskId, change: impl FnOnce(&mut Task)) {
        let Some(row) = self.tasks.get_mut(&id) else { return };
        self.queued.remove(&(row.task.created_at, id));
        if let Some(started_at) = row.task.started_at {
            self.in_progress.remove(&(started_at, id));
        }
        change(&mut row.task);
        match (row.task.status, row.task.started_at) {
            (TaskStatus::Queued, _) => {
                self.queued.insert((row.task.created_at, id));
            }
            (TaskStatus::InProgress, Some(started_at)) => {
                self.in_progress.insert((started_at, id));
            }
            _ => {}
        }
    }

    /// Writes a worker's row and keeps the indexes true.
    pub(super) fn save_worker(&mut self, row: WorkerData) {
        let place = |row: &WorkerData| (row.created_at, row.ended_at);
        if let Some(before) = self.workers.get_mut(&row.id).filter(|before| place(before) == place(&row)) {
            *before = row;
            return;
        }
        match row.ended_at {
            Some(ended_at) => {
                self.not_ended.remove(&(row.created_at, row.id.clone()));
                self.ended.insert((ended_at, row.id.clone()));
            }
            None => {
                self.not_ended.insert((row.created_at, row.id.clone()));
            }
        }
        self.workers.insert(row.id.clone(), row);
    }

    /// The tasks in the hands of everybody who has some, oldest claim first.
    pub(super) fn all_hands(&self) -> BTreeMap<&WorkerId, Vec<TaskId>> {
        let mut hands: BTreeMap<&WorkerId, Vec<TaskId>> = BTreeMap::new();
        for (_, id) in &self.in_progress {
            if let Some(worker) = &self.tasks[id].task.worker {
                hands.entry(worker).or_default().push(*id);
            }
        }
        hands
    }

    /// The tasks in a worker's hands, oldest claim first.
    pub(super) fn hands(&self, worker: &WorkerId) -> Vec<TaskId> {
        let tasks = self.in_progress.iter().map(|(_, id)| *id);
        tasks.filter(|id| self.tasks[id].task.worker.as_ref() == Some(worker)).collect()
    }

    /// A task leaves its worker's hands: queued again, or ended. An error replaces the one before.
    pub(super) fn release(&mut self, id: TaskId, status: TaskStatus, error: Option<String>, now: Time) {
        let number = self.tasks.get(&id).map_or(0, |row| row.task.attempts);
        if let Some(attempt) = self.attempts.get_mut(&(id, number)) {
            attempt.ended_at = Some(now);
        }
        self.change_task(id, |task| {
            task.status = status;
            if error.is_some() {
                task.error = error;
            }
            if status.is_final() {
                crate::store::count_ended(&[status]);
                task.ended_at = Some(now);
            } else {
                task.worker = None;
                task.started_at = None;
            }
        });
    }
}
