//! Cycles of the orchestrator itself on Postgres: the time of each phase, from the spans that every cycle
//! has. The provider is the scripted one and answers at once: what is measured is ours and the database's.
//!
//! The fleet is full and busy, users are at their limit. Before each cycle some pods are gone, so that
//! each cycle ends workers, gives their tasks back and spawns others in their place.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dogwatch::clock::{self, monotonic};
use dogwatch::fleet::ids::{BootId, PodId};
use dogwatch::fleet::policy::{Policy, PolicyLive};
use dogwatch::fleet::snapshot::PodStatus;
use dogwatch::orchestrator::{Config, LeaseConfig, Orchestrator, StopWorkers};
use dogwatch::provider::fake::FakeProvider;
use dogwatch::store::postgres::PostgresStore;
use dogwatch::store::{Process, Store, TimeSource};
use dogwatch::telemetry::exporter::postgres::Address;
use tokio::runtime::Runtime;
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use uuid::Uuid;

use crate::postgres_rig::{Cluster, Database};

/// Workers, queued tasks, and users.
const SIZES: [(u32, u32, u32); 2] = [(100, 10_000, 100), (1_000, 100_000, 1_000)];
const CYCLES: usize = 100;
/// Pods that are gone at each cycle.
const GONE: usize = 5;
const PHASES: [&str; 5] = ["observe", "decide", "commit", "act", "cycle"];
const BUDGET: Duration = Duration::from_secs(2);

/// How long each span of a name took.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<HashMap<&'static str, Vec<Duration>>>>);

struct Began(Duration);

impl Spans {
    fn take(&self) -> HashMap<&'static str, Vec<Duration>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Began(monotonic()));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        if let Some(Began(began)) = span.extensions().get::<Began>() {
            let took = monotonic().saturating_sub(*began);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(span.name()).or_default().push(took);
        }
    }
}

pub(crate) fn run(cluster: &Cluster, runtime: &Runtime) -> Result<String, Box<dyn Error>> {
    let mut out = format!("\n{CYCLES} cycles each, {GONE} pods gone at each; ms, p50 / p99\n\n");
    writeln!(out, "| workers | tasks | x of the budget (p99) | observe | decide | commit | act | cycle |")?;
    writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    for size in SIZES {
        let (workers, tasks, _) = size;
        let database = crate::migrated(cluster, runtime)?;
        let spans = Spans::default();
        let subscriber = tracing_subscriber::registry().with(spans.clone());
        // One thread: the subscriber is this thread's own.
        let single = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tracing::subscriber::with_default(subscriber, || single.block_on(cycles(&database, &spans, size)))?;
        let mut spans = spans.take();
        let acts: Vec<Duration> = spans.get("act").into_iter().flatten().copied().collect();
        let commits = spans.get("commit").cloned().unwrap_or_default();
        // What an act is beside its commit.
        spans.insert("act", acts.iter().zip(&commits).map(|(act, commit)| act.saturating_sub(*commit)).collect());
        let mut cells = Vec::new();
        let mut worst = Duration::ZERO;
        for phase in PHASES {
            let times = spans.get_mut(phase).ok_or(format!("no span {phase}"))?;
            assert_eq!(times.len(), CYCLES, "{phase}");
            times.sort_unstable();
            worst = times[CYCLES * 99 / 100];
            cells.push(format!("{:.1} / {:.1}", ms(times[CYCLES / 2]), ms(worst)));
        }
        let ratio = worst.as_secs_f64() / BUDGET.as_secs_f64();
        writeln!(out, "| {workers} | {tasks} | {ratio:.3} | {} |", cells.join(" | "))?;
    }
    Ok(out)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Measured is what `spans` holds at the end.
async fn cycles(
    database: &Database,
    spans: &Spans,
    (workers, tasks, users): (u32, u32, u32),
) -> Result<(), Box<dyn Error>> {
    let store: Arc<dyn Store> =
        Arc::new(PostgresStore::open(&Address::parse(&database.url())?, TimeSource::Database).await?);
    let provider = Arc::new(FakeProvider::new());
    let live =
        PolicyLive { spawns_per_cycle_max: workers, spawns_per_hour_max: workers * 100, ..PolicyLive::default() };
    let policy = Policy { min_workers: 0, max_workers: workers, live: Some(live), ..Policy::default() };
    let mut orchestrator = Orchestrator::new(Arc::clone(&store), provider.clone(), config(policy));
    database.run(&format!(
        "insert into dogwatch.tasks (task_type, user_id, created_at)
         select 'render', 'user-' || i % {users}, now() - interval '1 hour' + i * interval '1 ms'
         from generate_series(1, {tasks}) i;
         analyze dogwatch.tasks"
    ));
    // The fleet comes to be as any does.
    while database.count("dogwatch.workers where ended_at is null") < u64::from(workers) {
        let report = orchestrator.cycle().await?;
        assert!(report.spawned > 0, "{:?}", report.decision);
        work(database);
    }
    database.run("vacuum analyze dogwatch.tasks");
    // The beginning is not what is asked for.
    spans.take();
    let (mut ended, mut spawned) = (0, 0);
    for _ in 0..CYCLES {
        let gone: Vec<PodId> = provider.pods().into_iter().map(|pod| pod.id).take(GONE).collect();
        for pod in gone {
            provider.change(&pod, |pod| pod.status = PodStatus::Terminated);
        }
        let report = orchestrator.cycle().await?;
        assert!(report.leads && report.failed == 0, "{:?}", report.decision);
        ended += report.terminated as usize;
        spawned += report.spawned as usize;
        work(database);
    }
    // A pod that is found gone in one cycle may be replaced in the next.
    let least = (CYCLES - 1) * GONE;
    assert!(ended >= least && spawned >= least, "{ended} ended, {spawned} spawned");
    Ok(())
}

/// The agents: all are there, beat, and have a task in hand.
fn work(database: &Database) {
    let call = |function: &str, keys: &str, rest: &str, of: &str| {
        format!(
            "select count(dogwatch.{function}(jsonb_build_object('worker_id', id, 'worker_token', 'token',
                 'incarnation', md5(id)::uuid, {keys}), now(){rest}))
             from dogwatch.workers w where ended_at is null and {of};"
        )
    };
    let has_none =
        "not exists (select from dogwatch.tasks t where t.status = 'In Progress' and t.worker_id = w.id)";
    let beat = "'seq', 1, 'phase', 'ready', 'progress_seq', 1";
    database.run(
        &[
            "update dogwatch.workers set token_sha256 = sha256('token') where ended_at is null;".to_owned(),
            call("door_register", "'info', '{}'::jsonb", "", "incarnation is null"),
            call("door_heartbeat", beat, "", "last_heartbeat is null"),
            call("door_claim", "'claim_id', gen_random_uuid()", ", 5", has_none),
            "update dogwatch.workers set last_heartbeat = now(), progress_at = now() where ended_at is null"
                .to_owned(),
        ]
        .concat(),
    );
}

fn config(policy: Policy) -> Config {
    let now = clock::now();
    let process = Process {
        boot_id: BootId(Uuid::new_v4()),
        kind: "orchestrator".to_owned(),
        source_type: "orchestrator_gpu".to_owned(),
        source_id: "bench".to_owned(),
        version: "0".to_owned(),
        config_hash: String::new(),
        host: "bench".to_owned(),
        pid: 1,
        started_at: now,
        seen_at: now,
        ended_at: None,
    };
    Config {
        fleet: "f".to_owned(),
        env: "e".to_owned(),
        policy,
        process,
        lease: LeaseConfig::default(),
        on_stop: StopWorkers::Drain,
        stop_limit: Duration::from_millis(100),
    }
}
