//! The connection that writes rows.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::connect::{self, Address};
use super::errors::{export_error, is_without_partition};
use super::types::PgTime;
use crate::telemetry::exporter::ExportError;
use crate::telemetry::row::Row;

/// Longest wait for a lock, such as a migration's or another's table lock; then it is a Retry.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// A statement ends this long before the export that waits for it.
const MARGIN: Duration = Duration::from_millis(500);

/// One array a column: the statement is the same for any number of rows.
const INSERT: &str = "
insert into public.system_logs (timestamp, id, source_type, source_id, log_level, message,
    task_id, worker_id, cycle_number, trace_id, span_id, metadata)
select r.timestamp, r.id, r.source_type, r.source_id, r.log_level, r.message,
    r.task_id, r.worker_id, r.cycle_number, r.trace_id, r.span_id, r.metadata::jsonb
from unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[],
    $7::uuid[], $8::text[], $9::bigint[], $10::text[], $11::text[], $12::text[])
    as r (timestamp, id, source_type, source_id, log_level, message,
        task_id, worker_id, cycle_number, trace_id, span_id, metadata)
on conflict do nothing";

const MAINTAIN: &str = "select public.dw_maintain_system_logs()::text";

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Rows that are there, those included that were there before.
    pub received: u64,
    /// Rows that were not there before.
    pub inserted: u64,
}

/// Writes rows into `system_logs`. Cheap to clone; all clones share one connection, which belongs
/// to the runtime that first used it.
#[derive(Debug, Clone)]
pub struct PgWriter {
    address: Address,
    connection: Arc<Mutex<Option<PgConnection>>>,
}

impl PgWriter {
    /// A writer to `address`; nothing is connected yet.
    pub fn new(address: Address) -> PgWriter {
        PgWriter { address, connection: Arc::default() }
    }

    /// Writes all rows or none; rows that are there already are left as they are. The database
    /// gives up shortly before `limit`. Dropping the future is safe at any moment.
    ///
    /// # Errors
    /// Retry: it does not answer, is locked or full. Blocked: rights, a missing table, read-only.
    /// Refused: a row that the table does not take.
    pub async fn insert(&self, rows: &[Row], limit: Duration) -> Result<Inserted, ExportError> {
        if rows.is_empty() {
            return Ok(Inserted::default());
        }
        let inserted = match self.work(limit, async |connection| insert(connection, rows).await).await {
            Err(error) if is_without_partition(&error) => {
                self.maintain(limit).await?;
                self.work(limit, async |connection| insert(connection, rows).await).await
            }
            other => other,
        };
        let inserted = inserted.map_err(|error| export_error(&self.address, &error))?;
        Ok(Inserted { received: rows.len() as u64, inserted })
    }

    /// The housekeeping: what it says it has done, JSON.
    ///
    /// # Errors
    /// As [`PgWriter::insert`].
    pub async fn maintain(&self, limit: Duration) -> Result<String, ExportError> {
        let ask = async |connection: &mut PgConnection| {
            sqlx::query_scalar(MAINTAIN).persistent(false).fetch_one(connection).await
        };
        self.work(limit, ask).await.map_err(|error| export_error(&self.address, &error))
    }

    /// One transaction. Without a success, also where this is dropped half way, the connection is
    /// closed, which takes everything back; the next call makes another.
    async fn work<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut slot = self.connection.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.address.connect().await?,
        };
        let statement_limit = limit.saturating_sub(MARGIN);
        connect::begin(&mut connection, statement_limit, LOCK_LIMIT.min(statement_limit)).await?;
        let done = work(&mut connection).await?;
        sqlx::raw_sql("commit").execute(&mut connection).await?;
        *slot = Some(connection);
        Ok(done)
    }
}

async fn insert(connection: &mut PgConnection, rows: &[Row]) -> Result<u64, sqlx::Error> {
    fn column<'a, T>(rows: &'a [Row], of: impl Fn(&'a Row) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    let query = sqlx::query(INSERT)
        .persistent(false)
        .bind(column(rows, |row| PgTime(row.timestamp)))
        .bind(column(rows, |row| row.id))
        .bind(column(rows, |row| row.source_type.as_str()))
        .bind(column(rows, |row| row.source_id.as_str()))
        .bind(column(rows, |row| row.log_level.word()))
        .bind(column(rows, |row| row.message.as_str()))
        .bind(column::<Option<Uuid>>(rows, |row| row.task_id))
        .bind(column(rows, |row| row.worker_id.as_deref()))
        .bind(column(rows, |row| row.cycle_number))
        .bind(column(rows, |row| row.trace_id.as_deref()))
        .bind(column(rows, |row| row.span_id.as_deref()))
        .bind(column(rows, |row| row.metadata.to_string()));
    Ok(query.execute(connection).await?.rows_affected())
}
