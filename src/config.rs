//! What was set, checked once, and what it means: the only reader of the environment.
//!
//! A value comes from a flag, else the environment, else the TOML file that `DOGWATCH_CONFIG` names,
//! else the default; its origin is kept, so that `doctor` can say which came from where. Unknown
//! keys of the file and values that do not parse are [`BadInput`] with the name and the remedy.
//! After [`Config::load`] no Option is left whose absence somebody else would have to interpret.

mod load;
mod pools;
pub mod settings;
pub mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::fleet::policy::Policy;
use crate::orchestrator::LeaseConfig;
use crate::telemetry::exporter::postgres::Address;
use crate::telemetry::exporter::supabase::SupabaseConfig;
use crate::telemetry::record::Level;

pub use self::load::{Profile, environment, hostname};
pub use self::values::{Origin, Secret, Values};

/// The settings of every command but `agent`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where fleet.db, logs.db, spool/ and the rest live.
    pub data_dir: PathBuf,
    /// Name of the fleet.
    pub fleet: String,
    /// Name of the environment.
    pub env: String,
    /// This orchestrator's name: source_id of its records.
    pub instance: String,
    /// Address of gateway and page.
    pub listen: SocketAddr,
    /// Bearer token for everything but RPC, /livez and /readyz; none on loopback.
    pub token: Option<Secret>,
    /// How leadership is kept.
    pub lease: LeaseConfig,
    /// The Postgres of fleet and log rows; None: the data folder's files.
    pub database: Option<Address>,
    /// The fleet's numbers.
    pub policy: Policy,
    /// The recorder's numbers.
    pub recorder: RecorderSettings,
    /// The watch's settings.
    pub watch: WatchSettings,
    /// Where log rows go instead of logs.db; DATABASE_URL wins over it.
    pub supabase: Option<SupabaseConfig>,
    /// SHA-256 of the effective settings without secrets and without the process's own name and places, hex.
    pub hash: String,
    /// Every value with its origin.
    pub values: Values,
}

/// The recorder's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct RecorderSettings {
    /// Size of the ring, bytes.
    pub ring_bytes: u64,
    /// Most bytes of segments on disk.
    pub spool_cap_bytes: u64,
    /// Longest time from a record to its fdatasync.
    pub sync_every: Duration,
    /// Period of the heartbeat record.
    pub heartbeat_every: Duration,
    /// Lowest level that is recorded.
    pub level: Level,
    /// Rows of logs.db older than this are deleted.
    pub retention: Duration,
    /// logs.db is kept below this size, bytes.
    pub retention_bytes: u64,
}

/// The watch's settings.
#[derive(Debug, Clone)]
pub struct WatchSettings {
    /// Address of /livez and /metrics.
    pub listen: SocketAddr,
    /// Period of a round.
    pub every: Duration,
    /// Where alarms are posted, beside stderr and `alerts.jsonl`.
    pub webhook: Option<Secret>,
    /// Alertmanager's base address.
    pub alertmanager: Option<Secret>,
    /// The dead-man's switch that is pinged.
    pub deadman: Option<Secret>,
    /// Period of these pings.
    pub deadman_every: Duration,
    /// Period of the canaries.
    pub canary_every: Duration,
}

impl Config {
    /// The fleet's database.
    pub fn fleet_db(&self) -> PathBuf {
        self.data_dir.join("fleet.db")
    }

    /// The database of `system_logs`.
    pub fn logs_db(&self) -> PathBuf {
        self.data_dir.join("logs.db")
    }

    /// The spools of all processes of this folder.
    pub fn spool_dir(&self) -> PathBuf {
        self.values.text("DOGWATCH_SPOOL_DIR").map_or_else(|| self.data_dir.join("spool"), PathBuf::from)
    }

    /// Where log rows go, and which settings say nothing about it; one line.
    pub fn logs_to(&self) -> String {
        let is_set = |name| self.values.get(name).is_some();
        let (url, key) = (is_set("SUPABASE_URL"), is_set("SUPABASE_SECRET_KEY"));
        let place = match (&self.database, &self.supabase) {
            (Some(address), _) => format!("Postgres at {address}"),
            (None, Some(project)) => format!("Supabase at {}", project.url()),
            (None, None) => self.logs_db().display().to_string(),
        };
        match (url, key) {
            (true, true) if self.supabase.is_none() => format!("{place}; SUPABASE_URL yields to DATABASE_URL"),
            (true, false) => format!("{place}; SUPABASE_URL is not used: SUPABASE_SECRET_KEY is not set"),
            (false, true) => format!("{place}; SUPABASE_SECRET_KEY is not used: SUPABASE_URL is not set"),
            _ => place,
        }
    }

    /// Name of the lease: one a fleet and environment.
    pub fn lease_name(&self) -> String {
        format!("{}.{}", self.fleet, self.env)
    }
}
