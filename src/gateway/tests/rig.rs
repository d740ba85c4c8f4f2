//! A gateway with its store, and the words of an orchestrator, an owner and an agent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::super::{Gateway, IngestError, LogIngest, serve};
use crate::fleet::decision::{Capacity, Decision};
use crate::fleet::ids::{BootId, PodId, TaskId, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::policy::{Policy, PolicyLive};
use crate::fleet::snapshot::{SCHEMA_VERSION, Snapshot};
use crate::fleet::task::{NewTask, Task};
use crate::rpc::Ingested;
use crate::store::sqlite::{SqliteStore, TimeSource};
use crate::store::{CycleRecord, Intent, Lease, LeaseAnswer, SpawnAnswer, Store, TaskFilter, WorkerEnd};
use crate::supervise::Intensity;
use crate::supervise::task::Group;
use crate::telemetry::row::Row;

/// Longest wait for anything.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Where log rows go: memory, or an outage.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) rows: Mutex<Vec<Row>>,
    pub(super) is_down: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl LogIngest for Rows {
    async fn ingest(&self, rows: Vec<Row>) -> Result<Ingested, IngestError> {
        if self.is_down.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(IngestError::Unavailable("down for a test".into()));
        }
        let mut kept = self.rows.lock().unwrap();
        let received = rows.len() as u64;
        let fresh: Vec<_> = rows.into_iter().filter(|row| kept.iter().all(|old| old.id != row.id)).collect();
        let inserted = fresh.len() as u64;
        kept.extend(fresh);
        Ok(Ingested { received, inserted })
    }
}

/// A gateway on its own store.
pub(super) struct Rig {
    pub(super) address: SocketAddr,
    pub(super) gateway: Gateway,
    pub(super) sqlite: Arc<SqliteStore>,
    pub(super) rows: Arc<Rows>,
    pub(super) http: reqwest::Client,
    server: Group,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub(super) async fn new() -> Rig {
        Rig::with("127.0.0.1", |_| ()).await
    }

    pub(super) async fn with(host: &str, change: impl Fn(&mut Gateway)) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = Arc::new(SqliteStore::open(folder.path(), TimeSource::Database).await.unwrap());
        let rows = Arc::new(Rows::default());
        let live = PolicyLive { beat_ms: 50, claim_poll_ms: 50, dead_man_seconds: 60, ..PolicyLive::default() };
        let store: Arc<dyn Store> = sqlite.clone();
        let mut gateway = Gateway {
            store,
            ingest: rows.clone(),
            policy: Policy { live: Some(live), ..Policy::default() },
            metrics: Arc::new(|| "dogwatch_up 1\n".to_owned()),
            ready: Arc::new(|| Ok(())),
            token: None,
        };
        change(&mut gateway);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(LIMIT).build().unwrap();
        let address = format!("{host}:0").parse().unwrap();
        let mut rig = Rig { address, gateway, sqlite, rows, http, server: Group::new(), _folder: folder };
        rig.start().await;
        rig
    }

    /// Serves, on the same port as before where there was one.
    pub(super) async fn start(&mut self) {
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.server = Group::new();
        let (listener, gateway) = (Mutex::new(Some(listener)), self.gateway.clone());
        self.server.start("gateway", Intensity::default(), move |_, stop| {
            let (listener, gateway) = (listener.lock().unwrap().take().unwrap(), gateway.clone());
            async move { serve(listener, gateway, stop).await.unwrap() }
        });
    }

    /// Stops serving. False: requests in hand had to be dropped.
    pub(super) async fn stop(&mut self) -> bool {
        std::mem::take(&mut self.server).stop(LIMIT).await
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.address.port())
    }

    // --- HTTP ---

    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("{}{path}", self.url())).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(super) async fn post(&self, function: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let url = format!("{}/rest/v1/rpc/{function}", self.url());
        let response = self.http.post(url).body(body).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{function} answered {status} {text:?}")))
    }

    // --- an orchestrator's and an owner's words ---

    async fn lead(&self) -> Lease {
        let boot = BootId(Uuid::from_u128(1));
        match self.sqlite.take_lease("fleet.test", boot, Duration::from_secs(3_600)).await.unwrap() {
            LeaseAnswer::Held(lease) => lease,
            LeaseAnswer::Other { holder, .. } => panic!("{holder} leads"),
        }
    }

    /// A worker whose pod was made and whose agent may register.
    pub(super) async fn spawn(&self, name: &str) -> Agent<'_> {
        let worker = WorkerId(name.to_owned());
        let token_sha256 = Sha256::digest(format!("token of {name}")).into();
        let spawn = Intent::Spawn {
            worker: worker.clone(),
            pool: "default".into(),
            token_sha256,
            offer: Default::default(),
        };
        let lease = self.lead().await;
        let record = CycleRecord {
            boot_id: BootId(Uuid::from_u128(1)),
            cycle: 1,
            trace_id: None,
            snapshot: Snapshot {
                schema_version: SCHEMA_VERSION,
                name: "fleet.test".into(),
                as_of: self.sqlite.now().await.unwrap(),
                policy: Policy::default(),
                workers: Vec::new(),
                demand: None,
                records: Vec::new(),
                live: None,
            },
            decision: Decision {
                desired: 1,
                capacity: Capacity::default(),
                spawn: 1,
                terminate: Vec::new(),
                gates: Vec::new(),
                live: None,
            },
        };
        self.sqlite.commit_cycle(&lease, &record, &[spawn]).await.unwrap();
        let created = SpawnAnswer::Created { pod_id: PodId(format!("pod-{name}")) };
        self.sqlite.spawn_answer(&lease, &worker, &created).await.unwrap();
        Agent { rig: self, name: name.to_owned(), incarnation: Uuid::new_v4() }
    }

    /// Ends a worker; its tasks are queued again.
    pub(super) async fn end(&self, name: &str) {
        let end = WorkerEnd {
            outcome: Outcome::WorkerCrash,
            reason: "for a test".into(),
            actor: "orchestrator".into(),
            evidence: Vec::new(),
        };
        self.sqlite.end_worker(&self.lead().await, &WorkerId(name.to_owned()), &end).await.unwrap();
    }

    pub(super) async fn submit(&self, argv: &[&str]) -> TaskId {
        let id = TaskId(Uuid::new_v4());
        let task = NewTask {
            id,
            user: "ada".into(),
            task_type: "command".into(),
            params: json!({ "argv": argv }),
            run_type: None,
            dependant_on: Vec::new(),
            traceparent: Some(TRACEPARENT.into()),
        };
        self.sqlite.submit(&[task]).await.unwrap();
        id
    }

    pub(super) async fn task(&self, id: TaskId) -> Task {
        let filter = TaskFilter { ids: vec![id], ..TaskFilter::default() };
        self.sqlite.tasks(&filter).await.unwrap().remove(0)
    }
}

/// The trace of every submit.
pub(super) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// One start of an agent, which says what a test wants.
#[derive(Clone)]
pub(super) struct Agent<'a> {
    pub(super) rig: &'a Rig,
    pub(super) name: String,
    pub(super) incarnation: Uuid,
}

impl Agent<'_> {
    pub(super) fn token(&self) -> String {
        format!("token of {}", self.name)
    }

    /// The body of a call: who calls, and these keys.
    pub(super) fn body(&self, keys: &Value) -> Value {
        let mut body = json!({
            "worker_id": self.name, "worker_token": self.token(), "incarnation": self.incarnation,
        });
        let members = keys.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(members);
        body
    }

    pub(super) async fn call(&self, function: &str, keys: Value) -> (u16, Value) {
        self.rig.post(function, self.body(&keys).to_string()).await
    }

    /// A call that is granted.
    pub(super) async fn ok(&self, function: &str, keys: Value) -> Value {
        let (status, answer) = self.call(function, keys).await;
        assert_eq!(status, 200, "{function}: {answer}");
        answer
    }

    /// Registers and says ready.
    pub(super) async fn ready(self) -> Self {
        self.ok("dw_register", json!({ "info": {} })).await;
        self.ok("dw_heartbeat", json!({ "seq": 1, "phase": "ready", "progress_seq": 0 })).await;
        self
    }

    /// Claims: keys of the task's calls.
    pub(super) async fn claim(&self) -> Value {
        let claimed = self.ok("dw_claim_task", json!({ "claim_id": Uuid::new_v4() })).await;
        json!({ "task_id": claimed["task_id"], "attempt": claimed["attempt"] })
    }
}

/// `keys` and more of them.
pub(super) fn with(keys: &Value, more: Value) -> Value {
    let mut all = keys.clone();
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}
