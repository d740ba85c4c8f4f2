//! A store without a disk: for tests and the simulator, which own its clock.
//!
//! One lock around plain maps; no await happens under it, so each call is a transaction. The
//! worker's state machine and the rules about attempts are those that the SQLite store runs; what
//! SQL does there (find, count, order) is written a second time here, and a differential test
//! holds the two against each other. Refusals are not kept: nothing reads them back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    ActionResult, AuditRow, CycleRecord, DecisionId, DecisionRow, FleetRead, Intent, Lease, LeaseAnswer, LogQuery,
    LogRow, OrderRow, Process, Result, RpcResult, SourceNewest, SpawnAnswer, Store, StoreError, TaskFilter,
    TimeSource, UserTotals, Watched, Windows, WorkerDoor, WorkerEnd, WorkerRow,
};
use crate::clock::{self, Time};
use crate::fleet::ids::{BootId, TaskId, WorkerId};
use crate::fleet::order::{NewOrder, Order, OrderId};
use crate::fleet::policy::PolicyLive;
use crate::fleet::pool::PoolTasks;
use crate::fleet::snapshot::Pause;
use crate::fleet::state::WorkerState;
use crate::fleet::task::{Bucket, NewTask, Task};
use crate::rpc;

mod cycle;
mod door;
mod logs;
mod orders;
mod peek;
mod queue;
mod state;
#[cfg(test)]
pub(super) mod tests;
mod watched;

use state::State;

/// The store.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    time: TimeSource,
}

impl MemoryStore {
    /// An empty store; [`TimeSource::Database`] is this machine's clock.
    pub fn new(time: TimeSource) -> MemoryStore {
        MemoryStore::with_decisions(time, cycle::DECISIONS_ROWS_MAX)
    }

    /// An empty store that keeps so many decision rows, the newest.
    pub(crate) fn with_decisions(time: TimeSource, kept: usize) -> MemoryStore {
        let state = State { decisions_kept: kept, ..State::default() };
        MemoryStore { state: Mutex::new(state), time }
    }

    /// Adds a row of `system_logs`, which the telemetry half writes elsewhere. Its position is set.
    pub fn add_log(&self, row: LogRow) {
        self.lock().0.add_log(row);
    }

    fn lock(&self) -> (MutexGuard<'_, State>, Time) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.time.parameter().map_or_else(clock::now, clock::from_micros);
        (state, now)
    }
}

#[async_trait]
impl WorkerDoor for MemoryStore {
    async fn authenticate(&self, caller: &rpc::Caller) -> RpcResult<WorkerId> {
        let (state, _) = self.lock();
        Ok(state.admit(caller)?.id)
    }

    async fn register(
        &self,
        caller: &rpc::Caller,
        info: &rpc::AgentInfo,
        policy: &PolicyLive,
    ) -> RpcResult<rpc::Registered> {
        let (mut state, now) = self.lock();
        state.register(caller, info, now)?;
        Ok(super::registered(policy))
    }

    async fn heartbeat(&self, caller: &rpc::Caller, beat: &rpc::Heartbeat) -> RpcResult<rpc::Orders> {
        let (mut state, now) = self.lock();
        Ok(state.heartbeat(caller, beat, now)?)
    }

    async fn claim_task(
        &self,
        caller: &rpc::Caller,
        claim: &rpc::Claim,
        user_task_limit: u32,
    ) -> RpcResult<Option<rpc::Claimed>> {
        let (mut state, now) = self.lock();
        Ok(state.claim(caller, claim, user_task_limit, now)?)
    }

    async fn task_progress(&self, caller: &rpc::Caller, progress: &rpc::Progress) -> RpcResult<rpc::ProgressReply> {
        let (mut state, now) = self.lock();
        Ok(state.progress(caller, progress, now)?)
    }

    async fn complete_task(&self, caller: &rpc::Caller, complete: &rpc::Complete) -> RpcResult<rpc::TaskEnd> {
        let (mut state, now) = self.lock();
        Ok(state.complete(caller, complete, now)?)
    }

    async fn fail_task(&self, caller: &rpc::Caller, fail: &rpc::Fail) -> RpcResult<rpc::TaskEnd> {
        let (mut state, now) = self.lock();
        Ok(state.fail(caller, fail, now)?)
    }

    async fn exit(&self, caller: &rpc::Caller, report: &rpc::ExitReport) -> RpcResult<()> {
        let (mut state, now) = self.lock();
        Ok(state.exit(caller, report, now)?)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn now(&self) -> Result<Time> {
        Ok(self.lock().1)
    }

    async fn submit(&self, tasks: &[NewTask]) -> Result<()> {
        let (mut state, now) = self.lock();
        state.submit(tasks, now);
        Ok(())
    }

    async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<Task>> {
        Ok(self.lock().0.read_tasks(filter))
    }

    async fn task_totals(&self, user_task_limit: u32) -> Result<Vec<UserTotals>> {
        Ok(self.lock().0.totals(user_task_limit))
    }

    async fn cancel_task(&self, task: TaskId) -> Result<bool> {
        let (mut state, now) = self.lock();
        Ok(state.cancel(task, now))
    }

    async fn hold_task(&self, task: TaskId, bucket: Option<Bucket>, actor: &str, reason: &str) -> Result<()> {
        let (mut state, now) = self.lock();
        match bucket {
            Some(bucket) => {
                super::check_hold(task, bucket)?;
                state.hold(task, bucket, (actor, reason), now);
            }
            None => state.let_go(task, (actor, reason), now),
        }
        Ok(())
    }

    async fn set_user(&self, user: &str, credits: Option<f64>, cloud_enabled: Option<bool>) -> Result<()> {
        self.lock().0.users.insert(user.to_owned(), (credits, cloud_enabled));
        Ok(())
    }

    async fn take_lease(&self, name: &str, holder: BootId, ttl: Duration) -> Result<LeaseAnswer> {
        let (mut state, now) = self.lock();
        Ok(state.take_lease(name, holder, ttl, now))
    }

    async fn release_lease(&self, held: &Lease) -> Result<()> {
        let (mut state, now) = self.lock();
        state.release_lease(held, now);
        Ok(())
    }

    async fn touch(&self, gap: Duration) -> Result<Time> {
        let (mut state, now) = self.lock();
        Ok(state.touch(gap, now))
    }

    async fn observe(&self, ended_within: Duration, user_task_limit: u32) -> Result<FleetRead> {
        let (state, now) = self.lock();
        Ok(state.observe(ended_within, user_task_limit, now))
    }

    async fn commit_cycle(&self, held: &Lease, record: &CycleRecord, intents: &[Intent]) -> Result<DecisionId> {
        let (mut state, now) = self.lock();
        state.guard(held)?;
        state.commit_cycle(held, record, intents, now)
    }

    async fn action_result(
        &self,
        held: &Lease,
        decision: DecisionId,
        index: usize,
        result: &ActionResult,
    ) -> Result<()> {
        let mut state = self.lock().0;
        state.guard(held)?;
        state.action_result(decision, index, result)
    }

    async fn spawn_answer(&self, held: &Lease, worker: &WorkerId, answer: &SpawnAnswer) -> Result<()> {
        let (mut state, now) = self.lock();
        state.guard(held)?;
        state.change_worker(worker, |row| row.spawn_answer(answer, now))
    }

    async fn pod_state(&self, held: &Lease, worker: &WorkerId, pod_state: WorkerState) -> Result<()> {
        let (mut state, now) = self.lock();
        state.guard(held)?;
        state.change_worker(worker, |row| row.pod_state(pod_state, now))
    }

    async fn end_worker(&self, held: &Lease, worker: &WorkerId, end: &WorkerEnd) -> Result<Vec<TaskId>> {
        let (mut state, now) = self.lock();
        state.guard(held)?;
        state.end_worker(worker, end, now)
    }

    async fn workers(&self, since: Option<Time>, limit: usize) -> Result<Vec<WorkerRow>> {
        Ok(self.lock().0.read_workers(since, limit))
    }

    async fn decisions(&self, since: Option<Time>, limit: usize) -> Result<Vec<DecisionRow>> {
        let state = self.lock().0;
        let newest = state.decisions.iter().rev().filter(|row| since.is_none_or(|since| row.at >= since));
        Ok(newest.take(bounded(limit)).cloned().collect())
    }

    async fn logs(&self, query: &LogQuery) -> Result<Vec<LogRow>> {
        self.lock().0.read_logs(query)
    }

    async fn watched(&self, windows: Windows) -> Result<Watched> {
        let (state, now) = self.lock();
        Ok(state.watched(windows, now))
    }

    async fn newest_rows(&self) -> Result<Vec<SourceNewest>> {
        Ok(self.lock().0.newest_rows())
    }

    async fn pause(&self, actor: &str, reason: &str, until: Option<Time>) -> Result<()> {
        let (mut state, now) = self.lock();
        state.pause = Some(Pause { actor: actor.to_owned(), reason: reason.to_owned(), since: now, until });
        state.note((actor, reason), "pause", None, now);
        Ok(())
    }

    async fn resume(&self, actor: &str, reason: &str) -> Result<()> {
        let (mut state, now) = self.lock();
        state.pause = None;
        state.note((actor, reason), "resume", None, now);
        Ok(())
    }

    async fn order(&self, new: &NewOrder) -> Result<Order> {
        let (mut state, now) = self.lock();
        state.order(new, now)
    }

    async fn end_order(&self, order: OrderId, actor: &str, reason: &str) -> Result<bool> {
        let (mut state, now) = self.lock();
        Ok(state.end_order(order, (actor, reason), now))
    }

    async fn orders(&self, limit: usize) -> Result<Vec<OrderRow>> {
        Ok(self.lock().0.read_orders(limit))
    }

    async fn audit(&self, limit: usize) -> Result<Vec<AuditRow>> {
        Ok(self.lock().0.audit.iter().rev().take(bounded(limit)).cloned().collect())
    }

    async fn set_pools(&self, pools: &[PoolTasks]) -> Result<()> {
        self.lock().0.set_pools(pools);
        Ok(())
    }

    async fn process_started(&self, process: &Process) -> Result<()> {
        let (mut state, now) = self.lock();
        state.process_started(process, now);
        Ok(())
    }

    async fn process_seen(&self, boot: BootId) -> Result<()> {
        let (mut state, now) = self.lock();
        if let Some(row) = state.running(boot) {
            row.seen_at = now;
        }
        Ok(())
    }

    async fn process_ended(&self, boot: BootId) -> Result<()> {
        let (mut state, now) = self.lock();
        if let Some(row) = state.running(boot) {
            (row.seen_at, row.ended_at) = (now, Some(now));
        }
        Ok(())
    }

    async fn processes(&self, limit: usize) -> Result<Vec<Process>> {
        let mut rows = self.lock().0.processes.clone();
        rows.sort_by_key(|row| std::cmp::Reverse((row.started_at, row.boot_id.to_string())));
        rows.truncate(bounded(limit));
        Ok(rows)
    }
}

/// The limit of a read: 0 and more than the most are the most.
fn bounded(asked: usize) -> usize {
    let most = super::READ_ROWS_MAX;
    if asked == 0 { most } else { asked.min(most) }
}

fn no_such_worker(worker: &WorkerId) -> StoreError {
    StoreError::BadRow { what: format!("worker {worker}"), detail: "there is no such row".into() }
}
