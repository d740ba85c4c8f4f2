//! The one document: the state of a fleet at one instant.
//!
//! `observe` returns it, `decide` reads it, each decision row stores it, `replay` reads it from a
//! file and `dogwatch snapshot` prints it. Version 1 of the format is shared with incident files
//! that are written by hand from any source; what only a running fleet knows stands under `live`
//! keys, which any object may carry. Unknown keys are refused: nothing is guessed.
//!
//! "Could not see" is never zero: `live.inputs` says for each input whether it was complete, and
//! how old it is.

mod file;
mod format;

use serde::{Deserialize, Serialize};

pub use file::{IncidentFile, ParseError, parse};
pub use format::parse_time;

use super::cell::Cell;
use super::ids::{BootId, PodId, TaskId, Term, WorkerId};
use super::order::Order;
use super::outcome::Outcome;
use super::policy::Policy;
use super::refusal::Refusal;
use super::state::{Status, WorkerState};
use super::task::Bucket;
use crate::clock::Time;

/// The version of the format that this code writes, and the only one it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// The state of a fleet at one instant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What this is, for humans.
    pub name: String,
    /// The instant, by the database's clock.
    #[serde(deserialize_with = "format::time")]
    pub as_of: Time,
    /// The numbers in force.
    #[serde(default, deserialize_with = "format::nullable")]
    pub policy: Policy,
    /// Workers that have not ended, and those that ended lately.
    pub workers: Vec<Worker>,
    /// The queue; null where it could not be seen.
    #[serde(default)]
    pub demand: Option<Demand>,
    /// Newest arrivals in `system_logs`; not a full log.
    #[serde(default, deserialize_with = "format::nullable")]
    pub records: Vec<Record>,
    /// What only a running fleet knows.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "format::filled")]
    pub live: Option<Live>,
}

/// A worker, as old tools know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "format::RawWorker")]
pub struct Worker {
    /// Its id.
    pub id: WorkerId,
    /// When its intent was written.
    pub created_at: Time,
    /// The old word.
    pub status: Status,
    /// When it became active.
    pub promoted_at: Option<Time>,
    /// Null until it has spoken.
    pub first_heartbeat_at: Option<Time>,
    /// Null until it has spoken.
    pub last_heartbeat_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Why it ended, in words.
    pub reason: Option<String>,
    /// Tasks in its hands.
    pub running_tasks: u32,
    /// Tasks it ever claimed; null = not known, which is not 0.
    pub tasks_claimed: Option<u32>,
    /// What only a running fleet knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<WorkerLive>,
}

/// What a running fleet knows of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerLive {
    /// Where it stands.
    pub state: WorkerState,
    /// When it came there.
    pub state_since: Time,
    /// The stored outcome; wins over the reason.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// Why it is draining or terminating, before it has ended.
    #[serde(default)]
    pub leaving: Option<Leaving>,
    /// The pool it belongs to.
    pub pool: String,
    /// The provider's name for its machine.
    #[serde(default)]
    pub pod_id: Option<PodId>,
    /// What the newest listing said of its pod; null where the listing failed or does not name it.
    #[serde(default)]
    pub pod: Option<PodSeen>,
    /// When the program last moved.
    #[serde(default)]
    pub progress_at: Option<Time>,
    /// Since when it has had no task.
    #[serde(default)]
    pub idle_since: Option<Time>,
    /// The tasks in its hands.
    #[serde(default)]
    pub tasks: Vec<TaskId>,
    /// The cell it was asked for in; null where the fleet names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<Cell>,
    /// What its machine costs, dollars an hour; null = not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<f64>,
    /// Why the provider refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// What became of earlier workers that had the tasks in its hands; only where some died.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<Suspect>,
    /// Complete listings in a row that did not name it; null = not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlisted: Option<u32>,
}

/// A task in a worker's hands, as a suspect: when it was claimed, and who died of it before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspect {
    /// The task.
    pub task: TaskId,
    /// When this worker claimed it.
    pub claimed_at: Time,
    /// For each earlier worker that crashed or stalled with it in hand: seconds from the claim to the
    /// last sign of life.
    pub deaths_after_seconds: Vec<u64>,
}

/// The end that was decided for a worker that has not ended yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaving {
    /// What its outcome will be.
    pub outcome: Outcome,
    /// Why, in words.
    pub reason: String,
    /// Since when.
    pub since: Time,
}

/// A pod as the provider shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSeen {
    /// The provider's word for its state.
    pub status: PodStatus,
    /// Exit code of the agent, where the provider knows it.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Signal that ended the agent, where the provider knows it.
    #[serde(default)]
    pub signal: Option<i32>,
}

/// The provider's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PodStatus {
    /// The machine is being found.
    Provisioning,
    /// The image is starting.
    Starting,
    /// It runs.
    Running,
    /// The process inside has ended.
    Exited,
    /// The provider says it is broken.
    Error,
    /// It is gone.
    Terminated,
}

impl PodStatus {
    /// Whether nothing can run in it.
    pub fn is_over(self) -> bool {
        matches!(self, PodStatus::Exited | PodStatus::Error | PodStatus::Terminated)
    }
}

/// The queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// One entry a user with tasks queued or in progress.
    #[serde(default, deserialize_with = "format::nullable")]
    pub users: Vec<User>,
    /// What another count said, for comparison.
    #[serde(default)]
    pub reported_claimable: Option<u64>,
    /// How many rows a read returned, for comparison with row caps.
    #[serde(default)]
    pub row_counts: Option<RowCounts>,
    /// What only a running fleet knows.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "format::filled")]
    pub live: Option<DemandLive>,
}

/// A user's part of the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "format::RawUser")]
pub struct User {
    /// The user.
    pub user: String,
    /// Tasks waiting.
    pub queued: u64,
    /// Tasks in hand.
    pub in_progress: u64,
    /// Credits; null = not known, no limit.
    pub credits: Option<f64>,
    /// Whether cloud workers may run the user's tasks; null = not known, allowed.
    pub cloud_enabled: Option<bool>,
    /// Queued tasks that wait for other tasks.
    pub dependency_blocked: u64,
}

/// Row counts of a read, where its source may have cut it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "format::RawRowCounts")]
pub struct RowCounts {
    /// Rows of `tasks`.
    pub tasks: Option<u64>,
    /// Rows of `workers`.
    pub workers: Option<u64>,
}

/// The queue as the database counted it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemandLive {
    /// Each queued task in exactly one bucket; a bucket without tasks may be absent.
    pub buckets: std::collections::BTreeMap<Bucket, u64>,
    /// When the oldest claimable task was queued.
    #[serde(default)]
    pub oldest_claimable_at: Option<Time>,
    /// Claimable tasks by pool, where pools are declared; they add up to the claimable ones.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub pools: std::collections::BTreeMap<String, u64>,
}

/// A row that arrived in `system_logs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "format::RawRecord")]
pub struct Record {
    /// Which kind of source.
    pub source_type: String,
    /// Which source.
    pub source_id: Option<String>,
    /// When it was made.
    pub timestamp: Time,
    /// The cycle it belongs to.
    pub cycle: Option<i64>,
    /// Its text.
    pub message: Option<String>,
}

/// What only a running fleet knows of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// Name of the fleet.
    pub fleet: String,
    /// Name of the environment.
    pub env: String,
    /// The process that observed.
    pub boot_id: BootId,
    /// Number of the cycle, per boot.
    pub cycle: i64,
    /// The term it leads by; null = standby.
    pub term: Option<Term>,
    /// How well each input was seen.
    pub inputs: Inputs,
    /// Since when beats have been taken without a gap, by the database's clock; nobody is called
    /// stale before one heartbeat limit has passed since then (I8).
    pub writes_since: Time,
    /// An operator's pause of spawning.
    #[serde(default)]
    pub pause: Option<Pause>,
    /// Pods of our name that no row knows.
    #[serde(default)]
    pub unknown_pods: Vec<UnknownPod>,
    /// What humans ordered and is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Order>,
    /// What ended workers have cost in the UTC day of `as_of`, dollars; null = not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_today_usd: Option<f64>,
    /// What the provider's account holds; null = the provider names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// The most workers that were desired lately, where that is remembered: fewer are only
    /// wanted once nobody has wanted more for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_lately: Option<u32>,
}

/// What the provider's account holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// Dollars; null where it could not be seen.
    #[serde(default)]
    pub usd: Option<f64>,
    /// How well it was seen.
    pub input: Input,
}

/// An operator's pause of spawning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Who, as far as known.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Time,
    /// Until when; null = until `resume`.
    #[serde(default)]
    pub until: Option<Time>,
}

/// A pod of our name that no row knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnknownPod {
    /// The provider's name for it.
    pub pod_id: PodId,
    /// The worker its name says it is.
    pub worker: WorkerId,
    /// When the provider made it, where known.
    #[serde(default)]
    pub created_at: Option<Time>,
    /// When it was first seen, by the database's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen_at: Option<Time>,
    /// Complete listings in a row in which no row knew it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lists: u32,
}

/// How well each input was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The database: workers and demand in one consistent read.
    pub database: Input,
    /// The provider's listing.
    pub provider: Input,
}

/// How well one input was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Whether it can be believed.
    pub quality: Quality,
    /// Age of what was seen, seconds.
    pub age_seconds: u64,
    /// What was wrong, where it was not complete.
    #[serde(default)]
    pub detail: Option<String>,
}

/// Whether an input can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Seen whole.
    Complete,
    /// Seen in part: what is absent may exist.
    Partial,
    /// Not seen.
    Failed,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Worker {
    /// The cell it was asked for in.
    pub fn cell(&self) -> Option<&Cell> {
        self.live.as_ref().and_then(|live| live.cell.as_ref())
    }

    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        self.status.is_ended()
    }

    /// Its outcome: the stored one, else what its reason says; null while it has not ended.
    pub fn outcome(&self) -> Option<Outcome> {
        let stored = self.live.as_ref().and_then(|live| live.outcome);
        self.is_ended().then(|| stored.unwrap_or_else(|| Outcome::from_reason(self.reason.as_deref())))
    }
}
