//! Where stored records go: one trait, and what an exporter can answer.
//!
//! An exporter is asked from its own shipper thread with a batch in the order of the spool, and
//! must be safe to ask again with the same batch: delivery is at least once, and the record's id
//! makes rows exactly once. It returns within the deadline it is given, whatever its destination
//! does: one that waits on a network or a file runs that in a runtime of its own ([`Timed`]).

pub mod otlp;
pub mod postgres;
pub mod rpc;
#[cfg(test)]
pub(crate) mod samples;
pub mod sqlite;
pub mod stdout;

use std::io;
use std::time::Duration;

use super::quiet;
use super::record::Stored;
use super::row::{Row, RowError};
use crate::clock::Time;
use crate::error;

/// What became of a batch that was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Records that are there, those included that were there before.
    pub delivered: u64,
    /// Records that the other side refused for good (OTLP partial success): never counted as
    /// delivered.
    pub rejected: u64,
}

/// Why a batch was not taken; variants are what delivery does differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Not now: outage, time-out, 429, 5xx. `after` is what the other side asked for.
    #[error("{detail}")]
    Retry {
        /// Not before this has passed.
        after: Option<Duration>,
        /// What was seen.
        detail: String,
    },
    /// Not before somebody acts (401, 403, 404, bad key, missing table): hold and alert.
    #[error("{detail}; {remedy}")]
    Blocked {
        /// What was seen.
        detail: String,
        /// What to do.
        remedy: String,
    },
    /// This batch never, a part of it perhaps: too large, or it holds a poison record.
    #[error("{detail}")]
    Refused {
        /// What was seen.
        detail: String,
    },
}

impl ExportError {
    /// An outage that says nothing about when it ends.
    pub fn retry(detail: impl Into<String>) -> ExportError {
        ExportError::Retry { after: None, detail: detail.into() }
    }
}

impl From<RowError> for ExportError {
    fn from(source: RowError) -> ExportError {
        ExportError::Refused { detail: error::chain(&source) }
    }
}

/// One destination.
pub trait Exporter: Send {
    /// Its name, such as `sqlite`.
    fn name(&self) -> &'static str;

    /// Delivers the batch, all or nothing, within `deadline`. `now` is the wall clock's time.
    ///
    /// # Errors
    /// See [`ExportError`]; after an error nothing is known to be delivered.
    fn export(&mut self, batch: &[Stored], now: Time, deadline: Duration) -> Result<Exported, ExportError>;

    /// Housekeeping at the destination, such as retention; called often, between exports, and
    /// does nothing most of the time.
    ///
    /// # Errors
    /// Told in the exporter's status; it holds up no delivery.
    fn maintain(&mut self, _now: Time, _deadline: Duration) -> Result<(), ExportError> {
        Ok(())
    }
}

/// The rows of a batch.
fn rows_of(batch: &[Stored]) -> Result<Vec<Row>, ExportError> {
    batch.iter().map(|stored| Ok(Row::from_stored(stored)?)).collect()
}

/// A runtime on the caller's thread that gives up waiting when the deadline has passed. Its helper
/// threads are quiet, and dropping it waits for none of them.
pub(crate) struct Timed(Option<tokio::runtime::Runtime>);

impl Timed {
    pub(crate) fn new() -> io::Result<Timed> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(2).on_thread_start(quiet::mark_thread);
        Ok(Timed(Some(builder.build()?)))
    }

    /// What `work` gives, or a Retry where it took longer than `deadline`; it is dropped then.
    pub(crate) fn run<T>(
        &self,
        deadline: Duration,
        work: impl Future<Output = Result<T, ExportError>>,
    ) -> Result<T, ExportError> {
        let Some(runtime) = &self.0 else {
            return Err(ExportError::retry("the exporter is being shut down"));
        };
        let late = || ExportError::retry(format!("no answer within {:.1} s", deadline.as_secs_f64()));
        runtime.block_on(async { tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Err(late())) })
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
