//! `system_logs` of a Supabase project, read only, by its Data API: for a fleet in a data folder whose
//! log rows go there.
//!
//! Two functions of the project's database (`migrations/postgres/logs`) answer in pages of at most
//! 1,000 rows, which are asked for one after the other by the key of the last row, until there are as
//! many as were wanted. The project has a clock of its own: each answer says what it shows, so that
//! arrivals can be told by the fleet's. A project that does not answer, or whose key opens no more, is
//! `Unavailable`, with what was seen and what to do.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::log_rows::{LogReader, Read, levels_from};
use super::{LogQuery, LogRow, READ_ROWS_MAX, Result, StoreError};
use crate::clock::{self, Time};
use crate::telemetry::exporter::ExportError;
use crate::telemetry::exporter::supabase::{DataApi, SupabaseConfig};

/// The function that reads rows.
const READ: &str = "dw_read_logs";
/// The function that reads the newest row of each source.
const NEWEST: &str = "dw_newest_logs";
/// Longest answer, bytes: a page's 4 MiB of text as JSON, and one row more.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Longest time of a read that somebody waits for, all its pages together.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Longest time of the read that a cycle waits for.
const NEWEST_LIMIT: Duration = Duration::from_secs(3);
/// Most sources whose newest rows are read.
const SOURCES_MAX: usize = 10_000;

/// The log rows of a project.
#[derive(Debug)]
pub(super) struct LogsApi(DataApi);

/// What both functions answer.
#[derive(Deserialize)]
struct Page {
    /// The project's clock, microseconds since 1970.
    now: i64,
    rows: Vec<PageRow>,
    /// Whether there may be others behind the last one.
    more: bool,
}

/// A row as it comes; times are microseconds since 1970.
#[derive(Deserialize)]
struct PageRow {
    id: uuid::Uuid,
    timestamp: i64,
    source_type: String,
    source_id: String,
    log_level: String,
    message: String,
    task_id: Option<String>,
    worker_id: Option<String>,
    cycle_number: Option<i64>,
    trace_id: Option<String>,
    span_id: Option<String>,
    metadata: Value,
    ingested_at: i64,
    arrival: i64,
}

impl LogsApi {
    /// A reader of the project of `config`; nothing is connected yet.
    pub(super) fn new(config: SupabaseConfig) -> LogsApi {
        LogsApi(DataApi::new(config))
    }

    /// At most `rows_max` rows, page by page; `key` is what the next page begins behind.
    async fn pages(
        &self,
        function: &str,
        mut asked: Value,
        rows_max: usize,
        key: impl Fn(&LogRow) -> (&'static str, Value) + Sync,
    ) -> std::result::Result<Read, ExportError> {
        let mut read = Read::default();
        loop {
            asked["limit"] = json!(rows_max.saturating_sub(read.rows.len()));
            let body = asked.to_string().into_bytes();
            let answer = self.0.ask(function, body, ANSWER_BYTES_MAX, clock::now()).await?;
            let page: Page = serde_json::from_str(&answer).map_err(|error| ExportError::Blocked {
                detail: format!("Supabase answered {function} with something else: {error}"),
                remedy: "check SUPABASE_URL, and that the function is this version's (`dogwatch migrate`)"
                    .to_owned(),
            })?;
            read.now = Some(clock::from_micros(page.now));
            read.rows.extend(page.rows.into_iter().map(LogRow::from));
            let is_done = !page.more || read.rows.len() >= rows_max;
            let Some(last) = read.rows.last().filter(|_| !is_done) else {
                read.rows.truncate(rows_max);
                return Ok(read);
            };
            let (name, value) = key(last);
            asked[name] = value;
        }
    }
}

#[async_trait]
impl LogReader for LogsApi {
    async fn query(&self, query: &LogQuery) -> Result<Read> {
        let rows_max = if query.limit == 0 { READ_ROWS_MAX } else { query.limit.min(READ_ROWS_MAX) };
        let follows = query.after_arrival.is_some();
        let key = move |row: &LogRow| match follows {
            true => ("after_arrival", json!(row.arrival)),
            false => ("before", json!({"timestamp": row.timestamp.to_string(), "arrival": row.arrival})),
        };
        let pages = self.pages(READ, asked(query)?, rows_max, key);
        let mut read = within(READ_LIMIT, "read logs", pages).await?;
        if !follows {
            read.rows.reverse();
        }
        Ok(read)
    }

    async fn newest(&self) -> Result<Read> {
        let key = |row: &LogRow| ("after", json!({"source_type": row.source_type, "source_id": row.source_id}));
        within(NEWEST_LIMIT, "read the newest logs", self.pages(NEWEST, json!({}), SOURCES_MAX, key)).await
    }
}

/// The conditions of a query; one that was not asked for is not there.
fn asked(query: &LogQuery) -> Result<Value> {
    let time = |time: Time| json!(time.to_string());
    let conditions = [
        ("since", query.since.map(time)),
        ("until", query.until.map(time)),
        ("levels", query.level.as_deref().map(levels_from).transpose()?.map(|levels| json!(levels))),
        ("source_id", query.source_id.as_ref().map(|id| json!(id))),
        ("source_type", query.source_type.as_ref().map(|kind| json!(kind))),
        ("worker", query.worker.as_ref().map(|worker| json!(worker.0))),
        ("task", query.task.map(|task| json!(task.0))),
        ("cycle", query.cycle.map(|cycle| json!(cycle))),
        ("trace", query.trace.as_ref().map(|trace| json!(trace.to_lowercase()))),
        ("grep", query.grep.as_ref().map(|text| json!(text))),
        ("after_arrival", query.after_arrival.map(|arrival| json!(arrival))),
    ];
    Ok(conditions.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

async fn within(
    limit: Duration,
    doing: &'static str,
    pages: impl Future<Output = std::result::Result<Read, ExportError>>,
) -> Result<Read> {
    match tokio::time::timeout(limit, pages).await {
        Ok(read) => read.map_err(|error| StoreError::Unavailable { doing, source: Box::new(error) }),
        Err(late) => Err(StoreError::Unavailable { doing, source: Box::new(late) }),
    }
}

impl From<PageRow> for LogRow {
    fn from(row: PageRow) -> LogRow {
        LogRow {
            id: row.id,
            timestamp: clock::from_micros(row.timestamp),
            source_type: row.source_type,
            source_id: row.source_id,
            log_level: row.log_level,
            message: row.message,
            task_id: row.task_id,
            worker_id: row.worker_id,
            cycle_number: row.cycle_number,
            trace_id: row.trace_id,
            span_id: row.span_id,
            metadata: row.metadata,
            ingested_at: clock::from_micros(row.ingested_at),
            arrival: row.arrival,
        }
    }
}
