//! Rows are read back from Postgres as from the embedded file: each filter, the newest row of each
//! source, and what has arrived since.

use dogwatch::clock::{self, Time};
use dogwatch::fleet::ids::{TaskId, WorkerId};
use dogwatch::store::postgres::PostgresStore;
use dogwatch::store::sqlite::TimeSource;
use dogwatch::store::{LogQuery, LogRow, STRAY_ROWS_MAX, Store, StoreError, StrayRows};
use dogwatch::telemetry::exporter::postgres::Address;

use super::migrations::fresh;
use crate::postgres_rig::{Cluster, Database, until};

struct Reader {
    runtime: tokio::runtime::Runtime,
    store: PostgresStore,
}

impl Reader {
    fn of(database: &Database) -> Reader {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = Address::parse(&database.url()).unwrap();
        let store = runtime.block_on(async { PostgresStore::new(&address, TimeSource::Database) });
        Reader { runtime, store }
    }

    fn rows(&self, query: LogQuery) -> Vec<LogRow> {
        self.runtime.block_on(self.store.logs(&query)).unwrap()
    }

    /// The messages that a query finds, in its order.
    fn texts(&self, query: LogQuery) -> String {
        let rows = self.rows(query);
        rows.iter().map(|row| row.message.as_str()).collect::<Vec<_>>().join(" ")
    }
}

const TASK: &str = "11111111-2222-3333-4444-555555555555";

fn filled() -> Database {
    let database = fresh();
    database.run(&format!(
        "insert into system_logs (timestamp, source_type, source_id, log_level, message, task_id, worker_id,
             cycle_number, trace_id, span_id, metadata) values
         (now() - interval '4 minutes', 'worker', 'gpu-1', 'DEBUG', 'one', '{TASK}', 'gpu-1', null, null, null, '{{}}'),
         (now() - interval '3 minutes', 'worker', 'gpu-2', 'INFO', 'Two', null, 'gpu-2', 7, null, null, '{{\"a\": [1.5]}}'),
         (now() - interval '2 minutes', 'orchestrator_gpu', 'o', 'ERROR', 'three', null, null, 7,
             repeat('ab', 16), repeat('cd', 8), '{{}}'),
         (now() - interval '1 minute', 'orchestrator_gpu', 'o', 'CRITICAL', 'four', null, null, 8, null, null, '{{}}')"
    ));
    database
}

#[test]
fn every_filter_of_a_query_filters() {
    let reader = Reader::of(&filled());
    let none = LogQuery::default;
    assert_eq!(reader.texts(none()), "one Two three four");
    assert_eq!(reader.texts(LogQuery { limit: 2, ..none() }), "three four");
    let ago = |seconds| Some(clock::minus(clock::now(), std::time::Duration::from_secs(seconds)));
    assert_eq!(reader.texts(LogQuery { since: ago(200), until: ago(90), ..none() }), "Two three");
    for (level, expected) in [("info", "Two three four"), ("error", "three four"), ("critical", "four")] {
        assert_eq!(reader.texts(LogQuery { level: Some(level.into()), ..none() }), expected);
    }
    assert_eq!(reader.texts(LogQuery { source_id: Some("o".into()), ..none() }), "three four");
    assert_eq!(reader.texts(LogQuery { source_type: Some("worker".into()), ..none() }), "one Two");
    assert_eq!(reader.texts(LogQuery { worker: Some(WorkerId("gpu-2".into())), ..none() }), "Two");
    assert_eq!(reader.texts(LogQuery { task: Some(TaskId(TASK.parse().unwrap())), ..none() }), "one");
    assert_eq!(reader.texts(LogQuery { cycle: Some(7), ..none() }), "Two three");
    assert_eq!(reader.texts(LogQuery { trace: Some("AB".repeat(16)), ..none() }), "three");
    assert_eq!(reader.texts(LogQuery { grep: Some("tW".into()), ..none() }), "Two");
    let two = &reader.rows(LogQuery { cycle: Some(7), ..none() })[0];
    assert_eq!((two.metadata.clone(), two.log_level.as_str()), (serde_json::json!({"a": [1.5]}), "INFO"));
    let age = |time: Time| clock::age(clock::now(), time).as_secs();
    assert!((180..240).contains(&age(two.timestamp)) && age(two.ingested_at) < 60, "{two:?}");
    let three = &reader.rows(LogQuery { trace: Some("ab".repeat(16)), ..none() })[0];
    assert_eq!(three.span_id.as_deref(), Some("cdcdcdcdcdcdcdcd"));
}

#[test]
fn who_follows_gets_what_arrives_whatever_its_time() {
    let database = filled();
    let reader = Reader::of(&database);
    let last = reader.rows(LogQuery::default()).iter().map(|row| row.arrival).max();
    database.run(
        "insert into system_logs (timestamp, source_type, source_id, log_level, message)
         values (now() - interval '3 days', 'worker', 'gpu-1', 'INFO', 'late'),
                (now(), 'worker', 'gpu-1', 'INFO', 'new')",
    );
    let query = || LogQuery { after_arrival: last, ..LogQuery::default() };
    until("the rows that arrived", || reader.texts(query()) == "late new");
}

#[test]
fn rows_outside_of_every_partition_are_counted_up_to_a_limit() {
    let database = fresh();
    let reader = Reader::of(&database);
    let strays = || reader.runtime.block_on(reader.store.stray_rows()).unwrap();
    assert_eq!(strays(), StrayRows::default());
    let insert = |rows: u64, ago: u64| {
        database.run(&format!(
            "insert into system_logs (timestamp, ingested_at, source_type, source_id, log_level, message)
             select now() - interval '400 days' - n * interval '1 second', now() - interval '{ago} minutes',
                 'worker', 'gpu-1', 'INFO', 'far off' from generate_series(1, {rows}) n"
        ));
    };
    insert(3, 90);
    insert(2, 5);
    let found = strays();
    let age = found.first_arrived.map(|at| clock::age(clock::now(), at).as_secs() / 60);
    assert_eq!((found.rows, age), (5, Some(90)));
    insert(STRAY_ROWS_MAX, 1);
    let found = strays();
    let age = found.first_arrived.map(|at| clock::age(clock::now(), at).as_secs() / 60);
    assert_eq!((found.rows, age), (STRAY_ROWS_MAX, Some(90)));
}

#[test]
fn the_newest_row_of_each_source_is_the_one_that_came_last() {
    let database = filled();
    // A clock that ran ahead once does not hide what came after.
    database.run(
        "insert into system_logs (timestamp, ingested_at, source_type, source_id, log_level, message) values
         (now() + interval '2 days', now() - interval '50 seconds', 'worker', 'gpu-2', 'INFO', 'ahead'),
         (now() - interval '30 seconds', now(), 'worker', 'gpu-2', 'INFO', 'right again')",
    );
    let reader = Reader::of(&database);
    let newest = reader.runtime.block_on(reader.store.newest_rows()).unwrap();
    let ages: Vec<_> = newest
        .iter()
        .map(|row| (row.source_id.as_str(), clock::age(clock::now(), row.timestamp).as_secs() / 10))
        .collect();
    let (ids, ages): (Vec<_>, Vec<_>) = ages.into_iter().unzip();
    assert_eq!(ids, ["o", "gpu-1", "gpu-2"]);
    assert!(ages[0] >= 6 && ages[1] >= 24 && (3..6).contains(&ages[2]), "{ages:?}");
}

#[test]
fn a_missing_table_is_the_schemas_fault_and_a_missing_server_an_outage() {
    let reader = Reader::of(&Cluster::shared().database());
    let error = reader.runtime.block_on(reader.store.logs(&LogQuery::default())).unwrap_err();
    assert!(
        matches!(error, StoreError::Schema { .. }) && error.to_string().contains("dogwatch migrate"),
        "{error}"
    );
    let nowhere = Reader::of(&Cluster::shared().database().named("nowhere"));
    let error = nowhere.runtime.block_on(nowhere.store.newest_rows()).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}
