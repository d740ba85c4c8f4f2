//! Records into `logs.db`, the embedded fleet's `system_logs`.
//!
//! The file is made, migrated and opened again as needed, also after somebody moved it away. The
//! [`RowWriter`] is shared with the gateway, which writes the rows that agents send through the
//! same connection. Delivered means durable: a batch is one transaction, committed with
//! `synchronous=FULL`. A locked file or a full disk is an outage, never a loss.

mod errors;
mod retention;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::retention::{Retained, Retention};
pub use self::schema::SCHEMA_VERSION;
pub use self::writer::{Inserted, RowWriter};
use super::{ExportError, Exported, Exporter, Timed, rows_of};
use crate::clock::{self, Time};
use crate::telemetry::counters;
use crate::telemetry::record::Stored;

/// How often retention looks for rows to delete, while it has kept up.
const RETENTION_EVERY: Duration = Duration::from_secs(60);

/// The exporter `sqlite`.
pub struct SqliteExporter {
    runtime: Timed,
    writer: RowWriter,
    retention: Retention,
    retain_at: Time,
}

impl SqliteExporter {
    /// An exporter into the file at `path`, which is made by the first export.
    ///
    /// # Errors
    /// The operating system gives no runtime.
    pub fn new(path: impl Into<PathBuf>, retention: Retention) -> io::Result<SqliteExporter> {
        Self::with_writer(RowWriter::new(path), retention)
    }

    /// An exporter through a writer that others use, too.
    ///
    /// # Errors
    /// The operating system gives no runtime.
    pub fn with_writer(writer: RowWriter, retention: Retention) -> io::Result<SqliteExporter> {
        Ok(SqliteExporter { runtime: Timed::new()?, writer, retention, retain_at: Time::MIN })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.writer.path()
    }

    /// The writer, for whoever else writes rows in this process.
    pub fn writer(&self) -> RowWriter {
        self.writer.clone()
    }
}

impl Exporter for SqliteExporter {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn export(&mut self, batch: &[Stored], now: Time, deadline: Duration) -> Result<Exported, ExportError> {
        let rows = rows_of(batch)?;
        let inserted = self.runtime.run(deadline, self.writer.insert(&rows, now))?;
        Ok(Exported { delivered: inserted.received, rejected: 0 })
    }

    fn maintain(&mut self, now: Time, deadline: Duration) -> Result<(), ExportError> {
        if now < self.retain_at {
            return Ok(());
        }
        self.retain_at = clock::plus(now, RETENTION_EVERY);
        let retained = self.runtime.run(deadline, self.writer.retain(self.retention, now))?;
        counters::expired(retained);
        if retained.more {
            self.retain_at = now;
        }
        Ok(())
    }
}
