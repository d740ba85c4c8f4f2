//! Events and spans as a host makes them, read back from the spool on disk.

mod moments;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tracing_subscriber::layer::SubscriberExt as _;
use uuid::Uuid;

use crate::telemetry::record::{Level, Source};
use crate::telemetry::row::Row;
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::repair;
use crate::telemetry::{Config, Guard, start};

const LIMIT: Duration = Duration::from_secs(10);

fn config(spool_dir: &Path) -> Config {
    let source = Source { source_type: "external".into(), source_id: "test".into(), resource: Vec::new() };
    Config {
        ring_bytes: 1 << 20,
        spool_cap_bytes: 1 << 26,
        sync_every: Duration::from_millis(10),
        heartbeat_every: Duration::from_secs(3_600),
        ..Config::new(spool_dir, source)
    }
}

/// The rows of all that is in the spools of a folder.
fn on_disk(folder: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for listed in repair::ls(&RealDisk, folder).unwrap() {
        repair::cat(&RealDisk, folder, listed.boot, &mut |stored| {
            rows.push(Row::from_stored(&stored).unwrap());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    }
    rows
}

/// Runs `emit` under a recorder and gives the rows that are on disk afterwards, heartbeats left out.
fn rows(emit: impl FnOnce(&Guard)) -> Vec<Row> {
    let folder = tempfile::tempdir().unwrap();
    let (layer, guard) = start(config(folder.path())).unwrap();
    crate::telemetry::quiet::beside_other_tests();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || emit(&guard));
    assert!(guard.flush(LIMIT));
    let mut rows = on_disk(folder.path());
    rows.retain(|row| row.message != "telemetry heartbeat");
    let _ = guard.shutdown(LIMIT);
    rows
}

struct Bomb;

impl fmt::Display for Bomb {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("planted")
    }
}

struct Talkative;

impl fmt::Display for Talkative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        tracing::info!("said while formatting");
        f.write_str("talk")
    }
}

#[test]
fn an_event_keeps_its_level_message_and_the_types_of_its_fields() {
    let rows = rows(|_| {
        tracing::warn!(count = 3, share = 0.5, on = true, name = "n", big = u64::MAX, "hello {}", 7);
    });
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].log_level, rows[0].message.as_str()), (Level::Warning, "hello 7"));
    let metadata = &rows[0].metadata;
    assert_eq!(metadata["count"], json!(3));
    assert_eq!(metadata["share"], json!(0.5));
    assert_eq!(metadata["on"], json!(true));
    assert_eq!(metadata["name"], json!("n"));
    assert_eq!(metadata["big"], json!("18446744073709551615"));
}

#[test]
fn a_panic_in_a_display_is_caught_and_said() {
    let rows = rows(|_| tracing::info!(bomb = %Bomb, "still here"));
    assert_eq!(rows[0].message, "still here");
    assert_eq!(rows[0].metadata["bomb"], json!("<panicked while it was formatted>"));
}

#[test]
fn logging_inside_a_display_does_not_recurse_and_spoils_nothing() {
    let rows = rows(|_| tracing::info!(talk = %Talkative, "outer"));
    // tracing itself gives a thread that is inside an event no subscriber for another one.
    let outer = rows.iter().find(|row| row.message == "outer").unwrap();
    assert_eq!(outer.metadata["talk"], json!("talk"));
}

#[test]
fn events_carry_their_spans_task_worker_cycle_and_trace() {
    let task = Uuid::from_u128(7);
    let rows = rows(|_| {
        let cycle = tracing::info_span!("cycle", cycle = 638);
        let _in_cycle = cycle.enter();
        let span = tracing::info_span!("task", task_id = %task, worker_id = "gpu-1");
        span.in_scope(|| tracing::info!("inside"));
        tracing::info!(parent: &span, cycle = 9, "by explicit parent");
        tracing::info!(parent: None, "outside");
    });
    let find = |message: &str| rows.iter().find(|row| row.message == message).unwrap();
    let (inside, explicit, outside) = (find("inside"), find("by explicit parent"), find("outside"));
    let span = find("task");
    assert_eq!(
        (inside.cycle_number, inside.task_id, inside.worker_id.as_deref()),
        (Some(638), Some(task), Some("gpu-1"))
    );
    assert_eq!(explicit.cycle_number, Some(9));
    assert_eq!((&inside.trace_id, &inside.span_id), (&span.trace_id, &span.span_id));
    assert_eq!((&explicit.trace_id, &explicit.span_id), (&span.trace_id, &span.span_id));
    assert_eq!((&outside.trace_id, outside.task_id), (&None, None));
    assert_eq!(span.metadata["kind"], json!("span"));
    assert_eq!(span.metadata["parent_span_id"], json!(find("cycle").span_id));
}

#[test]
fn an_endless_display_is_cut() {
    struct Endless;
    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                f.write_str("0123456789")?;
            }
        }
    }
    let rows = rows(|_| tracing::info!("{}", Endless));
    assert_eq!(rows[0].message.len(), crate::telemetry::encode::BODY_BYTES_MAX);
}

#[test]
fn quiet_threads_are_not_heard() {
    let rows = rows(|_| crate::telemetry::quiet::quiet(|| tracing::info!("nobody hears this")));
    assert!(rows.is_empty(), "{rows:?}");
}

/// A database's thread, say, that lets go of a span after it has answered, when the program that made
/// the span already ends: the span arrives.
#[test]
fn a_span_that_another_thread_still_holds_is_waited_for_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (layer, mut guard) = start(config(folder.path())).unwrap();
    guard.spans_limit = LIMIT;
    crate::telemetry::quiet::beside_other_tests();
    let span = tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let span = tracing::info_span!("insert rows");
        span.in_scope(|| ());
        span
    });
    let voice = guard.voice.clone();
    let shutdown = std::thread::scope(|scope| {
        let ended = scope.spawn(|| guard.shutdown(LIMIT * 4));
        let until = crate::clock::monotonic() + Duration::from_millis(50);
        while !voice.is_silent() && crate::clock::monotonic() < until {
            std::thread::yield_now();
        }
        drop(span);
        ended.join().unwrap()
    });
    assert_eq!(shutdown.lost, 0, "{shutdown}");
    let rows = on_disk(folder.path());
    assert!(rows.iter().any(|row| row.message == "insert rows"), "{rows:?}");
}
