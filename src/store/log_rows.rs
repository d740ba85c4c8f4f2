//! What every store makes of rows of `system_logs`: levels by word, records for a snapshot.

use super::{LogRow, Result, SourceNewest, StoreError};
use crate::fleet::snapshot::Record;
use crate::telemetry::record::Level;

/// Most records in one snapshot; sources that are not workers come first.
const OBSERVED_RECORDS_MAX: usize = 200;
/// Longest text of a record in a snapshot, bytes.
const OBSERVED_MESSAGE_BYTES_MAX: usize = 512;

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
