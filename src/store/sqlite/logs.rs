//! `logs.db`, read only: the rows that the telemetry half has written.
//!
//! Opened when first asked for, and again after somebody has moved it away. No file, or one that
//! has no table yet, has no rows; a locked one is `Unavailable`, and a cycle goes on with the
//! newest rows it saw before: they grow old, which is what silence looks like.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{ConnectOptions as _, QueryBuilder};
use tokio::sync::Mutex;

use super::fault::Fault;
use super::limit;
use super::rows::Values;
use crate::clock::Time;
use crate::store::log_rows::{LogReader, Read, levels_from};
use crate::store::{LogQuery, LogRow, Result};

/// The file's name in the data folder.
const LOGS_FILE: &str = "logs.db";
/// How long a read waits for a lock; a cycle must not wait long for its logs.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a read waits for a connection of this process.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections a process.
const READERS_MAX: u32 = 2;
/// Most sources whose newest rows are read.
const SOURCES_MAX: i64 = 10_000;
/// Rows at the end that are looked at, too: a clock that ran ahead once would otherwise hide all
/// that its source has said since.
const TAIL_ROWS: i64 = 2_000;

/// The log file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    pool: SqlitePool,
    /// Device and inode: the file that the pool reads.
    file: (u64, u64),
}

impl LogFile {
    pub(super) fn new(data_dir: &Path) -> LogFile {
        LogFile { path: data_dir.join(LOGS_FILE), open: Mutex::new(None) }
    }

    /// The file's connections; None: there is no file, or nothing in it yet.
    async fn pool(&self) -> std::result::Result<Option<SqlitePool>, Fault> {
        let file = std::fs::metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        let mut open = self.open.lock().await;
        if open.as_ref().map(|open| open.file) != file
            && let Some(moved) = open.take()
        {
            moved.pool.close().await;
        }
        let Some(file) = file else { return Ok(None) };
        if let Some(open) = open.as_ref() {
            return Ok(Some(open.pool.clone()));
        }
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("query_only", "on")
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await?;
        let table =
            sqlx::query("select 1 from sqlite_master where name = 'system_logs'").fetch_optional(&pool).await?;
        if table.is_none() {
            pool.close().await;
            return Ok(None);
        }
        *open = Some(Open { pool: pool.clone(), file });
        Ok(Some(pool))
    }
}

#[async_trait]
impl LogReader for LogFile {
    async fn query(&self, query: &LogQuery) -> Result<Read> {
        let levels = query.level.as_deref().map(levels_from).transpose()?;
        let read = async {
            let Some(pool) = self.pool().await? else { return Ok(Vec::new()) };
            let rows = select(query, levels.as_deref()).build().fetch_all(&pool).await?;
            rows.iter().map(log_row).collect::<std::result::Result<Vec<_>, Fault>>()
        };
        let mut rows: Vec<LogRow> = read.await.map_err(|fault| fault.store("read logs"))?;
        if query.after_arrival.is_none() {
            rows.reverse();
        }
        Ok(Read::of_fleet(rows))
    }

    async fn newest(&self) -> Result<Read> {
        let read = async {
            let Some(pool) = self.pool().await? else { return Ok(Vec::new()) };
            let rows = sqlx::query(NEWEST).bind(SOURCES_MAX).bind(TAIL_ROWS).fetch_all(&pool).await?;
            rows.iter().map(log_row).collect::<std::result::Result<Vec<_>, Fault>>()
        };
        Ok(Read::of_fleet(read.await.map_err(|fault| fault.store("read the newest logs"))?))
    }

    async fn close(&self) {
        if let Some(open) = self.open.lock().await.take() {
            open.pool.close().await;
        }
    }
}

/// Per source, the row that arrived last among its newest by its own clock and the file's tail.
/// The sources are found by skipping through the index, not by reading it.
const NEWEST: &str = "
with recursive sources (source_type, source_id) as (
    select * from (select source_type, source_id from system_logs order by source_type, source_id limit 1)
    union all
    select n.source_type, n.source_id
    from sources s
    join system_logs n on n.arrival = (
        select m.arrival from system_logs m
        where (m.source_type, m.source_id) > (s.source_type, s.source_id)
        order by m.source_type, m.source_id limit 1)
    limit ?1
),
newest (arrival) as (
    select (select arrival from system_logs r
            where r.source_type = s.source_type and r.source_id = s.source_id
            order by r.timestamp desc limit 1)
    from sources s
    union all
    select max(arrival) from (select arrival, source_type, source_id from system_logs order by arrival desc limit ?2)
    group by source_type, source_id
)
select l.*, max(l.arrival) from newest n join system_logs l on l.arrival = n.arrival
group by l.source_type, l.source_id";

/// The statement; a condition that was not asked for is not in it, so that an index can be used.
fn select<'a>(query: &'a LogQuery, levels: Option<&'a [&'static str]>) -> QueryBuilder<sqlx::Sqlite> {
    let mut sql = QueryBuilder::new("select * from system_logs where true");
    let micros = |time: Time| time.as_microsecond();
    if let Some(since) = query.since {
        sql.push(" and timestamp >= ").push_bind(micros(since));
    }
    if let Some(until) = query.until {
        sql.push(" and timestamp < ").push_bind(micros(until));
    }
    if let Some(levels) = levels {
        sql.push(" and log_level in (");
        let mut words = sql.separated(", ");
        for level in levels {
            words.push_bind(*level);
        }
        sql.push(")");
    }
    let equal = [
        (" and source_id = ", query.source_id.clone()),
        (" and source_type = ", query.source_type.clone()),
        (" and worker_id = ", query.worker.as_ref().map(|worker| worker.0.clone())),
        (" and task_id = ", query.task.map(|task| task.to_string())),
        (" and trace_id = ", query.trace.as_ref().map(|trace| trace.to_lowercase())),
    ];
    for (column, value) in equal {
        if let Some(value) = value {
            sql.push(column).push_bind(value);
        }
    }
    if let Some(cycle) = query.cycle {
        sql.push(" and cycle_number = ").push_bind(cycle);
    }
    if let Some(text) = &query.grep {
        sql.push(" and instr(lower(message), lower(").push_bind(text.clone()).push(")) > 0");
    }
    match query.after_arrival {
        Some(arrival) => sql.push(" and arrival > ").push_bind(arrival).push(" order by arrival limit "),
        None => sql.push(" order by timestamp desc, arrival desc limit "),
    };
    sql.push_bind(limit(query.limit));
    sql
}

fn log_row(row: &SqliteRow) -> std::result::Result<LogRow, Fault> {
    let row = Values("system_logs", row);
    Ok(LogRow {
        id: row.uuid("id")?,
        timestamp: row.time("timestamp")?,
        source_type: row.text("source_type")?,
        source_id: row.text("source_id")?,
        log_level: row.text("log_level")?,
        message: row.text("message")?,
        task_id: row.text_opt("task_id")?,
        worker_id: row.text_opt("worker_id")?,
        cycle_number: row.int_opt("cycle_number")?,
        trace_id: row.text_opt("trace_id")?,
        span_id: row.text_opt("span_id")?,
        metadata: row.json("metadata")?,
        ingested_at: row.time("ingested_at")?,
        arrival: row.int("arrival")?,
    })
}

#[cfg(test)]
mod tests;
