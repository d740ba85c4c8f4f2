//! Rows as the arguments of one INSERT: an array a column, so that the statement is the same for any
//! number of rows. Making them yields every few rows, so that it goes on beside what the database does.

use std::borrow::Cow;
use std::ops::Range;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres};
use uuid::Uuid;

use super::types::PgTime;
use crate::telemetry::exporter::ExportError;
use crate::telemetry::record::Stored;
use crate::telemetry::row::Row;

const INSERT: &str = "
insert into public.system_logs (timestamp, id, source_type, source_id, log_level, message,
    task_id, worker_id, cycle_number, trace_id, span_id, metadata)
select r.timestamp, r.id, r.source_type, r.source_id, r.log_level, r.message,
    r.task_id, r.worker_id, r.cycle_number, r.trace_id, r.span_id, r.metadata::jsonb
from unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[],
    $7::uuid[], $8::text[], $9::bigint[], $10::text[], $11::text[], $12::text[])
    as r (timestamp, id, source_type, source_id, log_level, message,
        task_id, worker_id, cycle_number, trace_id, span_id, metadata)";
/// Leaves rows as they are that are there already.
const KEEP: &str = "
on conflict do nothing";
/// Rows that are made before anything else gets its turn.
const SLICE_ROWS: usize = 64;

/// The statement, with its arguments.
pub(super) type Insert = Query<'static, Postgres, PgArguments>;

/// Whether the rows may be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// After a start or a failure: those of an earlier try.
    MayBeThere,
    /// All of the batch before were not.
    New,
}

/// What rows are made of.
pub trait Batch: Sync {
    /// How many rows.
    fn rows(&self) -> usize;

    /// The row at `index`.
    ///
    /// # Errors
    /// What is there is no record.
    fn row(&self, index: usize) -> Result<Cow<'_, Row>, ExportError>;
}

impl Batch for [Row] {
    fn rows(&self) -> usize {
        self.len()
    }

    fn row(&self, index: usize) -> Result<Cow<'_, Row>, ExportError> {
        Ok(Cow::Borrowed(&self[index]))
    }
}

impl Batch for [Stored] {
    fn rows(&self) -> usize {
        self.len()
    }

    fn row(&self, index: usize) -> Result<Cow<'_, Row>, ExportError> {
        Ok(Cow::Owned(Row::from_stored(&self[index])?))
    }
}

/// The statement that writes those rows of the batch.
pub(super) async fn insert_of<B: Batch + ?Sized>(
    batch: &B,
    range: Range<usize>,
    rows: Rows,
) -> Result<Insert, ExportError> {
    let mut columns = Columns::default();
    for index in range {
        columns.push(batch.row(index)?.into_owned());
        if index % SLICE_ROWS == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(columns.insert(rows))
}

#[derive(Default)]
struct Columns {
    timestamp: Vec<PgTime>,
    id: Vec<Uuid>,
    source_type: Vec<String>,
    source_id: Vec<String>,
    log_level: Vec<&'static str>,
    message: Vec<String>,
    task_id: Vec<Option<Uuid>>,
    worker_id: Vec<Option<String>>,
    cycle_number: Vec<Option<i64>>,
    trace_id: Vec<Option<String>>,
    span_id: Vec<Option<String>>,
    metadata: Vec<String>,
}

impl Columns {
    fn push(&mut self, row: Row) {
        self.timestamp.push(PgTime(row.timestamp));
        self.id.push(row.id);
        self.source_type.push(row.source_type);
        self.source_id.push(row.source_id);
        self.log_level.push(row.log_level.word());
        self.message.push(row.message);
        self.task_id.push(row.task_id);
        self.worker_id.push(row.worker_id);
        self.cycle_number.push(row.cycle_number);
        self.trace_id.push(row.trace_id);
        self.span_id.push(row.span_id);
        self.metadata.push(row.metadata.to_string());
    }

    fn insert(self, rows: Rows) -> Insert {
        let keep = if rows == Rows::MayBeThere { KEEP } else { "" };
        sqlx::query(AssertSqlSafe(format!("{INSERT}{keep}")))
            .persistent(false)
            .bind(self.timestamp)
            .bind(self.id)
            .bind(self.source_type)
            .bind(self.source_id)
            .bind(self.log_level)
            .bind(self.message)
            .bind(self.task_id)
            .bind(self.worker_id)
            .bind(self.cycle_number)
            .bind(self.trace_id)
            .bind(self.span_id)
            .bind(self.metadata)
    }
}
