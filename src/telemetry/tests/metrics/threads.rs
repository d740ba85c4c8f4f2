//! Threads that panic, and the heartbeat record that tells of everything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::page::Page;
use crate::catalogue;
use crate::supervise::Intensity;
use crate::telemetry::record::Level;
use crate::telemetry::tests::hanging::Calls;
use crate::telemetry::tests::rig::{App, LIMIT, Mode, Rig, until};
use crate::telemetry::wiring::Fuse;

/// The threads, as series name them.
pub(super) const NAMES: [&str; 5] = ["spooler", "keeper", "watchdog", "ship-far", "stand-in"];

/// The fuse that a thread passes.
fn fuse_of(thread: &str) -> &str {
    if thread == "ship-far" { "shipper" } else { thread }
}

/// A rig in which that thread panics so many times, from its third turn on.
fn panicking(thread: &'static str, times: u64) -> Rig {
    let mut rig = Rig::new();
    rig.ring_bytes = 64 << 10;
    let turns = AtomicU64::new(0);
    rig.fuse = Fuse::new(move |at| {
        let panics = at == fuse_of(thread) && (2..2 + times).contains(&turns.fetch_add(1, Ordering::SeqCst));
        assert!(!panics, "planted in {thread}");
    });
    if thread == "stand-in" {
        rig.stall_limit = Duration::from_millis(50);
        rig.hang(Calls::Syncs, 1);
    }
    rig
}

pub(super) fn panics(page: &Page) {
    for thread in NAMES {
        let mut rig = panicking(thread, 1);
        let mut restarts = page.series(catalogue::THREAD_RESTARTS, &[("thread", thread)]);
        let guard = rig.start();
        let mut app = App::new(&guard);
        until("it panics", || {
            app.talk(Level::Error, 1);
            restarts.value() > 0.0
        });
        restarts.becomes(1.0);
        rig.let_go();
        let _ = guard.shutdown(LIMIT);
        assert_eq!(rig.law().dropped, 0);
    }
}

pub(super) fn given_up(page: &Page) {
    for thread in NAMES {
        let mut rig = panicking(thread, u64::MAX - 2);
        rig.intensity = Intensity { restarts: 2, ..rig.intensity };
        let mut given_up = page.series(catalogue::THREAD_GIVEN_UP, &[("thread", thread)]);
        let guard = rig.start();
        let mut app = App::new(&guard);
        app.talk(Level::Error, 10);
        until("it is given up", || {
            // A shipper has its turns with what there is to ship.
            app.talk(Level::Error, 1);
            given_up.value() > 0.0
        });
        given_up.becomes(1.0);
        rig.let_go();
        rig.fuse = Fuse::default();
        let _ = guard.shutdown(Duration::from_secs(1));
    }
}

/// The facts of every scene that one process can have at once, as the heartbeat tells them.
pub(super) fn heartbeat(page: &Page) {
    let mut rig = Rig::new();
    rig.heartbeat_every = Duration::from_millis(20);
    rig.ring_bytes = 64 << 10;
    let turns = AtomicU64::new(0);
    rig.fuse = Fuse::new(move |at| assert!(at != "keeper" || turns.fetch_add(1, Ordering::SeqCst) != 3, "planted"));
    let mut restarts = page.series(catalogue::THREAD_RESTARTS, &[("thread", "keeper")]);
    rig.far.set(Mode::Poison("record 3"));
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 10);
    assert!(!app.say(Level::Error, &"x".repeat(1 << 20)), "too large");
    restarts.becomes(1.0);
    let newest = || rig.far.events("dogwatch.heartbeat").pop().map_or(Value::Null, |row| row.metadata);
    let parsed = |beat: &Value, key: &str| -> Value {
        serde_json::from_str(beat[key].as_str().unwrap_or("null")).unwrap_or(Value::Null)
    };
    until("all is told", || {
        let (beat, exporter) = (newest(), parsed(&newest(), "exporters")[0].clone());
        let first_of = |key: &str| exporter[key].as_f64().unwrap_or(0.0);
        beat["accepted"].as_u64() >= Some(11)
            && beat["spool_bytes"].as_u64() > Some(0)
            && parsed(&beat, "restarts")["keeper"] == json!(1)
            && first_of("quarantined") == 1.0
            && first_of("delivered") >= 9.0
    });
    let beat = newest();
    let expected = json!({
        "ring_capacity_bytes": 64 << 10, "ring_backing": guard.status().ring_backing,
        "refused": 1, "half_written": 0, "lost": 1, "spool_low": false, "fallback": false,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&beat[key], value, "{key} of {beat}");
    }
    assert!(beat["longest_sync_ms"].is_number() && beat["ring_depth_bytes"].is_number(), "{beat}");
    let exporter = parsed(&beat, "exporters")[0].clone();
    for key in ["retries", "dropped", "rejected", "pending", "oldest_pending_s"] {
        assert!(exporter[key].is_number(), "{key} of {exporter}");
    }
    assert_eq!((&exporter["slot"], &exporter["exporter"]), (&json!("database"), &json!("far")));
    assert_eq!(parsed(&beat, "given_up"), json!([]));
    let _ = guard.shutdown(LIMIT);
}
