//! What one round saw: the small type that all rules are functions of.
//!
//! All times are the fleet database's, but for the time since which it is away. What could not be
//! seen is empty here and named in `unjudged`, never zero.

use std::time::Duration;

use crate::clock::Time;
use crate::store::{StrayRows, TaskEnds};

/// Who writes records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// source_type of its rows.
    pub source_type: String,
    /// source_id of its rows.
    pub source_id: String,
}

impl SourceId {
    /// A source of that kind and name.
    pub fn new(source_type: impl Into<String>, source_id: impl Into<String>) -> SourceId {
        SourceId { source_type: source_type.into(), source_id: source_id.into() }
    }
}

/// A source that is meant to be alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSource {
    /// Who.
    pub id: SourceId,
    /// Since when it is.
    pub since: Time,
    /// Its last sign of life in the fleet's database.
    pub alive_at: Time,
    /// When its newest row arrived; null = none that is known.
    pub newest: Option<Time>,
    /// When that row was made, by its own clock.
    pub newest_made: Option<Time>,
    /// How far its clock is ahead of the database's, microseconds; negative: behind; null = not known.
    pub skew_micros: Option<i64>,
    /// Whether it is an orchestrator.
    pub is_orchestrator: bool,
}

/// What one round saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The database's clock; the watch's own while the database is away.
    pub now: Time,
    /// Since when the watch has looked, and the database has answered, without a gap.
    pub watching_since: Time,
    /// Why the database does not answer, and since when.
    pub database_away: Option<Away>,
    /// Why rows cannot be read back; evidence of silence, never of health.
    pub rows_unreadable: Option<String>,
    /// Everybody who should be writing.
    pub sources: Vec<LiveSource>,
    /// When a worker or a cycle last changed.
    pub changed_at: Option<Time>,
    /// Workers and tasks.
    pub fleet: FleetSeen,
    /// What each recorder last said of itself.
    pub recorders: Vec<RecorderSeen>,
    /// Rows in the DEFAULT partition of the log table; null = could not be seen.
    pub strays: Option<StrayRows>,
    /// The spool and the disk on this machine.
    pub disk: DiskSeen,
    /// The canary.
    pub canary: CanarySeen,
}

/// A database that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Since when.
    pub since: Time,
    /// What it said.
    pub error: String,
}

/// Workers and tasks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetSeen {
    /// Workers that have not ended.
    pub workers: Vec<WorkerSeen>,
    /// Newest sign of life of any worker, also of those that have ended.
    pub newest_beat: Option<Time>,
    /// Workers that ended within the window.
    pub ended: usize,
    /// Of these, those whose outcome speaks against machine, image or region.
    pub failed: usize,
    /// Tasks that could be claimed.
    pub claimable: u64,
    /// When the oldest of them was queued.
    pub oldest_claimable: Option<Time>,
    /// Tasks that ended within the last hour.
    pub tasks_recent: TaskEnds,
    /// Tasks that ended within the day before.
    pub tasks_before: TaskEnds,
    /// What the newest decision said.
    pub decision: Option<DecisionSeen>,
}

/// A worker that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSeen {
    /// Its id.
    pub id: String,
    /// When its intent was written.
    pub created_at: Time,
    /// Where it stands.
    pub stage: Stage,
    /// When it came into that state.
    pub stage_since: Time,
    /// Its newest heartbeat.
    pub last_heartbeat: Option<Time>,
    /// When its program last moved, counted from the claim.
    pub progress_at: Option<Time>,
}

/// As much of a worker's state as rules ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A pod is coming up.
    Coming,
    /// Nobody knows whether there is a pod.
    Ambiguous,
    /// It speaks and has nothing to do.
    Idle,
    /// It speaks and has a task.
    Busy,
    /// It was asked to leave.
    Leaving,
}

/// What the newest decision said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionSeen {
    /// When it was written.
    pub at: Time,
    /// Workers to have.
    pub desired: u32,
    /// Since when as many or more than none are wanted, as far as the watch has seen.
    pub desired_since: Option<Time>,
    /// The gate that keeps workers from being made, and why.
    pub blocked: Option<Blocked>,
    /// Pods of our name that no row knows, with the time since which they are known.
    pub unknown_pods: Vec<(String, Time)>,
    /// Pods that are due to be ended as nobody's, and are not.
    pub reaper_held: Option<ReaperHeld>,
}

/// The reaper holds: more pods are due at once than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaperHeld {
    /// How many are due.
    pub due: usize,
    /// How many may be.
    pub limit: usize,
    /// Since when, as far as the watch has seen.
    pub since: Time,
}

/// A gate that blocks what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The gate's word.
    pub gate: String,
    /// Its reason.
    pub reason: String,
    /// Since when, as far as the watch has seen.
    pub since: Time,
}

/// What a recorder last said of itself, in its heartbeat record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecorderSeen {
    /// Whose it is.
    pub source: SourceId,
    /// Records that it lost since it started.
    pub lost: u64,
    /// When that number last rose, as far as the watch has seen; null = it has not.
    pub lost_at: Option<Time>,
    /// DEBUG and INFO are refused since the spool is nearly at its cap.
    pub spool_low: bool,
    /// Records that its exporters had still to deliver.
    pub pending: u64,
    /// Exporters that hold, each with its last error, and since when.
    pub blocked: Vec<(String, String)>,
    /// When it said so.
    pub at: Time,
}

/// The spool and the disk on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskSeen {
    /// Bytes of segments, over all processes of the folder; null = could not be seen.
    pub spool_bytes: Option<u64>,
    /// Most bytes that the spool may have.
    pub spool_cap_bytes: u64,
    /// Bytes that are free for us; null = could not be seen.
    pub free_bytes: Option<u64>,
    /// The folder.
    pub folder: String,
}

/// The canary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CanarySeen {
    /// When the oldest one that has not come back was written.
    pub under_way_since: Option<Time>,
    /// What was different in the newest that came back.
    pub changed: Option<String>,
    /// How long the newest that came back was under way.
    pub took: Option<Duration>,
}
