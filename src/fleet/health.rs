//! Three signals of a worker: alive, ready, moving.
//!
//! They are separate because each fails alone: a process of its own kept beating for a program that
//! had hung, and a worker that had never spoken looked alive. Ages count from the later of the
//! signal and the start of uninterrupted writes: what nobody could have written is no evidence
//! (I8), and the first look after a gap calls nobody stale. All times are the database's.

use std::time::Duration;

use super::policy::{Policy, PolicyLive};
use super::snapshot::{Snapshot, Worker, WorkerLive};
use super::state::{Status, WorkerState};
use crate::clock::{self, Time};

/// What is known of a worker's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Does it speak?
    pub liveness: Liveness,
    /// Can it work?
    pub readiness: Readiness,
    /// Does its work move?
    pub progress: Progress,
}

/// Whether the agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Never heard of.
    Unheard,
    /// Heard of within the limit, or nobody could have heard it.
    Fresh {
        /// Age of the last beat.
        age: Duration,
    },
    /// Not heard of for longer than the limit, while beats were taken.
    Stale {
        /// Age of the last beat.
        age: Duration,
    },
}

/// Whether the worker can take a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet, or not any more.
    NotReady,
    /// Idle.
    Ready,
    /// Running a task.
    Busy,
}

/// Whether the work moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// No task.
    None,
    /// It moved within the limit, or nobody could have seen it.
    Moving {
        /// Time since it moved, or since the task began.
        age: Duration,
    },
    /// It has not moved for longer than the limit.
    Stuck {
        /// Time since it moved, or since the task began.
        age: Duration,
    },
}

/// What a worker is to the sum of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Asked for, not yet heard of: it covers a task already.
    Spawning,
    /// Heard of and staying.
    Active,
    /// Its end is decided: its machine may still cost, but it will take nothing more.
    Leaving,
    /// Neither capacity nor cost.
    Ended,
}

/// The standing of a worker. A file is judged by the old word alone.
pub fn standing(worker: &Worker, snapshot: &Snapshot) -> Standing {
    if worker.is_ended() {
        return Standing::Ended;
    }
    match worker.live.as_ref().filter(|_| snapshot.live.is_some()) {
        Some(live) if live.state.is_ended() => Standing::Ended,
        Some(live) if live.leaving.is_some() || live.state == WorkerState::Draining => Standing::Leaving,
        Some(live) => by_status(live.state.status()),
        None => by_status(worker.status),
    }
}

fn by_status(status: Status) -> Standing {
    match status {
        Status::Spawning => Standing::Spawning,
        Status::Active => Standing::Active,
        Status::Terminating => Standing::Leaving,
        Status::Error | Status::Terminated | Status::Crashed => Standing::Ended,
    }
}

/// Whether it has a task in its hands. The count and the list of tasks come from the tasks, the state
/// from the worker's words; any of them is enough, because a busy worker must never be ended as idle.
pub fn is_busy(worker: &Worker) -> bool {
    worker.running_tasks > 0
        || worker.live.as_ref().is_some_and(|live| !live.tasks.is_empty() || live.state == WorkerState::Busy)
}

/// The three signals of a worker at `now`.
pub fn judge(worker: &Worker, snapshot: &Snapshot, policy: &Policy, now: Time) -> Health {
    let limit = Duration::from_secs(policy.heartbeat_timeout_seconds);
    let liveness = match worker.last_heartbeat_at.max(worker.first_heartbeat_at) {
        None => Liveness::Unheard,
        Some(beat) if unseen_for(beat, snapshot, now) > limit => Liveness::Stale { age: clock::age(now, beat) },
        Some(beat) => Liveness::Fresh { age: clock::age(now, beat) },
    };
    let limit_seconds = |live: &PolicyLive| live.progress_timeout_seconds;
    let progress_limit = policy.live.as_ref().map_or_else(|| limit_seconds(&PolicyLive::default()), limit_seconds);
    let progress_limit = Duration::from_secs(progress_limit);
    let progress = match (is_busy(worker), &worker.live) {
        (false, _) => Progress::None,
        (true, None) => Progress::Moving { age: Duration::ZERO },
        (true, Some(live)) => {
            let moved = Some(live.state_since).max(live.progress_at).unwrap_or(live.state_since);
            let age = clock::age(now, moved);
            if unseen_for(moved, snapshot, now) > progress_limit {
                Progress::Stuck { age }
            } else {
                Progress::Moving { age }
            }
        }
    };
    Health { liveness, readiness: readiness(worker, worker.live.as_ref()), progress }
}

fn readiness(worker: &Worker, live: Option<&WorkerLive>) -> Readiness {
    if is_busy(worker) {
        return Readiness::Busy;
    }
    let ready = match live {
        Some(live) => live.state == WorkerState::Idle && live.leaving.is_none(),
        None => worker.status == Status::Active,
    };
    if ready { Readiness::Ready } else { Readiness::NotReady }
}

/// How long nothing has been written although it could have been: from the later of `since` and the
/// start of uninterrupted writes.
pub fn unseen_for(since: Time, snapshot: &Snapshot, now: Time) -> Duration {
    let writes_since = snapshot.live.as_ref().map_or(since, |live| live.writes_since);
    clock::age(now, since.max(writes_since))
}
