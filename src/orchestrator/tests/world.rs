//! A small world for tests: a store with its own time, a scripted provider, agents by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::{Config, LeaseConfig, Orchestrator, StopWorkers};
use crate::clock;
use crate::fleet::ids::{BootId, TaskId};
use crate::fleet::outcome::Outcome;
use crate::fleet::policy::{Policy, PolicyLive};
use crate::fleet::state::WorkerState;
use crate::fleet::task::{NewTask, TaskStatus};
use crate::provider::Provider;
use crate::provider::fake::FakeProvider;
use crate::rpc;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::{SqliteStore, TimeSource};
use crate::store::{DecisionRow, Process, Store, TaskFilter, WorkerRow, taken_again};

const USER_TASK_LIMIT: u32 = 5;
const LIMIT: Duration = Duration::from_secs(20);

/// Everything around an orchestrator.
pub(super) struct World {
    pub(super) store: Arc<dyn Store>,
    pub(super) provider: Arc<FakeProvider>,
    micros: Arc<AtomicI64>,
    /// Whether the decision rows were looked at.
    is_checked: AtomicBool,
    _dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        let is_checked = self.is_checked.load(Ordering::SeqCst) || std::thread::panicking();
        assert!(is_checked, "a test ends with check_decisions: each row must give its decision again");
    }
}

/// What a test does in an agent's place.
pub(super) struct Agent {
    caller: rpc::Caller,
    seq: i64,
    task: Option<rpc::Claimed>,
}

impl World {
    pub(super) async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let micros = Arc::new(AtomicI64::new(1_760_636_131_000_000));
        let store = SqliteStore::open(dir.path(), TimeSource::Fixed(Arc::clone(&micros))).await.unwrap();
        World::on(Arc::new(store), micros, dir)
    }

    fn on(store: Arc<dyn Store>, micros: Arc<AtomicI64>, dir: tempfile::TempDir) -> World {
        let provider = Arc::new(FakeProvider::new());
        World { store, provider, micros, is_checked: AtomicBool::new(false), _dir: dir }
    }

    /// With its fleet in Postgres.
    pub(super) async fn in_postgres() -> World {
        let dir = tempfile::tempdir().unwrap();
        let micros = Arc::new(AtomicI64::new(1_760_636_131_000_000));
        let database = crate::store::postgres::tests::database();
        let time = TimeSource::Fixed(Arc::clone(&micros));
        let store = crate::store::postgres::tests::open(&database, time).await;
        World::on(Arc::new(store), micros, dir)
    }

    /// Without a disk, for many runs.
    pub(super) fn in_memory() -> World {
        let dir = tempfile::tempdir().unwrap();
        let micros = Arc::new(AtomicI64::new(1_760_636_131_000_000));
        let store = MemoryStore::new(TimeSource::Fixed(Arc::clone(&micros)));
        World::on(Arc::new(store), micros, dir)
    }

    pub(super) fn orchestrator(&self, boot: u128) -> Orchestrator {
        self.orchestrator_on(boot, self.store.clone(), self.provider.clone())
    }

    pub(super) fn orchestrator_on(
        &self,
        boot: u128,
        store: Arc<dyn Store>,
        provider: Arc<dyn Provider>,
    ) -> Orchestrator {
        let live = PolicyLive { cycle_ms: 10, overcapacity_idle_timeout_seconds: 10, ..PolicyLive::default() };
        let policy = Policy {
            min_workers: 0,
            max_workers: 3,
            heartbeat_timeout_seconds: 30,
            idle_timeout_seconds: 10,
            live: Some(live),
            ..Policy::default()
        };
        let now = clock::from_micros(0);
        let process = Process {
            boot_id: BootId(Uuid::from_u128(boot)),
            kind: "orchestrator".to_owned(),
            source_type: "orchestrator_gpu".to_owned(),
            source_id: format!("orchestrator-{boot}"),
            version: "0".to_owned(),
            config_hash: String::new(),
            host: "test".to_owned(),
            pid: 1,
            started_at: now,
            seen_at: now,
            ended_at: None,
        };
        let config = Config {
            fleet: "f".to_owned(),
            env: "e".to_owned(),
            policy,
            process,
            lease: LeaseConfig::default(),
            on_stop: StopWorkers::Drain,
            stop_limit: Duration::from_millis(100),
        };
        Orchestrator::new(store, provider, config)
    }

    /// The store's time goes on.
    pub(super) fn advance(&self, seconds: i64) {
        self.micros.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    pub(super) async fn submit(&self, count: u128) -> Vec<TaskId> {
        let task = |n| NewTask {
            id: TaskId(Uuid::from_u128(1_000 + n)),
            user: "u".to_owned(),
            task_type: "command".to_owned(),
            params: json!({"argv": ["true"]}),
            run_type: None,
            dependant_on: Vec::new(),
            traceparent: None,
        };
        let tasks: Vec<_> = (0..count).map(task).collect();
        self.store.submit(&tasks).await.unwrap();
        tasks.into_iter().map(|task| task.id).collect()
    }

    /// An agent, registered and ready, for each pod that runs and has none that spoke.
    pub(super) async fn agents(&self) -> Vec<Agent> {
        let heard: Vec<_> = self
            .workers()
            .await
            .into_iter()
            .filter(|row| row.worker.first_heartbeat_at.is_some())
            .map(|row| row.worker.id)
            .collect();
        let mut agents = Vec::new();
        let mut requests = self.provider.requests();
        requests.retain(|request| !heard.contains(&request.worker));
        for request in requests {
            let caller = rpc::Caller {
                worker_id: request.worker.0,
                worker_token: request.token.0,
                incarnation: Uuid::new_v4(),
            };
            let policy = PolicyLive::default();
            self.store.register(&caller, &rpc::AgentInfo::default(), &policy).await.unwrap();
            let mut agent = Agent { caller, seq: 0, task: None };
            agent.beat(self).await;
            agents.push(agent);
        }
        agents
    }

    /// All workers, oldest first.
    pub(super) async fn workers(&self) -> Vec<WorkerRow> {
        let mut rows = self.store.workers(Some(clock::from_micros(0)), 100).await.unwrap();
        rows.reverse();
        rows
    }

    pub(super) async fn states(&self) -> Vec<WorkerState> {
        self.workers().await.iter().map(|row| row.worker.live.as_ref().unwrap().state).collect()
    }

    pub(super) async fn outcomes(&self) -> Vec<Option<Outcome>> {
        self.workers().await.iter().map(|row| row.worker.outcome()).collect()
    }

    pub(super) async fn task_status(&self) -> Vec<TaskStatus> {
        self.store.tasks(&TaskFilter::default()).await.unwrap().iter().map(|task| task.status).collect()
    }

    /// Decision rows, newest first.
    pub(super) async fn decisions(&self) -> Vec<DecisionRow> {
        self.store.decisions(None, 1_000).await.unwrap()
    }

    /// There are `count` decision rows, and deciding each again gives the same bytes.
    pub(super) async fn check_decisions(&self, count: usize) {
        assert_eq!(self.decisions_hold().await, count);
    }

    /// Deciding each row again gives the same bytes; how many there are.
    pub(super) async fn decisions_hold(&self) -> usize {
        self.is_checked.store(true, Ordering::SeqCst);
        taken_again::all(&*self.store).await
    }

    /// Waits until something holds.
    pub(super) async fn until(&self, holds: impl Fn(&World) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("it never came to hold");
    }
}

impl Agent {
    pub(super) fn id(&self) -> &str {
        &self.caller.worker_id
    }

    pub(super) async fn beat(&mut self, world: &World) {
        self.seq += 1;
        let beat = rpc::Heartbeat {
            seq: self.seq,
            phase: if self.task.is_some() { rpc::Phase::Busy } else { rpc::Phase::Ready },
            progress_seq: self.seq,
            current_task: self.task.as_ref().map(|task| task.task_id),
            gpu: None,
            metrics: Value::Null,
        };
        world.store.heartbeat(&self.caller, &beat).await.unwrap();
    }

    /// A beat that may be refused, because its worker has ended.
    pub(super) async fn beat_if_there(&mut self, world: &World) {
        let ended =
            |id: &str, rows: &[WorkerRow]| rows.iter().any(|row| row.worker.id.0 == id && row.worker.is_ended());
        let gone = !world.provider.pods().iter().any(|pod| pod.name.ends_with(self.id()) && !pod.status.is_over());
        if !gone && !ended(self.id(), &world.workers().await) {
            self.beat(world).await;
        }
    }

    pub(super) async fn claim(&mut self, world: &World) -> Option<rpc::Claimed> {
        let claim = rpc::Claim { claim_id: Uuid::new_v4(), run_type: None };
        self.task = world.store.claim_task(&self.caller, &claim, USER_TASK_LIMIT).await.unwrap();
        self.beat(world).await;
        self.task.clone()
    }

    pub(super) async fn complete(&mut self, world: &World) {
        let task = self.task.take().unwrap();
        let complete =
            rpc::Complete { task_id: task.task_id, attempt: task.attempt, output: json!({"exit_code": 0}) };
        world.store.complete_task(&self.caller, &complete).await.unwrap();
        self.beat(world).await;
    }
}
