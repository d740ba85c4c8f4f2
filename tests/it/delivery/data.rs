//! Records that are hard to keep: from other times, of all sizes, with characters that no database
//! takes. None of them is poison.

use std::sync::Arc;
use std::time::Duration;

use dogwatch::clock;
use dogwatch::telemetry::exporter::postgres::{Address, PostgresExporter};
use dogwatch::telemetry::exporter::{Exported, Exporter as _};
use dogwatch::telemetry::record::{Kind, Level, Source, Stored};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use uuid::Uuid;

use super::scene::{Scene, migrated};
use crate::postgres_rig::Cluster;

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_clock_that_moved_loses_no_record() {
    let database = migrated(Cluster::shared());
    let mut scene = Scene::new(&database);
    let now = clock::now();
    let times = [now, clock::minus(now, DAY * 400), clock::plus(now, DAY * 3), clock::plus(now, DAY * 30_000)];
    for time in times.into_iter().chain([clock::from_micros(1), now]) {
        scene.send_at(200, time);
    }
    scene.delivered();
    assert_eq!(database.count("dogwatch.system_logs_default"), 600, "nobody's days");
    assert_eq!(scene.end().quarantined, 0);
}

#[test]
fn a_backlog_of_a_week_arrives_and_stays_as_long_as_everything_else() {
    let database = migrated(Cluster::shared());
    let mut scene = Scene::new(&database);
    for days in (0..8).rev() {
        scene.send_at(400, clock::minus(clock::now(), DAY * days));
    }
    scene.delivered();
    let maintain = |now: &str| database.ask(&format!("select dogwatch.maintain_logs({now}, '48 hours')->>'moved'"));
    // The exporter has asked for the housekeeping after its first batch, with this one's rows or not.
    maintain("now()");
    assert_eq!(database.count("dogwatch.system_logs_default"), 0);
    assert_eq!(database.count("system_logs where message like 'record %'"), 3_200);
    maintain("now() + interval '47 hours'");
    assert_eq!(scene.end().pending, 0);
}

/// Stored records of one boot, by their numbers.
fn stored(numbers: std::ops::Range<u64>) -> Vec<Stored> {
    let source = Arc::new(Source { source_type: "external".into(), source_id: "app".into(), resource: vec![] });
    let record =
        |seq| LogRecord { time_unix_nano: 1_790_000_000_000_000_000 + seq * 1_000, ..LogRecord::default() };
    let stored = |seq: u64| Stored {
        seq,
        kind: Kind::Log,
        level: Level::Info,
        source: Arc::clone(&source),
        boot: Uuid::from_u128(7),
        payload: record(seq).encode_to_vec(),
    };
    numbers.map(stored).collect()
}

#[test]
fn rows_that_are_there_already_are_left_as_they_are_whenever_they_come() {
    let database = migrated(Cluster::shared());
    let mut exporter = PostgresExporter::new(Address::parse(&database.url()).unwrap()).unwrap();
    let mut deliver = |numbers: std::ops::Range<u64>| {
        let (count, batch) = (numbers.end - numbers.start, stored(numbers));
        let exported = exporter.export(&batch, clock::now(), Duration::from_secs(30));
        assert_eq!(exported, Ok(Exported { delivered: count, rejected: 0 }));
        database.count("system_logs")
    };
    // All are new, and from here on the same is expected of the next.
    assert_eq!(deliver(0..6_000), 6_000);
    database.run("update system_logs set message = 'as it was' where message = ''");
    // It is not so in the first statement of a batch, in a later one, or in all of it.
    assert_eq!(deliver(5_999..12_000), 12_000);
    assert_eq!(deliver(17_999..18_000), 12_001);
    assert_eq!(deliver(12_000..18_000), 18_000);
    assert_eq!(deliver(18_000..20_000), 20_000);
    assert_eq!(deliver(0..20_000), 20_000);
    assert_eq!(database.count("system_logs where message = 'as it was'"), 6_000);
}
