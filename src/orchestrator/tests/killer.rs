//! An orchestrator's store and provider that stop for ever at the k-th call, before it or after it with
//! the answer lost: what a kill at that moment leaves behind. Or the store is away for a while.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Time;
use crate::fleet::ids::{BootId, PodId, TaskId, WorkerId};
use crate::fleet::order::{NewOrder, Order, OrderId};
use crate::fleet::policy::PolicyLive;
use crate::fleet::pool::PoolTasks;
use crate::fleet::state::WorkerState;
use crate::fleet::task::{Bucket, NewTask, Task};
use crate::provider::{Listing, PodRequest, Provider, ProviderError};
use crate::rpc;
use crate::store::{
    ActionResult, CycleRecord, DecisionId, DecisionRow, FleetRead, Intent, Lease, LeaseAnswer, LogQuery, LogRow,
    Process, Result, RpcResult, SourceNewest, SpawnAnswer, Store, StoreError, StrayRows, TaskFilter, UserTotals,
    Watched, Windows, WorkerDoor, WorkerEnd, WorkerRow,
};

/// Where the orchestrator dies.
pub(super) struct Killer {
    /// The call, counted from 0.
    at: usize,
    /// After it was done instead of before.
    after: bool,
    calls: AtomicUsize,
    dead: AtomicBool,
    away: AtomicBool,
    name: Mutex<Option<&'static str>>,
}

impl Killer {
    pub(super) fn new(at: usize, after: bool) -> Arc<Killer> {
        let calls = AtomicUsize::new(0);
        let (dead, away) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Killer { at, after, calls, dead, away, name: Mutex::new(None) })
    }

    /// From now on the store does not answer, or does again.
    pub(super) fn set_away(&self, is_away: bool) {
        self.away.store(is_away, Ordering::SeqCst);
    }

    fn reach(&self, doing: &'static str) -> Result<()> {
        if self.away.load(Ordering::SeqCst) {
            let source = "connection refused".into();
            return Err(StoreError::Unavailable { doing, source });
        }
        Ok(())
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// The call at which it died.
    pub(super) fn point(&self) -> Option<String> {
        let name = *self.name.lock().unwrap_or_else(PoisonError::into_inner);
        name.map(|name| format!("{} {name}", if self.after { "after " } else { "before" }))
    }

    async fn call<T>(&self, name: &'static str, call: impl Future<Output = T>) -> T {
        let here = self.calls.fetch_add(1, Ordering::SeqCst) == self.at;
        if here && !self.after {
            self.die(name).await;
        }
        let answer = call.await;
        if here {
            self.die(name).await;
        }
        answer
    }

    async fn die(&self, name: &'static str) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Some(name);
        self.dead.store(true, Ordering::SeqCst);
        std::future::pending().await
    }
}

/// A provider that is asked until the kill.
pub(super) struct MortalProvider {
    pub(super) killer: Arc<Killer>,
    pub(super) provider: Arc<dyn Provider>,
}

#[async_trait]
impl Provider for MortalProvider {
    fn name(&self) -> &'static str {
        self.provider.name()
    }

    async fn create(&self, request: &PodRequest) -> std::result::Result<PodId, ProviderError> {
        self.killer.call("create", self.provider.create(request)).await
    }

    async fn list(&self) -> std::result::Result<Listing, ProviderError> {
        self.killer.call("list", self.provider.list()).await
    }

    async fn drain(&self, pod: &PodId) -> std::result::Result<(), ProviderError> {
        self.killer.call("drain", self.provider.drain(pod)).await
    }

    async fn terminate(&self, pod: &PodId) -> std::result::Result<(), ProviderError> {
        self.killer.call("terminate", self.provider.terminate(pod)).await
    }

    async fn balance(&self) -> std::result::Result<Option<f64>, ProviderError> {
        self.killer.call("balance", self.provider.balance()).await
    }

    async fn last_lines(&self, pod: &PodId) -> std::result::Result<Vec<String>, ProviderError> {
        self.killer.call("last_lines", self.provider.last_lines(pod)).await
    }
}

/// A store that an orchestrator speaks to until the kill.
pub(super) struct MortalStore {
    pub(super) killer: Arc<Killer>,
    pub(super) store: Arc<dyn Store>,
}

/// A trait's implementation that hands each call on to the real store.
macro_rules! mortal {
    (impl $trait:ident { $($name:ident($($params:tt)*)($($arg:ident),*) -> $answer:ty;)+ }) => {
        #[async_trait]
        impl $trait for MortalStore {
            $(async fn $name(&self, $($params)*) -> $answer {
                self.killer.reach(stringify!($name))?;
                self.killer.call(stringify!($name), self.store.$name($($arg),*)).await
            })+
        }
    };
}

mortal! {
    impl WorkerDoor {
        authenticate(caller: &rpc::Caller)(caller) -> RpcResult<WorkerId>;
        register(caller: &rpc::Caller, info: &rpc::AgentInfo, policy: &PolicyLive)(caller, info, policy) -> RpcResult<rpc::Registered>;
        heartbeat(caller: &rpc::Caller, beat: &rpc::Heartbeat)(caller, beat) -> RpcResult<rpc::Orders>;
        claim_task(caller: &rpc::Caller, claim: &rpc::Claim, user_task_limit: u32)(caller, claim, user_task_limit) -> RpcResult<Option<rpc::Claimed>>;
        task_progress(caller: &rpc::Caller, progress: &rpc::Progress)(caller, progress) -> RpcResult<rpc::ProgressReply>;
        complete_task(caller: &rpc::Caller, complete: &rpc::Complete)(caller, complete) -> RpcResult<rpc::TaskEnd>;
        fail_task(caller: &rpc::Caller, fail: &rpc::Fail)(caller, fail) -> RpcResult<rpc::TaskEnd>;
        exit(caller: &rpc::Caller, report: &rpc::ExitReport)(caller, report) -> RpcResult<()>;
    }
}

mortal! {
    impl Store {
        now()() -> Result<Time>;
        submit(tasks: &[NewTask])(tasks) -> Result<()>;
        tasks(filter: &TaskFilter)(filter) -> Result<Vec<Task>>;
        task_totals(user_task_limit: u32)(user_task_limit) -> Result<Vec<UserTotals>>;
        cancel_task(task: TaskId)(task) -> Result<bool>;
        hold_task(task: TaskId, bucket: Option<Bucket>, actor: &str, reason: &str)(task, bucket, actor, reason) -> Result<()>;
        set_user(user: &str, credits: Option<f64>, cloud_enabled: Option<bool>)(user, credits, cloud_enabled) -> Result<()>;
        take_lease(name: &str, holder: BootId, ttl: Duration)(name, holder, ttl) -> Result<LeaseAnswer>;
        release_lease(lease: &Lease)(lease) -> Result<()>;
        touch(gap: Duration)(gap) -> Result<Time>;
        observe(ended_within: Duration, user_task_limit: u32)(ended_within, user_task_limit) -> Result<FleetRead>;
        commit_cycle(lease: &Lease, record: &CycleRecord, intents: &[Intent])(lease, record, intents) -> Result<DecisionId>;
        action_result(lease: &Lease, decision: DecisionId, index: usize, result: &ActionResult)(lease, decision, index, result) -> Result<()>;
        spawn_answer(lease: &Lease, worker: &WorkerId, answer: &SpawnAnswer)(lease, worker, answer) -> Result<()>;
        pod_state(lease: &Lease, worker: &WorkerId, state: WorkerState)(lease, worker, state) -> Result<()>;
        end_worker(lease: &Lease, worker: &WorkerId, end: &WorkerEnd)(lease, worker, end) -> Result<Vec<TaskId>>;
        workers(since: Option<Time>, limit: usize)(since, limit) -> Result<Vec<WorkerRow>>;
        decisions(since: Option<Time>, limit: usize)(since, limit) -> Result<Vec<DecisionRow>>;
        logs(query: &LogQuery)(query) -> Result<Vec<LogRow>>;
        newest_rows()() -> Result<Vec<SourceNewest>>;
        stray_rows()() -> Result<StrayRows>;
        watched(windows: Windows)(windows) -> Result<Watched>;
        pause(actor: &str, reason: &str, until: Option<Time>)(actor, reason, until) -> Result<()>;
        resume(actor: &str, reason: &str)(actor, reason) -> Result<()>;
        order(order: &NewOrder)(order) -> Result<Order>;
        end_order(order: OrderId, actor: &str, reason: &str)(order, actor, reason) -> Result<bool>;
        set_pools(pools: &[PoolTasks])(pools) -> Result<()>;
        process_started(process: &Process)(process) -> Result<()>;
        process_seen(boot: BootId)(boot) -> Result<()>;
        process_ended(boot: BootId)(boot) -> Result<()>;
        processes(limit: usize)(limit) -> Result<Vec<Process>>;
    }
}
