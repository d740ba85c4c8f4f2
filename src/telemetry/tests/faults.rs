//! The fault matrix: a disk that fails in every way, files that are torn, gone or wrong, clocks that
//! jump, an exporter that is down, slow, blocked or fed with poison.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use super::rig::{App, LIMIT, Mode, Rig, Sum, pause, until};
use crate::clock;
use crate::telemetry::DATABASE_SLOT;
use crate::telemetry::record::Level;
use crate::telemetry::spool::disk::faulty::Op;

#[test]
fn a_disk_that_fails_for_a_while_loses_nothing() {
    let faults: [(&str, &[Op], ErrorKind); 8] = [
        ("EIO from write", &[Op::Write], ErrorKind::Other),
        ("EIO from fsync", &[Op::Sync], ErrorKind::Other),
        ("EIO from the folder's fsync", &[Op::SyncDir], ErrorKind::Other),
        ("EIO from read", &[Op::Read], ErrorKind::Other),
        ("ENOSPC", &[Op::Create, Op::Write], ErrorKind::StorageFull),
        ("ENOSPC, and deletes fail", &[Op::Create, Op::Write, Op::Remove], ErrorKind::StorageFull),
        ("EDQUOT", &[Op::Create, Op::Write], ErrorKind::QuotaExceeded),
        ("read-only", &Op::CHANGES, ErrorKind::ReadOnlyFilesystem),
    ];
    for (name, ops, kind) in faults {
        let mut rig = Rig::new();
        let guard = rig.start();
        let mut app = App::new(&guard);
        app.talk(Level::Info, 50);
        assert!(guard.flush(LIMIT));
        for op in ops {
            rig.disk.fail(*op, kind, 0, u64::MAX);
        }
        app.talk(Level::Error, 50);
        pause(150);
        app.talk(Level::Info, 50);
        rig.disk.heal();
        app.talk(Level::Error, 50);
        assert!(guard.flush(LIMIT), "{name}");
        assert!(app.refused.is_empty(), "{name}");
        until("no trouble", || guard.trouble().is_none());
        let accepted = app.accepted;
        let shutdown = guard.shutdown(LIMIT);
        assert_eq!((shutdown.pending, shutdown.lost), (0, 0), "{name}");
        assert_eq!(rig.far.texts(), accepted, "{name}");
        let trusted = rig.disk.trusted_again_files();
        assert!(trusted.is_empty(), "{name}: a file whose fsync failed was used again: {trusted:?}");
        let sum = rig.law();
        assert_eq!((sum.delivered, sum.dropped, sum.pending), (sum.offered, 0, 0), "{name}");
        println!("{name}: {} offered, {} delivered", sum.offered, sum.delivered);
    }
}

/// A process whose exporter is down leaves a folder; `tamper` changes it; the next process takes it
/// over.
fn after(name: &str, deliver_first: bool, tamper: impl FnOnce(PathBuf)) -> (Vec<String>, Vec<String>, Sum) {
    let mut rig = Rig::new();
    rig.segment_bytes = 2 << 10;
    let guard = rig.start();
    let mut app = App::new(&guard);
    if deliver_first {
        app.talk(Level::Info, 40);
        assert!(guard.flush(LIMIT) && guard.wait_delivered(|_| ()));
    }
    rig.far.set(Mode::Down);
    app.talk(Level::Info, 100);
    assert!(guard.flush(LIMIT));
    let accepted = app.accepted;
    let left = guard.shutdown(Duration::from_millis(500));
    assert!(left.pending >= 100, "{name}: {left}");
    let folder = fs::read_dir(rig.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let folder = folder.into_iter().find(|path| path.join("lock").exists()).unwrap();
    tamper(folder);
    rig.far.set(Mode::Up);
    let next = rig.start();
    assert!(next.wait_delivered(|_| ()));
    let _ = next.shutdown(LIMIT);
    let sum = rig.law();
    assert_eq!(sum.pending, 0, "{name}");
    println!("{name}: {sum:?}");
    (accepted, rig.far.texts(), sum)
}

fn segments(folder: &PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "dws")).collect();
    paths.sort();
    paths
}

#[test]
fn a_torn_tail_costs_the_record_in_it() {
    let (accepted, found, sum) = after("torn tail", false, |folder| {
        let last = segments(&folder).pop().unwrap();
        let bytes = fs::read(&last).unwrap();
        fs::write(&last, &bytes[..bytes.len() - 10]).unwrap();
    });
    assert!(accepted.starts_with(&found), "{found:?}");
    assert_eq!((sum.dropped, sum.delivered), (1, sum.offered - 1));
}

#[test]
fn a_flipped_byte_costs_the_record_it_is_in() {
    let (accepted, found, sum) = after("flipped byte", false, |folder| {
        let path = segments(&folder).remove(1);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 0x10;
        fs::write(&path, bytes).unwrap();
    });
    assert_eq!((sum.dropped, sum.delivered), (1, sum.offered - 1));
    assert!(found.len() + 1 >= accepted.len());
}

#[test]
fn a_deleted_segment_is_counted() {
    let (accepted, found, sum) = after("deleted segment", false, |folder| {
        let paths = segments(&folder);
        assert!(paths.len() > 3);
        fs::remove_file(&paths[2]).unwrap();
    });
    assert!(sum.dropped > 0 && found.len() < accepted.len());
    assert_eq!(sum.delivered + sum.dropped, sum.offered);
}

#[test]
fn a_lost_cursor_delivers_again_and_loses_nothing() {
    let (accepted, found, _) = after("cursor lost", true, |folder| {
        fs::remove_file(folder.join(format!("cursor.{DATABASE_SLOT}"))).unwrap();
    });
    assert_eq!(found, accepted);
}

#[test]
fn a_clock_that_jumps_both_ways_changes_no_order_and_no_count() {
    let mut rig = Rig::new();
    rig.far.set(Mode::Down);
    let guard = rig.start();
    let mut app = App::new(&guard);
    let ten_years = Duration::from_secs(10 * 365 * 86_400);
    for number in 0..60 {
        let time = match number % 3 {
            0 => clock::now(),
            1 => clock::plus(clock::now(), ten_years),
            _ => clock::minus(clock::now(), ten_years),
        };
        app.say_at(time, Level::Info, &format!("at {number}"));
    }
    assert!(guard.flush(LIMIT));
    rig.far.set(Mode::Up);
    assert!(guard.wait_delivered(|_| ()));
    let accepted = app.accepted;
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!((shutdown.pending, shutdown.lost), (0, 0));
    assert_eq!(rig.far.texts(), accepted);
    let sum = rig.law();
    assert_eq!((sum.delivered, sum.dropped), (sum.offered, 0));
}

#[test]
fn an_exporter_that_is_down_slow_blocked_or_poisoned_loses_nothing() {
    let modes = [("down", Mode::Down), ("slow", Mode::Slow), ("blocked", Mode::Blocked)];
    for (name, mode) in modes.into_iter().chain([("poison", Mode::Poison("record 33"))]) {
        let mut rig = Rig::new();
        rig.far.set(mode);
        let guard = rig.start();
        let mut app = App::new(&guard);
        app.talk(Level::Info, 100);
        assert!(guard.flush(LIMIT));
        if name == "poison" {
            assert!(guard.wait_delivered(|_| ()));
        } else {
            pause(50);
        }
        rig.far.set(Mode::Up);
        until("all are there", || guard.wait_delivered(|_| ()));
        let mut accepted = app.accepted;
        let shutdown = guard.shutdown(LIMIT);
        assert_eq!((shutdown.pending, shutdown.lost), (0, 0), "{name}");
        accepted.retain(|text| name != "poison" || text != "record 33");
        assert_eq!(rig.far.texts(), accepted, "{name}");
        let sum = rig.law();
        assert_eq!(sum.quarantined, u64::from(name == "poison"), "{name}");
        assert_eq!(sum.delivered + sum.quarantined, sum.offered, "{name}");
    }
}
