//! Records into `system_logs` of a Postgres database.
//!
//! A batch is one transaction: all rows or none; a row that is there already is
//! left as it is, so that a repeated delivery gives each row once. Rows go in by COPY where none can
//! have been written before, and by INSERT otherwise (`writer`). The table has its own migrations
//! ([`schema`]), which `dogwatch migrate` applies: a table that is missing holds delivery until
//! somebody does. Only the housekeeping (partitions, retention) is asked for from here, because
//! without pg_cron nobody else would; the database does nothing where another has just done it.
//!
//! Works behind poolers in transaction mode, too (`connect`). No error shows a password (I17).

mod columns;
mod connect;
mod copy;
mod errors;
pub mod rights;
pub mod schema;
mod types;
mod writer;

use std::io;
use std::time::Duration;

pub use self::columns::Batch;
pub use self::connect::{Address, AddressError};
#[cfg(feature = "full")]
pub(crate) use self::types::PgTime;
pub use self::writer::{Inserted, PgWriter};
use super::{ExportError, Exported, Exporter, Timed};
use crate::clock::{self, Time};
use crate::telemetry::record::Stored;

/// How often the housekeeping is asked for.
const MAINTAIN_EVERY: Duration = Duration::from_secs(600);
/// How soon it is asked for again where it has failed.
const MAINTAIN_AGAIN: Duration = Duration::from_secs(60);

/// The exporter `postgres`.
pub struct PostgresExporter {
    // Dropped before the runtime that drives its connection.
    writer: PgWriter,
    runtime: Timed,
    maintain_at: Time,
}

impl PostgresExporter {
    /// An exporter to `address`; nothing is connected yet.
    ///
    /// # Errors
    /// The operating system gives no runtime.
    pub fn new(address: Address) -> io::Result<PostgresExporter> {
        Ok(PostgresExporter { writer: PgWriter::new(address), runtime: Timed::new()?, maintain_at: Time::MIN })
    }
}

impl Exporter for PostgresExporter {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn export(&mut self, batch: &[Stored], _now: Time, deadline: Duration) -> Result<Exported, ExportError> {
        let inserted = self.runtime.run(deadline, self.writer.insert(batch, deadline))?;
        Ok(Exported { delivered: inserted.received, rejected: 0 })
    }

    fn maintain(&mut self, now: Time, deadline: Duration) -> Result<(), ExportError> {
        if now < self.maintain_at {
            return Ok(());
        }
        self.maintain_at = clock::plus(now, MAINTAIN_AGAIN);
        self.runtime.run(deadline, self.writer.maintain(deadline))?;
        self.maintain_at = clock::plus(now, MAINTAIN_EVERY);
        Ok(())
    }
}
