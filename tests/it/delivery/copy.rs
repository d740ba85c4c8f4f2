//! COPY, by which rows go in where none can have been written before: it writes what INSERT writes, and
//! where it does not do, INSERT does it. Sequences count the statements of either kind, those included
//! that were taken back.

use std::time::Duration;

use dogwatch::clock;
use dogwatch::telemetry::exporter::ExportError;
use dogwatch::telemetry::exporter::postgres::{Address, Inserted, PgWriter};
use dogwatch::telemetry::record::Level;
use dogwatch::telemetry::row::Row;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use uuid::Uuid;

use super::scene::{Scene, migrated};
use crate::postgres_rig::{Cluster, Database, Durability, PASSWORD, until};

const LIMIT: Duration = Duration::from_secs(30);
/// All but the two that the database gives a row itself, and metadata as it is stored.
const COLUMNS: &str = "timestamp, id, source_type, source_id, log_level, message, task_id, worker_id, cycle_number, \
                       trace_id, span_id, metadata::text";

/// From here on statements that write rows are counted.
pub(super) fn count_ways(database: &Database) {
    database.run(
        "create sequence copies; create sequence inserts;
         create function count_way() returns trigger language plpgsql security definer as $$ begin
             if current_query() like 'copy%' then perform nextval('public.copies');
             else perform nextval('public.inserts'); end if; return null; end $$;
         create trigger count_way before insert on system_logs for each statement execute function count_way()",
    );
}

/// Statements that wrote rows, or tried to: by COPY, by INSERT.
pub(super) fn ways(database: &Database) -> (u64, u64) {
    let last =
        |name| database.ask(&format!("select coalesce(pg_sequence_last_value('{name}'), 0)")).parse().unwrap();
    (last("copies"), last("inserts"))
}

/// A writer, and what drives it.
struct Writing {
    runtime: tokio::runtime::Runtime,
    writer: PgWriter,
}

impl Writing {
    fn to(database: &Database) -> Writing {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Writing { runtime, writer: PgWriter::new(Address::parse(&database.url()).unwrap()) }
    }

    fn insert(&self, rows: &[Row]) -> Result<Inserted, ExportError> {
        self.insert_within(rows, LIMIT)
    }

    fn insert_within(&self, rows: &[Row], limit: Duration) -> Result<Inserted, ExportError> {
        let insert = async { tokio::time::timeout(LIMIT, self.writer.insert(rows, limit)).await };
        self.runtime.block_on(insert).unwrap()
    }

    /// Writes rows that are not there: after this the next are expected to be so, too.
    fn begin(&self) {
        let inserted = self.insert(&rows(900_000..900_010)).unwrap();
        assert_eq!(inserted, Inserted { received: 10, inserted: 10 });
    }
}

/// Rows of today with the messages `row <n>`.
fn rows(numbers: std::ops::Range<u128>) -> Vec<Row> {
    let timestamp = clock::now().as_microsecond();
    numbers.map(|n| Row { id: Uuid::from_u128(n), message: format!("row {n}"), ..row(timestamp) }).collect()
}

fn row(timestamp: i64) -> Row {
    Row {
        id: Uuid::nil(),
        timestamp,
        source_type: "external".into(),
        source_id: "app".into(),
        log_level: Level::Info,
        message: String::new(),
        task_id: None,
        worker_id: None,
        cycle_number: None,
        trace_id: None,
        span_id: None,
        metadata: json!({}),
    }
}

/// Any text that a row can have: there is no NUL in one.
fn any_text() -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        "\\PC{0,20}",
        Just("\\N\t\r\n\\.\"'\u{1}\u{7f}".to_owned()),
        Just("🐕‍🦺é\u{202e}\u{ffff}".to_owned())
    ];
    prop_oneof![
        8 => proptest::collection::vec(any::<char>(), 0..30)
            .prop_map(|chars| chars.into_iter().filter(|c| *c != '\0').collect()),
        8 => odd,
        1 => Just("long ".repeat(20_000)),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        any_text().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((any_text(), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn any_row() -> impl Strategy<Value = Row> {
    let time = prop_oneof![any::<i64>(), 0..4_000_000_000_000_000i64, Just(i64::MIN), Just(i64::MAX), Just(0)];
    let level = proptest::sample::select(Level::ALL.to_vec());
    let may = |text: proptest::strategy::BoxedStrategy<String>| proptest::option::of(text);
    (
        (any::<u128>(), time, any_text(), any_text(), level, any_text()),
        (proptest::option::of(any::<u128>()), may(any_text().boxed()), proptest::option::of(any::<i64>())),
        (may("[0-9a-f]{32}".boxed()), may("[0-9a-f]{16}".boxed()), any_json()),
    )
        .prop_map(
            |((id, timestamp, source_type, source_id, log_level, message), of, (trace_id, span_id, more))| Row {
                id: Uuid::from_u128(id),
                timestamp,
                // It stands in an index.
                source_type: source_type.chars().take(60).collect(),
                source_id: source_id.chars().take(60).collect(),
                log_level,
                message,
                task_id: of.0.map(Uuid::from_u128),
                worker_id: of.1.map(|id| id.chars().take(60).collect()),
                cycle_number: of.2,
                trace_id,
                span_id,
                metadata: json!({ "more": more }),
            },
        )
}

#[test]
fn it_writes_what_an_insert_writes() {
    let database = migrated(Cluster::shared());
    count_ways(&database);
    let mut runner = TestRunner::deterministic();
    let rows: Vec<Row> = (0..600).map(|_| any_row().new_tree(&mut runner).unwrap().current()).collect();
    let writing = Writing::to(&database);
    writing.begin();
    database.run("truncate system_logs");
    let all_new = Ok(Inserted { received: 600, inserted: 600 });
    assert_eq!((writing.insert(&rows), ways(&database)), (all_new.clone(), (1, 1)));
    database.run("create table by_copy as select * from system_logs; truncate system_logs");
    assert_eq!((Writing::to(&database).insert(&rows), ways(&database)), (all_new, (1, 2)));
    let different = |one: &str, other: &str| {
        database.ask(&format!("select {COLUMNS} from {one} except select {COLUMNS} from {other} limit 3"))
    };
    assert_eq!(different("by_copy", "system_logs"), "");
    assert_eq!(different("system_logs", "by_copy"), "");
    let same_order = "select array_agg(id order by arrival) from";
    assert_eq!(database.ask(&format!("{same_order} by_copy")), database.ask(&format!("{same_order} system_logs")));
}

#[test]
fn a_row_that_is_there_in_the_middle_of_a_batch_is_left_as_it_is() {
    let database = migrated(Cluster::shared());
    count_ways(&database);
    let (writing, rows) = (Writing::to(&database), rows(0..9_000));
    Writing::to(&database).insert(&rows[2_500..2_501]).unwrap();
    database.run("update system_logs set message = 'as it was'");
    writing.begin();
    assert_eq!(writing.insert(&rows[..5_000]), Ok(Inserted { received: 5_000, inserted: 4_999 }));
    // Two INSERTs before it; the failed COPY; two more for so large a batch.
    assert_eq!((ways(&database), database.count("system_logs")), ((1, 4), 5_010));
    assert_eq!(database.count("system_logs where message = 'as it was'"), 1);
    // One batch without a row that was there, and it is COPY again.
    assert_eq!(writing.insert(&rows[5_000..6_000]), Ok(Inserted { received: 1_000, inserted: 1_000 }));
    assert_eq!(writing.insert(&rows[6_000..]), Ok(Inserted { received: 3_000, inserted: 3_000 }));
    assert_eq!((ways(&database), database.count("system_logs")), ((2, 5), 9_010));
}

#[test]
fn a_poison_row_in_a_batch_is_set_aside_alone() {
    let database = migrated(Cluster::shared());
    count_ways(&database);
    let mut scene = Scene::new(&database);
    scene.send(1_000);
    scene.delivered();
    scene.send(1_000);
    scene.delivered();
    let before = ways(&database);
    assert!(before.0 > 0, "{before:?}");
    database.run("alter table system_logs add constraint nobody check (message <> 'record 2700')");
    scene.send(1_500);
    scene.delivered();
    let tried = ways(&database);
    assert!(tried.0 > before.0, "none of it by COPY: {before:?} {tried:?}");
    assert_eq!(scene.facts().quarantined, 1);
    assert_eq!(database.count("system_logs where message like 'record %'"), 3_499);
    // The way of the rows after it is COPY.
    scene.send(500);
    scene.delivered();
    scene.send(500);
    scene.delivered();
    assert!(ways(&database).0 > tried.0, "{tried:?}");
    assert_eq!(scene.end().quarantined, 1);
}

#[test]
fn what_it_refuses_is_refused_as_by_an_insert() {
    let database = migrated(Cluster::shared());
    count_ways(&database);
    let text = |message: &str| vec![Row { message: message.into(), ..row(0) }];
    let metadata = |value: Value| vec![Row { metadata: value, ..row(0) }];
    database.run("alter table system_logs add constraint nobody check (message <> 'poison')");
    for (rows, said) in [
        (text("\0"), "invalid byte sequence"),
        (metadata(json!({"a": "\0"})), "unsupported Unicode escape sequence"),
        (text("poison"), "violates check constraint"),
    ] {
        let writing = Writing::to(&database);
        let by_insert = writing.insert(&rows).unwrap_err();
        writing.begin();
        let before = ways(&database).0;
        let by_copy = writing.insert(&rows).unwrap_err();
        assert_eq!(ways(&database).0, before + 1, "{said}");
        assert_eq!(by_copy, by_insert);
        assert!(matches!(&by_copy, ExportError::Refused { detail } if detail.contains(said)), "{by_copy:?}");
        database.run("truncate system_logs");
    }
}

#[test]
fn under_row_level_security_it_is_an_insert_for_as_long_as_the_connection_lasts() {
    let cluster = Cluster::start(Durability::Relaxed);
    let database = migrated(&cluster);
    count_ways(&database);
    database.run(&format!(
        "create role writer login password '{PASSWORD}';
         grant insert, select on public.system_logs to writer;
         grant usage on sequence dogwatch.system_logs_arrival to writer;
         grant execute on function public.dw_maintain_system_logs() to writer;
         create policy rows_of_writer on public.system_logs to writer using (true) with check (true)"
    ));
    let mut scene = Scene::at(&database, &database.url_of("writer"));
    for _ in 0..6 {
        scene.send(200);
        scene.delivered();
    }
    let (copies, inserts) = ways(&database);
    assert!(copies == 0 && inserts >= 6, "{copies} {inserts}");
    let refused = cluster.log().matches("COPY FROM not supported with row-level security").count();
    assert_eq!(refused, 1, "{}", cluster.log());
    assert_eq!((scene.facts().retries, scene.facts().quarantined, scene.end().pending), (0, 0, 0));
}

#[test]
fn a_column_of_another_type_is_an_inserts() {
    let database = migrated(Cluster::shared());
    count_ways(&database);
    database.run("alter table system_logs alter column cycle_number type int");
    let writing = Writing::to(&database);
    writing.begin();
    let rows: Vec<Row> = rows(0..3_000).into_iter().map(|row| Row { cycle_number: Some(7), ..row }).collect();
    for batch in rows.chunks(1_000) {
        assert_eq!(writing.insert(batch), Ok(Inserted { received: 1_000, inserted: 1_000 }));
    }
    assert_eq!((ways(&database), database.count("system_logs where cycle_number = 7")), ((1, 4), 3_000));
}

#[test]
fn a_trigger_that_says_much_holds_nothing_up() {
    let database = migrated(Cluster::shared());
    database.run(
        "create function speak() returns trigger language plpgsql as $$ begin
             raise notice '%', repeat('much ', 4000); return new; end $$;
         create trigger speak before insert on system_logs for each row execute function speak()",
    );
    count_ways(&database);
    let writing = Writing::to(&database);
    writing.begin();
    let rows: Vec<Row> =
        rows(0..2_000).into_iter().map(|row| Row { metadata: json!("wide ".repeat(2_000)), ..row }).collect();
    assert_eq!(writing.insert(&rows), Ok(Inserted { received: 2_000, inserted: 2_000 }));
    assert_eq!(ways(&database), (1, 1));
}

#[test]
fn it_ends_by_the_databases_own_limit() {
    let database = migrated(Cluster::shared());
    let writing = Writing::to(&database);
    writing.begin();
    sleep_at(&database, "row 3", 60);
    let error = writing.insert_within(&rows(0..10), Duration::from_secs(2)).unwrap_err();
    assert!(
        matches!(&error, ExportError::Retry { detail, .. } if detail.contains("statement timeout")),
        "{error:?}"
    );
    assert_eq!(database.count("system_logs"), 10);
}

#[test]
fn dropped_half_way_it_takes_everything_back() {
    let database = migrated(Cluster::shared());
    count_ways(&database);
    let (writing, rows) = (Writing::to(&database), rows(0..4_000));
    writing.begin();
    sleep_at(&database, "row 2000", 3);
    let at_work =
        "pg_stat_activity where datname = current_database() and query like 'copy%' and wait_event = 'PgSleep'";
    writing.runtime.block_on(async {
        let began = async {
            while database.count(at_work) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = began => {}
            inserted = writing.writer.insert(&rows[..], LIMIT) => panic!("it slept not: {inserted:?}"),
        }
    });
    database.run("drop function sleep_at cascade");
    until("the end of the one that was left", || database.count(at_work) == 0);
    assert_eq!(database.count("system_logs"), 10);
    assert_eq!(writing.insert(&rows), Ok(Inserted { received: 4_000, inserted: 4_000 }));
    assert_eq!((ways(&database).0, database.count("system_logs")), (1, 4_010));
}

/// The row with that message takes so long.
fn sleep_at(database: &Database, message: &str, seconds: u32) {
    database.run(&format!(
        "create function sleep_at() returns trigger language plpgsql as $$ begin
             if new.message = '{message}' then perform pg_sleep({seconds}); end if; return new; end $$;
         create trigger sleep_at before insert on system_logs for each row execute function sleep_at()"
    ));
}
