//! What one round of the watch needs to know of the fleet: types of [`super::Store::watched`].

use std::time::Duration;

use crate::clock::Time;
use crate::fleet::snapshot::{Demand, Worker};

/// How far back a round looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// How long ended workers are still shown.
    pub workers_ended: Duration,
    /// Tasks that ended within this are recent.
    pub tasks_recent: Duration,
    /// The span before that, which recent tasks are compared with.
    pub tasks_before: Duration,
    /// Tasks in progress that one user may have.
    pub user_task_limit: u32,
}

/// One consistent read for one round of the watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// The database's clock in the same transaction.
    pub now: Time,
    /// Workers that have not ended, and those that ended within the asked-for time; oldest first.
    pub workers: Vec<Worker>,
    /// The queue, counted by the database.
    pub demand: Demand,
    /// Tasks that ended lately.
    pub tasks_recent: TaskEnds,
    /// Tasks that ended in the span before.
    pub tasks_before: TaskEnds,
}

/// Tasks that ended by themselves within a span; cancelled ones are not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskEnds {
    /// Completed and failed.
    pub ended: u64,
    /// Failed.
    pub failed: u64,
}
