//! Observe, decide, act: one cycle after the other.
//!
//! Each cycle reads the database and lists the provider's pods ([`observer`]), lets
//! `fleet::decision::decide` say what to do, and does that ([`executor`]); the snapshot and the
//! decision are written down together with what is about to be done. One orchestrator leads
//! ([`lease`]), any number stand by: they observe and decide, and write nothing but their own
//! process's row.
//!
//! It promises: a failed cycle is logged, counted and tried again, and never ends the loop; nothing
//! is decided on a database that could not be read; one trace a cycle. It knows nothing of how
//! records travel: it calls `tracing` and `metrics` like any service.

mod executor;
mod farewell;
mod gauges;
mod lease;
mod memory;
mod observer;
mod reconciler;
mod token;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TraceContextExt as _;
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use self::executor::{Acted, Executor};
pub use self::farewell::StopWorkers;
use self::lease::LeaseKeeper;
pub use self::lease::{LeaseConfig, Standing};
use self::observer::{Observer, Turn};
use crate::backoff::Backoff;
use crate::catalogue;
use crate::clock::{Time, Timer};
use crate::error;
use crate::fleet::decision::{Decision, decide};
use crate::fleet::ids::{PodId, WorkerId};
use crate::fleet::policy::{Policy, PolicyLive};
use crate::fleet::pool;
use crate::fleet::snapshot::Snapshot;
use crate::provider::{Provider, ProviderError};
use crate::store::{CycleRecord, Process, Store, StoreError};
use crate::supervise::task::Stop;

/// Who ends workers, in their rows.
const ACTOR: &str = "orchestrator";
/// Longest wait after a failed cycle.
const FAILED_WAIT_MAX: Duration = Duration::from_secs(30);
/// Shortest pause in writes that counts as a gap.
const GAP_MIN: Duration = Duration::from_secs(15);

/// What an orchestrator is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the fleet.
    pub fleet: String,
    /// Name of the environment.
    pub env: String,
    /// The numbers in force.
    pub policy: Policy,
    /// This process: its boot id is the holder of the lease.
    pub process: Process,
    /// How leadership is kept.
    pub lease: LeaseConfig,
    /// What becomes of the workers at the end.
    pub on_stop: StopWorkers,
    /// How long workers may take to finish at the end.
    pub stop_limit: Duration,
}

/// What one cycle came to.
#[derive(Debug, Clone, PartialEq)]
pub struct CycleReport {
    /// Its number.
    pub cycle: i64,
    /// Whether this process led, and so acted.
    pub leads: bool,
    /// What was seen.
    pub snapshot: Snapshot,
    /// What was decided.
    pub decision: Decision,
    /// Pods that were made.
    pub spawned: u32,
    /// Workers that ended.
    pub terminated: u32,
    /// Actions that were not done.
    pub failed: u32,
}

/// Why a cycle did nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum CycleError {
    /// The database failed: nothing is decided on what could not be seen.
    #[error("cannot {doing} (last whole read {age_seconds} s ago)")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Age of the last complete read.
        age_seconds: u64,
        /// What the store said.
        #[source]
        source: StoreError,
    },
}

/// What every part of a cycle works with.
struct Scene {
    store: Arc<dyn Store>,
    provider: Arc<dyn Provider>,
    config: Config,
    timer: Timer,
    method: Method,
}

/// How numbers are chosen, and how the provider is asked for them.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// What makes a decision of a snapshot, a policy and an instant.
    pub decide: fn(&Snapshot, &Policy, Time) -> Decision,
    /// Of the workers for one cell, one is asked for first, and the others only once it was granted.
    pub one_first: bool,
}

impl Method {
    /// What production runs.
    pub const OURS: Method = Method { decide, one_first: true };
}

/// The orchestrator.
pub struct Orchestrator {
    scene: Scene,
    lease: LeaseKeeper,
    observer: Observer,
    cycle: i64,
    cycle_at: Duration,
    failures: u32,
    registered: bool,
    pools_said: bool,
}

impl Orchestrator {
    /// An orchestrator before its first cycle.
    pub fn new(store: Arc<dyn Store>, provider: Arc<dyn Provider>, config: Config) -> Orchestrator {
        Orchestrator::with(store, provider, config, Timer::Machine, Method::OURS)
    }

    /// An orchestrator that lives by another time or works by another method: for simulations.
    pub fn with(
        store: Arc<dyn Store>,
        provider: Arc<dyn Provider>,
        config: Config,
        timer: Timer,
        method: Method,
    ) -> Orchestrator {
        let name = format!("{}.{}", config.fleet, config.env);
        let lease = LeaseKeeper::new(name, config.process.boot_id, config.lease);
        let now = timer.monotonic();
        let observer = Observer::new(now);
        let scene = Scene { store, provider, config, timer, method };
        Orchestrator {
            scene,
            lease,
            observer,
            cycle: 0,
            cycle_at: now,
            failures: 0,
            registered: false,
            pools_said: false,
        }
    }

    /// The same orchestrator, which says there how it stands to leadership.
    #[must_use]
    pub fn telling(mut self, standing: Standing) -> Orchestrator {
        self.lease.tell(standing);
        self
    }

    /// Cycles until the stop, then says good-bye.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            let wait = self.step().await;
            if stop.raised_within(wait).await {
                break;
            }
        }
        self.leave().await;
    }

    /// One turn of the loop: a cycle where one is due, else a look at the lease. Returns how long to
    /// wait before the next turn.
    pub async fn step(&mut self) -> Duration {
        let now = self.scene.timer.monotonic();
        if now >= self.cycle_at {
            let wait = match self.cycle().await {
                Ok(_) => self.period(),
                Err(_) => self.wait_after_failure(),
            };
            self.cycle_at = now + wait;
        } else {
            self.between_cycles(now).await;
        }
        self.cycle_at.saturating_sub(self.scene.timer.monotonic()).min(self.scene.config.lease.renew)
    }

    /// Says good-bye, as [`StopWorkers`] has it.
    pub async fn leave(mut self) {
        farewell::say(&self.scene, &mut self.lease).await;
    }

    /// Keeps the lease, and says that this process lives: whoever watches must not have to wait for
    /// the next cycle.
    async fn between_cycles(&mut self, now: Duration) {
        if let Err(failure) = self.lease.keep(&*self.scene.store, now).await {
            tracing::warn!(error = error::chain(&failure), "the lease could not be renewed");
        }
        if let Err(failure) = self.register().await {
            tracing::warn!(error = error::chain(&failure), "it could not be said that this process lives");
        }
    }

    /// One cycle: a step of the loop.
    ///
    /// # Errors
    /// The database failed, or another orchestrator took over in the middle.
    pub async fn cycle(&mut self) -> Result<CycleReport, CycleError> {
        self.cycle += 1;
        let boot_id = self.scene.config.process.boot_id;
        // Whatever span the loop runs in: a cycle is a trace of its own.
        let span = tracing::info_span!(parent: None, "cycle", cycle = self.cycle, %boot_id);
        let began = self.scene.timer.monotonic();
        let result = self.turn().instrument(span.clone()).await;
        metrics::histogram!(catalogue::CYCLE_DURATION.name)
            .record(self.scene.timer.monotonic().saturating_sub(began).as_secs_f64());
        span.in_scope(|| self.told(&result));
        result
    }

    async fn turn(&mut self) -> Result<CycleReport, CycleError> {
        let now = self.scene.timer.monotonic();
        let registered = self.register().await;
        registered.map_err(|source| self.database("say that this process lives", source))?;
        let kept = self.lease.keep(&*self.scene.store, now).await;
        kept.map_err(|source| self.database("take the lease", source))?;
        let held = self.lease.held(now).cloned();
        if held.is_some() {
            let touched = self.scene.store.touch(self.gap()).await;
            touched.map_err(|source| self.database("say that writes arrive", source))?;
            self.say_pools().await.map_err(|source| self.database("say which pool takes what", source))?;
        }
        let turn = Turn { cycle: self.cycle, term: held.as_ref().map(|lease| lease.term), now };
        let observe = self.observer.observe(&self.scene, turn);
        let snapshot = observe.instrument(tracing::info_span!("observe")).await?;
        let decision = tracing::info_span!("decide")
            .in_scope(|| (self.scene.method.decide)(&snapshot, &self.scene.config.policy, snapshot.as_of));
        self.observer.decided(decision.desired, self.stabilisation(), snapshot.as_of);
        gauges::set(&snapshot, &decision, held.is_some());
        let boot_id = self.scene.config.process.boot_id;
        let record = CycleRecord { boot_id, cycle: self.cycle, trace_id: trace_id(), snapshot, decision };
        let leads = held.is_some();
        let acted = match held {
            Some(lease) => self.act(&lease, &record).await?,
            None => Acted::default(),
        };
        let Acted { spawned, terminated, failed } = acted;
        let CycleRecord { snapshot, decision, .. } = record;
        Ok(CycleReport { cycle: self.cycle, leads, snapshot, decision, spawned, terminated, failed })
    }

    async fn act(&self, lease: &crate::store::Lease, record: &CycleRecord) -> Result<Acted, CycleError> {
        let until = self.lease.believed_until();
        let executor = Executor::new(&self.scene, lease, until, &record.snapshot);
        executor.act(record).instrument(tracing::info_span!("act")).await
    }

    /// Says what a cycle came to; a failure makes this process ask for the lease anew.
    fn told(&mut self, result: &Result<CycleReport, CycleError>) {
        match result {
            Ok(report) => {
                self.failures = 0;
                metrics::counter!(catalogue::CYCLE_COMPLETED.name).increment(1);
                let capacity = report.decision.capacity;
                tracing::info!(
                    cycle = report.cycle,
                    leads = report.leads,
                    desired = report.decision.desired,
                    active = capacity.active,
                    spawning = capacity.spawning,
                    spawned = report.spawned,
                    terminated = report.terminated,
                    failed = report.failed,
                    "Cycle completed: {} spawned, {} terminated{}",
                    report.spawned,
                    report.terminated,
                    if report.leads { "" } else { " (standby)" }
                );
            }
            Err(failure) => {
                self.failures = self.failures.saturating_add(1);
                self.lease.step_down();
                metrics::counter!(catalogue::CYCLE_FAILED.name).increment(1);
                metrics::gauge!(catalogue::LEADER.name).set(0.0);
                tracing::error!(cycle = self.cycle, error = error::chain(failure), "Cycle failed");
            }
        }
    }

    /// Writes this process's row, which is its own and no fact of the fleet: standbys write it, too.
    async fn register(&mut self) -> Result<(), StoreError> {
        if !self.registered {
            self.scene.store.process_started(&self.scene.config.process).await?;
            self.registered = true;
        }
        self.scene.store.process_seen(self.scene.config.process.boot_id).await
    }

    /// Tells the database once which pool takes which tasks.
    async fn say_pools(&mut self) -> Result<(), StoreError> {
        if !self.pools_said {
            self.scene.store.set_pools(&pool::tasks_of(&self.scene.config.policy)).await?;
            self.pools_said = true;
        }
        Ok(())
    }

    fn database(&self, doing: &'static str, source: StoreError) -> CycleError {
        CycleError::Database { doing, age_seconds: self.observer.age_seconds(self.scene.timer.monotonic()), source }
    }

    fn period(&self) -> Duration {
        let live =
            self.scene.config.policy.live.as_ref().map_or(PolicyLive::default().cycle_ms, |live| live.cycle_ms);
        Duration::from_millis(live)
    }

    /// Fewer workers are wanted only once nobody has wanted more for this long.
    fn stabilisation(&self) -> Duration {
        let live = self.scene.config.policy.live.clone().unwrap_or_default();
        Duration::from_secs(live.overcapacity_idle_timeout_seconds)
    }

    fn gap(&self) -> Duration {
        GAP_MIN.max(self.period() * 3)
    }

    fn wait_after_failure(&self) -> Duration {
        let period = self.period();
        let backoff = Backoff { base: period, ceiling: FAILED_WAIT_MAX.max(period), jitter: 0.2 };
        // As good as random beside another process, and the same again in a simulation.
        let random = (self.scene.config.process.boot_id.0.as_u128() as u32).rotate_left(self.failures);
        backoff.delay(self.failures.saturating_sub(1), f64::from(random) / f64::from(u32::MAX))
    }
}

impl Scene {
    /// A call to the provider, with a limit: what is asked under a lease is answered, or its answer
    /// given up as lost, before another orchestrator can lead.
    async fn within<T>(&self, call: impl Future<Output = Result<T, ProviderError>>) -> Result<T, ProviderError> {
        let limit = self.config.lease.margin;
        let late = || ProviderError::Ambiguous(format!("no answer within {} s", limit.as_secs()));
        self.timer.within(limit, call).await.unwrap_or_else(|| Err(late()))
    }

    /// The span of a call to the provider.
    fn call_span(&self, call: &'static str, worker: Option<&WorkerId>) -> Span {
        let provider = self.provider.name();
        let worker_id = worker.map(tracing::field::display);
        tracing::info_span!("provider", call, worker_id, otel.kind = "CLIENT", peer.service = provider)
    }

    /// A pod's last lines; their absence stops nobody.
    async fn last_lines(&self, worker: &WorkerId, pod: &PodId) -> Vec<String> {
        let span = self.call_span("last_lines", Some(worker));
        let lines = self.within(self.provider.last_lines(pod)).instrument(span).await;
        lines.unwrap_or_else(|failure| vec![format!("last lines are missing: {failure}")])
    }
}

/// Trace of the current span, where somebody records traces.
fn trace_id() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span_context = span.span_context();
    span_context.is_valid().then(|| span_context.trace_id().to_string())
}

#[cfg(test)]
mod tests;
