//! What a recorder is started with.

use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use super::exporter::otlp::OtlpConfig;
use super::exporter::postgres::Address;
use super::exporter::rpc::RpcConfig;
use super::record::{Level, Source};
use super::ring::RingConfig;
use super::spool::SpoolConfig;

/// Everything the recorder needs to know. It reads no environment.
#[derive(Debug, Clone)]
pub struct Config {
    /// The spools of all processes that share them; this process makes a folder of its own there.
    pub spool_dir: PathBuf,
    /// Who speaks.
    pub source: Source,
    /// This process start.
    pub boot: Uuid,
    /// Lowest level that is recorded; for whoever makes the filter.
    pub level: Level,
    /// Size of the ring, bytes.
    pub ring_bytes: u64,
    /// A segment of the spool is closed when it would grow beyond this.
    pub segment_bytes: u64,
    /// Most bytes of segments on disk.
    pub spool_cap_bytes: u64,
    /// Longest time from a record to its fdatasync.
    pub sync_every: Duration,
    /// Period of the heartbeat record.
    pub heartbeat_every: Duration,
    /// The database exporter; at most one.
    pub database: Option<Destination>,
    /// The OTLP exporter, beside the database's.
    pub otlp: Option<OtlpConfig>,
    /// Whether records go to stdout as JSON lines, too.
    pub stdout: bool,
    /// Which dead processes' folders are taken over.
    pub adopt: Adopt,
}

impl Config {
    /// Period of the heartbeat record.
    pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(15);

    /// The usual sizes and times, a boot of its own, and no exporter: records are kept on disk
    /// until a process with one takes them over.
    pub fn new(spool_dir: impl Into<PathBuf>, source: Source) -> Config {
        let spool = SpoolConfig::default();
        Config {
            spool_dir: spool_dir.into(),
            source,
            boot: Uuid::new_v4(),
            level: Level::Debug,
            ring_bytes: RingConfig::CAPACITY_DEFAULT_BYTES,
            segment_bytes: spool.segment_bytes,
            spool_cap_bytes: spool.cap_bytes,
            sync_every: spool.sync_every,
            heartbeat_every: Config::HEARTBEAT_DEFAULT,
            database: None,
            stdout: false,
            otlp: None,
            adopt: Adopt::None,
        }
    }
}

/// Where the database exporter delivers.
#[derive(Debug, Clone)]
pub enum Destination {
    /// `logs.db` of this machine.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Rows older than this are deleted.
        retention: Duration,
        /// The file is kept below this size, bytes.
        retention_bytes: u64,
    },
    /// `system_logs` of a Postgres database.
    Postgres(Address),
    /// A worker's rows, through the fleet's door.
    Rpc(RpcConfig),
}

/// Which dead processes' folders are taken over, at the start and while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopt {
    /// None: they are another's to deliver.
    None,
    /// All of the spool folder.
    All,
}
