//! Ring and spool: refusals, fill, the cap, a disk that is full or slow.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use uuid::Uuid;

use super::page::Page;
use crate::catalogue;
use crate::telemetry::adopt;
use crate::telemetry::record::{Kind, Level};
use crate::telemetry::ring::tests::holds_in_a_forked_child;
use crate::telemetry::ring::{Refused, Ring, RingConfig};
use crate::telemetry::spool::Folder;
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::disk::faulty::Op;
use crate::telemetry::spooler::{FALLBACK_FILL, LINES_PER_SECOND};
use crate::telemetry::tests::hanging::Calls;
use crate::telemetry::tests::rig::{App, LIMIT, Mode, Rig, pause, until};

const SMALL_RING: u64 = 64 << 10;

/// What was refused, by reason and level.
#[derive(Default)]
struct Count(HashMap<(Refused, Level), u32>);

impl Count {
    /// Says it, and counts a refusal.
    fn say(&mut self, app: &mut App<'_>, level: Level, text: &str) {
        if !app.say(level, text) {
            self.add(*app.refused.last().unwrap(), level);
        }
    }

    fn add(&mut self, refused: Refused, level: Level) {
        *self.0.entry((refused, level)).or_default() += 1;
    }

    fn has(&self, refused: Refused, level: Level) -> bool {
        self.0.contains_key(&(refused, level))
    }
}

pub(super) fn refused(page: &Page) {
    let mut rig = Rig::new();
    rig.ring_bytes = SMALL_RING;
    let mut capacity = page.series(catalogue::RING_CAPACITY, &[]);
    let mut depth = page.series(catalogue::RING_DEPTH, &[]);
    let words = |reason: Refused, level: Level| [("reason", reason.word()), ("level", level.word())];
    let series = |reason, level| ((reason, level), page.series(catalogue::RECORDS_REFUSED, &words(reason, level)));
    let mut all: Vec<_> =
        Refused::COUNTED.iter().flat_map(|reason| Level::ALL.map(|level| series(*reason, level))).collect();
    let guard = rig.start();
    capacity.becomes(SMALL_RING as f64);
    let (mut app, mut count) = (App::new(&guard), Count::default());
    assert!(guard.flush(LIMIT));
    let too_large = "x".repeat(SMALL_RING as usize);
    for level in Level::ALL {
        count.say(&mut app, level, &too_large);
    }
    rig.hang(Calls::Syncs, u64::MAX);
    while !count.has(Refused::AboveNinety, Level::Info) {
        count.say(&mut app, Level::Info, "fills the ring");
    }
    count.say(&mut app, Level::Debug, "fills the ring");
    depth.becomes_what(|| guard.ring.depth_bytes() as f64);
    while !count.has(Refused::Full, Level::Warning) {
        count.say(&mut app, Level::Warning, "fills the ring");
    }
    for level in Level::ALL {
        count.say(&mut app, level, "fills the ring and is longer than what came last");
    }
    rig.let_go();
    assert!(guard.flush(LIMIT));
    depth.becomes(0.0);
    let ring = guard.ring.clone();
    assert!(holds_in_a_forked_child(move || {
        Level::ALL.iter().all(|level| ring.push(Kind::Log, *level, 0, b"x") == Err(Refused::Forked))
    }));
    Level::ALL.iter().for_each(|level| count.add(Refused::Forked, *level));
    // As at a shutdown, after which nobody reads the page any more.
    until("the losses are told", || guard.recorder().ring_fill() == 0.0);
    guard.voice.fall_silent();
    guard.ring.close();
    for level in Level::ALL {
        count.say(&mut app, level, "too late");
    }
    for (what, series) in &mut all {
        count.0.get(&*what).into_iter().for_each(|refused| series.becomes(*refused));
    }
}

pub(super) fn nearly_full(page: &Page) {
    let mut rig = Rig::new();
    (rig.cap_bytes, rig.segment_bytes) = (512 << 10, 32 << 10);
    let mut size = page.series(catalogue::SPOOL_BYTES, &[]);
    let mut evicted = page.series(catalogue::RECORDS_DROPPED, &[("exporter", "far"), ("reason", "evicted")]);
    let spool_low = |level: Level| [("reason", "spool_low"), ("level", level.word())];
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 10);
    assert!(guard.flush(LIMIT) && guard.wait_delivered(|_| ()));
    rig.far.set(Mode::Down);
    let text = "x".repeat(500);
    let warn = |app: &mut App<'_>| {
        for _ in 0..100 {
            app.say(Level::Warning, &text);
        }
        assert!(guard.flush(LIMIT));
    };
    warn(&mut app);
    let on_disk = || {
        let files = fs::read_dir(guard.folder.path()).unwrap().map(|entry| entry.unwrap());
        let segments = files.filter(|file| file.path().extension().is_some_and(|is| is == "dws"));
        segments.map(|file| file.metadata().unwrap().len()).sum::<u64>() as f64
    };
    size.becomes_what(on_disk);
    until("nearly full", || {
        warn(&mut app);
        guard.recorder().is_spool_low()
    });
    for level in [Level::Debug, Level::Info] {
        let mut series = page.series(catalogue::RECORDS_REFUSED, &spool_low(level));
        assert!(!app.say(level, "no room for this"));
        series.becomes(1);
    }
    (0..15).for_each(|_| warn(&mut app));
    rig.far.set(Mode::Up);
    assert!(guard.wait_delivered(|_| ()));
    let _ = guard.shutdown(LIMIT);
    let sum = rig.law();
    assert_eq!(sum.dropped, sum.cause("evicted"));
    evicted.becomes(sum.dropped as f64);
}

pub(super) fn disk_full(page: &Page) {
    let mut rig = Rig::new();
    rig.ring_bytes = SMALL_RING;
    let mut active = page.series(catalogue::FALLBACK_ACTIVE, &[]);
    let dropped = |reason| page.series(catalogue::RECORDS_DROPPED, &[("exporter", "all"), ("reason", reason)]);
    let (mut stdout, mut rate) = (dropped("stdout"), dropped("fallback_rate"));
    let guard = rig.start();
    let mut app = App::new(&guard);
    assert!(guard.flush(LIMIT));
    for op in [Op::Create, Op::Write] {
        rig.disk.fail(op, std::io::ErrorKind::StorageFull, 0, u64::MAX);
    }
    until("more than the rate", || {
        app.talk(Level::Info, 20);
        guard.status().lost_aside > LINES_PER_SECOND
    });
    active.becomes(1);
    until("the ring has room", || guard.recorder().ring_fill() <= FALLBACK_FILL);
    rig.disk.heal();
    assert!(guard.flush(LIMIT));
    until("back", || {
        app.talk(Level::Warning, 1);
        !guard.status().fallback
    });
    active.becomes(0);
    let _ = guard.shutdown(LIMIT);
    let sum = rig.law();
    assert_eq!(sum.cause("stdout"), rig.out.all().len() as u64);
    stdout.becomes(sum.cause("stdout") as f64);
    rate.becomes(sum.cause("fallback_rate") as f64);
}

/// A process was killed, and a byte of an entry in its ring is not what it was.
pub(super) fn half_written(page: &Page) {
    let mut rig = Rig::new();
    let mut series = page.series(catalogue::RING_HALF_WRITTEN, &[]);
    let boot = Uuid::from_u128(0x0f0e_0d0c_0b0a_4908_8706_0504_0302_0100);
    {
        let folder = Folder::create(rig.dir.path(), boot, Arc::new(RealDisk)).unwrap();
        let config = RingConfig { capacity_bytes: 4_096, boot, kernel_boot: adopt::kernel_boot() };
        let ring = Ring::create(folder.path(), &config).unwrap();
        for payload in [b"\x09\x01\0\0\0\0\0\0\0", b"\x09\x02\0\0\0\0\0\0\0", b"\x09\x03\0\0\0\0\0\0\0"] {
            ring.push(Kind::Log, Level::Info, 0, payload).unwrap();
        }
        let path = folder.path().join("ring");
        let mut bytes = fs::read(&path).unwrap();
        let second = bytes.windows(2).rposition(|pair| pair == [0x09, 0x02]).unwrap();
        bytes[second + 1] ^= 0x40;
        fs::write(&path, bytes).unwrap();
    }
    let guard = rig.start();
    series.becomes(1);
    let _ = guard.shutdown(LIMIT);
    assert_eq!(rig.law().cause("half_written"), 1);
}

pub(super) fn slow_sync(page: &Page) {
    let mut rig = Rig::new();
    let mut took = page.series(catalogue::FSYNC_DURATION, &[]);
    let guard = rig.start();
    assert!(guard.flush(LIMIT));
    rig.hang(Calls::Syncs, 1);
    App::new(&guard).talk(Level::Error, 1);
    until("a sync hangs", || rig.holds_all());
    pause(300);
    rig.let_go();
    took.rises_above(0.3);
    let _ = guard.shutdown(LIMIT);
}
