//! The fleet's database, as statements of intent.
//!
//! [`Store`] says what is meant ("claim a task", "end this worker"), never how; no SQL leaks out
//! and no caller computes on rows that the database can count. Implementations: SQLite (embedded)
//! and memory (tests, simulator), Postgres to fit beside them; one conformance suite runs over
//! each. Times are the database's own ([`Store::now`]).
//!
//! It promises: a worker's call is checked, done and answered in one transaction and may be
//! repeated (I19); a write by a stale term fails with [`StoreError::StaleTerm`] and changes nothing
//! (I16); a task never has two accepted completions (I13); every ended worker has an outcome (I18).
//! `system_logs` is only read here; the telemetry half writes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::catalogue;
use crate::clock::Time;
use crate::fleet::cell::Offer;
use crate::fleet::decision::Decision;
use crate::fleet::ids::{BootId, PodId, TaskId, Term, WorkerId};
use crate::fleet::order::{NewOrder, Order, OrderId};
use crate::fleet::outcome::Outcome;
use crate::fleet::policy::PolicyLive;
use crate::fleet::pool::PoolTasks;
use crate::fleet::refusal::Refusal;
use crate::fleet::snapshot::{Demand, Pause, Record, Snapshot, Worker};
use crate::fleet::state::WorkerState;
use crate::fleet::task::{Bucket, NewTask, Task, TaskStatus};
use crate::rpc;
use async_trait::async_trait;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod differential;
mod log_rows;
pub mod memory;
pub mod postgres;
mod rows;
mod snapshot_body;
pub mod sqlite;
mod supabase;
#[cfg(test)]
pub(crate) mod taken_again;
mod task_rules;
mod watched;
mod worker_row;

pub use self::rows::{
    ActionResult, AuditRow, DEMAND_USERS_MAX, DecisionId, DecisionQuery, DecisionRow, Import, LogQuery, LogRow,
    OBSERVED_WORKERS_MAX, OrderRow, PROCESS_AWAY, PROCESSES_ROWS_MAX, Process, READ_ROWS_MAX, REFUSALS_ROWS_MAX,
    STRAY_ROWS_MAX, SourceNewest, StrayRows, TaskFilter, UserTotals, WorkerRow,
};
pub use self::watched::{TaskEnds, Watched, Windows};

/// What a store can answer beside what was asked for; variants are what callers do differently.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process leads: step down and write nothing more.
    #[error("the lease is no longer held by this process")]
    StaleTerm,
    /// Not now: try again later, and call nothing zero.
    #[error("the database does not answer ({doing})")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// The driver's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database's schema is not one this binary works with.
    #[error("the schema is not usable: {detail}; run `dogwatch migrate`")]
    Schema {
        /// What is wrong.
        detail: String,
    },
    /// The database's file cannot be used; nothing was changed.
    #[error("cannot use {}: {detail}; {remedy}", path.display())]
    Open {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        detail: String,
        /// What to do about it.
        remedy: String,
    },
    /// A row that cannot be read, or a change that the state machine forbids: that one row only.
    #[error("{what} cannot be used: {detail}")]
    BadRow {
        /// Which row.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// The answer to a worker: the result, or a refusal that changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// Returned to the worker as it is.
    #[error(transparent)]
    Refused(#[from] rpc::Refusal),
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The answer to everybody else.
pub type Result<T> = std::result::Result<T, StoreError>;
/// The answer to a worker.
pub type RpcResult<T> = std::result::Result<T, RpcError>;

/// Where the store's clock stands.
#[derive(Debug, Clone)]
pub enum TimeSource {
    /// The database's own clock.
    Database,
    /// Microseconds since 1970, set by tests and the simulator.
    Fixed(Arc<AtomicI64>),
}

impl TimeSource {
    /// What the statement that reads the clock is given: null = the database's own.
    fn parameter(&self) -> Option<i64> {
        match self {
            TimeSource::Database => None,
            TimeSource::Fixed(micros) => Some(micros.load(Ordering::SeqCst)),
        }
    }
}

/// A held lease: what every write of an orchestrator is guarded by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Name of the lease: one a fleet and environment.
    pub name: String,
    /// The process that holds it.
    pub holder: BootId,
    /// Its term.
    pub term: Term,
    /// Until when, by the database's clock.
    pub until: Time,
}

/// What became of asking for the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// It is ours: taken, or renewed under the same term.
    Held(Lease),
    /// Another process leads.
    Other {
        /// Who.
        holder: BootId,
        /// Its term.
        term: Term,
        /// Until when, by the database's clock.
        until: Time,
    },
}

/// One consistent read of everything a cycle needs.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetRead {
    /// The database's clock in the same transaction.
    pub now: Time,
    /// Workers that have not ended, and those that ended within the asked-for time; oldest first,
    /// every one with its `live` part (`pod` is left null: the observer adds it).
    pub workers: Vec<Worker>,
    /// The queue, counted by the database.
    pub demand: Demand,
    /// The newest row per source of `system_logs`.
    pub records: Vec<Record>,
    /// Since when the database has taken writes without a gap (see [`Store::touch`]).
    pub writes_since: Time,
    /// An operator's pause in force.
    pub pause: Option<Pause>,
    /// What humans ordered and is in force, oldest first.
    pub orders: Vec<Order>,
    /// What workers that ended in this UTC day have cost in it, dollars; null where none had a price.
    pub ended_today_usd: Option<f64>,
}

/// What is written down before the provider is asked (I7), in the decision's own transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Intent {
    /// A new worker row in state `requesting`.
    Spawn {
        /// Its id.
        worker: WorkerId,
        /// Its pool.
        pool: String,
        /// SHA-256 of the token that its agent will carry.
        token_sha256: [u8; 32],
        /// The cell it is asked for in, and what that costs.
        offer: Offer,
    },
    /// The worker is to leave: state `draining` or `terminating`.
    Leave {
        /// The worker.
        worker: WorkerId,
        /// `Draining` or `Terminating`.
        state: WorkerState,
        /// Its outcome once it has ended; the first one written stays.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
    /// Queued tasks older than this are set aside as too old, oldest first, a bounded number at a
    /// time. A task that an operator let go is as old as that is ago.
    HoldOld {
        /// How old.
        older_than: Duration,
    },
}

/// Tasks that one [`Intent::HoldOld`] sets aside at most.
pub const HOLD_OLD_MAX: usize = 1_000;

/// One cycle for the record.
#[derive(Debug, Clone, PartialEq)]
pub struct CycleRecord {
    /// The process.
    pub boot_id: BootId,
    /// The cycle's number in that process.
    pub cycle: i64,
    /// Trace of the cycle, 32 hex digits.
    pub trace_id: Option<String>,
    /// What was seen.
    pub snapshot: Snapshot,
    /// What was decided.
    pub decision: Decision,
}

/// The provider's answer to a spawn.
#[derive(Debug, Clone, PartialEq)]
pub enum SpawnAnswer {
    /// There is a pod.
    Created {
        /// Its name at the provider.
        pod_id: PodId,
    },
    /// There is none: the worker has ended.
    Rejected {
        /// `ProviderCapacity` or `ProviderFault`, as a rule.
        outcome: Outcome,
        /// The provider's words.
        reason: String,
        /// Why, in our words.
        refusal: Option<Refusal>,
    },
    /// Nobody knows: there may be one.
    Ambiguous {
        /// What was seen.
        reason: String,
    },
}

/// The end of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerEnd {
    /// Its outcome; an outcome that was written before (when it was asked to leave) stays.
    pub outcome: Outcome,
    /// Why, in words.
    pub reason: String,
    /// Who ended it, such as `orchestrator`.
    pub actor: String,
    /// Last lines and the like, kept before terminating.
    pub evidence: Vec<String>,
}

/// The workers' way in: RPC.md's functions but `dw_ingest_logs`, which the telemetry half answers.
#[async_trait]
pub trait WorkerDoor: Send + Sync {
    /// Who calls, checked: the worker's id. Refused: unknown, wrong token, superseded, ended.
    async fn authenticate(&self, caller: &rpc::Caller) -> RpcResult<WorkerId>;
    /// First call of an agent; a new incarnation supersedes the one before.
    async fn register(
        &self,
        caller: &rpc::Caller,
        info: &rpc::AgentInfo,
        policy: &PolicyLive,
    ) -> RpcResult<rpc::Registered>;
    /// A beat; one whose seq is not above the last changes nothing and is answered.
    async fn heartbeat(&self, caller: &rpc::Caller, beat: &rpc::Heartbeat) -> RpcResult<rpc::Orders>;
    /// Takes the oldest claimable task; the same claim_id answers the same task and attempt again.
    async fn claim_task(
        &self,
        caller: &rpc::Caller,
        claim: &rpc::Claim,
        user_task_limit: u32,
    ) -> RpcResult<Option<rpc::Claimed>>;
    /// The task moves on.
    async fn task_progress(&self, caller: &rpc::Caller, progress: &rpc::Progress) -> RpcResult<rpc::ProgressReply>;
    /// The task is done.
    async fn complete_task(&self, caller: &rpc::Caller, complete: &rpc::Complete) -> RpcResult<rpc::TaskEnd>;
    /// The task failed; queued again where that may help and attempts are left.
    async fn fail_task(&self, caller: &rpc::Caller, fail: &rpc::Fail) -> RpcResult<rpc::TaskEnd>;
    /// The agent leaves, with its last words; its row is ended by the orchestrator, not here.
    async fn exit(&self, caller: &rpc::Caller, report: &rpc::ExitReport) -> RpcResult<()>;
}

/// The fleet's database.
#[async_trait]
pub trait Store: WorkerDoor {
    /// The database's clock.
    async fn now(&self) -> Result<Time>;

    // --- tasks ---

    /// Queues tasks, all or none; an id that is there already is left as it is.
    async fn submit(&self, tasks: &[NewTask]) -> Result<()>;
    /// Reads tasks.
    async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<Task>>;
    /// Counts tasks per user, by status and bucket.
    async fn task_totals(&self, user_task_limit: u32) -> Result<Vec<UserTotals>>;
    /// Cancels a task that has not ended. False: it had.
    async fn cancel_task(&self, task: TaskId) -> Result<bool>;
    /// Holds a queued task back: it is counted in `bucket` (paused, poisoned, too_old or
    /// wrong_type) and nobody can claim it. None: lets it go on. Audited.
    async fn hold_task(&self, task: TaskId, bucket: Option<Bucket>, actor: &str, reason: &str) -> Result<()>;
    /// What a user may do; null = not known, which limits nothing.
    async fn set_user(&self, user: &str, credits: Option<f64>, cloud_enabled: Option<bool>) -> Result<()>;

    // --- leadership ---

    /// Takes the lease if it is free or expired (term + 1), or renews it if `holder` has it.
    async fn take_lease(&self, name: &str, holder: BootId, ttl: Duration) -> Result<LeaseAnswer>;
    /// Gives the lease back; nothing happens where it is no longer held.
    async fn release_lease(&self, lease: &Lease) -> Result<()>;

    // --- a cycle ---

    /// Says that writes arrive; after more than `gap` without this, `writes_since` starts anew.
    async fn touch(&self, gap: Duration) -> Result<Time>;
    /// One consistent read. `ended_within`: how long ended workers are still shown.
    async fn observe(&self, ended_within: Duration, user_task_limit: u32) -> Result<FleetRead>;
    /// Writes the decision row and all intents in one transaction, guarded by the lease.
    async fn commit_cycle(&self, lease: &Lease, record: &CycleRecord, intents: &[Intent]) -> Result<DecisionId>;
    /// Adds what became of an action.
    async fn action_result(
        &self,
        lease: &Lease,
        decision: DecisionId,
        index: usize,
        result: &ActionResult,
    ) -> Result<()>;
    /// The provider's answer to a spawn. Rejected ends the worker with that outcome.
    async fn spawn_answer(&self, lease: &Lease, worker: &WorkerId, answer: &SpawnAnswer) -> Result<()>;
    /// The provider shows the worker's pod in this state (`Provisioning` or `Starting`).
    async fn pod_state(&self, lease: &Lease, worker: &WorkerId, state: WorkerState) -> Result<()>;
    /// Ends a worker and queues its tasks again (those with no attempts left fail), in one
    /// transaction. Returns those tasks. An ended worker stays as it is. Tasks of a worker that ended
    /// as a poison task are set aside as poisoned.
    async fn end_worker(&self, lease: &Lease, worker: &WorkerId, end: &WorkerEnd) -> Result<Vec<TaskId>>;

    // --- reading back ---

    /// Workers that have not ended and those created since (None: all); newest first, at most
    /// `limit` (0 = [`READ_ROWS_MAX`]).
    async fn workers(&self, since: Option<Time>, limit: usize) -> Result<Vec<WorkerRow>>;
    /// Decision rows, newest first, at most `limit` (0 = [`READ_ROWS_MAX`]).
    async fn decisions(&self, since: Option<Time>, limit: usize) -> Result<Vec<DecisionRow>>;
    /// Rows of `system_logs`.
    async fn logs(&self, query: &LogQuery) -> Result<Vec<LogRow>>;
    /// One consistent read for the watch: workers, queue, and how tasks have ended.
    async fn watched(&self, windows: Windows) -> Result<Watched>;
    /// The newest row of each source that has one.
    async fn newest_rows(&self) -> Result<Vec<SourceNewest>>;
    /// Rows of `system_logs` that lie in the DEFAULT partition. A table without partitions has none.
    async fn stray_rows(&self) -> Result<StrayRows> {
        Ok(StrayRows::default())
    }

    // --- operators ---

    /// Holds spawning until `until` (None: until [`Store::resume`]).
    async fn pause(&self, actor: &str, reason: &str, until: Option<Time>) -> Result<()>;
    /// Lets spawning go on.
    async fn resume(&self, actor: &str, reason: &str) -> Result<()>;
    /// Gives an order, audited. [`StoreError::BadRow`] where it is against the rules of orders.
    async fn order(&self, order: &NewOrder) -> Result<Order> {
        Err(keeps_no("orders", order))
    }
    /// Ends an order before its time, audited. False: there is none in force of that number.
    async fn end_order(&self, order: OrderId, actor: &str, reason: &str) -> Result<bool> {
        Err(keeps_no("orders", &(order, actor, reason)))
    }
    /// Orders, newest first, at most `limit` (0 = [`READ_ROWS_MAX`]).
    async fn orders(&self, _limit: usize) -> Result<Vec<OrderRow>> {
        Ok(Vec::new())
    }
    /// What humans ordered in any way, newest first, at most `limit` (0 = [`READ_ROWS_MAX`]).
    async fn audit(&self, _limit: usize) -> Result<Vec<AuditRow>> {
        Ok(Vec::new())
    }
    /// Says which pool takes which tasks, for counting and for claims; empty: one takes everything.
    async fn set_pools(&self, pools: &[PoolTasks]) -> Result<()> {
        if pools.is_empty() { Ok(()) } else { Err(keeps_no("pools", &pools)) }
    }
    /// Decision rows of a time or cycle.
    async fn decision_rows(&self, query: &DecisionQuery) -> Result<Vec<DecisionRow>> {
        let mut rows = self.decisions(query.since, READ_ROWS_MAX).await?;
        rows.retain(|row| query.fits(row));
        Ok(query.ordered(rows))
    }
    /// Writes what a file says of a fleet into an empty store: its workers, and one decision row marked
    /// `imported`. False: it was there already.
    async fn import(&self, import: &Import) -> Result<bool> {
        Err(keeps_no("imports", &import.digest))
    }

    // --- processes ---

    /// A process has started. Rows of the same kind and source without an end are ended where their processes have
    /// not been seen for [`PROCESS_AWAY`]: in a rolling deploy two of one name live beside each other for a while.
    async fn process_started(&self, process: &Process) -> Result<()>;
    /// The process lives.
    async fn process_seen(&self, boot: BootId) -> Result<()>;
    /// The process says good-bye.
    async fn process_ended(&self, boot: BootId) -> Result<()>;
    /// Processes, newest first.
    async fn processes(&self, limit: usize) -> Result<Vec<Process>>;
}

/// What an agent is told when it registers.
fn registered(policy: &PolicyLive) -> rpc::Registered {
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
    rpc::Registered {
        heartbeat_seconds: seconds(policy.beat_ms),
        dead_man_seconds: Duration::from_secs(policy.dead_man_seconds).as_secs_f64(),
        poll_seconds: seconds(policy.claim_poll_ms),
    }
}

/// Counts tasks that have ended, once each: where their end is committed, so that neither a repeated call
/// nor an end that is not the agent's own is counted wrongly.
fn count_ended(ended: &[TaskStatus]) {
    for status in ended {
        metrics::counter!(catalogue::TASK_ENDED.name, "status" => status.word()).increment(1);
    }
}

/// What a store says that does not keep such things.
fn keeps_no(what: &str, _given: &dyn std::fmt::Debug) -> StoreError {
    StoreError::Schema { detail: format!("this kind of database keeps no {what}") }
}

/// Whether a task can be held in that bucket: only those that are not found by a rule.
fn check_hold(task: TaskId, bucket: Bucket) -> Result<()> {
    if matches!(bucket, Bucket::Paused | Bucket::Poisoned | Bucket::TooOld | Bucket::WrongType) {
        return Ok(());
    }
    let detail = format!("nobody holds a task as {}", bucket.word());
    Err(StoreError::BadRow { what: format!("task {task}"), detail })
}

/// The name of a caller that nobody may be, cut to what a row should hold.
fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(CALLER_BYTES_MAX)]
}

/// Longest worker id in `refusals`, bytes.
const CALLER_BYTES_MAX: usize = 128;
