//! Real files: exactly once, through locks, full disks, files that are moved, damaged or foreign.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _, SqliteConnection};
use tempfile::TempDir;

use super::*;
use crate::telemetry::exporter::samples::{START_MICROS, batch, poison, stored};

const LIMIT: Duration = Duration::from_secs(20);

struct Place {
    folder: TempDir,
    exporter: SqliteExporter,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/logs.db");
    Place { exporter: SqliteExporter::new(path, Retention::default()).unwrap(), folder }
}

impl Place {
    fn export(&mut self, batch: &[Stored]) -> Result<u64, ExportError> {
        self.exporter.export(batch, now(), LIMIT).map(|exported| exported.delivered)
    }

    fn other(&self) -> Other {
        Other::open(self.exporter.path())
    }
}

/// Another process' connection to the same file.
struct Other(tokio::runtime::Runtime, SqliteConnection);

impl Other {
    fn open(path: &Path) -> Other {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let connection = runtime.block_on(options.connect()).unwrap();
        Other(runtime, connection)
    }

    fn run(&mut self, statement: &'static str) {
        self.0.block_on(self.1.execute(statement)).unwrap();
    }

    fn ask<T>(&mut self, statement: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite> + Send + Unpin,
    {
        self.0.block_on(sqlx::query_scalar(statement).fetch_one(&mut self.1)).unwrap()
    }

    fn count(&mut self) -> i64 {
        self.ask("select count(*) from system_logs")
    }
}

fn now() -> Time {
    clock::from_micros(START_MICROS + 60_000_000)
}

#[test]
fn a_batch_arrives_once_however_often_it_is_delivered() {
    let mut place = place();
    assert_eq!(place.export(&batch(0..1_000)), Ok(1_000));
    assert_eq!(place.export(&batch(0..1_000)), Ok(1_000));
    assert_eq!(place.export(&batch(990..1_010)), Ok(20));
    let mut other = place.other();
    assert_eq!(other.count(), 1_010);
    assert_eq!(other.ask::<i64>("select count(distinct id) from system_logs"), 1_010);
    let arrived: String = other
        .ask("select group_concat(message, ',') from (select message from system_logs order by arrival limit 3)");
    assert_eq!(arrived, "record 0,record 1,record 2");
    assert_eq!(other.ask::<String>("pragma journal_mode"), "wal");
}

#[test]
fn every_column_is_written() {
    let mut place = place();
    place.export(&[stored(12)]).unwrap();
    let row: String = place.other().ask(
        "select concat_ws('|', timestamp, ingested_at, source_type, source_id, log_level, message, task_id, \
         worker_id, cycle_number, trace_id, span_id, metadata, id) from system_logs_readable",
    );
    expect_test::expect![[r#"2025-10-16T17:35:31.012000Z|2025-10-16T17:36:31.000000Z|external|sample|INFO|record 12|gpu-5|1|01010101010101010101010101010101|0202020202020202|{"count":12,"target":"dogwatch::orchestrator"}|0199ee17-56c4-7000-9074-4c361c577706"#]]
    .assert_eq(&row);
}

#[test]
fn a_lock_is_an_outage_and_nothing_is_lost() {
    let mut place = place();
    place.export(&batch(0..10)).unwrap();
    let mut other = place.other();
    other.run("begin exclusive");
    let Err(ExportError::Retry { after: None, detail }) = place.export(&batch(10..20)) else {
        panic!("not a retry");
    };
    assert!(detail.contains("locked"), "{detail}");
    other.run("rollback");
    assert_eq!(place.export(&batch(10..20)), Ok(10));
    assert_eq!(other.count(), 20);
}

#[test]
fn a_lock_by_exclusive_mode_keeps_even_the_opening_out() {
    let mut place = place();
    std::fs::create_dir_all(place.exporter.path().parent().unwrap()).unwrap();
    let mut other = place.other();
    for statement in ["pragma locking_mode = exclusive", "pragma journal_mode = wal", "create table x (y)"] {
        other.run(statement);
    }
    assert!(matches!(place.export(&batch(0..10)), Err(ExportError::Retry { .. })));
    drop(other);
    // The other connection's thread closes the file in its own time.
    let delivered = (0..20).find_map(|_| place.export(&batch(0..10)).ok());
    assert_eq!(delivered, Some(10));
}

#[test]
fn an_export_is_abandoned_at_its_deadline_and_the_next_one_works() {
    let mut place = place();
    place.export(&batch(0..10)).unwrap();
    let mut other = place.other();
    other.run("begin exclusive");
    let late = place.exporter.export(&batch(10..20), now(), Duration::from_millis(20));
    assert!(matches!(late, Err(ExportError::Retry { .. })), "{late:?}");
    other.run("rollback");
    assert_eq!(place.export(&batch(10..20)), Ok(10));
    assert_eq!(other.count(), 20);
}

#[test]
fn a_full_disk_is_an_outage_and_leaves_no_half_batch() {
    let mut place = place();
    place.exporter.writer.pages_max = Some(40);
    place.export(&batch(0..20)).unwrap();
    let Err(ExportError::Retry { detail, .. }) = place.export(&batch(20..4_000)) else {
        panic!("not a retry");
    };
    assert!(detail.contains("full"), "{detail}");
    assert_eq!(place.other().count(), 20);
    place.exporter.writer.pages_max = None;
    assert_eq!(place.export(&batch(20..4_000)), Ok(3_980));
    assert_eq!(place.other().count(), 4_000);
}

fn blocked_remedy(result: Result<u64, ExportError>) -> String {
    match result {
        Err(ExportError::Blocked { remedy, .. }) => remedy,
        other => panic!("not blocked: {other:?}"),
    }
}

#[test]
fn a_file_that_is_no_database_or_from_the_future_blocks_with_a_remedy() {
    let mut place = place();
    let path = place.exporter.path().to_owned();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "this is a text of more than a hundred bytes ".repeat(10)).unwrap();
    assert!(blocked_remedy(place.export(&batch(0..1))).contains("move the file away"));

    std::fs::remove_file(&path).unwrap();
    place.other().run("pragma user_version = 99");
    assert!(blocked_remedy(place.export(&batch(0..1))).contains("use the dogwatch that made it"));

    std::fs::remove_file(&path).unwrap();
    assert_eq!(place.export(&batch(0..1)), Ok(1));
    place.other().run("drop view system_logs_readable");
    place.other().run("drop table system_logs");
    assert!(blocked_remedy(place.export(&batch(1..2))).contains("move the file away"));
}

#[test]
fn a_folder_that_cannot_be_made_blocks() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file/logs.db");
    let mut exporter = SqliteExporter::new(path, Retention::default()).unwrap();
    let result = exporter.export(&batch(0..1), now(), LIMIT).map(|exported| exported.delivered);
    assert!(blocked_remedy(result).contains("writable"));
}

#[test]
fn a_file_that_is_moved_away_is_made_again() {
    let mut place = place();
    place.export(&batch(0..10)).unwrap();
    let path = place.exporter.path().to_owned();
    let moved = place.folder.path().join("old");
    std::fs::create_dir(&moved).unwrap();
    for name in ["logs.db", "logs.db-wal", "logs.db-shm"] {
        let _ = std::fs::rename(path.with_file_name(name), moved.join(name));
    }
    assert_eq!(place.export(&batch(10..20)), Ok(10));
    assert_eq!(place.other().count(), 10);
    assert_eq!(Other::open(&moved.join("logs.db")).count(), 10);
}

#[test]
fn a_record_that_cannot_be_decoded_refuses_its_batch() {
    let mut place = place();
    assert!(matches!(place.export(&[stored(1), poison(2)]), Err(ExportError::Refused { .. })));
    assert_eq!(place.export(&[stored(1)]), Ok(1));
    assert_eq!(place.other().count(), 1);
}

#[test]
fn writers_of_one_process_and_of_two_do_not_disturb_each_other() {
    let mut place = place();
    place.export(&batch(0..1)).unwrap();
    let shared = place.exporter.writer();
    let separate = RowWriter::new(place.exporter.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let write = |writer: RowWriter, from: u64| async move {
        for start in (from..from + 1_000).step_by(100) {
            let rows = rows_of(&batch(start..start + 100)).unwrap();
            writer.insert(&rows, now()).await.unwrap();
        }
    };
    runtime.block_on(async {
        tokio::join!(write(shared.clone(), 1_000), write(shared, 2_000), write(separate, 3_000))
    });
    place.export(&batch(1..1_000)).unwrap();
    assert_eq!(place.other().count(), 4_000);
}

fn retain(place: &Place, retention: Retention, now: Time) -> Retained {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(place.exporter.writer().retain(retention, now)).unwrap()
}

#[test]
fn retention_counts_from_arrival_and_not_from_the_records_own_time() {
    let mut place = place();
    let at = |seconds| clock::plus(now(), Duration::from_secs(seconds));
    for (range, arrived) in [(4_200..5_000, 0), (0..4_200, 10), (5_000..5_100, 20)] {
        place.exporter.export(&batch(range), at(arrived), LIMIT).unwrap();
    }
    let retention = Retention { keep: Duration::from_secs(15), ..Retention::default() };
    assert_eq!(retain(&place, retention, at(15)), Retained::default());
    assert_eq!(retain(&place, retention, at(16)), Retained { expired: 800, over_size: 0, more: false });
    assert_eq!(retain(&place, retention, at(16)), Retained::default());
    assert_eq!(place.other().ask::<String>("select message from system_logs order by arrival"), "record 0");
    assert_eq!(retain(&place, retention, at(26)), Retained { expired: 4_200, over_size: 0, more: false });
    assert_eq!(place.other().count(), 100);
}

#[test]
fn retention_keeps_the_file_below_its_size_a_bounded_round_at_a_time() {
    let mut place = place();
    for start in (0..40_000).step_by(5_000) {
        place.export(&batch(start..start + 5_000)).unwrap();
    }
    let retention = Retention { bytes_max: 2 << 20, ..Retention::default() };
    let first = retain(&place, retention, now());
    assert_eq!(first, Retained { expired: 0, over_size: 20_000, more: true });
    let second = retain(&place, retention, now());
    assert!(!second.more && second.over_size > 0, "{second:?}");
    let left: i64 = place.other().count();
    assert_eq!(left, 40_000 - (first.over_size + second.over_size) as i64);
    assert_eq!(
        place.other().ask::<i64>("select max(cast(substr(message, 8) as integer)) from system_logs"),
        39_999
    );
    assert!(left > 0);
}

#[test]
fn the_exporter_retains_at_its_own_pace() {
    let folder = tempfile::tempdir().unwrap();
    let retention = Retention { keep: Duration::from_secs(10), ..Retention::default() };
    let mut exporter = SqliteExporter::new(folder.path().join("logs.db"), retention).unwrap();
    let count = |exporter: &mut SqliteExporter, at: Time| {
        exporter.maintain(at, LIMIT).unwrap();
        Other::open(exporter.path()).count()
    };
    let after = |seconds| clock::plus(now(), Duration::from_secs(seconds));
    exporter.export(&batch(0..50), now(), LIMIT).unwrap();
    exporter.export(&batch(50..100), after(5), LIMIT).unwrap();
    assert_eq!(count(&mut exporter, after(11)), 50);
    assert_eq!(count(&mut exporter, after(40)), 50);
    assert_eq!(count(&mut exporter, clock::plus(after(11), RETENTION_EVERY)), 0);
}
