//! Threads that panic, that panic too often, and that hang: callers never notice, nothing durable
//! is lost, restarts are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::rig::{App, Far, Gate, LIMIT, Mode, Rig, until};
use crate::supervise::Intensity;
use crate::telemetry::record::Level;
use crate::telemetry::wiring::Fuse;
use crate::telemetry::{Guard, ThreadStatus};

fn thread(guard: &Guard, name: &str) -> ThreadStatus {
    guard.status().threads.into_iter().find(|status| status.thread.contains(name)).unwrap()
}

#[test]
fn a_panic_in_each_thread_is_never_felt() {
    for (name, child) in
        [("spooler", "spooler"), ("keeper", "keeper"), ("watchdog", "watchdog"), ("shipper", "ship-far")]
    {
        let mut rig = Rig::new();
        let turns = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&turns);
        rig.fuse = Fuse::new(move |at| {
            if at == name && (2..5).contains(&counted.fetch_add(1, Ordering::SeqCst)) {
                panic!("planted in {name}");
            }
        });
        let guard = rig.start();
        let mut app = App::new(&guard);
        until("three panics", || {
            app.talk(Level::Info, 10);
            turns.load(Ordering::SeqCst) > 5
        });
        app.talk(Level::Error, 10);
        assert!(guard.flush(LIMIT));
        assert!(guard.wait_delivered(|_| ()));
        assert_eq!(thread(&guard, child).restarts, 3, "{name}");
        assert!(!thread(&guard, child).given_up);
        assert!(app.refused.is_empty());
        let accepted = app.accepted;
        let shutdown = guard.shutdown(LIMIT);
        assert_eq!(rig.far.texts(), accepted, "{name}");
        assert_eq!((shutdown.pending, shutdown.lost), (0, 0), "{name}");
        let sum = rig.law();
        assert_eq!((sum.delivered, sum.dropped, sum.pending), (sum.offered, 0, 0), "{name}");
        println!("{name}: 3 panics, {} records, all delivered once", accepted.len());
    }
}

#[test]
fn too_many_panics_are_given_up_and_said() {
    for (name, child) in
        [("spooler", "spooler"), ("keeper", "keeper"), ("watchdog", "watchdog"), ("shipper", "ship-far")]
    {
        let mut rig = Rig::new();
        rig.intensity = Intensity { restarts: 2, ..rig.intensity };
        let turns = AtomicU64::new(0);
        rig.fuse = Fuse::new(move |at| {
            assert!(at != name || turns.fetch_add(1, Ordering::SeqCst) < 2, "planted in {name}");
        });
        let guard = rig.start();
        let mut app = App::new(&guard);
        app.talk(Level::Info, 100);
        if name != "shipper" {
            // A shipper's intensity is its own: it is only restarted here.
            until("given up", || thread(&guard, child).given_up);
        }
        app.talk(Level::Error, 100);
        assert!(app.refused.is_empty(), "{name}: the caller does not feel it");
        let accepted = app.accepted;
        let shutdown = guard.shutdown(Duration::from_secs(2));
        assert_eq!(shutdown.lost, 0, "{name}");

        rig.fuse = Fuse::default();
        let next = rig.start();
        until("delivered by the next process", || {
            assert!(next.wait_delivered(|_| ()));
            rig.far.texts().len() >= accepted.len()
        });
        let _ = next.shutdown(LIMIT);
        assert_eq!(rig.far.texts(), accepted, "{name}");
        let sum = rig.law();
        assert_eq!((sum.delivered, sum.dropped, sum.pending), (sum.offered, 0, 0), "{name}");
    }
}

#[test]
fn a_spooler_that_hangs_in_an_fsync_is_fenced_and_replaced() {
    let mut rig = Rig::new();
    rig.stall_limit = Duration::from_millis(100);
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 50);
    assert!(guard.flush(LIMIT));
    rig.hang_syncs(1);
    app.talk(Level::Error, 50);
    until("replaced", || thread(&guard, "spooler").restarts >= 1);
    until("durable while the old one still hangs", || guard.flush(LIMIT));
    app.talk(Level::Error, 50);
    // The old one wakes up in the middle of the new one's work.
    rig.let_go();
    app.talk(Level::Error, 50);
    assert!(guard.flush(LIMIT));
    let accepted = app.accepted;
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!((shutdown.pending, shutdown.lost), (0, 0));
    assert_eq!(rig.far.texts(), accepted);
    let sum = rig.law();
    assert_eq!((sum.delivered, sum.dropped, sum.pending), (sum.offered, 0, 0));
    assert_eq!(rig.disk.trusted_again(), 0);
}

#[test]
fn a_keeper_that_hangs_is_replaced() {
    let mut rig = Rig::new();
    rig.stall_limit = Duration::from_millis(50);
    let (gate, turns) = (Gate::default(), AtomicU64::new(0));
    gate.shut();
    let inside = gate.clone();
    rig.fuse = Fuse::new(move |at| {
        // The first turn is the starting thread's.
        if at == "keeper" && turns.fetch_add(1, Ordering::SeqCst) == 2 {
            inside.pass();
        }
    });
    let guard = rig.start();
    let mut app = App::new(&guard);
    until("replaced", || {
        app.talk(Level::Info, 1);
        thread(&guard, "keeper").restarts >= 1
    });
    gate.open();
    let accepted = app.accepted;
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!((shutdown.pending, shutdown.lost), (0, 0));
    assert_eq!(rig.far.texts(), accepted);
    assert_eq!(rig.law().pending, 0);
}

#[test]
fn an_exporter_that_hangs_delays_no_other() {
    let mut rig = Rig::new();
    let other = Far::default();
    rig.more.push(("other", Box::new(other.clone())));
    rig.far.1.shut();
    rig.far.set(Mode::Hang);
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 100);
    until("the other has them", || other.texts().len() == 100);
    assert!(rig.far.texts().is_empty());
    rig.far.1.open();
    let accepted = app.accepted;
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!((shutdown.pending, shutdown.lost), (0, 0));
    assert_eq!((rig.far.texts(), other.texts()), (accepted.clone(), accepted));
    rig.law();
}
