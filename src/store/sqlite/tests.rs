//! The embedded store keeps the contract, and says what is wrong with a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::store::conformance::{Rig, START_MICROS, concurrency, cycle_record, decided};

/// A store in a folder of its own.
pub(in crate::store) async fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicI64::new(START_MICROS));
    let store = SqliteStore::open(folder.path(), TimeSource::Fixed(Arc::clone(&time))).await.unwrap();
    Rig { store: Arc::new(store), time, keep: Some(Arc::new(folder)) }
}

mod contract {

    crate::store::conformance::conformance!(crate::store::sqlite::tests::rig);
}

async fn open_error(folder: &Path) -> String {
    let error = SqliteStore::open(folder, TimeSource::Database).await.unwrap_err();
    crate::error::chain(&error)
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FLEET_FILE), vec![7_u8; 8_192]).unwrap();
    let error = open_error(folder.path()).await;
    assert!(error.contains("fleet.db") && error.contains("move the file away"), "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = open_error(&folder.path().join("file/data")).await;
    assert!(error.contains("file/data") && error.contains("DOGWATCH_DATA_DIR"), "{error}");
    std::fs::create_dir_all(folder.path().join("data").join(FLEET_FILE)).unwrap();
    let error = open_error(&folder.path().join("data")).await;
    assert!(error.contains("fleet.db") && error.contains("DOGWATCH_DATA_DIR"), "{error}");
}

#[tokio::test]
async fn a_later_schema_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path(), TimeSource::Database).await.unwrap();
    sqlx::raw_sql("pragma user_version = 99").execute(&store.writer).await.unwrap();
    store.close().await;
    let error = open_error(folder.path()).await;
    assert!(error.contains("version 99") && error.contains("at least as recent"), "{error}");
}

#[tokio::test]
async fn a_file_of_the_level_before_is_brought_up_with_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.path().join(FLEET_FILE))
        .create_if_missing(true)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
    let mut old = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    sqlx::raw_sql(include_str!("../../../migrations/sqlite/fleet/0001_fleet.sql")).execute(&mut old).await.unwrap();
    sqlx::raw_sql(
        "insert into tasks (id, task_type, params, user_id, created_at, updated_at)
         values ('00000000-0000-0000-0000-000000000001', 'command', '{}', 'ada', 1, 1);
         insert into workers (id, status, state, state_since, created_at, pool)
         values ('gpu-1', 'spawning', 'created', 1, 1, 'default');
         pragma user_version = 1;",
    )
    .execute(&mut old)
    .await
    .unwrap();
    sqlx::Connection::close(old).await.unwrap();
    let store = SqliteStore::open(folder.path(), TimeSource::Database).await.unwrap();
    let read = store.observe(std::time::Duration::from_secs(60), 5).await.unwrap();
    assert_eq!((read.workers.len(), read.demand.users[0].queued), (1, 1));
    assert!(read.orders.is_empty() && read.workers[0].cell().is_none());
}

/// A plain queue is counted from an index that holds all that is asked, not from the tasks' rows.
#[tokio::test]
async fn the_queue_is_counted_from_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path(), TimeSource::Database).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let rows = sqlx::query("explain query plan select * from dw_demand").fetch_all(tx.db()).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get::<String, _>(row, "detail")).collect();
    let of_tasks = |detail: &&String| detail.contains("COVERING INDEX tasks_plain");
    assert!(plan.iter().any(|detail| of_tasks(&detail)), "{plan:#?}");
}

#[tokio::test]
async fn what_was_answered_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let time = TimeSource::Fixed(Arc::new(AtomicI64::new(START_MICROS)));
    let task = crate::store::conformance::new_task(1, "ada");
    let store = SqliteStore::open(folder.path(), time.clone()).await.unwrap();
    store.submit(&[task]).await.unwrap();
    // A second process on the same file.
    let second = SqliteStore::open(folder.path(), time).await.unwrap();
    assert_eq!(second.tasks(&TaskFilter::default()).await.unwrap().len(), 1);
    store.close().await;
    assert_eq!(second.tasks(&TaskFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_databases_own_clock_is_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path(), TimeSource::Database).await.unwrap();
    let (before, now, after) = (clock::now(), store.now().await.unwrap(), clock::now());
    let slack = Duration::from_secs(1);
    assert!(clock::minus(before, slack) <= now && now <= clock::plus(after, slack), "{before} {now} {after}");
}

/// Refusals: one row a worker and minute, and not more than the limit.
#[tokio::test]
async fn refusals_are_one_row_a_worker_and_minute() {
    let folder = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicI64::new(START_MICROS));
    let store = SqliteStore::open(folder.path(), TimeSource::Fixed(Arc::clone(&time))).await.unwrap();
    let mut caller = rpc::Caller {
        worker_id: "x".repeat(1_000),
        worker_token: "guessed".into(),
        incarnation: uuid::Uuid::from_u128(1),
    };
    let count = async || -> i64 {
        sqlx::query_scalar("select count(*) from refusals").fetch_one(&store.readers).await.unwrap()
    };
    for _ in 0..3 {
        store.authenticate(&caller).await.unwrap_err();
        let claim = rpc::Claim { claim_id: uuid::Uuid::from_u128(1), run_type: None };
        store.claim_task(&caller, &claim, 5).await.unwrap_err();
    }
    assert_eq!(count().await, 1);
    time.fetch_add(60_000_000, Ordering::SeqCst);
    store.authenticate(&caller).await.unwrap_err();
    assert_eq!(count().await, 2);
    let fill = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 10050)
                insert into refusals select 'w' || i, i, 'f', 'DW401', 'm' from n";
    sqlx::raw_sql(fill).execute(&store.writer).await.unwrap();
    caller.worker_id = "another".into();
    store.authenticate(&caller).await.unwrap_err();
    assert_eq!(count().await, crate::store::REFUSALS_ROWS_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_limit_holds_between_processes() {
    let first = rig().await;
    let folder = first.folder();
    let store = SqliteStore::open(&folder, TimeSource::Fixed(Arc::clone(&first.time))).await.unwrap();
    let second = Rig { store: Arc::new(store), ..first.clone() };
    concurrency::clients_never_pass_the_user_limit(&[first, second]).await;
}

#[tokio::test]
async fn an_unchanged_snapshot_is_stored_once_and_old_rows_go() {
    let rig = rig().await;
    let lease = rig.lead().await;
    let database =
        SqlitePool::connect(&format!("sqlite:{}", rig.folder().join(FLEET_FILE).display())).await.unwrap();
    let count = async |table: &str| -> i64 {
        let sql = format!("select count(*) from {table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&database).await.unwrap()
    };
    for cycle in 1..=3 {
        rig.pass(Duration::from_secs(30));
        rig.commit_cycle(&lease, &cycle_record(rig.now(), cycle), &[]).await.unwrap();
    }
    assert_eq!((count("decisions").await, count("snapshots").await), (3, 1));
    let mut other = cycle_record(rig.now(), 4);
    other.snapshot.policy.max_workers = 99;
    let other = decided(4, other.snapshot);
    rig.commit_cycle(&lease, &other, &[]).await.unwrap();
    assert_eq!((count("decisions").await, count("snapshots").await), (4, 2));
    let result = ActionResult { ok: true, detail: "done".into() };
    rig.store.action_result(&lease, DecisionId(1), 0, &result).await.unwrap();
    rig.pass(Duration::from_secs(31 * 24 * 3_600));
    rig.commit_cycle(&lease, &other, &[]).await.unwrap();
    assert_eq!((count("decisions").await, count("snapshots").await, count("action_results").await), (1, 1, 0));
    assert_eq!(rig.store.decisions(None, 0).await.unwrap()[0].snapshot, other.snapshot);
}

/// An operator's tool that writes nonsense is stopped by the database, not found by a cycle.
#[tokio::test]
async fn the_schema_refuses_what_the_state_machine_forbids() {
    let rig = rig().await;
    rig.ready("gpu-1").await;
    rig.submit("ada", [1]).await;
    let database =
        SqlitePool::connect(&format!("sqlite:{}", rig.folder().join(FLEET_FILE).display())).await.unwrap();
    let refused = [
        "update workers set state = 'gone'",
        "update workers set status = 'terminated'",
        "update workers set outcome = 'planned'",
        "update workers set state = 'happy'",
        "update workers set last_heartbeat = null",
        "update tasks set status = 'Complete'",
        "update tasks set status = 'In Progress'",
        "update tasks set worker_id = 'gpu-1'",
        "update tasks set params = 'no json'",
    ];
    for sql in refused {
        let error = sqlx::raw_sql(sql).execute(&database).await.unwrap_err();
        assert!(error.to_string().contains("CHECK constraint failed"), "{sql}: {error}");
    }
}
