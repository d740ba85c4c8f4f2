//! Old rows leave `logs.db`: by age and by the size of the file, first come, first gone, in small
//! batches, so that no write waits long. They were delivered; deleting them is no loss, but it is
//! counted. Age counts from arrival, not from the record's own time: what comes in after an outage
//! of a week, or from a file of last year, is kept as long as everything else.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::RowWriter;
use crate::clock::{self, Time};
use crate::telemetry::exporter::ExportError;

/// Rows deleted in one transaction.
const DELETE_ROWS: i64 = 2_000;
/// Transactions in one round.
const BATCHES_MAX: u32 = 10;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Rows that came in longer ago go.
    pub keep: Duration,
    /// Above this much used space the oldest go, bytes.
    pub bytes_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { keep: Duration::from_secs(48 * 3_600), bytes_max: 2 << 30 }
    }
}

/// What one round deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Rows that were too old.
    pub expired: u64,
    /// Rows that were the oldest of a file too large.
    pub over_size: u64,
    /// The round ended before all was done.
    pub more: bool,
}

impl RowWriter {
    /// One bounded round of deleting.
    ///
    /// # Errors
    /// As for [`RowWriter::insert`]; what was deleted until then stays deleted.
    pub async fn retain(&self, retention: Retention, now: Time) -> Result<Retained, ExportError> {
        let oldest_kept = clock::minus(now, retention.keep).as_microsecond();
        let mut taken = self.take().await?;
        let retained = round(taken.connection(), oldest_kept, retention.bytes_max).await;
        taken.give_back(retained)
    }
}

async fn round(
    connection: &mut SqliteConnection,
    oldest_kept: i64,
    bytes_max: u64,
) -> Result<Retained, sqlx::Error> {
    let mut retained = Retained::default();
    for _ in 0..BATCHES_MAX {
        let expired = delete_arrived_before(connection, oldest_kept).await?;
        retained.expired += expired;
        if expired == 0 {
            if used_bytes(connection).await? <= bytes_max {
                return Ok(retained);
            }
            let deleted = delete_arrived_before(connection, i64::MAX).await?;
            retained.over_size += deleted;
            if deleted == 0 {
                return Ok(retained);
            }
        }
    }
    retained.more = true;
    Ok(retained)
}

/// Deletes those of the first rows that came in before `ingested_at`; at most a batch. A single
/// statement is its own immediate transaction.
async fn delete_arrived_before(connection: &mut SqliteConnection, ingested_at: i64) -> Result<u64, sqlx::Error> {
    let statement = "delete from system_logs where arrival in (select arrival from \
                     (select arrival, ingested_at from system_logs order by arrival limit ?) \
                     where ingested_at < ?)";
    let query = sqlx::query(statement).bind(DELETE_ROWS).bind(ingested_at);
    Ok(query.execute(connection).await?.rows_affected())
}

/// Pages in use; those that deleted rows left free are used again before the file grows.
async fn used_bytes(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let statement = "select (page_count - freelist_count) * page_size \
                     from pragma_page_count, pragma_freelist_count, pragma_page_size";
    let bytes: i64 = sqlx::query_scalar(statement).fetch_one(connection).await?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}
