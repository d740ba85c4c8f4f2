//! Threads that panic, that panic too often, and that hang: callers never notice, nothing durable
//! is lost, restarts are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::hanging::Calls;
use super::rig::{App, Far, Gate, LIMIT, Mode, Rig, pause, until};
use crate::clock;
use crate::supervise::Intensity;
use crate::telemetry::guard::RESTARTED_EVENT;
use crate::telemetry::record::Level;
use crate::telemetry::row::Row;
use crate::telemetry::wiring::{Fuse, STALL_LIMIT};
use crate::telemetry::{DATABASE_SLOT, Guard, ThreadStatus, feed, shipper};

fn thread(guard: &Guard, name: &str) -> ThreadStatus {
    guard.status().threads.into_iter().find(|status| status.thread.contains(name)).unwrap()
}

/// What was told in-band of threads that were started again: restarts, and how many had stalled.
fn told(rig: &Rig, thread: &str) -> (u64, u64) {
    let rows = rig.far.events(RESTARTED_EVENT);
    let of = rows.iter().filter(|row| row.metadata["thread"].as_str().is_some_and(|name| name.contains(thread)));
    let number = |row: &Row, key: &str| row.metadata[key].as_u64().unwrap();
    of.fold((0, 0), |sum, row| (sum.0 + number(row, "restarts"), sum.1 + number(row, "stalled")))
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
        until("told in-band", || told(&rig, child) == (3, 0));
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
        until("given up", || thread(&guard, child).given_up);
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
    rig.hang(Calls::Syncs, 1);
    app.talk(Level::Error, 50);
    until("replaced", || thread(&guard, "spooler").restarts >= 1);
    until("durable while the old one still hangs", || guard.flush(LIMIT));
    app.talk(Level::Error, 50);
    // The old one wakes up in the middle of the new one's work.
    rig.let_go();
    app.talk(Level::Error, 50);
    assert!(guard.flush(LIMIT));
    let replaced = thread(&guard, "spooler").restarts;
    until("told in-band", || told(&rig, "spooler") == (replaced, replaced));
    let accepted = app.accepted;
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!((shutdown.pending, shutdown.lost), (0, 0));
    assert_eq!(rig.far.texts(), accepted);
    let sum = rig.law();
    assert_eq!((sum.delivered, sum.dropped, sum.pending), (sum.offered, 0, 0));
    assert_eq!(rig.disk.trusted_again(), 0);
}

/// Only who waits for the disk makes anything durable here: the order is then in the hands of a spooler
/// that never comes back to it.
#[test]
fn who_waits_for_the_disk_is_answered_by_whoever_replaces_the_spooler() {
    let mut rig = Rig::new();
    (rig.stall_limit, rig.sync_every) = (Duration::from_millis(100), Duration::from_secs(3_600));
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 50);
    rig.hang(Calls::Syncs, 1);
    assert!(guard.flush(LIMIT));
    assert!(rig.holds_all(), "it was the wait that has met the hanging disk");
    assert!(thread(&guard, "spooler").restarts >= 1);
    rig.let_go();
    let accepted = app.accepted;
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!((shutdown.pending, shutdown.lost), (0, 0));
    assert_eq!(rig.far.texts(), accepted);
}

/// With the limits of a real recorder: what docs/who-noticed.md promises of the inside, three times.
#[test]
fn a_dead_and_a_stalled_spooler_are_replaced_and_told_within_their_deadlines() {
    let mut rig = Rig::new();
    (rig.stall_limit, rig.intensity) = (STALL_LIMIT, Intensity::default());
    let kills = Arc::new(AtomicU64::new(0));
    let inside = Arc::clone(&kills);
    rig.fuse = Fuse::new(move |at| {
        let is_hit = at == "spooler" && inside.swap(0, Ordering::SeqCst) == 1;
        assert!(!is_hit, "planted");
    });
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 10);
    assert!(guard.flush(LIMIT));
    let mut noticed = |fault: &str, expected, promised: u64| {
        let since = clock::monotonic();
        app.talk(Level::Error, 10);
        until("told in-band", || told(&rig, "spooler") == expected);
        let took = clock::monotonic().saturating_sub(since);
        println!("{fault}: another one runs and it is told in-band after {:.1} s", took.as_secs_f64());
        assert!(took <= Duration::from_secs(promised) * 3, "{fault}: {took:?}");
    };
    kills.store(1, Ordering::SeqCst);
    noticed("logger thread killed", (1, 0), 1);
    rig.hang(Calls::Syncs, 1);
    noticed("spooler stalled", (2, 1), 10);
    rig.let_go();
    let accepted = app.accepted;
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!((shutdown.pending, shutdown.lost), (0, 0));
    assert_eq!(rig.far.texts(), accepted);
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

/// The far side takes the batch and answers only when the thread that asked was replaced.
#[test]
fn a_shipper_that_hangs_is_replaced_and_its_late_answer_moves_nothing() {
    let mut rig = Rig::new();
    (rig.stall_limit, rig.export_deadline) = (Duration::from_millis(50), Duration::from_millis(20));
    rig.far.1.shut();
    rig.far.set(Mode::Hang);
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 100);
    let facts = || guard.exporters().remove(0).facts;
    until("the export hangs", || facts().state == shipper::State::Delivering);
    rig.far.set(Mode::Down);
    until("replaced", || thread(&guard, "ship-far").restarts >= 1);
    until("the next one asks, too", || facts().retries >= 2);
    rig.far.1.open();
    until("the late answer is there", || !rig.far.rows().is_empty());
    pause(100);
    let cursor = || feed::state_of(&guard.folder, DATABASE_SLOT).unwrap();
    assert_eq!((cursor().next, cursor().ordinal, facts().delivered), (0, 0, 0));
    rig.far.set(Mode::Up);
    app.talk(Level::Info, 10);
    assert!(guard.flush(LIMIT) && guard.wait_delivered(|_| ()));
    let replaced = thread(&guard, "ship-far").restarts;
    until("told in-band", || told(&rig, "ship-far") == (replaced, replaced));
    let accepted = app.accepted;
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!((shutdown.pending, shutdown.lost), (0, 0));
    assert_eq!(rig.far.texts(), accepted);
    let sum = rig.law();
    assert_eq!((sum.delivered, sum.dropped, sum.pending), (sum.offered, 0, 0));
}

#[test]
fn a_spooler_that_is_given_up_leaves_the_way_to_stdout_open() {
    let mut rig = Rig::new();
    rig.intensity = Intensity { restarts: 2, ..rig.intensity };
    rig.ring_bytes = 64 << 10;
    let is_broken = Arc::new(AtomicU64::new(0));
    let broken = Arc::clone(&is_broken);
    rig.fuse = Fuse::new(move |at| assert!(at != "spooler" || broken.load(Ordering::SeqCst) == 0, "planted"));
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 20);
    assert!(guard.flush(LIMIT) && guard.wait_delivered(|_| ()));
    is_broken.store(1, Ordering::SeqCst);
    until("given up", || thread(&guard, "spooler").given_up);
    until("lines on stdout", || {
        if guard.recorder().ring_fill() < 0.9 {
            app.talk(Level::Warning, 10);
        }
        rig.out.all().len() > 100
    });
    let status = guard.status();
    assert!(status.fallback && status.trouble.unwrap().contains("stays down"));
    assert!(!thread(&guard, "stand-in").given_up);
    assert!(app.refused.is_empty(), "the caller does not feel it");
    assert!(!guard.flush(Duration::from_secs(1)), "nothing is made durable");
    let accepted = app.accepted;
    let shutdown = guard.shutdown(Duration::from_secs(2));
    let printed: Vec<String> = rig.out.all().iter().map(|line| line["message"].as_str().unwrap().into()).collect();
    assert_eq!(shutdown.lost, printed.len() as u64);

    rig.fuse = Fuse::default();
    let next = rig.start();
    let ours = |texts: &[String]| texts.iter().filter(|text| accepted.contains(text)).count();
    until("the rest is delivered by the next process", || {
        assert!(next.wait_delivered(|_| ()));
        rig.far.texts().len() + ours(&printed) >= accepted.len()
    });
    let _ = next.shutdown(LIMIT);
    let mut found =
        [rig.far.texts(), printed.iter().filter(|text| accepted.contains(text)).cloned().collect()].concat();
    let mut expected = accepted.clone();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "each once, here or there");
    let sum = rig.law();
    assert_eq!((sum.cause("stdout"), sum.dropped, sum.pending), (printed.len() as u64, printed.len() as u64, 0));
}
