//! What a recorder is started with.

use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use super::exporter::otlp::OtlpConfig;
use super::exporter::rpc::RpcConfig;
use super::record::{Level, Source};

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
