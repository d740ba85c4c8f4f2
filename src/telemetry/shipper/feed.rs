//! What a shipper is fed from: records in order, and a cursor that only moves forward.

use serde::Serialize;

use crate::telemetry::record::Stored;

/// Records of one boot, in order, behind a durable cursor.
pub trait Feed: Send {
    /// The next records behind the cursor, at most so many and, if more than one, at most so many
    /// payload bytes; empty where none are there yet. Asking again gives the same records.
    ///
    /// # Errors
    /// See [`FeedError`].
    fn next_batch(&mut self, records_max: usize, bytes_max: usize) -> Result<Vec<Stored>, FeedError>;

    /// Moves the cursor behind `through_seq` and adds the tally to the ledger, both or neither.
    ///
    /// # Errors
    /// See [`FeedError`]; the same call is made again until it succeeds.
    fn commit(&mut self, through_seq: u64, tally: Tally) -> Result<(), FeedError>;

    /// Sets one record aside, durably; it is committed by a call of its own.
    ///
    /// # Errors
    /// See [`FeedError`]; nothing is committed then.
    fn quarantine(&mut self, record: &Stored, why: &str) -> Result<(), FeedError>;

    /// What is behind the cursor.
    fn pending(&mut self) -> Pending;

    /// Records that the cursor has passed since this was last asked because they are not there any
    /// more, by cause.
    fn missed(&mut self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Whether nothing will ever come any more (an adopted folder that is empty): the feed is
    /// dropped then.
    fn is_finished(&self) -> bool {
        false
    }
}

/// What became of the records that a commit passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// They are there.
    pub delivered: u64,
    /// The other side refused them for good, within a batch that it took.
    pub dropped: u64,
    /// They were set aside.
    pub quarantined: u64,
}

/// What is still to be delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// How many records.
    pub records: u64,
    /// When the oldest of them was made, where that is known.
    pub oldest_unix_micros: Option<i64>,
}

impl Pending {
    /// Both together.
    pub fn and(self, other: Pending) -> Pending {
        let oldest = [self.oldest_unix_micros, other.oldest_unix_micros].into_iter().flatten().min();
        Pending { records: self.records.saturating_add(other.records), oldest_unix_micros: oldest }
    }
}

/// Why a feed cannot do what it is asked; variants are what the shipper does differently.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Not now; it is asked again.
    #[error("the spool cannot be used ({doing})")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What was seen.
        #[source]
        source: std::io::Error,
    },
    /// It will never answer again: the feed is dropped.
    #[error("the spool folder is gone: {detail}")]
    Gone {
        /// What was seen.
        detail: String,
    },
}
