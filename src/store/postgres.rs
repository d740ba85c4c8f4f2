//! Postgres: one truth for as many processes as there are.
//!
//! A pool of connections whose statements, waits for locks and idle transactions are limited by the
//! database. A write is a transaction whose rows are locked before they are read; what an
//! orchestrator writes begins with a lock on its lease's row. The workers' calls are functions of the
//! database (see `door` and the migrations). The state machine is not here: rows are loaded, changed
//! by `worker_row` and `task_rules`, and saved.
//!
//! It promises what [`Store`] promises, to several processes at once. It needs a session of its own
//! on each connection: directly, or through a pooler in session mode.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use sqlx::postgres::PgPool;
use sqlx::{PgConnection, Postgres, Transaction};

use super::log_rows::Logs;
use super::{
    ActionResult, AuditRow, CycleRecord, DecisionId, DecisionQuery, DecisionRow, FleetRead, Import, Intent, Lease,
    LeaseAnswer, LogQuery, LogRow, OrderRow, Process, Result, RpcResult, SourceNewest, SpawnAnswer, Store,
    StoreError, StrayRows, TaskFilter, TimeSource, UserTotals, Watched, Windows, WorkerDoor, WorkerEnd, WorkerRow,
};
use crate::clock::Time;
use crate::fleet::ids::{BootId, TaskId, WorkerId};
use crate::fleet::order::{NewOrder, Order, OrderId};
use crate::fleet::policy::PolicyLive;
use crate::fleet::pool::PoolTasks;
use crate::fleet::state::WorkerState;
use crate::fleet::task::{Bucket, NewTask, Task};
use crate::rpc::{self, Function};
use crate::telemetry::exporter::postgres::Address;

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
mod rights;
mod rows;
mod settings;
mod tasks;
#[cfg(test)]
pub(crate) mod tests;
mod together;
mod watched;
mod workers;

pub use self::open::{CONNECTIONS_MAX, SCHEMA, SCHEMA_LEVEL, SCHEMA_LEVEL_MIN};
use fault::Fault;
use rows::At;
use together::{Together, Told};

/// The store.
pub struct PostgresStore {
    pool: PgPool,
    address: Address,
    time: TimeSource,
    logs: Logs,
    together: Together,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresStore({})", self.address)
    }
}

/// A transaction and its instant.
struct Tx {
    inner: Transaction<'static, Postgres>,
    now: Time,
}

impl Tx {
    fn db(&mut self) -> &mut PgConnection {
        &mut self.inner
    }

    fn at(&self) -> At {
        At(self.now)
    }

    /// Until this transaction ends nobody else passes here with the same word.
    async fn alone(&mut self, word: &'static str) -> std::result::Result<(), Fault> {
        sqlx::query("select pg_advisory_xact_lock(hashtextextended('dogwatch.' || $1, 0))")
            .bind(word)
            .execute(self.db())
            .await?;
        Ok(())
    }
}

const READ_CLOCK: &str = "select coalesce($1, now())";
const WRITE: &str = "begin isolation level read committed";
/// One moment for all statements.
const READ: &str = "begin isolation level repeatable read read only";

impl PostgresStore {
    /// Connects, and looks at the schema's level.
    ///
    /// # Errors
    /// The database does not answer, or its schema is not one this program works with.
    pub async fn open(address: &Address, time: TimeSource) -> Result<PostgresStore> {
        let store = PostgresStore::new(address, time);
        open::check_level(store.level().await?, address)?;
        Ok(store)
    }

    /// The same without a look at the database.
    pub fn new(address: &Address, time: TimeSource) -> PostgresStore {
        let (pool, logs) = (open::pool(address.options()), Logs::new(logs::Table::new(address)));
        PostgresStore { pool, address: address.clone(), time, logs, together: Together::default() }
    }

    /// The level of the fleet's schema; 0 where there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn level(&self) -> Result<i64> {
        open::level(&self.pool).await
    }

    /// Whether there is a pooler in transaction mode between us and the database.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn is_pooled_by_transaction(&self) -> Result<bool> {
        open::is_pooled_by_transaction(&self.address)
            .await
            .map_err(|error| fault::from_sqlx(error, "look for a pooler"))
    }

    /// Tables of the fleet that this role may not read and write.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn missing_rights(&self) -> Result<Vec<String>> {
        rights::missing_rights(&self.pool).await
    }

    /// Rights that the migrations gave to roles and that are missing, in words.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revoked_rights(&self) -> Result<Vec<String>> {
        rights::revoked(&self.pool).await
    }

    /// Rows after which a Data API (PostgREST) before this database ends a list; None: there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn data_api_rows_max(&self) -> Result<Option<u64>> {
        open::data_api_rows_max(&self.pool).await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.logs.close().await;
        self.pool.close().await;
    }

    async fn write(&self) -> std::result::Result<Tx, Fault> {
        self.begin(WRITE).await
    }

    async fn read(&self) -> std::result::Result<Tx, Fault> {
        self.begin(READ).await
    }

    async fn begin(&self, how: &'static str) -> std::result::Result<Tx, Fault> {
        let mut inner = self.pool.begin_with(how).await?;
        let now: At = sqlx::query_scalar(READ_CLOCK).bind(self.parameter()).fetch_one(&mut *inner).await?;
        Ok(Tx { inner, now: now.0 })
    }

    fn parameter(&self) -> Option<At> {
        self.time.parameter().map(At::micros)
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        function: Function,
        (caller, keys): (&rpc::Caller, serde_json::Value),
        limit: Option<i64>,
    ) -> RpcResult<T> {
        let body = door::body(caller, keys);
        door::call(&self.pool, function, body, (self.parameter(), limit))
            .await
            .map_err(|fault| fault.rpc(function.name()))
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
            Ok(value)
        }
        .await;
        done.map_err(|fault| fault.store($doing))
    }};
}

#[async_trait]
impl WorkerDoor for PostgresStore {
    async fn authenticate(&self, caller: &rpc::Caller) -> RpcResult<WorkerId> {
        let body = door::body(caller, json!({}));
        let id = door::authenticate(&self.pool, body, self.parameter()).await;
        id.map(WorkerId).map_err(|fault| fault.rpc("authenticate"))
    }

    async fn register(
        &self,
        caller: &rpc::Caller,
        info: &rpc::AgentInfo,
        policy: &PolicyLive,
    ) -> RpcResult<rpc::Registered> {
        let _: serde_json::Value = self.call(Function::Register, (caller, json!({ "info": info })), None).await?;
        Ok(super::registered(policy))
    }

    async fn heartbeat(&self, caller: &rpc::Caller, beat: &rpc::Heartbeat) -> RpcResult<rpc::Orders> {
        self.call(Function::Heartbeat, (caller, json!(beat)), None).await
    }

    async fn claim_task(
        &self,
        caller: &rpc::Caller,
        claim: &rpc::Claim,
        user_task_limit: u32,
    ) -> RpcResult<Option<rpc::Claimed>> {
        match self.together.claim((&self.pool, &self.time), (caller, claim, user_task_limit)).await? {
            Told::Answer(claimed) => Ok(claimed),
            Told::Alone => {
                self.call(Function::ClaimTask, (caller, json!(claim)), Some(user_task_limit.into())).await
            }
            Told::Away(error) => {
                Err(StoreError::Unavailable { doing: Function::ClaimTask.name(), source: error.into() }.into())
            }
        }
    }

    async fn task_progress(&self, caller: &rpc::Caller, progress: &rpc::Progress) -> RpcResult<rpc::ProgressReply> {
        let fraction = progress.fraction.map(|fraction| fraction.clamp(0.0, 1.0));
        let progress = rpc::Progress { fraction, ..progress.clone() };
        self.call(Function::TaskProgress, (caller, json!(progress)), None).await
    }

    async fn complete_task(&self, caller: &rpc::Caller, complete: &rpc::Complete) -> RpcResult<rpc::TaskEnd> {
        self.call(Function::CompleteTask, (caller, json!(complete)), None).await
    }

    async fn fail_task(&self, caller: &rpc::Caller, fail: &rpc::Fail) -> RpcResult<rpc::TaskEnd> {
        self.call(Function::FailTask, (caller, json!(fail)), None).await
    }

    async fn exit(&self, caller: &rpc::Caller, report: &rpc::ExitReport) -> RpcResult<()> {
        let _: serde_json::Value = self.call(Function::Exit, (caller, json!({ "report": report })), None).await?;
        Ok(())
    }
}

#[async_trait]
impl Store for PostgresStore {
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
        Ok(self.logs.query(query).await?.rows)
    }

    async fn watched(&self, windows: Windows) -> Result<Watched> {
        transaction!(self.read(), "read for the watch", |tx| watched::watched(tx, windows))
    }

    async fn newest_rows(&self) -> Result<Vec<SourceNewest>> {
        Ok(self.logs.newest().await?.rows.into_iter().map(LogRow::into).collect())
    }

    async fn stray_rows(&self) -> Result<StrayRows> {
        self.logs.strays().await
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
