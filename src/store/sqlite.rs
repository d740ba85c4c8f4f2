//! The embedded store: one SQLite file, `fleet.db`, in the data folder.
//!
//! One writer connection a process (a pool of one) on which every transaction is `BEGIN
//! IMMEDIATE`, and a few reader connections with their own snapshots (WAL); synchronous=FULL, so
//! that an answered call is on disk. The state machine is not here: rows are loaded, changed by
//! `worker_row` and `task_rules`, and saved.
//!
//! It promises what [`Store`] promises, also to several processes on one file. Log rows live in a
//! file of their own, `logs.db`, which is only read here, so that bursts of them never delay a claim;
//! or in a Supabase project, which is read by its Data API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::log_rows::{Logs, Read};
use super::supabase::LogsApi;
use super::{
    ActionResult, AuditRow, CycleRecord, DecisionId, DecisionQuery, DecisionRow, FleetRead, Import, Intent, Lease,
    LeaseAnswer, LogQuery, LogRow, OrderRow, Process, Result, RpcResult, SourceNewest, SpawnAnswer, Store,
    StoreError, TaskFilter, UserTotals, Watched, Windows, WorkerDoor, WorkerEnd, WorkerRow,
};
use crate::clock::{self, Time};
use crate::fleet::ids::{BootId, TaskId, WorkerId};
use crate::fleet::order::{NewOrder, Order, OrderId};
use crate::fleet::policy::PolicyLive;
use crate::fleet::pool::PoolTasks;
use crate::fleet::state::WorkerState;
use crate::fleet::task::{Bucket, NewTask, Task, TaskStatus};
use crate::rpc;
use crate::telemetry::exporter::supabase::SupabaseConfig;

mod cycle;
mod decisions;
mod door;
mod fault;
mod import;
mod lease;
mod logs;
mod observe;
mod open;
mod operators;
mod orders;
mod processes;
mod rows;
mod tasks;
#[cfg(test)]
pub(super) mod tests;
mod watched;
mod workers;

pub use self::open::SCHEMA_VERSION;
pub use super::TimeSource;
use fault::Fault;

/// The file's name in the data folder.
pub const FLEET_FILE: &str = "fleet.db";
/// How long a statement waits for another process's lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for this process's own connections.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Reader connections a process.
pub const READERS_MAX: u32 = 4;

/// The embedded store.
#[derive(Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    time: TimeSource,
    logs: Logs,
    path: PathBuf,
}

/// A transaction and its instant.
struct Tx {
    inner: Transaction<'static, Sqlite>,
    now: Time,
    /// Tasks that it ends: counted once they have ended.
    ended: Vec<TaskStatus>,
}

impl Tx {
    fn db(&mut self) -> &mut SqliteConnection {
        &mut self.inner
    }

    fn micros(&self) -> i64 {
        self.now.as_microsecond()
    }
}

const READ_CLOCK: &str = "select coalesce(?1, cast(round(unixepoch('subsec') * 1000000.0) as integer))";

impl SqliteStore {
    /// Opens `fleet.db` in the data folder, which is created where absent, and brings its schema
    /// up to date. Errors name the path and the remedy.
    pub async fn open(data_dir: &Path, time: TimeSource) -> Result<SqliteStore> {
        let path = data_dir.join(FLEET_FILE);
        let (writer, readers) = open::open(data_dir, &path).await?;
        Ok(SqliteStore { writer, readers, time, logs: Logs::new(logs::LogFile::new(data_dir)), path })
    }

    /// The same with the log rows of a Supabase project instead of `logs.db`.
    pub fn with_logs_in(self, project: SupabaseConfig) -> SqliteStore {
        SqliteStore { logs: Logs::new(LogsApi::new(project)), ..self }
    }

    /// Rows with their arrival by the fleet's clock (I9).
    async fn by_fleet_clock(&self, read: Read) -> Result<Vec<LogRow>> {
        if read.now.is_none() {
            return Ok(read.rows);
        }
        Ok(read.by_fleet(self.now().await?))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes all connections; what was answered is on disk with or without this.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        self.logs.close().await;
    }

    async fn write(&self) -> std::result::Result<Tx, Fault> {
        self.begin(&self.writer, "begin immediate").await
    }

    async fn read(&self) -> std::result::Result<Tx, Fault> {
        self.begin(&self.readers, "begin").await
    }

    async fn begin(&self, pool: &SqlitePool, how: &'static str) -> std::result::Result<Tx, Fault> {
        let mut inner = pool.begin_with(how).await?;
        let micros: i64 = sqlx::query_scalar(READ_CLOCK).bind(self.time.parameter()).fetch_one(&mut *inner).await?;
        Ok(Tx { inner, now: clock::from_micros(micros), ended: Vec::new() })
    }

    /// Commits what a worker's call did, or forgets it and records the refusal.
    async fn settle<T>(
        &self,
        tx: Tx,
        (function, caller): (&'static str, &rpc::Caller),
        answer: std::result::Result<T, Fault>,
    ) -> RpcResult<T> {
        match answer {
            Ok(value) => {
                tx.inner.commit().await.map_err(|error| Fault::from(error).rpc(function))?;
                super::count_ended(&tx.ended);
                Ok(value)
            }
            Err(Fault::Refused(refusal)) => {
                // The lock is given back before the refusal is written in a transaction of its own.
                let _ = tx.inner.rollback().await;
                self.note_refusal(function, caller, &refusal).await;
                Err(refusal.into())
            }
            Err(fault) => Err(fault.rpc(function)),
        }
    }

    async fn note_refusal(&self, function: &'static str, caller: &rpc::Caller, refusal: &rpc::Refusal) {
        let noted: std::result::Result<(), Fault> = async {
            let mut tx = self.write().await?;
            door::note_refusal(&mut tx, function, caller, refusal).await?;
            Ok(tx.inner.commit().await?)
        }
        .await;
        if let Err(fault) = noted {
            let error = fault.store("note a refusal");
            tracing::warn!(error = crate::error::chain(&error), "a refusal could not be recorded");
        }
    }
}

/// A transaction of the orchestrator or an operator: committed where the body succeeds.
macro_rules! transaction {
    ($begin:expr, $doing:literal, |$tx:ident| $body:expr) => {{
        let done: std::result::Result<_, Fault> = async {
            let mut tx = $begin.await?;
            let $tx = &mut tx;
            let value = $body.await?;
            tx.inner.commit().await?;
            super::count_ended(&tx.ended);
            Ok(value)
        }
        .await;
        done.map_err(|fault| fault.store($doing))
    }};
}

/// A worker's call: committed where it is granted.
macro_rules! call {
    ($store:ident, $function:expr, $caller:ident, |$tx:ident| $body:expr) => {{
        let function = $function.name();
        let mut tx = $store.write().await.map_err(|fault| fault.rpc(function))?;
        let answer = {
            let $tx = &mut tx;
            $body.await
        };
        $store.settle(tx, (function, $caller), answer).await
    }};
}

#[async_trait]
impl WorkerDoor for SqliteStore {
    async fn authenticate(&self, caller: &rpc::Caller) -> RpcResult<WorkerId> {
        let function = "authenticate";
        let mut tx = self.read().await.map_err(|fault| fault.rpc(function))?;
        let answer = door::admit(&mut tx, caller).await.map(|worker| worker.id);
        self.settle(tx, (function, caller), answer).await
    }

    async fn register(
        &self,
        caller: &rpc::Caller,
        info: &rpc::AgentInfo,
        policy: &PolicyLive,
    ) -> RpcResult<rpc::Registered> {
        call!(self, rpc::Function::Register, caller, |tx| door::register(tx, caller, info))?;
        Ok(super::registered(policy))
    }

    async fn heartbeat(&self, caller: &rpc::Caller, beat: &rpc::Heartbeat) -> RpcResult<rpc::Orders> {
        call!(self, rpc::Function::Heartbeat, caller, |tx| door::heartbeat(tx, caller, beat))
    }

    async fn claim_task(
        &self,
        caller: &rpc::Caller,
        claim: &rpc::Claim,
        user_task_limit: u32,
    ) -> RpcResult<Option<rpc::Claimed>> {
        call!(self, rpc::Function::ClaimTask, caller, |tx| door::claim(tx, caller, claim, user_task_limit))
    }

    async fn task_progress(&self, caller: &rpc::Caller, progress: &rpc::Progress) -> RpcResult<rpc::ProgressReply> {
        call!(self, rpc::Function::TaskProgress, caller, |tx| door::progress(tx, caller, progress))
    }

    async fn complete_task(&self, caller: &rpc::Caller, complete: &rpc::Complete) -> RpcResult<rpc::TaskEnd> {
        call!(self, rpc::Function::CompleteTask, caller, |tx| door::complete(tx, caller, complete))
    }

    async fn fail_task(&self, caller: &rpc::Caller, fail: &rpc::Fail) -> RpcResult<rpc::TaskEnd> {
        call!(self, rpc::Function::FailTask, caller, |tx| door::fail(tx, caller, fail))
    }

    async fn exit(&self, caller: &rpc::Caller, report: &rpc::ExitReport) -> RpcResult<()> {
        call!(self, rpc::Function::Exit, caller, |tx| door::exit(tx, caller, report))
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn now(&self) -> Result<Time> {
        let tx = self.read().await.map_err(|fault| fault.store("read the clock"))?;
        Ok(tx.now)
    }

    async fn submit(&self, new: &[NewTask]) -> Result<()> {
        transaction!(self.write(), "submit tasks", |tx| tasks::submit(tx, new))
    }

    async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<Task>> {
        transaction!(self.read(), "read tasks", |tx| tasks::read(tx, filter))
    }

    async fn task_totals(&self, user_task_limit: u32) -> Result<Vec<UserTotals>> {
        transaction!(self.read(), "count tasks", |tx| observe::totals(tx, user_task_limit))
    }

    async fn cancel_task(&self, task: TaskId) -> Result<bool> {
        transaction!(self.write(), "cancel a task", |tx| tasks::cancel(tx, task))
    }

    async fn hold_task(&self, task: TaskId, bucket: Option<Bucket>, actor: &str, reason: &str) -> Result<()> {
        transaction!(self.write(), "hold a task", |tx| operators::hold(tx, task, bucket, actor, reason))
    }

    async fn set_user(&self, user: &str, credits: Option<f64>, cloud_enabled: Option<bool>) -> Result<()> {
        transaction!(self.write(), "set a user", |tx| tasks::set_user(tx, user, credits, cloud_enabled))
    }

    async fn take_lease(&self, name: &str, holder: BootId, ttl: Duration) -> Result<LeaseAnswer> {
        transaction!(self.write(), "take the lease", |tx| lease::take(tx, name, holder, ttl))
    }

    async fn release_lease(&self, held: &Lease) -> Result<()> {
        transaction!(self.write(), "release the lease", |tx| lease::release(tx, held))
    }

    async fn touch(&self, gap: Duration) -> Result<Time> {
        transaction!(self.write(), "say that writes arrive", |tx| lease::touch(tx, gap))
    }

    async fn observe(&self, ended_within: Duration, user_task_limit: u32) -> Result<FleetRead> {
        let mut read =
            transaction!(self.read(), "observe", |tx| observe::observe(tx, ended_within, user_task_limit))?;
        read.records = self.logs.newest_records().await;
        Ok(read)
    }

    async fn commit_cycle(&self, held: &Lease, record: &CycleRecord, intents: &[Intent]) -> Result<DecisionId> {
        transaction!(self.write(), "commit a cycle", |tx| cycle::commit(tx, held, record, intents))
    }

    async fn action_result(
        &self,
        held: &Lease,
        decision: DecisionId,
        index: usize,
        result: &ActionResult,
    ) -> Result<()> {
        transaction!(self.write(), "add an action's result", |tx| decisions::action_result(
            tx, held, decision, index, result
        ))
    }

    async fn spawn_answer(&self, held: &Lease, worker: &WorkerId, answer: &SpawnAnswer) -> Result<()> {
        transaction!(self.write(), "write the provider's answer", |tx| cycle::spawn_answer(
            tx, held, worker, answer
        ))?
        .map_err(|detail| bad_worker(worker, detail))
    }

    async fn pod_state(&self, held: &Lease, worker: &WorkerId, state: WorkerState) -> Result<()> {
        transaction!(self.write(), "write a pod's state", |tx| cycle::pod_state(tx, held, worker, state))?
            .map_err(|detail| bad_worker(worker, detail))
    }

    async fn end_worker(&self, held: &Lease, worker: &WorkerId, end: &WorkerEnd) -> Result<Vec<TaskId>> {
        transaction!(self.write(), "end a worker", |tx| cycle::end_worker(tx, held, worker, end))
    }

    async fn workers(&self, since: Option<Time>, limit: usize) -> Result<Vec<WorkerRow>> {
        transaction!(self.read(), "read workers", |tx| workers::newest(tx, since, limit))
    }

    async fn decisions(&self, since: Option<Time>, limit: usize) -> Result<Vec<DecisionRow>> {
        let query = DecisionQuery { since, limit, ..DecisionQuery::default() };
        self.decision_rows(&query).await
    }

    async fn decision_rows(&self, query: &DecisionQuery) -> Result<Vec<DecisionRow>> {
        transaction!(self.read(), "read decisions", |tx| decisions::read(tx, query))
    }

    async fn order(&self, new: &NewOrder) -> Result<Order> {
        transaction!(self.write(), "give an order", |tx| orders::give(tx, new))
    }

    async fn end_order(&self, order: OrderId, actor: &str, reason: &str) -> Result<bool> {
        transaction!(self.write(), "end an order", |tx| orders::end(tx, order, actor, reason))
    }

    async fn orders(&self, limit: usize) -> Result<Vec<OrderRow>> {
        transaction!(self.read(), "read orders", |tx| orders::newest(tx, limit))
    }

    async fn audit(&self, limit: usize) -> Result<Vec<AuditRow>> {
        transaction!(self.read(), "read the audit", |tx| orders::audit(tx, limit))
    }

    async fn set_pools(&self, pools: &[PoolTasks]) -> Result<()> {
        transaction!(self.write(), "write the pools", |tx| orders::set_pools(tx, pools))
    }

    async fn import(&self, import: &Import) -> Result<bool> {
        transaction!(self.write(), "import a file", |tx| import::write(tx, import))
    }

    async fn logs(&self, query: &LogQuery) -> Result<Vec<LogRow>> {
        self.by_fleet_clock(self.logs.query(query).await?).await
    }

    async fn watched(&self, windows: Windows) -> Result<Watched> {
        transaction!(self.read(), "read for the watch", |tx| watched::watched(tx, windows))
    }

    async fn newest_rows(&self) -> Result<Vec<SourceNewest>> {
        let rows = self.by_fleet_clock(self.logs.newest().await?).await?;
        Ok(rows.into_iter().map(LogRow::into).collect())
    }

    async fn pause(&self, actor: &str, reason: &str, until: Option<Time>) -> Result<()> {
        transaction!(self.write(), "pause", |tx| operators::pause(tx, actor, reason, until))
    }

    async fn resume(&self, actor: &str, reason: &str) -> Result<()> {
        transaction!(self.write(), "resume", |tx| operators::resume(tx, actor, reason))
    }

    async fn process_started(&self, process: &Process) -> Result<()> {
        transaction!(self.write(), "write a process's start", |tx| processes::started(tx, process))
    }

    async fn process_seen(&self, boot: BootId) -> Result<()> {
        transaction!(self.write(), "write a process's life", |tx| processes::seen(tx, boot))
    }

    async fn process_ended(&self, boot: BootId) -> Result<()> {
        transaction!(self.write(), "write a process's end", |tx| processes::ended(tx, boot))
    }

    async fn processes(&self, limit: usize) -> Result<Vec<Process>> {
        transaction!(self.read(), "read processes", |tx| processes::newest(tx, limit))
    }
}

fn bad_worker(worker: &WorkerId, detail: String) -> StoreError {
    StoreError::BadRow { what: format!("worker {worker}"), detail }
}

/// The limit of a read: 0 and more than the most are the most.
fn limit(asked: usize) -> i64 {
    let most = super::READ_ROWS_MAX;
    i64::try_from(if asked == 0 { most } else { asked.min(most) }).unwrap_or(i64::MAX)
}
