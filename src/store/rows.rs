//! What is read back: rows of the fleet's tables and of `system_logs`, and which of them to read.
//!
//! Types only; JSON of these is what `--json` prints.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Time;
use crate::fleet::decision::{Decision, decide};
use crate::fleet::ids::{BootId, TaskId, Term, WorkerId};
use crate::fleet::order::Order;
use crate::fleet::snapshot::{Snapshot, Worker};
use crate::fleet::task::TaskStatus;
use crate::rpc;

/// Number of a decision row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DecisionId(pub i64);

/// A decision row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionRow {
    /// Its number.
    pub id: DecisionId,
    /// The process.
    pub boot_id: BootId,
    /// The cycle's number in that process.
    pub cycle: i64,
    /// The term it was written under.
    pub term: Term,
    /// When it was written, by the database's clock.
    pub at: Time,
    /// Trace of the cycle.
    pub trace_id: Option<String>,
    /// What was seen.
    pub snapshot: Snapshot,
    /// What was decided.
    pub decision: Decision,
    /// What became of each action, in the decision's order; null = not known yet.
    pub results: Vec<Option<ActionResult>>,
    /// It was loaded from a file: the digest of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<String>,
}

impl DecisionRow {
    /// The decision, taken again: by what was seen, with the numbers and at the instant of then.
    pub fn taken_again(&self) -> Decision {
        decide(&self.snapshot, &self.snapshot.policy, self.snapshot.as_of)
    }

    /// Whether that gives the stored decision. A row of another version need not.
    pub fn is_reproduced(&self) -> bool {
        self.taken_again() == self.decision
    }
}

/// Which decision rows to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionQuery {
    /// Written at or after.
    pub since: Option<Time>,
    /// Written at or before.
    pub until: Option<Time>,
    /// Only this cycle; of several processes, all.
    pub cycle: Option<i64>,
    /// Only rows after this one; for reading on, oldest first.
    pub after: Option<DecisionId>,
    /// Oldest first instead of newest first.
    pub oldest_first: bool,
    /// At most this many; 0 = [`READ_ROWS_MAX`].
    pub limit: usize,
}

impl DecisionQuery {
    /// Whether it asks for the row.
    pub(super) fn fits(&self, row: &DecisionRow) -> bool {
        self.since.is_none_or(|since| row.at >= since)
            && self.until.is_none_or(|until| row.at <= until)
            && self.cycle.is_none_or(|cycle| row.cycle == cycle)
            && self.after.is_none_or(|after| row.id > after)
    }

    /// The rows in the order and number that are asked for.
    pub(super) fn ordered(&self, mut rows: Vec<DecisionRow>) -> Vec<DecisionRow> {
        rows.sort_by_key(|row| row.id);
        if !self.oldest_first {
            rows.reverse();
        }
        rows.truncate(if self.limit == 0 { READ_ROWS_MAX } else { self.limit.min(READ_ROWS_MAX) });
        rows
    }
}

/// An order, also one that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRow {
    /// The order.
    pub order: Order,
    /// When somebody ended it before its time.
    pub ended_at: Option<Time>,
    /// Who did.
    pub ended_by: Option<String>,
    /// Why.
    pub ended_reason: Option<String>,
}

/// Something that a human ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// When, by the database's clock.
    pub at: Time,
    /// Who.
    pub actor: String,
    /// What.
    pub verb: String,
    /// About what.
    pub target: Option<String>,
    /// Why.
    pub reason: String,
}

/// What a file says of a fleet, to be written into a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// SHA-256 of the file's snapshot, hex: loaded twice, it is one.
    pub digest: String,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What the rules say of it.
    pub decision: Decision,
}

/// What became of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionResult {
    /// Whether it was done.
    pub ok: bool,
    /// In words.
    pub detail: String,
}

/// A worker row with what only a detail page shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// The row as a snapshot has it.
    pub worker: Worker,
    /// Who ended it.
    pub actor: Option<String>,
    /// Last lines and the like.
    pub evidence: Vec<String>,
    /// What its agent said of itself.
    pub info: Option<rpc::AgentInfo>,
    /// Its agent's last words.
    pub exit_report: Option<rpc::ExitReport>,
}

/// One process start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its boot id.
    pub boot_id: BootId,
    /// `orchestrator`, `gateway` or `watch`.
    pub kind: String,
    /// source_type of its records.
    pub source_type: String,
    /// source_id of its records.
    pub source_id: String,
    /// dogwatch's version.
    pub version: String,
    /// SHA-256 of the effective settings without secrets, hex.
    pub config_hash: String,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// By the database's clock; ignored when written.
    pub started_at: Time,
    /// Last sign of life, by the database's clock; ignored when written.
    pub seen_at: Time,
    /// When it said good-bye, or was found dead by its successor.
    pub ended_at: Option<Time>,
}

/// Which tasks to read; newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskFilter {
    /// Only these, where not empty.
    pub ids: Vec<TaskId>,
    /// Only this status.
    pub status: Option<TaskStatus>,
    /// Only this user's.
    pub user: Option<String>,
    /// Queued at or after.
    pub since: Option<Time>,
    /// Queued before.
    pub until: Option<Time>,
    /// At most this many; 0 = [`READ_ROWS_MAX`].
    pub limit: usize,
}

/// Tasks of one user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTotals {
    /// The user.
    pub user: String,
    /// Tasks by status word.
    pub by_status: std::collections::BTreeMap<String, u64>,
    /// Queued tasks by bucket word; they add up to the queued ones.
    pub by_bucket: std::collections::BTreeMap<String, u64>,
}

/// Most rows that one read returns.
pub const READ_ROWS_MAX: usize = 10_000;

/// Most workers of one observation; more is no observation.
pub const OBSERVED_WORKERS_MAX: usize = 100_000;
/// Most users that one observation lists; the buckets count all of them.
pub const DEMAND_USERS_MAX: usize = 10_000;
/// Most rows of refused calls that are kept.
pub const REFUSALS_ROWS_MAX: i64 = 10_000;
/// Most process starts that are kept.
pub const PROCESSES_ROWS_MAX: i64 = 10_000;
/// A process that was not seen for this long has ended when its name starts again.
pub const PROCESS_AWAY: std::time::Duration = std::time::Duration::from_secs(600);

/// Which log rows to read; oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogQuery {
    /// Made at or after.
    pub since: Option<Time>,
    /// Made before.
    pub until: Option<Time>,
    /// At least this level: DEBUG, INFO, WARNING, ERROR or CRITICAL.
    pub level: Option<String>,
    /// Only this source.
    pub source_id: Option<String>,
    /// Only this kind of source.
    pub source_type: Option<String>,
    /// Only this worker.
    pub worker: Option<WorkerId>,
    /// Only this task.
    pub task: Option<TaskId>,
    /// Only this cycle.
    pub cycle: Option<i64>,
    /// Only this trace, 32 hex digits.
    pub trace: Option<String>,
    /// Only messages that contain this text, in any case.
    pub grep: Option<String>,
    /// Arrived after this position (see [`LogRow::arrival`]); for following.
    pub after_arrival: Option<i64>,
    /// At most this many; 0 = [`READ_ROWS_MAX`]. The newest ones, but with `after_arrival` the next
    /// ones in the order of arrival, so that a reader who follows skips nothing.
    pub limit: usize,
}

/// A row of `system_logs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRow {
    /// The record's id.
    pub id: uuid::Uuid,
    /// When it was made.
    pub timestamp: Time,
    /// Which kind of source.
    pub source_type: String,
    /// Which source.
    pub source_id: String,
    /// DEBUG, INFO, WARNING, ERROR or CRITICAL.
    pub log_level: String,
    /// Its text; a span's name.
    pub message: String,
    /// The task it is about.
    pub task_id: Option<String>,
    /// The worker it is about.
    pub worker_id: Option<String>,
    /// The cycle it belongs to.
    pub cycle_number: Option<i64>,
    /// 32 hex digits.
    pub trace_id: Option<String>,
    /// 16 hex digits.
    pub span_id: Option<String>,
    /// Everything else.
    pub metadata: Value,
    /// When it arrived, by the database's clock.
    pub ingested_at: Time,
    /// Position in the order of arrival; rises, may have holes.
    #[serde(skip)]
    pub arrival: i64,
}

/// Rows of `system_logs` that lie in no partition of a day: their time is far off, or nobody makes
/// partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StrayRows {
    /// How many; [`STRAY_ROWS_MAX`] means so many or more.
    pub rows: u64,
    /// When the first of them arrived, by the database's clock; null = there are none.
    pub first_arrived: Option<Time>,
}

/// Stray rows that are counted.
pub const STRAY_ROWS_MAX: u64 = 10_000;

/// The newest row of one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceNewest {
    /// Which kind of source.
    pub source_type: String,
    /// Which source.
    pub source_id: String,
    /// When its newest row was made.
    pub timestamp: Time,
    /// When its newest row arrived, by the database's clock.
    pub ingested_at: Time,
}
