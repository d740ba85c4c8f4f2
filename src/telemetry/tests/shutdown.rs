//! The end: bounded whatever hangs, and what it says is true.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::hanging::Calls;
use super::rig::{App, Gate, LIMIT, Mode, Rig, until};
use crate::telemetry::record::Level;
use crate::telemetry::spool::Folder;
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::disk::faulty::Op;
use crate::telemetry::wiring::Fuse;
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

/// A program whose hundred records are delivered.
fn delivered(guard: &Guard) -> App<'_> {
    let mut app = App::new(guard);
    app.talk(Level::Info, 100);
    assert!(guard.flush(LIMIT));
    assert!(guard.wait_delivered(|_| ()));
    app
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
    let mut app = delivered(&guard);
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
    let mut app = delivered(&guard);
    rig.hang(Calls::Syncs, u64::MAX);
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

/// The keeper is about to take over a folder when the ring is closed: what it would say of that is
/// no loss.
#[test]
fn with_a_keeper_that_is_late_nothing_counts_as_lost() {
    let mut rig = Rig::new();
    let (gate, is_inside) = (Gate::default(), Arc::new(AtomicBool::new(false)));
    let armed = Arc::new(AtomicBool::new(false));
    let (inside, arming, entered) = (gate.clone(), Arc::clone(&armed), Arc::clone(&is_inside));
    rig.fuse = Fuse::new(move |at| {
        if at == "keeper" && arming.load(Ordering::SeqCst) {
            entered.store(true, Ordering::SeqCst);
            inside.pass();
        }
    });
    let guard = started(&mut rig);
    let mut app = App::new(&guard);
    app.talk(Level::Info, 100);
    gate.shut();
    armed.store(true, Ordering::SeqCst);
    until("the keeper hangs", || is_inside.load(Ordering::SeqCst));
    drop(Folder::create(rig.dir.path(), Uuid::new_v4(), Arc::new(RealDisk)).unwrap());
    let (accepted, voice) = (app.accepted, guard.voice.clone());
    let shutdown = std::thread::scope(|scope| {
        let ended = scope.spawn(|| bounded(guard, Duration::from_secs(4)));
        until("the ring is closed", || voice.is_silent());
        gate.open();
        ended.join().unwrap()
    });
    assert_eq!((shutdown.durable, shutdown.pending, shutdown.lost), (101, 0, 0), "{shutdown}");
    rig.fuse = Fuse::default();
    all_arrive(&mut rig, &accepted);
}
