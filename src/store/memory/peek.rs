//! What the simulator looks at behind the contract's back, to compare it with what it knows.

use super::{DecisionRow, MemoryStore};
use crate::clock::{self, Time};
use crate::fleet::ids::{BootId, TaskId, Term, WorkerId};
use crate::fleet::snapshot::Worker;
use crate::fleet::task::NewTask;

impl MemoryStore {
    /// Who holds that lease, and its term; None where nobody ever did.
    pub(crate) fn leader(&self, name: &str) -> Option<(Option<BootId>, Term)> {
        self.lock().0.leases.get(name).map(|row| (row.holder, row.term))
    }

    /// A worker's row; the tasks in its hands are left out.
    pub(crate) fn peek(&self, worker: &WorkerId) -> Option<Worker> {
        self.lock().0.workers.get(worker).map(|row| row.worker(Vec::new()))
    }

    /// Whether the newest decision row can be taken again; also where there is none.
    pub(crate) fn newest_is_reproduced(&self) -> bool {
        self.lock().0.decisions.back().is_none_or(DecisionRow::is_reproduced)
    }

    /// Whether the newest decision wants workers that are not there and asks for none.
    pub(crate) fn newest_holds_back(&self) -> bool {
        let state = self.lock().0;
        let newest = state.decisions.back().map(|row| &row.decision);
        newest.is_some_and(|decision| {
            let there = decision.capacity.active.saturating_add(decision.capacity.spawning);
            decision.desired > there && decision.spawn == 0
        })
    }

    /// Workers whose rows have not ended.
    pub(crate) fn open_workers(&self) -> Vec<WorkerId> {
        self.lock().0.not_ended.iter().map(|(_, worker)| worker.clone()).collect()
    }

    /// Tasks that were queued long ago.
    pub(crate) fn submit_at(&self, tasks: &[NewTask], at: Time) {
        self.lock().0.submit(tasks, clock::from_micros(at.as_microsecond()));
    }

    /// Forgets how often these tasks were claimed: a bug that tests plant.
    pub(crate) fn forget_attempts(&self, tasks: &[TaskId]) {
        let mut state = self.lock().0;
        tasks.iter().for_each(|task| state.change_task(*task, |task| task.attempts = 0));
    }
}
