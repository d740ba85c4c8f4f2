//! Reading a `logs.db` that another half of the program writes.

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::clock;
use crate::fleet::ids::{TaskId, WorkerId};
use crate::store::log_rows::Logs;

/// The columns and the index that the telemetry half's migration gives the table.
const SCHEMA: &str = "
create table system_logs (
    arrival integer primary key autoincrement, timestamp integer not null, id text not null,
    ingested_at integer not null, source_type text not null, source_id text not null, log_level text not null,
    message text not null, task_id text, worker_id text, cycle_number integer, trace_id text, span_id text,
    metadata text not null
) strict;
create index system_logs_source on system_logs (source_type, source_id, timestamp);
";

struct Writer {
    folder: tempfile::TempDir,
    pool: SqlitePool,
}

impl Writer {
    async fn new() -> Writer {
        let folder = tempfile::tempdir().unwrap();
        let pool = Writer::make(folder.path()).await;
        Writer { folder, pool }
    }

    async fn make(folder: &Path) -> SqlitePool {
        let options = SqliteConnectOptions::new()
            .filename(folder.join(LOGS_FILE))
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        sqlx::raw_sql(SCHEMA).execute(&pool).await.unwrap();
        pool
    }

    /// A row of source `kind:id`, made at second `at`, arrived at second `arrived`.
    async fn row(&self, source: &str, at: i64, arrived: i64, level: &str, message: &str) {
        let (kind, id) = source.split_once(':').unwrap();
        let worker = (kind == "worker").then_some(id);
        let task = worker.map(|_| Uuid::from_u128(7).to_string());
        sqlx::query(
            "insert into system_logs (timestamp, id, ingested_at, source_type, source_id, log_level, message, task_id,
                 worker_id, cycle_number, trace_id, metadata)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )
        .bind(at * 1_000_000)
        .bind(Uuid::from_u128(at.unsigned_abs().into()).to_string())
        .bind(arrived * 1_000_000)
        .bind(kind)
        .bind(id)
        .bind(level)
        .bind(message)
        .bind(task)
        .bind(worker)
        .bind((kind == "orchestrator_gpu").then_some(at))
        .bind("0af7651916cd43dd8448eb211c80319c")
        .bind(r#"{"a":1}"#)
        .execute(&self.pool)
        .await
        .unwrap();
    }
}

fn at(second: i64) -> Time {
    clock::from_micros(second * 1_000_000)
}

#[tokio::test]
async fn no_file_and_no_table_are_no_rows() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::new(LogFile::new(folder.path()));
    assert_eq!(logs.query(&LogQuery::default()).await.unwrap().rows, []);
    assert_eq!(logs.newest().await.unwrap().rows, []);
    assert!(!folder.path().join(LOGS_FILE).exists(), "a reader makes no file");
    std::fs::write(folder.path().join(LOGS_FILE), "").unwrap();
    assert_eq!(logs.query(&LogQuery::default()).await.unwrap().rows, []);
    let _writer = Writer::make(folder.path()).await;
    assert_eq!(logs.newest().await.unwrap().rows, []);
}

#[tokio::test]
async fn rows_are_filtered_and_oldest_first() {
    let writer = Writer::new().await;
    writer.row("orchestrator_gpu:here", 3, 4, "WARNING", "cycle Took long").await;
    writer.row("worker:gpu-1", 1, 5, "DEBUG", "loading").await;
    writer.row("worker:gpu-2", 2, 6, "ERROR", "out of memory").await;
    let logs = Logs::new(LogFile::new(writer.folder.path()));
    let check = async |query: LogQuery, expected: &[i64]| {
        let rows = logs.query(&query).await.unwrap().rows;
        let seconds: Vec<i64> = rows.iter().map(|row| row.timestamp.as_second()).collect();
        assert_eq!(seconds, expected, "{query:?}");
    };
    let all = LogQuery::default;
    check(all(), &[1, 2, 3]).await;
    check(LogQuery { limit: 2, ..all() }, &[2, 3]).await;
    check(LogQuery { since: Some(at(2)), until: Some(at(3)), ..all() }, &[2]).await;
    check(LogQuery { level: Some("warn".into()), ..all() }, &[2, 3]).await;
    check(LogQuery { source_type: Some("worker".into()), ..all() }, &[1, 2]).await;
    check(LogQuery { source_id: Some("here".into()), ..all() }, &[3]).await;
    check(LogQuery { worker: Some(WorkerId("gpu-2".into())), ..all() }, &[2]).await;
    check(LogQuery { task: Some(TaskId(Uuid::from_u128(7))), ..all() }, &[1, 2]).await;
    check(LogQuery { cycle: Some(3), ..all() }, &[3]).await;
    check(LogQuery { trace: Some("0AF7651916CD43DD8448EB211C80319C".into()), ..all() }, &[1, 2, 3]).await;
    check(LogQuery { grep: Some("tOOK".into()), ..all() }, &[3]).await;
    check(LogQuery { after_arrival: Some(0), limit: 2, ..all() }, &[3, 1]).await;
    check(LogQuery { after_arrival: Some(2), ..all() }, &[2]).await;
    let row = logs.query(&LogQuery { cycle: Some(3), ..all() }).await.unwrap().rows.remove(0);
    assert_eq!((row.id, row.arrival), (Uuid::from_u128(3), 1));
    assert_eq!((row.ingested_at, row.metadata), (at(4), json!({"a": 1})));
    assert!(logs.query(&LogQuery { level: Some("loud".into()), ..all() }).await.is_err());
}

#[tokio::test]
async fn the_newest_row_of_each_source_is_the_one_that_arrived_last() {
    let writer = Writer::new().await;
    for second in 1..=5 {
        writer.row("worker:gpu-1", second, second, "INFO", "beat").await;
        writer.row("watch:here", second * 10, second, "INFO", "beat").await;
    }
    // Its clock ran ahead once.
    writer.row("worker:gpu-2", 9_000, 6, "INFO", "from the future").await;
    writer.row("worker:gpu-2", 7, 7, "INFO", "corrected").await;
    let newest = Logs::new(LogFile::new(writer.folder.path())).newest().await.unwrap().rows;
    let words: Vec<String> = newest
        .iter()
        .map(|row| format!("{}:{} {} {}", row.source_type, row.source_id, row.timestamp, row.ingested_at))
        .collect();
    assert_eq!(
        words,
        [
            "watch:here 1970-01-01T00:00:50Z 1970-01-01T00:00:05Z",
            "worker:gpu-1 1970-01-01T00:00:05Z 1970-01-01T00:00:05Z",
            "worker:gpu-2 1970-01-01T00:00:07Z 1970-01-01T00:00:07Z",
        ]
    );
}

#[tokio::test]
async fn a_locked_file_is_unavailable_and_a_cycle_keeps_what_it_saw() {
    let writer = Writer::new().await;
    writer.row("orchestrator_gpu:here", 3, 4, "INFO", "cycle").await;
    let logs = Logs::new(LogFile::new(writer.folder.path()));
    let before = logs.newest_records().await;
    assert_eq!((before.len(), before[0].cycle, before[0].timestamp), (1, Some(3), at(3)));
    logs.close().await;
    sqlx::raw_sql("pragma journal_mode = delete; pragma locking_mode = exclusive; begin exclusive")
        .execute(&writer.pool)
        .await
        .unwrap();
    let locked = logs.query(&LogQuery::default()).await;
    assert!(matches!(locked, Err(crate::store::StoreError::Unavailable { .. })), "{locked:?}");
    assert_eq!(logs.newest_records().await, before);
    sqlx::raw_sql("commit; pragma locking_mode = normal; select 1 from system_logs")
        .execute(&writer.pool)
        .await
        .unwrap();
    writer.row("orchestrator_gpu:here", 5, 6, "INFO", "cycle").await;
    assert_eq!(logs.newest_records().await[0].cycle, Some(5));
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_read_no_more() {
    let writer = Writer::new().await;
    writer.row("watch:here", 1, 1, "INFO", "old").await;
    let logs = Logs::new(LogFile::new(writer.folder.path()));
    assert_eq!(logs.query(&LogQuery::default()).await.unwrap().rows.len(), 1);
    let file = |suffix: &str| writer.folder.path().join(format!("{LOGS_FILE}{suffix}"));
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::rename(file(suffix), file(&format!("{suffix}.old")));
    }
    assert_eq!(logs.query(&LogQuery::default()).await.unwrap().rows, []);
    let folder = writer.folder.path().to_owned();
    let writer = Writer { pool: Writer::make(&folder).await, folder: writer.folder };
    writer.row("watch:here", 2, 2, "INFO", "one").await;
    writer.row("watch:here", 3, 3, "INFO", "two").await;
    assert_eq!(logs.query(&LogQuery::default()).await.unwrap().rows.len(), 2);
}
