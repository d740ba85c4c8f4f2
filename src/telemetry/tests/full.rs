//! No room: a ring that is full, a spool near its cap and beyond, a disk that is full.

use std::time::Duration;

use serde_json::Value;

use super::hanging::Calls;
use super::rig::{APP, App, LIMIT, Mode, Rig, until};
use crate::clock;
use crate::telemetry::guard::{DISK_EVENT, FALLBACK_EVENT, LOST_EVENT};
use crate::telemetry::record::Level;
use crate::telemetry::ring::Refused;
use crate::telemetry::spool::disk::faulty::Op;
use crate::telemetry::spooler::{FALLBACK_FILL, LINES_PER_SECOND};

const SMALL_RING: u64 = 64 << 10;

fn full(rig: &Rig) {
    for op in [Op::Create, Op::Write] {
        rig.disk.fail(op, std::io::ErrorKind::StorageFull, 0, u64::MAX);
    }
}

#[test]
fn losses_are_told_in_band_by_reason_and_level_once_there_is_room() {
    let mut rig = Rig::new();
    rig.ring_bytes = SMALL_RING;
    let guard = rig.start();
    let mut app = App::new(&guard);
    assert!(guard.flush(LIMIT));
    rig.hang(Calls::Syncs, u64::MAX);
    let is_full = |app: &App<'_>| app.refused.contains(&Refused::Full);
    while !is_full(&app) {
        app.talk(Level::Info, 1);
        app.talk(Level::Warning, 1);
    }
    app.talk(Level::Error, 7);
    assert!(rig.far.events(LOST_EVENT).is_empty(), "there is no room to tell it");
    rig.let_go();
    let refused = app.refused.len() as u64;
    let accepted = app.accepted;
    let told = || -> u64 {
        let rows = rig.far.events(LOST_EVENT);
        let counts = rows.iter().flat_map(|row| row.metadata.as_object().unwrap().values());
        counts.filter_map(Value::as_u64).sum()
    };
    until("all losses are told", || told() == refused);
    let first = rig.far.events(LOST_EVENT).remove(0);
    assert_eq!(first.log_level, Level::Warning);
    assert!(first.metadata["above_ninety.INFO"].as_u64() > Some(0), "{first:?}");
    assert!(first.metadata["full.ERROR"].as_u64() >= Some(1), "{first:?}");
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!((shutdown.pending, shutdown.lost), (0, refused));
    assert_eq!(told(), refused, "told once");
    assert_eq!(rig.far.texts(), accepted);
    let sum = rig.law();
    assert_eq!((sum.refused, sum.dropped), (refused, 0));
    println!("{refused} refused and told, {} delivered", accepted.len());
}

#[test]
fn near_its_cap_the_spool_refuses_debug_and_info_and_at_it_drops_the_oldest_counted() {
    let mut rig = Rig::new();
    (rig.cap_bytes, rig.segment_bytes) = (512 << 10, 32 << 10);
    rig.far.set(Mode::Down);
    let guard = rig.start();
    let mut app = App::new(&guard);
    let text = "x".repeat(500);
    let warn = |app: &mut App<'_>| {
        for _ in 0..100 {
            let number = app.accepted.len() + app.refused.len();
            app.say(Level::Warning, &format!("{number} {text}"));
        }
        assert!(guard.flush(LIMIT));
    };
    until("nearly full", || {
        warn(&mut app);
        guard.recorder().is_spool_low()
    });
    assert!(guard.status().spool_low);
    assert!(!app.say(Level::Info, "no room for this"));
    assert!(!app.say(Level::Debug, "nor for this"));
    assert_eq!(app.refused, [Refused::SpoolLow, Refused::SpoolLow]);
    assert!(app.say(Level::Warning, "but for this"));
    // Beyond the cap the oldest go.
    for _ in 0..15 {
        warn(&mut app);
    }
    rig.far.set(Mode::Up);
    let accepted = app.accepted;
    assert!(guard.wait_delivered(|_| ()));
    until("room again", || {
        let _ = guard.recorder().emit(crate::telemetry::SourceNo::OWN, &urgent());
        !guard.recorder().is_spool_low()
    });
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!(shutdown.pending, 0);
    let sum = rig.law();
    assert!(sum.dropped > 0, "{sum:?}");
    assert_eq!(sum.refused, 2, "{sum:?}");
    let found = rig.far.texts();
    assert!(accepted.ends_with(&found), "the oldest are dropped, and no other");
    assert_eq!(rig.far.rows().len() as u64, sum.delivered);
    println!("{} offered, {} delivered, {} dropped at the cap, 2 refused", sum.offered, sum.delivered, sum.dropped);
}

fn urgent() -> crate::telemetry::NewRecord<'static> {
    crate::telemetry::NewRecord {
        time: clock::now(),
        level: Level::Error,
        body: "urgent",
        attributes: &[],
        event_name: None,
    }
}

#[test]
fn no_more_goes_to_stdout_than_the_ring_needs_room() {
    let mut rig = Rig::new();
    rig.ring_bytes = 4 * SMALL_RING;
    let guard = rig.start();
    let mut app = App::new(&guard);
    assert!(guard.flush(LIMIT));
    full(&rig);
    until("the disk is known to be full", || {
        app.talk(Level::Info, 1);
        guard.status().trouble.is_some()
    });
    // Far more than stdout takes in a second lies in the ring.
    while guard.recorder().ring_fill() <= FALLBACK_FILL {
        app.talk(Level::Info, 1);
    }
    assert!(app.accepted.len() as u64 > LINES_PER_SECOND);
    until("fallback", || guard.status().fallback);
    until("the ring has room", || guard.recorder().ring_fill() <= FALLBACK_FILL);
    let printed = rig.out.all().len();
    assert!(printed < 50, "{printed} lines for the room of one");
    rig.disk.heal();
    let accepted = app.accepted.len();
    assert!(guard.wait_delivered(|_| ()));
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!(shutdown.pending, 0);
    let sum = rig.law();
    assert_eq!((sum.cause("fallback_rate"), sum.refused), (0, 0), "{sum:?}");
    println!("{accepted} records, {} of them as lines on stdout", sum.cause("stdout"));
}

#[test]
fn on_a_full_disk_records_go_to_stdout_and_back_to_the_spool_by_themselves() {
    let mut rig = Rig::new();
    rig.ring_bytes = SMALL_RING;
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 20);
    assert!(guard.flush(LIMIT));
    full(&rig);
    until("fallback", || {
        if guard.recorder().ring_fill() <= FALLBACK_FILL {
            app.talk(Level::Info, 5);
        }
        guard.status().fallback
    });
    assert!(guard.status().trouble.is_some());
    app.talk(Level::Warning, 5);
    until("the ring has room", || guard.recorder().ring_fill() <= FALLBACK_FILL);
    rig.disk.heal();
    until("back", || {
        app.talk(Level::Info, 1);
        !guard.status().fallback
    });
    app.talk(Level::Info, 20);
    assert!(guard.flush(LIMIT));
    let switches = || rig.far.events(FALLBACK_EVENT);
    until("both switches are told", || switches().len() == 2);
    assert_eq!(
        (&switches()[0].metadata["active"], &switches()[1].metadata["active"]),
        (&true.into(), &false.into())
    );
    let (accepted, refused) = (app.accepted, app.refused.len() as u64);
    let shutdown = guard.shutdown(LIMIT);
    assert_eq!(shutdown.pending, 0);
    let sum = rig.law();
    let lines = rig.out.all();
    assert_eq!(sum.cause("stdout"), lines.len() as u64);
    assert_eq!((sum.refused, sum.dropped), (refused, sum.cause("stdout") + sum.cause("fallback_rate")));
    assert_eq!(shutdown.lost, sum.refused + sum.dropped);
    let mut found = rig.far.texts();
    found.extend(
        lines
            .iter()
            .filter(|line| line["source_id"] == APP)
            .map(|line| line["message"].as_str().unwrap().to_owned()),
    );
    found.sort();
    let mut expected = accepted;
    expected.sort();
    assert_eq!(found.len() as u64 + sum.cause("fallback_rate"), expected.len() as u64);
    found.dedup();
    assert_eq!(found.len() as u64 + sum.cause("fallback_rate"), expected.len() as u64, "each once");
    println!("{} records, {} of them as lines on stdout, {refused} refused", expected.len(), lines.len());
}

#[test]
fn a_disk_that_runs_full_is_told_while_nothing_is_written_and_so_is_its_end() {
    let mut rig = Rig::new();
    let guard = rig.start();
    assert!(guard.flush(LIMIT));
    let told = |bytes: u64, texts: &[&str]| {
        rig.disk.set_free(bytes);
        until("it is told", || rig.far.events(DISK_EVENT).len() == texts.len());
        let rows = rig.far.events(DISK_EVENT);
        for (row, text) in rows.iter().zip(texts) {
            assert!(row.message.contains(text) && row.log_level == Level::Warning, "{row:?}");
        }
        assert_eq!(rows.last().unwrap().metadata["free_bytes"], bytes);
    };
    told(rig.segment_bytes - 1, &["nearly full, 63 KiB are left"]);
    told(rig.segment_bytes * 2, &["nearly full", "has room again"]);
    told(0, &["nearly full", "has room again", "nearly full, 0 KiB are left"]);
    assert_eq!(guard.status().trouble, None, "no write has failed");
    rig.disk.heal();
    assert_eq!(guard.shutdown(LIMIT).pending, 0);
    rig.law();
}

#[test]
fn stdout_is_bounded_in_rate_and_keeps_a_half_for_warnings() {
    let mut rig = Rig::new();
    rig.ring_bytes = SMALL_RING;
    let guard = rig.start();
    let mut app = App::new(&guard);
    assert!(guard.flush(LIMIT));
    full(&rig);
    let began = clock::monotonic();
    until("more than the rate", || {
        app.talk(Level::Info, 20);
        guard.status().lost_aside > 2 * LINES_PER_SECOND
    });
    app.talk(Level::Warning, 20);
    until("the ring has room", || guard.recorder().ring_fill() <= FALLBACK_FILL);
    let seconds = (clock::monotonic() - began + Duration::from_secs(1)).as_secs() + 1;
    let lines = rig.out.all().len() as u64;
    assert!(lines <= LINES_PER_SECOND / 2 * seconds + 20, "{lines} lines in {seconds} s");
    rig.disk.heal();
    assert!(guard.flush(LIMIT));
    let offered = (app.accepted.len() + app.refused.len()) as u64;
    let _ = guard.shutdown(LIMIT);
    let sum = rig.law();
    assert!(sum.cause("fallback_rate") > 0, "{sum:?}");
    let found = rig.far.texts().len() as u64;
    let own_lines = rig.out.all().iter().filter(|line| line["source_id"] != APP).count() as u64;
    assert_eq!(found + sum.dropped - own_lines + sum.refused, offered, "{sum:?}");
    println!("{offered} offered, {found} delivered, {sum:?}");
}
