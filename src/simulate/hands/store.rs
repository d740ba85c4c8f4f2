//! The database in an orchestrator's hands. Agents go another way: their calls are lost in a network
//! of their own.

use std::time::Duration;

use async_trait::async_trait;

use super::super::bugs::Bug;
use super::Hands;
use crate::clock::{self, Time};
use crate::fleet::ids::{BootId, TaskId, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::policy::PolicyLive;
use crate::fleet::snapshot::{Pause, Worker};
use crate::fleet::state::{Status, WorkerState};
use crate::fleet::task::{Bucket, NewTask, Task};
use crate::rpc;
use crate::store::{
    ActionResult, CycleRecord, DecisionId, DecisionRow, FleetRead, Intent, Lease, LeaseAnswer, LogQuery, LogRow,
    Process, Result, RpcResult, SourceNewest, SpawnAnswer, Store, TaskFilter, UserTotals, Watched, Windows,
    WorkerDoor, WorkerEnd, WorkerRow,
};

#[async_trait]
impl Store for Hands {
    async fn now(&self) -> Result<Time> {
        self.ask("now", self.world.store.now()).await
    }

    async fn take_lease(&self, name: &str, holder: BootId, ttl: Duration) -> Result<LeaseAnswer> {
        self.ask("take_lease", self.world.store.take_lease(name, holder, ttl)).await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<()> {
        self.ask("release_lease", self.world.store.release_lease(lease)).await
    }

    async fn touch(&self, gap: Duration) -> Result<Time> {
        self.ask("touch", self.world.store.touch(gap)).await
    }

    async fn observe(&self, ended_within: Duration, user_task_limit: u32) -> Result<FleetRead> {
        let mut read = self.ask("observe", self.world.store.observe(ended_within, user_task_limit)).await?;
        self.spoil(&mut read);
        Ok(read)
    }

    async fn watched(&self, windows: Windows) -> Result<Watched> {
        self.ask("watched", self.world.store.watched(windows)).await
    }

    async fn commit_cycle(&self, held: &Lease, record: &CycleRecord, intents: &[Intent]) -> Result<DecisionId> {
        let mut record = std::borrow::Cow::Borrowed(record);
        if self.sim().has(Bug::EtaOneWindowOff) {
            put_off(record.to_mut());
        }
        let record = &*record;
        self.write("commit_cycle", held, |lease| async move {
            let answer = self.world.store.commit_cycle(&lease, record, intents).await;
            if answer.is_ok() {
                self.sim().committed(self.process, held, record, &self.world.store);
            }
            answer
        })
        .await
    }

    async fn action_result(&self, held: &Lease, id: DecisionId, index: usize, result: &ActionResult) -> Result<()> {
        let write = |lease| async move { self.world.store.action_result(&lease, id, index, result).await };
        self.write("action_result", held, write).await
    }

    async fn spawn_answer(&self, held: &Lease, worker: &WorkerId, answer: &SpawnAnswer) -> Result<()> {
        self.write("spawn_answer", held, |lease| async move {
            let written = self.world.store.spawn_answer(&lease, worker, answer).await;
            if written.is_ok() {
                self.sim().spawn_answered(worker, answer, &self.world.store);
            }
            written
        })
        .await
    }

    async fn pod_state(&self, held: &Lease, worker: &WorkerId, state: WorkerState) -> Result<()> {
        let write = |lease| async move { self.world.store.pod_state(&lease, worker, state).await };
        self.write("pod_state", held, write).await
    }

    async fn end_worker(&self, held: &Lease, worker: &WorkerId, end: &WorkerEnd) -> Result<Vec<TaskId>> {
        self.write("end_worker", held, |lease| async move {
            let ended = self.world.store.end_worker(&lease, worker, end).await;
            if let Ok(tasks) = &ended {
                self.forget(tasks);
                self.sim().ended(worker, &self.world.store);
            }
            ended
        })
        .await
    }

    async fn process_started(&self, process: &Process) -> Result<()> {
        self.ask("process_started", self.world.store.process_started(process)).await
    }

    async fn process_seen(&self, boot: BootId) -> Result<()> {
        self.ask("process_seen", self.world.store.process_seen(boot)).await
    }

    async fn process_ended(&self, boot: BootId) -> Result<()> {
        self.ask("process_ended", self.world.store.process_ended(boot)).await
    }

    // --- what no orchestrator calls ---

    async fn submit(&self, tasks: &[NewTask]) -> Result<()> {
        self.world.store.submit(tasks).await
    }

    async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<Task>> {
        self.world.store.tasks(filter).await
    }

    async fn task_totals(&self, user_task_limit: u32) -> Result<Vec<UserTotals>> {
        self.world.store.task_totals(user_task_limit).await
    }

    async fn cancel_task(&self, task: TaskId) -> Result<bool> {
        self.world.store.cancel_task(task).await
    }

    async fn hold_task(&self, task: TaskId, bucket: Option<Bucket>, actor: &str, reason: &str) -> Result<()> {
        self.world.store.hold_task(task, bucket, actor, reason).await
    }

    async fn set_user(&self, user: &str, credits: Option<f64>, cloud_enabled: Option<bool>) -> Result<()> {
        self.world.store.set_user(user, credits, cloud_enabled).await
    }

    async fn workers(&self, since: Option<Time>, limit: usize) -> Result<Vec<WorkerRow>> {
        self.world.store.workers(since, limit).await
    }

    async fn decisions(&self, since: Option<Time>, limit: usize) -> Result<Vec<DecisionRow>> {
        self.world.store.decisions(since, limit).await
    }

    async fn logs(&self, query: &LogQuery) -> Result<Vec<LogRow>> {
        self.world.store.logs(query).await
    }

    async fn newest_rows(&self) -> Result<Vec<SourceNewest>> {
        self.world.store.newest_rows().await
    }

    async fn pause(&self, actor: &str, reason: &str, until: Option<Time>) -> Result<()> {
        self.world.store.pause(actor, reason, until).await
    }

    async fn resume(&self, actor: &str, reason: &str) -> Result<()> {
        self.world.store.resume(actor, reason).await
    }

    async fn processes(&self, limit: usize) -> Result<Vec<Process>> {
        self.world.store.processes(limit).await
    }
}

impl Hands {
    /// The planted bug, where it is: the attempts of these tasks are forgotten.
    fn forget(&self, tasks: &[TaskId]) {
        if self.sim().has(Bug::AttemptsForgotten) {
            self.world.store.forget_attempts(tasks);
        }
    }

    /// What planted bugs make of an observation.
    fn spoil(&self, read: &mut FleetRead) {
        let mut sim = self.sim();
        if sim.has(Bug::OrderForEver) {
            if read.pause.is_some() {
                sim.facts.pause_for_ever.clone_from(&read.pause);
            }
            read.pause = sim.facts.pause_for_ever.clone().map(|pause| Pause { until: None, ..pause });
        }
        if sim.has(Bug::SpawningNotCounted) {
            read.workers.retain(|worker| worker.status != Status::Spawning);
        }
        if sim.has(Bug::StaleAfterOutage) {
            read.writes_since = clock::from_micros(0);
        }
        if sim.has(Bug::PlannedCounts) {
            read.workers.iter_mut().for_each(blame_the_planned);
        }
    }
}

fn blame_the_planned(worker: &mut Worker) {
    if let Some(live) = worker.live.as_mut().filter(|live| live.outcome == Some(Outcome::Planned)) {
        live.outcome = Some(Outcome::WorkerCrash);
    }
}

/// Each block is said to end one window later.
fn put_off(record: &mut CycleRecord) {
    let window = Duration::from_secs(record.snapshot.policy.failure_window_seconds);
    for gate in &mut record.decision.gates {
        gate.lifts_at = gate.lifts_at.map(|at| clock::plus(at, window));
    }
}

#[async_trait]
impl WorkerDoor for Hands {
    async fn authenticate(&self, caller: &rpc::Caller) -> RpcResult<WorkerId> {
        self.world.store.authenticate(caller).await
    }

    async fn register(
        &self,
        caller: &rpc::Caller,
        info: &rpc::AgentInfo,
        policy: &PolicyLive,
    ) -> RpcResult<rpc::Registered> {
        self.world.store.register(caller, info, policy).await
    }

    async fn heartbeat(&self, caller: &rpc::Caller, beat: &rpc::Heartbeat) -> RpcResult<rpc::Orders> {
        self.world.store.heartbeat(caller, beat).await
    }

    async fn claim_task(
        &self,
        caller: &rpc::Caller,
        claim: &rpc::Claim,
        user_task_limit: u32,
    ) -> RpcResult<Option<rpc::Claimed>> {
        self.world.store.claim_task(caller, claim, user_task_limit).await
    }

    async fn task_progress(&self, caller: &rpc::Caller, progress: &rpc::Progress) -> RpcResult<rpc::ProgressReply> {
        self.world.store.task_progress(caller, progress).await
    }

    async fn complete_task(&self, caller: &rpc::Caller, complete: &rpc::Complete) -> RpcResult<rpc::TaskEnd> {
        self.world.store.complete_task(caller, complete).await
    }

    async fn fail_task(&self, caller: &rpc::Caller, fail: &rpc::Fail) -> RpcResult<rpc::TaskEnd> {
        self.world.store.fail_task(caller, fail).await
    }

    async fn exit(&self, caller: &rpc::Caller, report: &rpc::ExitReport) -> RpcResult<()> {
        self.world.store.exit(caller, report).await
    }
}
