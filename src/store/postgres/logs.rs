//! `system_logs` in Postgres, read only: the rows that the telemetry half has written.
//!
//! A database that does not answer is `Unavailable`, and a cycle goes on with the newest rows it saw
//! before: they grow old, which is what silence looks like. Each read is a short transaction of its
//! own, so that poolers in transaction mode work.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgPool, PgPoolOptions, PgRow, Postgres};
use sqlx::{QueryBuilder, Row as _};

use crate::clock::{self, Time};
use crate::store::log_rows::{LogReader, Read, levels_from};
use crate::store::{LogQuery, LogRow, READ_ROWS_MAX, Result, STRAY_ROWS_MAX, StoreError, StrayRows};
use crate::telemetry::exporter::postgres::{Address, PgTime};
use crate::telemetry::record::Level;

/// Longest time of a read that somebody waits for.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Longest time of the read that a cycle waits for.
const NEWEST_LIMIT: Duration = Duration::from_secs(3);
/// Connections a process.
const READERS_MAX: u32 = 2;
/// Most sources whose newest rows are read.
const SOURCES_MAX: i64 = 10_000;
/// Rows at the end that are looked at, too: a clock that ran ahead once would otherwise hide all
/// that its source has said since.
const TAIL_ROWS: i64 = 2_000;
/// A reader who follows stays this far behind: a row gets its place in the order of arrival before
/// others can see it.
const FOLLOW_LAG_SECONDS: f64 = 2.0;

const COLUMNS: &str = "id, (extract(epoch from timestamp) * 1000000)::bigint as timestamp, source_type, \
    source_id, log_level, message, task_id::text as task_id, worker_id, cycle_number, trace_id, span_id, \
    metadata::text as metadata, (extract(epoch from ingested_at) * 1000000)::bigint as ingested_at, arrival";

/// The log table.
#[derive(Debug)]
pub(super) struct Table(PgPool);

impl Table {
    /// A reader of the database at `address`; nothing is connected yet.
    pub(super) fn new(address: &Address) -> Table {
        Table(
            PgPoolOptions::new()
                .max_connections(READERS_MAX)
                .acquire_timeout(NEWEST_LIMIT)
                .connect_lazy_with(address.options()),
        )
    }

    async fn read(&self, doing: &'static str, limit: Duration, sql: QueryBuilder<Postgres>) -> Result<Vec<LogRow>> {
        let rows = self.read_rows(doing, limit, sql).await?;
        rows.iter().map(|row| log_row(row).map_err(|error| bad_row(&error))).collect()
    }

    async fn read_rows(
        &self,
        doing: &'static str,
        limit: Duration,
        mut sql: QueryBuilder<Postgres>,
    ) -> Result<Vec<PgRow>> {
        let read = async {
            let mut transaction = self.0.begin_with("begin read only").await?;
            let rows = sql.build().persistent(false).fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        match tokio::time::timeout(limit, read).await {
            Ok(rows) => rows.map_err(|error| store_error(error, doing)),
            Err(late) => Err(StoreError::Unavailable { doing, source: Box::new(late) }),
        }
    }
}

#[async_trait]
impl LogReader for Table {
    async fn query(&self, query: &LogQuery) -> Result<Read> {
        let levels = query.level.as_deref().map(levels_from).transpose()?;
        let mut rows = self.read("read logs", READ_LIMIT, select(query, levels.as_deref())).await?;
        if query.after_arrival.is_none() {
            rows.reverse();
        }
        Ok(Read::of_fleet(rows))
    }

    async fn newest(&self) -> Result<Read> {
        Ok(Read::of_fleet(self.read("read the newest logs", NEWEST_LIMIT, newest()).await?))
    }

    async fn strays(&self) -> Result<StrayRows> {
        let rows = self.read_rows("read the DEFAULT partition", NEWEST_LIMIT, strays()).await?;
        let bad = |error| bad_row(&error);
        let Some(row) = rows.first() else { return Ok(StrayRows::default()) };
        let (count, first): (i64, Option<i64>) =
            (row.try_get("rows").map_err(bad)?, row.try_get("first_arrived").map_err(bad)?);
        Ok(StrayRows { rows: count.unsigned_abs(), first_arrived: first.map(clock::from_micros) })
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

fn bad_row(error: &sqlx::Error) -> StoreError {
    StoreError::BadRow { what: "a row of system_logs".to_owned(), detail: error.to_string() }
}

fn store_error(error: sqlx::Error, doing: &'static str) -> StoreError {
    match error.as_database_error().and_then(|error| error.code()) {
        Some(code) if code.starts_with("42") && code != "42501" || code == "3F000" => {
            StoreError::Schema { detail: error.to_string() }
        }
        _ => StoreError::Unavailable { doing, source: Box::new(error) },
    }
}

/// Per source, the row that arrived last among its newest by its own clock and the table's tail.
/// The sources are found by skipping through the index, not by reading it.
fn newest() -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(
        "with recursive sources as (
            (select source_type, source_id from public.system_logs order by source_type, source_id limit 1)
            union all
            select n.source_type, n.source_id from sources s cross join lateral (
                select l.source_type, l.source_id from public.system_logs l
                where (l.source_type, l.source_id) > (s.source_type, s.source_id)
                order by l.source_type, l.source_id limit 1) n),
        newest as (
            select r.* from (select * from sources limit ",
    );
    sql.push_bind(SOURCES_MAX);
    sql.push(
        ") s cross join lateral (
                select * from public.system_logs l
                where l.source_type = s.source_type and l.source_id = s.source_id
                order by l.timestamp desc limit 1) r
            union all
            select * from public.system_logs
            where arrival > (select last_value from dogwatch.system_logs_arrival) - ",
    );
    sql.push_bind(TAIL_ROWS);
    sql.push(") select distinct on (source_type, source_id) ").push(COLUMNS);
    sql.push(" from newest n order by n.source_type, n.source_id, n.arrival desc");
    sql
}

/// How many rows the DEFAULT partition has, and when the first of them arrived. Where there are very
/// many, the first that it comes upon count: they lie in the order in which they came.
fn strays() -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(
        "select count(*) as rows, (extract(epoch from min(ingested_at)) * 1000000)::bigint as first_arrived
         from (select ingested_at from dogwatch.system_logs_default limit ",
    );
    sql.push_bind(i64::try_from(STRAY_ROWS_MAX).unwrap_or(i64::MAX)).push(") found");
    sql
}

/// The statement; a condition that was not asked for is not in it, so that an index can be used.
fn select(query: &LogQuery, levels: Option<&[&'static str]>) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new("select ");
    sql.push(COLUMNS).push(" from public.system_logs l where true");
    let time = |time: Time| PgTime(time.as_microsecond());
    if let Some(since) = query.since {
        sql.push(" and l.timestamp >= ").push_bind(time(since));
    }
    if let Some(until) = query.until {
        sql.push(" and l.timestamp < ").push_bind(time(until));
    }
    match levels {
        None => {}
        // As the partial index of errors has it.
        Some(levels) if levels.first() == Some(&Level::Error.word()) => {
            sql.push(" and l.log_level in ('ERROR', 'CRITICAL')");
        }
        Some(levels) => {
            let words: Vec<String> = levels.iter().map(|word| (*word).to_owned()).collect();
            sql.push(" and l.log_level = any(").push_bind(words).push(")");
        }
    }
    let equal = [
        (" and l.source_id = ", query.source_id.clone()),
        (" and l.source_type = ", query.source_type.clone()),
        (" and l.worker_id = ", query.worker.as_ref().map(|worker| worker.0.clone())),
        (" and l.trace_id = ", query.trace.as_ref().map(|trace| trace.to_lowercase())),
    ];
    for (column, value) in equal {
        if let Some(value) = value {
            sql.push(column).push_bind(value);
        }
    }
    if let Some(task) = query.task {
        sql.push(" and l.task_id = ").push_bind(task.0);
    }
    if let Some(cycle) = query.cycle {
        sql.push(" and l.cycle_number = ").push_bind(cycle);
    }
    if let Some(text) = &query.grep {
        sql.push(" and position(lower(").push_bind(text.clone()).push(") in lower(l.message)) > 0");
    }
    match query.after_arrival {
        Some(arrival) => {
            sql.push(" and l.arrival > ").push_bind(arrival);
            sql.push(" and l.ingested_at <= now() - interval '1 second' * ").push_bind(FOLLOW_LAG_SECONDS);
            sql.push(" order by l.arrival limit ");
        }
        None => {
            sql.push(" order by l.timestamp desc, l.arrival desc limit ");
        }
    }
    let limit = if query.limit == 0 { READ_ROWS_MAX } else { query.limit.min(READ_ROWS_MAX) };
    sql.push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    sql
}

fn log_row(row: &PgRow) -> std::result::Result<LogRow, sqlx::Error> {
    let metadata: String = row.try_get("metadata")?;
    Ok(LogRow {
        id: row.try_get("id")?,
        timestamp: clock::from_micros(row.try_get("timestamp")?),
        source_type: row.try_get("source_type")?,
        source_id: row.try_get("source_id")?,
        log_level: row.try_get("log_level")?,
        message: row.try_get("message")?,
        task_id: row.try_get("task_id")?,
        worker_id: row.try_get("worker_id")?,
        cycle_number: row.try_get("cycle_number")?,
        trace_id: row.try_get("trace_id")?,
        span_id: row.try_get("span_id")?,
        metadata: serde_json::from_str(&metadata).map_err(|error| sqlx::Error::Decode(error.into()))?,
        ingested_at: clock::from_micros(row.try_get("ingested_at")?),
        arrival: row.try_get("arrival")?,
    })
}
