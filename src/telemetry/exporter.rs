//! Where stored records go: one trait, and what an exporter can answer.
//!
//! An exporter is asked from its own shipper thread with a batch in the order of the spool, and
//! must be safe to ask again with the same batch: delivery is at least once, and the record's id
//! makes rows exactly once.

use std::time::Duration;

use super::record::Stored;

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

/// One destination.
pub trait Exporter: Send {
    /// Its name, such as `sqlite`.
    fn name(&self) -> &'static str;
    /// Delivers the batch, all or nothing, within `deadline`.
    ///
    /// # Errors
    /// See [`ExportError`]; after an error nothing is known to be delivered.
    fn export(&mut self, batch: &[Stored], deadline: Duration) -> Result<Exported, ExportError>;
}
