//! What every store makes of rows of `system_logs`, wherever a [`LogReader`] has them from: levels by
//! word, the newest row a source, records for a snapshot.

use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;

use super::{LogQuery, LogRow, Result, SourceNewest, StoreError, StrayRows};
use crate::clock::{self, Time};
use crate::error;
use crate::fleet::snapshot::Record;
use crate::telemetry::record::Level;

/// Most records in one snapshot; sources that are not workers come first.
const OBSERVED_RECORDS_MAX: usize = 200;
/// Longest text of a record in a snapshot, bytes.
const OBSERVED_MESSAGE_BYTES_MAX: usize = 512;

/// Rows as they were read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) rows: Vec<LogRow>,
    /// The clock by which they arrived, where that is not the fleet's.
    pub(super) now: Option<Time>,
}

impl Read {
    /// Rows whose database is the fleet's, or has its clock.
    pub(super) fn of_fleet(rows: Vec<LogRow>) -> Read {
        Read { rows, now: None }
    }

    /// The rows, as if they had arrived by the clock that shows `fleet_now` (I9).
    pub(super) fn by_fleet(mut self, fleet_now: Time) -> Vec<LogRow> {
        if let Some(now) = self.now {
            let ahead = fleet_now.as_microsecond().saturating_sub(now.as_microsecond());
            for row in &mut self.rows {
                row.ingested_at = clock::from_micros(row.ingested_at.as_microsecond().saturating_add(ahead));
            }
        }
        self.rows
    }
}

/// Where a fleet's log rows are.
#[async_trait]
pub(super) trait LogReader: fmt::Debug + Send + Sync {
    /// See [`super::Store::logs`].
    async fn query(&self, query: &LogQuery) -> Result<Read>;

    /// The newest row of each source.
    async fn newest(&self) -> Result<Read>;

    /// What lies in the DEFAULT partition, where there is one.
    async fn strays(&self) -> Result<StrayRows> {
        Ok(StrayRows::default())
    }

    /// Gives its connections back.
    async fn close(&self) {}
}

/// The log rows of a store.
#[derive(Debug)]
pub(super) struct Logs {
    reader: Box<dyn LogReader>,
    last_seen: Mutex<Vec<Record>>,
}

impl Logs {
    pub(super) fn new(reader: impl LogReader + 'static) -> Logs {
        Logs { reader: Box::new(reader), last_seen: Mutex::new(Vec::new()) }
    }

    pub(super) async fn query(&self, query: &LogQuery) -> Result<Read> {
        self.reader.query(query).await
    }

    pub(super) async fn newest(&self) -> Result<Read> {
        self.reader.newest().await
    }

    /// For a snapshot: never an error, but the rows seen before.
    pub(super) async fn newest_records(&self) -> Vec<Record> {
        let read = self.reader.newest().await;
        let mut last_seen = self.last_seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match read {
            Ok(read) => *last_seen = records_from(read.rows),
            Err(error) => {
                tracing::warn!(error = error::chain(&error), "the newest log rows could not be read");
            }
        }
        last_seen.clone()
    }

    pub(super) async fn strays(&self) -> Result<StrayRows> {
        self.reader.strays().await
    }

    pub(super) async fn close(&self) {
        self.reader.close().await;
    }
}

/// The words of this level and all above it.
pub(super) fn levels_from(word: &str) -> Result<Vec<&'static str>> {
    let least = Level::from_word(word).ok_or_else(|| StoreError::BadRow {
        what: format!("level {word:?}"),
        detail: "expected DEBUG, INFO, WARNING, ERROR or CRITICAL".into(),
    })?;
    Ok(Level::ALL.into_iter().filter(|level| *level >= least).map(Level::word).collect())
}

/// The newest row of each source as a snapshot has it.
pub(super) fn records_from(mut rows: Vec<LogRow>) -> Vec<Record> {
    rows.sort_by_key(|row| (row.source_type == "worker", std::cmp::Reverse(row.arrival)));
    rows.truncate(OBSERVED_RECORDS_MAX);
    rows.sort_by(|a, b| (&a.source_type, &a.source_id).cmp(&(&b.source_type, &b.source_id)));
    rows.into_iter()
        .map(|row| Record {
            source_type: row.source_type,
            source_id: Some(row.source_id),
            timestamp: row.timestamp,
            cycle: row.cycle_number,
            message: Some(row.message[..row.message.floor_char_boundary(OBSERVED_MESSAGE_BYTES_MAX)].to_owned()),
        })
        .collect()
}

impl From<LogRow> for SourceNewest {
    fn from(row: LogRow) -> SourceNewest {
        SourceNewest {
            source_type: row.source_type,
            source_id: row.source_id,
            timestamp: row.timestamp,
            ingested_at: row.ingested_at,
        }
    }
}
