//! Orchestrator, gateway, recorder and watch on one machine, wired: what `up` runs and `demo` tells
//! its story on.
//!
//! The order is that of need: lock the folder, bind the port (both refuse before anything is
//! changed), start the recorder, open the store, then the members. [`Node::stop`] undoes it in the
//! other direction, since a leaving agent still needs the gateway, and says what became of the
//! records.

mod console;
mod ingest;
mod members;
mod metrics;
mod otel;
mod recorder;
mod watch_child;

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::open;
use crate::config::{Config, hostname};
use crate::error::BadInput;
use crate::fleet::ids::BootId;
use crate::orchestrator::Standing;
use crate::store::{Process, Store};
use crate::supervise::task::Group;
use crate::telemetry;
use crate::telemetry::metrics_push::MetricsPush;

pub(super) use self::metrics::{Metrics, metrics, push_only};
pub(super) use self::otel::with_otel;
pub(super) use self::recorder::{
    ClientRecorder, Role, agent_config, client_recorder, config as recorder_config, doctors_recorder, install,
};

/// Time the workers have to end after the first signal.
const WORKERS_END_WITHIN: Duration = Duration::from_secs(20);
/// Time the other members have to end.
const MEMBERS_END_WITHIN: Duration = Duration::from_secs(8);
/// Time the recorder has to write and deliver what is left.
const DELIVER_WITHIN: Duration = Duration::from_secs(10);

/// What differs between `up`, `run` and `demo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Story {
    /// Workers and watch outlive a killed orchestrator, and are taken over by the next.
    Up,
    /// One of several orchestrators on one database; workers outlive its end, too.
    Run,
    /// Nothing outlives this process; its console is quiet.
    Demo,
}

/// How a node works.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    pub(super) story: Story,
    /// Whether a watch is kept running beside it.
    pub(super) watch: bool,
    /// The program of its agents; empty: none but commands.
    pub(super) program: Vec<String>,
}

impl From<Story> for Manner {
    fn from(story: Story) -> Manner {
        Manner { story, watch: true, program: Vec::new() }
    }
}

/// Everything on this machine.
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) store: Arc<dyn Store>,
    pub(super) address: SocketAddr,
    orchestrator: Group,
    others: Group,
    guard: telemetry::Guard,
    push: Option<MetricsPush>,
    _lock: Option<File>,
}

impl Node {
    /// Starts everything.
    ///
    /// # Errors
    /// The folder is taken or unusable, the port is in use: nothing was changed.
    pub(super) async fn start(config: Config, manner: impl Into<Manner>) -> anyhow::Result<Node> {
        let manner = manner.into();
        let story = manner.story;
        open::data_dir(&config)?;
        // Several orchestrators of one machine may share a folder; the lease says who leads.
        let lock = if story == Story::Run { None } else { Some(lock_folder(&config)?) };
        open::check_sessions(&config).await?;
        let listener = bind(config.listen).await?;
        let address = listener.local_addr()?;
        let boot = BootId(uuid::Uuid::new_v4());
        let settings = recorder_config(&config, Role::Orchestrator, boot);
        let (settings, push) = if story == Story::Demo { (settings, None) } else { with_otel(settings)? };
        let guard = install(settings, story)?;
        let metrics = metrics(push)?;
        let store = open::store(&config).await?;
        if !open::is_shared(&config) {
            members::end_old_lease(&config, &store, boot).await?;
        }
        let (orchestrator, others) = (Group::new(), Group::new());
        metrics.keep_small(&others);
        let (standing, process) = (Standing::default(), process(&config, boot));
        members::start_gateway(&others, &config, &store, listener, metrics.render, standing.clone())?;
        members::start_orchestrator(&orchestrator, &config, &store, process, (address, &manner), standing)?;
        if manner.watch {
            watch_child::start(&others, &config, story);
        }
        tracing::info!(%address, fleet = config.lease_name(), version = env!("CARGO_PKG_VERSION"), "dogwatch is up");
        Ok(Node { config, store, address, orchestrator, others, guard, push: metrics.push, _lock: lock })
    }

    /// Ends everything: workers first, the recorder last. What became of the records.
    pub(super) async fn stop(self) -> telemetry::Shutdown {
        for (group, limit) in [(&self.orchestrator, WORKERS_END_WITHIN), (&self.others, MEMBERS_END_WITHIN)] {
            if !group.stop(limit).await {
                tracing::warn!(limit_s = limit.as_secs(), "not everything ended in time; the rest was aborted");
            }
        }
        let (guard, push) = (self.guard, self.push);
        let last = move || {
            let ended = guard.shutdown(DELIVER_WITHIN);
            drop(push);
            ended
        };
        tokio::task::spawn_blocking(last).await.unwrap_or_default()
    }
}

/// This process, for its row.
fn process(config: &Config, boot: BootId) -> Process {
    let now = crate::clock::now();
    Process {
        boot_id: boot,
        kind: "orchestrator".to_owned(),
        source_type: "orchestrator_gpu".to_owned(),
        source_id: config.instance.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_hash: config.hash.clone(),
        host: hostname(),
        pid: std::process::id(),
        started_at: now,
        seen_at: now,
        ended_at: None,
    }
}

/// The address, bound.
///
/// # Errors
/// It is in use or not ours: the remedy says how to take another.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, BadInput> {
    TcpListener::bind(address).await.map_err(|error| {
        BadInput::new(
            format!("cannot listen on {address} ({error})"),
            "end what listens there, or choose another address with --listen (the watch: DOGWATCH_WATCH_LISTEN)",
        )
    })
}

/// Makes sure that only one `up` works in the folder; the lock dies with the process.
fn lock_folder(config: &Config) -> anyhow::Result<File> {
    let path = config.data_dir.join("up.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(BadInput::new(
            format!("another dogwatch up works in {}", config.data_dir.display()),
            "end it, or give this one a folder of its own with --data-dir",
        )
        .into()),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}
