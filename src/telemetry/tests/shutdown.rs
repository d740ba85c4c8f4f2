//! The end: bounded whatever hangs, and what it says is true.

use std::time::Duration;

use super::rig::{App, LIMIT, Mode, Rig, until};
use crate::telemetry::record::Level;
use crate::telemetry::spool::disk::faulty::Op;
use crate::telemetry::{Guard, Shutdown};

/// A shutdown that must come back, however long the machine takes: a hang would be for ever.
fn bounded(guard: Guard, limit: Duration) -> Shutdown {
    let (done, answer) = crossbeam_channel::bounded(1);
    std::thread::scope(|scope| {
        scope.spawn(move || done.send(guard.shutdown(limit)));
        answer.recv_timeout(LIMIT).expect("the shutdown hangs")
    })
}

/// A recorder whose first heartbeat is on disk: what is counted after it does not depend on when
/// the watchdog's thread got its first turn.
fn started(rig: &mut Rig) -> Guard {
    let guard = rig.start();
    until("the first heartbeat is on disk", || guard.folder.end().is_ok_and(|end| end.records >= 1));
    guard
}

/// The next process of the folder delivers what was said to be pending.
fn all_arrive(rig: &mut Rig, accepted: &[String]) {
    rig.far.set(Mode::Up);
    let next = rig.start();
    until("all are there", || {
        let _ = next.wait_delivered(|_| ());
        rig.far.texts().len() == accepted.len()
    });
    let _ = next.shutdown(LIMIT);
    let mut found = rig.far.texts();
    found.sort();
    let mut expected = accepted.to_vec();
    expected.sort();
    assert_eq!(found, expected);
    let sum = rig.law();
    assert_eq!((sum.delivered, sum.dropped, sum.pending), (sum.offered, 0, 0), "{sum:?}");
}

#[test]
fn with_an_exporter_that_hangs() {
    let mut rig = Rig::new();
    rig.far.1.shut();
    rig.far.set(Mode::Hang);
    let guard = started(&mut rig);
    let mut app = App::new(&guard);
    app.talk(Level::Info, 100);
    let accepted = app.accepted;
    let shutdown = bounded(guard, Duration::from_secs(1));
    let own = 1;
    assert_eq!(shutdown, Shutdown { durable: 100 + own, delivered: 0, pending: 100 + own, lost: 0 });
    println!("exporter hangs: {shutdown}");
    rig.far.1.open();
    all_arrive(&mut rig, &accepted);
}

#[test]
fn with_the_exporter_down_nothing_on_disk_is_deleted() {
    let mut rig = Rig::new();
    rig.far.set(Mode::Down);
    let guard = started(&mut rig);
    let mut app = App::new(&guard);
    app.talk(Level::Info, 100);
    let accepted = app.accepted;
    let shutdown = bounded(guard, Duration::from_secs(1));
    assert_eq!(shutdown, Shutdown { durable: 101, delivered: 0, pending: 101, lost: 0 });
    all_arrive(&mut rig, &accepted);
}

#[test]
fn on_a_full_disk() {
    let mut rig = Rig::new();
    let guard = started(&mut rig);
    let mut app = App::new(&guard);
    app.talk(Level::Info, 100);
    assert!(guard.flush(LIMIT));
    assert!(guard.wait_delivered(|_| ()));
    for op in [Op::Create, Op::Write] {
        rig.disk.fail(op, std::io::ErrorKind::StorageFull, 0, u64::MAX);
    }
    app.talk(Level::Error, 30);
    let accepted = app.accepted;
    let shutdown = bounded(guard, Duration::from_secs(1));
    assert_eq!(shutdown, Shutdown { durable: 101, delivered: 101, pending: 30, lost: 0 });
    println!("disk full: {shutdown}");
    rig.disk.heal();
    all_arrive(&mut rig, &accepted);
}

#[test]
fn with_a_spooler_that_hangs_in_an_fsync() {
    let mut rig = Rig::new();
    let guard = started(&mut rig);
    let mut app = App::new(&guard);
    app.talk(Level::Info, 100);
    assert!(guard.flush(LIMIT));
    assert!(guard.wait_delivered(|_| ()));
    rig.hang_syncs(u64::MAX);
    app.talk(Level::Error, 30);
    let accepted = app.accepted;
    let shutdown = bounded(guard, Duration::from_secs(1));
    // What is flushed and not durable may have been delivered; it is not told as durable.
    assert_eq!((shutdown.durable, shutdown.lost), (101, 0));
    assert!((1..=30).contains(&shutdown.pending), "{shutdown}");
    println!("spooler hangs: {shutdown}");
    rig.let_go();
    all_arrive(&mut rig, &accepted);
}
