//! A base that workers call, with its store, and the words of an orchestrator, an owner and an agent.
//!
//! A base is a gateway on one of the stores, or the SQL functions themselves, called as role `anon`
//! the way PostgREST does it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::super::{Gateway, IngestError, LogIngest, serve};
use crate::fleet::decision::decide;
use crate::fleet::ids::{BootId, PodId, TaskId, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::policy::{Policy, PolicyLive};
use crate::fleet::snapshot::{SCHEMA_VERSION, Snapshot};
use crate::fleet::task::{NewTask, Task};
use crate::rpc::Ingested;
use crate::store::postgres::tests::cluster::Database;
use crate::store::sqlite::{SqliteStore, TimeSource};
use crate::store::{
    CycleRecord, Intent, Lease, LeaseAnswer, SpawnAnswer, Store, TaskFilter, WorkerEnd, taken_again,
};
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

/// What answers the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    /// A gateway on SQLite.
    Sqlite,
    /// A gateway on Postgres.
    Postgres,
    /// The functions of the database, as `anon`.
    Functions,
}

/// A base with a store of its own.
pub(super) struct Rig {
    pub(super) address: SocketAddr,
    pub(super) gateway: Gateway,
    pub(super) store: Arc<dyn Store>,
    sqlite: Option<Arc<SqliteStore>>,
    pub(super) functions: Option<Functions>,
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
        Rig::build(Base::Sqlite, host, change).await
    }

    pub(super) async fn on(base: Base) -> Rig {
        Rig::build(base, "127.0.0.1", |_| ()).await
    }

    async fn build(base: Base, host: &str, change: impl Fn(&mut Gateway)) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let (mut sqlite, mut functions) = (None, None);
        let store: Arc<dyn Store> = if base == Base::Sqlite {
            let store = Arc::new(SqliteStore::open(folder.path(), TimeSource::Database).await.unwrap());
            sqlite = Some(Arc::clone(&store));
            store
        } else {
            let database = crate::store::postgres::tests::database();
            if base == Base::Functions {
                functions = Some(Functions::of(database.clone()).await);
            }
            Arc::new(crate::store::postgres::tests::open(&database, TimeSource::Database).await)
        };
        let rows = Arc::new(Rows::default());
        let live = PolicyLive { beat_ms: 50, claim_poll_ms: 50, dead_man_seconds: 60, ..PolicyLive::default() };
        let mut gateway = Gateway {
            store: Arc::clone(&store),
            ingest: rows.clone(),
            policy: Policy { live: Some(live), ..Policy::default() },
            metrics: Arc::new(|| "dogwatch_up 1\n".to_owned()),
            ready: Arc::new(|| Ok("leads")),
            token: None,
        };
        change(&mut gateway);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(LIMIT).build().unwrap();
        let address = format!("{host}:0").parse().unwrap();
        let mut rig =
            Rig { address, gateway, store, sqlite, functions, rows, http, server: Group::new(), _folder: folder };
        rig.start().await;
        rig
    }

    /// Listens where it serves. A process that another test forks holds a copy of a socket that was
    /// closed here, until it runs its program.
    pub(super) async fn listen(&self) -> tokio::net::TcpListener {
        let until = tokio::time::Instant::now() + LIMIT;
        loop {
            match tokio::net::TcpListener::bind(self.address).await {
                Err(error)
                    if error.kind() == std::io::ErrorKind::AddrInUse && tokio::time::Instant::now() < until =>
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                bound => return bound.unwrap(),
            }
        }
    }

    /// Serves, on the same port as before where there was one.
    pub(super) async fn start(&mut self) {
        let listener = self.listen().await;
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

    /// The embedded store, for tests that take it away.
    pub(super) fn sqlite(&self) -> &SqliteStore {
        self.sqlite.as_ref().expect("a rig on SQLite")
    }

    /// Whose log rows have arrived: source_type and source_id, oldest first.
    pub(super) fn log_rows(&self) -> Vec<String> {
        match &self.functions {
            Some(functions) => functions
                .database
                .ask("select source_type || ' ' || source_id from public.system_logs order by arrival")
                .lines()
                .map(str::to_owned)
                .collect(),
            None => {
                let rows = self.rows.rows.lock().unwrap();
                rows.iter().map(|row| format!("{} {}", row.source_type, row.source_id)).collect()
            }
        }
    }

    pub(super) fn url(&self) -> String {
        let everywhere = self.address.ip().is_unspecified();
        let host = if everywhere { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { self.address.ip() };
        format!("http://{}", SocketAddr::new(host, self.address.port()))
    }

    // --- HTTP ---

    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("{}{path}", self.url())).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(super) async fn post(&self, function: &str, body: impl Into<String>) -> (u16, Value) {
        let body = body.into();
        if let Some(functions) = &self.functions {
            return functions.call(function, &body).await;
        }
        let url = format!("{}/rest/v1/rpc/{function}", self.url());
        let response = self.http.post(url).body(body).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{function} answered {status} {text:?}")))
    }

    // --- an orchestrator's and an owner's words ---

    async fn lead(&self) -> Lease {
        let boot = BootId(Uuid::from_u128(1));
        match self.store.take_lease("fleet.test", boot, Duration::from_secs(3_600)).await.unwrap() {
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
        let snapshot = Snapshot {
            schema_version: SCHEMA_VERSION,
            name: "fleet.test".into(),
            as_of: self.store.now().await.unwrap(),
            policy: self.gateway.policy.clone(),
            workers: Vec::new(),
            demand: None,
            records: Vec::new(),
            live: None,
        };
        let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
        let boot_id = BootId(Uuid::from_u128(1));
        let record = CycleRecord { boot_id, cycle: 1, trace_id: None, snapshot, decision };
        self.store.commit_cycle(&lease, &record, &[spawn]).await.unwrap();
        taken_again::newest(&*self.store).await;
        let created = SpawnAnswer::Created { pod_id: PodId(format!("pod-{name}")) };
        self.store.spawn_answer(&lease, &worker, &created).await.unwrap();
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
        self.store.end_worker(&self.lead().await, &WorkerId(name.to_owned()), &end).await.unwrap();
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
        self.store.submit(&[task]).await.unwrap();
        id
    }

    pub(super) async fn task(&self, id: TaskId) -> Task {
        let filter = TaskFilter { ids: vec![id], ..TaskFilter::default() };
        self.store.tasks(&filter).await.unwrap().remove(0)
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

/// The functions of a database, called as PostgREST calls them.
pub(super) struct Functions {
    pub(super) database: Database,
    pool: sqlx::PgPool,
}

impl Functions {
    async fn of(database: Database) -> Functions {
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(4).connect(&database.url()).await.unwrap();
        Functions { database, pool }
    }

    /// One call in a transaction of role `anon`; an error of the database is answered as PostgREST
    /// does it: by its class.
    async fn call(&self, function: &str, body: &str) -> (u16, Value) {
        let mut tx = self.pool.begin().await.unwrap();
        sqlx::raw_sql("set local role anon").execute(&mut *tx).await.unwrap();
        assert!(crate::rpc::Function::from_name(function).is_some(), "{function}");
        let sql = sqlx::AssertSqlSafe(format!("select public.{function}($1::text::jsonb)"));
        let answer = sqlx::query_scalar::<_, Option<Value>>(sql).bind(body).fetch_one(&mut *tx).await;
        match answer {
            Ok(answer) => {
                let status: Option<String> = sqlx::query_scalar("select current_setting('response.status', true)")
                    .fetch_one(&mut *tx)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
                let status =
                    status.filter(|status| !status.is_empty()).map_or(200, |status| status.parse().unwrap());
                (status, answer.unwrap_or(Value::Null))
            }
            Err(sqlx::Error::Database(error)) => {
                let code = error.code().unwrap_or_default().into_owned();
                let status = if code.starts_with("22") || code.starts_with("23") { 400 } else { 500 };
                (status, json!({ "code": code, "message": error.message(), "details": null, "hint": null }))
            }
            Err(error) => panic!("{function}: {error}"),
        }
    }
}
