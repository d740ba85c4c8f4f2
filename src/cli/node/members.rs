//! The members of a node: the gateway and the orchestrator with its local provider.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::ingest::Ingest;
use super::{Manner, Story};
use crate::config::Config;
use crate::fleet::ids::BootId;
use crate::gateway::{self, Gateway, RenderMetrics, Token};
use crate::orchestrator::{self, Orchestrator, Standing, StopWorkers};
use crate::provider::local::{LocalConfig, LocalProvider};
use crate::store::{Lease, LeaseAnswer, Process, Store};
use crate::supervise::Intensity;
use crate::supervise::task::Group;
use crate::telemetry::otel_env::NAMES;

/// Time workers get to finish when everything ends.
const WORKERS_FINISH_WITHIN: Duration = Duration::from_secs(10);
/// Time an agent gets between SIGTERM and SIGKILL.
const KILL_AFTER: Duration = Duration::from_secs(4);
/// Time a program gets to finish when its agent is drained.
const DRAIN_SECONDS: u64 = 5;

pub(super) fn start_gateway(
    group: &Group,
    config: &Config,
    store: &Arc<dyn Store>,
    listener: TcpListener,
    metrics: RenderMetrics,
    standing: Standing,
) -> anyhow::Result<()> {
    let gateway = Gateway {
        store: Arc::clone(store),
        ingest: Arc::new(Ingest::new(config)),
        policy: config.policy.clone(),
        metrics,
        ready: Arc::new(move || Ok(standing.words())),
        token: config.token.as_ref().map(|token| Token(token.0.clone())),
    };
    let listener = listener.into_std()?;
    group.start("gateway", Intensity::default(), move |_, stop| {
        let (gateway, listener) = (gateway.clone(), listener.try_clone());
        async move {
            let served = async { gateway::serve(TcpListener::from_std(listener?)?, gateway, stop).await };
            if let Err(error) = served.await {
                tracing::error!(%error, "the gateway cannot be served");
            }
        }
    });
    Ok(())
}

/// Ends the lease of a killed predecessor at once: whoever holds the folder's lock knows that no
/// other process of this folder can lead.
pub(super) async fn end_old_lease(config: &Config, store: &Arc<dyn Store>, boot: BootId) -> anyhow::Result<()> {
    match store.take_lease(&config.lease_name(), boot, config.lease.ttl).await? {
        LeaseAnswer::Held(_) => {}
        LeaseAnswer::Other { holder, term, until } => {
            tracing::info!(%holder, term = term.0, "the lease of a process that was killed is ended");
            store.release_lease(&Lease { name: config.lease_name(), holder, term, until }).await?;
        }
    }
    Ok(())
}

pub(super) fn start_orchestrator(
    group: &Group,
    config: &Config,
    store: &Arc<dyn Store>,
    process: Process,
    (address, manner): (SocketAddr, &Manner),
    standing: Standing,
) -> anyhow::Result<()> {
    let provider = Arc::new(LocalProvider::open(local(config, address, manner)?)?);
    let settings = orchestrator::Config {
        fleet: config.fleet.clone(),
        env: config.env.clone(),
        policy: config.policy.clone(),
        process,
        lease: config.lease,
        on_stop: if manner.story == Story::Run { StopWorkers::Leave } else { StopWorkers::Drain },
        stop_limit: WORKERS_FINISH_WITHIN,
    };
    let store = Arc::clone(store);
    group.start("orchestrator", Intensity::default(), move |_, stop| {
        let orchestrator = Orchestrator::new(store.clone(), provider.clone(), settings.clone());
        orchestrator.telling(standing.clone()).run(stop)
    });
    Ok(())
}

/// Agents of this very program, whose spools lie beside ours: whoever is killed, its records are
/// taken over here.
fn local(config: &Config, address: SocketAddr, manner: &Manner) -> anyhow::Result<LocalConfig> {
    let story = manner.story;
    let mut reach = address;
    if reach.ip().is_unspecified() {
        reach.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let heartbeat = config.recorder.heartbeat_every.as_secs_f64();
    let sync = config.recorder.sync_every.as_secs_f64();
    let env = [
        ("DOGWATCH_BASE_URL", config.values.text("DOGWATCH_BASE_URL").unwrap_or(format!("http://{reach}"))),
        ("DOGWATCH_SPOOL_DIR", config.spool_dir().display().to_string()),
        ("DOGWATCH_FLEET", config.fleet.clone()),
        ("DOGWATCH_ENV", config.env.clone()),
        ("DOGWATCH_HEARTBEAT_SECONDS", heartbeat.to_string()),
        ("DOGWATCH_SPOOL_SYNC_SECONDS", sync.to_string()),
        ("DOGWATCH_DRAIN_SECONDS", DRAIN_SECONDS.to_string()),
        ("LOG_LEVEL", config.recorder.level.word().to_lowercase()),
    ];
    // An agent's records reach OTLP from its own spool, so that it must know where to.
    let otel = NAMES.iter().filter(|_| story != Story::Demo);
    let otel = otel.filter_map(|name| Some((*name, crate::config::environment(name)?)));
    Ok(LocalConfig {
        program: std::env::current_exe()?,
        args: agent_args(manner),
        env: env.into_iter().chain(otel).map(|(name, value)| (name.to_owned(), value)).collect(),
        state_dir: config.data_dir.join("workers"),
        die_with_parent: story == Story::Demo,
        workers_max: config.policy.max_workers,
        kill_after: KILL_AFTER,
    }
    .inheriting(crate::config::environment))
}

/// An agent runs any command only where tasks come from this machine's own user: `run` takes them
/// from a database, and an INSERT there must not be a remote shell.
fn agent_args(manner: &Manner) -> Vec<String> {
    let mut args = vec!["agent".to_owned()];
    if manner.story != Story::Run {
        args.push("--allow-commands".to_owned());
    }
    if !manner.program.is_empty() {
        args.push("--".to_owned());
        args.extend_from_slice(&manner.program);
    }
    args
}
