//! The recorder of each command: its source, its exporter, what it adopts; and the subscriber that
//! feeds it.

use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};
use uuid::Uuid;

use super::console::Console;
use super::{Story, with_otel};
use crate::agent::AgentConfig;
use crate::cli::render;
use crate::config::{Config, hostname};
use crate::fleet::ids::BootId;
use crate::rpc::Caller;
use crate::telemetry::exporter::rpc::RpcConfig;
use crate::telemetry::record::{Level, Source};
use crate::telemetry::spool::SpoolConfig;
use crate::telemetry::{self, Adopt, Destination, ExporterStatus, Status};

/// Ring of a command that ends soon, bytes.
const CLIENT_RING_BYTES: u64 = 1 << 20;
/// Time a client command waits for its own records.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);

/// Who records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Role {
    /// Orchestrator and gateway.
    Orchestrator,
    /// The watch.
    Watch,
    /// `ship`, under its own source.
    Ship(String),
    /// Any other command.
    Client(&'static str),
}

impl Role {
    fn source(&self, config: &Config) -> Source {
        let (source_type, source_id) = match self {
            Role::Orchestrator => ("orchestrator_gpu", config.instance.clone()),
            Role::Watch => ("watch", format!("watch-{}", hostname())),
            Role::Ship(name) => ("external", format!("ship:{name}")),
            Role::Client(command) => ("external", format!("cli:{command}")),
        };
        source(source_type, source_id, &config.fleet, &config.env)
    }
}

/// An agent's way in: its own token, and a start of its own.
fn rpc_exporter(agent: &AgentConfig) -> RpcConfig {
    RpcConfig {
        base: agent.base_url.clone(),
        caller: Caller {
            worker_id: agent.worker_id.0.clone(),
            worker_token: agent.token.0.clone(),
            incarnation: agent.incarnation,
        },
        admission: agent.admission.clone(),
        api_key: agent.api_key.as_ref().map(|key| key.0.clone()),
    }
}

fn source(source_type: &str, source_id: String, fleet: &str, env: &str) -> Source {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let resource = vec![
        pair("service.name", "dogwatch"),
        pair("service.namespace", fleet),
        pair("service.instance.id", &source_id),
        pair("service.version", env!("CARGO_PKG_VERSION")),
        pair("deployment.environment.name", env),
        pair("host.name", &hostname()),
    ];
    Source { source_type: source_type.to_owned(), source_id, resource }
}

/// The recorder's settings for `role` on the fleet's own database exporter.
pub(in crate::cli) fn config(config: &Config, role: Role, boot: BootId) -> telemetry::Config {
    let settings = &config.recorder;
    let client = matches!(role, Role::Client(_));
    telemetry::Config {
        spool_dir: config.spool_dir(),
        source: role.source(config),
        boot: boot.0,
        level: settings.level,
        ring_bytes: if client { CLIENT_RING_BYTES } else { settings.ring_bytes },
        segment_bytes: SpoolConfig::default().segment_bytes,
        spool_cap_bytes: settings.spool_cap_bytes,
        sync_every: settings.sync_every,
        heartbeat_every: settings.heartbeat_every,
        database: Some(database(config)),
        otlp: None,
        stdout: false,
        adopt: if matches!(role, Role::Orchestrator | Role::Ship(_)) { Adopt::All } else { Adopt::None },
    }
}

/// The one database exporter.
fn database(config: &Config) -> Destination {
    match (&config.database, &config.supabase) {
        (Some(address), _) => Destination::Postgres(address.clone()),
        (None, Some(project)) => Destination::Supabase(project.clone()),
        (None, None) => Destination::Sqlite {
            path: config.logs_db(),
            retention: config.recorder.retention,
            retention_bytes: config.recorder.retention_bytes,
        },
    }
}

/// The recorder's settings of an agent: rows go through the fleet's door.
pub(in crate::cli) fn agent_config(config: &Config, agent: &AgentConfig, boot: BootId) -> telemetry::Config {
    let mut settings = self::config(config, Role::Client("agent"), boot);
    settings.ring_bytes = config.recorder.ring_bytes.min(4 << 20);
    settings.source = source("worker", agent.worker_id.0.clone(), &config.fleet, &config.env);
    settings.database = Some(Destination::Rpc(rpc_exporter(agent)));
    settings
}

/// Starts the recorder and makes it the process's subscriber, beside a console on stderr.
///
/// # Errors
/// The spool's folder cannot be used.
pub(in crate::cli) fn install(settings: telemetry::Config, story: Story) -> anyhow::Result<telemetry::Guard> {
    crate::http::install_tls();
    let level = filter(settings.level);
    let (layer, guard) = telemetry::start(settings)?;
    let console = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(Console)
        .with_filter(if story == Story::Demo { LevelFilter::OFF } else { LevelFilter::INFO })
        .with_filter(own_or_warning());
    // A second subscriber in one process happens only in tests; the first one stays.
    let _ = tracing_subscriber::registry().with(layer.with_filter(level)).with(console).try_init();
    Ok(guard)
}

/// Our own events from `level` on; other crates' from WARN on.
fn filter(level: Level) -> EnvFilter {
    let own = match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warn",
        Level::Error | Level::Critical => "error",
    };
    // The canary is to come back at any level.
    EnvFilter::new(format!("warn,dogwatch={own},dogwatch::canary=info"))
}

fn own_or_warning() -> EnvFilter {
    // What programs print is for `dogwatch logs`, not for the orchestrator's console.
    EnvFilter::new("warn,dogwatch=info,dogwatch::program=off,dogwatch::canary=off")
}

/// The recorder of a command that ends soon.
pub(in crate::cli) struct ClientRecorder(telemetry::Guard);

/// Starts a small recorder; a command must not fail because its own records cannot be kept, so
/// that is only said.
pub(in crate::cli) fn client_recorder(config: &Config, command: &'static str) -> Option<ClientRecorder> {
    let settings = self::config(config, Role::Client(command), BootId(Uuid::new_v4()));
    match install(settings, Story::Demo) {
        Ok(guard) => Some(ClientRecorder(guard)),
        Err(error) => {
            render::note(format!("dogwatch: this command is not recorded: {error:#}"));
            None
        }
    }
}

/// The doctor's: with every exporter that a long-lived command would have.
///
/// # Errors
/// The environment asks for an exporter that cannot be, or the folder cannot be used.
pub(in crate::cli) fn doctors_recorder(config: &Config) -> anyhow::Result<ClientRecorder> {
    let settings = self::config(config, Role::Client("doctor"), BootId(Uuid::new_v4()));
    let (settings, _) = with_otel(settings)?;
    Ok(ClientRecorder(install(telemetry::Config { stdout: false, ..settings }, Story::Demo)?))
}

impl ClientRecorder {
    /// Puts on disk what was said so far.
    pub(in crate::cli) fn flush(&self) {
        self.0.flush(CLIENT_LIMIT);
    }

    /// Where each exporter stands.
    pub(in crate::cli) fn exporters(&self) -> Vec<ExporterStatus> {
        self.0.exporters()
    }

    /// Where the recorder stands.
    pub(in crate::cli) fn status(&self) -> Status {
        self.0.status()
    }

    /// Writes what is left; what cannot be delivered in time stays in the spool for the next
    /// process of the folder.
    pub(in crate::cli) fn finish(self) {
        let _ = self.0.shutdown(CLIENT_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::ids::WorkerId;
    use crate::provider::WorkerToken;

    #[test]
    fn an_agents_exporter_knows_when_the_agent_is_registered() {
        let agent = AgentConfig::new("http://x", WorkerId("w".into()), WorkerToken("t".into()));
        let exporter = rpc_exporter(&agent);
        assert!(!exporter.admission.is_granted_within(Duration::ZERO));
        agent.admission.grant();
        assert!(exporter.admission.is_granted_within(Duration::ZERO));
    }
}
