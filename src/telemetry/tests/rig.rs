//! A recorder with a disk, an exporter, a stdout and threads that fail on demand.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::hanging::{Calls, HangingDisk};
use crate::backoff::Backoff;
use crate::clock::{self, Time};
use crate::supervise::Intensity;
use crate::telemetry::delivery::Limits;
use crate::telemetry::exporter::{ExportError, Exported, Exporter};
use crate::telemetry::record::{Level, Source, Stored};
use crate::telemetry::ring::Refused;
use crate::telemetry::row::Row;
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::disk::faulty::FaultyDisk;
use crate::telemetry::spool::{Line, verify};
use crate::telemetry::wiring::{Fuse, Wiring};
use crate::telemetry::{Adopt, Config, DATABASE_SLOT, Guard, NewRecord, SourceNo, run_wired, shipper};

/// Longest wait for anything.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
pub(super) const APP: &str = "app";

/// Waits until `done`, level-triggered.
pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = clock::monotonic() + LIMIT;
    while !done() {
        assert!(clock::monotonic() < deadline, "not within {LIMIT:?}: {what}");
        pause(5);
    }
}

pub(super) fn pause(millis: u64) {
    let _ = crossbeam_channel::after(Duration::from_millis(millis)).recv();
}

/// Holds whoever comes while it is shut.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(super) fn shut(&self) {
        *self.0.0.lock().unwrap() = true;
    }

    pub(super) fn open(&self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }

    pub(super) fn pass(&self) {
        let guard = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(guard, |shut| *shut).unwrap());
    }
}

/// What the far side does.
#[derive(Clone, Default)]
pub(super) enum Mode {
    #[default]
    Up,
    Down,
    Blocked,
    Slow,
    /// Refuses every batch with this text in it.
    Poison(&'static str),
    /// Takes every batch, but for the records with this text.
    Rejects(&'static str),
    /// Holds the shipper's thread, against the exporter's contract.
    Hang,
}

/// Where records arrive: exactly once, as rows with a key do.
#[derive(Clone, Default)]
pub(super) struct Far(Arc<Mutex<(Mode, Vec<Arrived>)>>, pub(super) Gate);

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arrived {
    pub(super) boot: Uuid,
    pub(super) seq: u64,
    pub(super) row: Row,
}

impl Far {
    pub(super) fn set(&self, mode: Mode) {
        self.0.lock().unwrap().0 = mode;
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.iter().map(|at| at.row.clone()).collect()
    }

    /// Texts of the program's records, in the order of their arrival.
    pub(super) fn texts(&self) -> Vec<String> {
        self.rows().into_iter().filter(|row| row.source_id == APP).map(|row| row.message).collect()
    }

    pub(super) fn events(&self, event: &str) -> Vec<Row> {
        let mut rows = self.rows();
        rows.retain(|row| row.metadata["event_name"] == event);
        rows
    }
}

impl Exporter for Far {
    fn name(&self) -> &'static str {
        "far"
    }

    fn export(&mut self, batch: &[Stored], _now: Time, _deadline: Duration) -> Result<Exported, ExportError> {
        let mode = self.0.lock().unwrap().0.clone();
        let rows: Vec<Row> = batch.iter().map(|stored| Row::from_stored(stored).unwrap()).collect();
        match &mode {
            Mode::Up => {}
            Mode::Down => return Err(ExportError::retry("down")),
            Mode::Blocked => {
                return Err(ExportError::Blocked { detail: "401".into(), remedy: "a key".into() });
            }
            Mode::Slow => pause(50),
            Mode::Poison(text) if rows.iter().any(|row| row.message == *text) => {
                return Err(ExportError::Refused { detail: "poison".into() });
            }
            Mode::Poison(_) | Mode::Rejects(_) => {}
            Mode::Hang => self.1.pass(),
        }
        let mut state = self.0.lock().unwrap();
        let mut rejected = 0;
        for (stored, row) in batch.iter().zip(rows) {
            if matches!(mode, Mode::Rejects(text) if row.message == text) {
                rejected += 1;
                continue;
            }
            let arrived = Arrived { boot: stored.boot, seq: stored.seq, row };
            if !state.1.iter().any(|old| (old.boot, old.seq) == (stored.boot, stored.seq)) {
                state.1.push(arrived);
            }
        }
        Ok(Exported { delivered: batch.len() as u64 - rejected, rejected })
    }
}

/// A stdout that is read.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(super) fn all(&self) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All that is around a recorder; several recorders, one after the other, may share it.
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) disk: FaultyDisk,
    hanging: HangingDisk,
    pub(super) far: Far,
    pub(super) out: Lines,
    pub(super) fuse: Fuse,
    pub(super) intensity: Intensity,
    pub(super) stall_limit: Duration,
    pub(super) export_deadline: Duration,
    pub(super) heartbeat_every: Duration,
    pub(super) sync_every: Duration,
    pub(super) ring_bytes: u64,
    pub(super) cap_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) more: Vec<(&'static str, Box<dyn Exporter>)>,
}

impl Rig {
    pub(super) fn new() -> Rig {
        let hanging = HangingDisk::default();
        let backoff = Backoff { base: Duration::from_millis(1), ceiling: Duration::from_millis(10), jitter: 0.0 };
        Rig {
            dir: tempfile::tempdir().unwrap(),
            disk: FaultyDisk::new(Arc::new(hanging.clone())),
            hanging,
            far: Far::default(),
            out: Lines::default(),
            fuse: Fuse::default(),
            intensity: Intensity { backoff, ..Intensity::default() },
            stall_limit: LIMIT,
            export_deadline: LIMIT,
            heartbeat_every: Duration::from_secs(3_600),
            sync_every: Duration::from_millis(5),
            ring_bytes: 1 << 20,
            cap_bytes: 64 << 20,
            segment_bytes: 64 << 10,
            more: Vec::new(),
        }
    }

    /// The next so many calls of that kind hang until [`Rig::let_go`].
    pub(super) fn hang(&self, calls: Calls, times: u64) {
        self.hanging.hang(calls, times);
    }

    pub(super) fn let_go(&self) {
        self.hanging.let_go();
    }

    /// As many calls as were asked for hang.
    pub(super) fn holds_all(&self) -> bool {
        self.hanging.holds_all()
    }

    pub(super) fn start(&mut self) -> Guard {
        let config = Config {
            spool_dir: self.dir.path().to_owned(),
            source: source("recorder"),
            boot: Uuid::new_v4(),
            level: Level::Debug,
            ring_bytes: self.ring_bytes,
            spool_cap_bytes: self.cap_bytes,
            segment_bytes: 8 << 20,
            otlp: None,
            sync_every: self.sync_every,
            heartbeat_every: self.heartbeat_every,
            database: None,
            stdout: false,
            adopt: Adopt::All,
        };
        let limits = Limits {
            backoff: Backoff { base: Duration::from_millis(5), ceiling: Duration::from_millis(50), jitter: 0.0 },
            probe_every: Duration::from_millis(20),
            ..Limits::default()
        };
        let linger = Duration::from_millis(1);
        let far = self.far.clone();
        let mut exporters: Vec<(&'static str, Box<dyn Exporter>)> =
            vec![(DATABASE_SLOT, Box::new(self.far.clone()))];
        exporters.append(&mut self.more);
        let wiring = Wiring {
            disk: Arc::new(self.disk.clone()),
            intensity: self.intensity,
            stall_limit: self.stall_limit,
            watch_every: Duration::from_millis(20),
            keep_every: Duration::from_millis(50),
            tell_lost_every: Duration::from_millis(50),
            segment_bytes: Some(self.segment_bytes),
            out: Arc::new(Mutex::new(self.out.clone())),
            exporters,
            make_again: Some(Arc::new(move |slot| {
                (slot == DATABASE_SLOT).then(|| -> Box<dyn Exporter> { Box::new(far.clone()) })
            })),
            shipping: shipper::Config {
                limits,
                linger,
                export_deadline: self.export_deadline,
                ..shipper::Config::default()
            },
            fuse: self.fuse.clone(),
        };
        run_wired(config, wiring).unwrap()
    }

    /// The law for every boot and exporter; the sums of the database exporter.
    pub(super) fn law(&self) -> Sum {
        let mut sum = Sum::default();
        for line in verify(&RealDisk, self.dir.path()).unwrap() {
            assert!(line.ok, "{line:?}");
            let dropped: u64 = line.dropped.values().sum();
            let refused: u64 = line.refused.values().sum();
            assert_eq!(line.accepted, line.delivered + dropped + line.quarantined + line.pending, "{line:?}");
            assert_eq!(line.offered, line.accepted + refused, "{line:?}");
            if line.exporter == DATABASE_SLOT {
                sum.add(&line, dropped, refused);
            }
        }
        sum
    }
}

/// Sums over the lines of the law.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) offered: u64,
    pub(super) delivered: u64,
    pub(super) dropped: u64,
    pub(super) refused: u64,
    pub(super) quarantined: u64,
    pub(super) pending: u64,
    pub(super) causes: std::collections::BTreeMap<String, u64>,
}

impl Sum {
    pub(super) fn add(&mut self, line: &Line, dropped: u64, refused: u64) {
        self.offered += line.offered;
        self.delivered += line.delivered;
        self.dropped += dropped;
        self.refused += refused;
        self.quarantined += line.quarantined;
        self.pending += line.pending;
        for (cause, count) in &line.dropped {
            *self.causes.entry(cause.clone()).or_default() += count;
        }
    }

    pub(super) fn cause(&self, cause: &str) -> u64 {
        self.causes.get(cause).copied().unwrap_or(0)
    }
}

pub(super) fn source(name: &str) -> Source {
    Source { source_type: "external".into(), source_id: name.into(), resource: Vec::new() }
}

/// A program that records: counts what it has offered.
pub(super) struct App<'a> {
    guard: &'a Guard,
    source: SourceNo,
    pub(super) accepted: Vec<String>,
    pub(super) refused: Vec<Refused>,
}

impl<'a> App<'a> {
    pub(super) fn new(guard: &'a Guard) -> App<'a> {
        let source = guard.recorder().intern(&source(APP)).unwrap();
        App { guard, source, accepted: Vec::new(), refused: Vec::new() }
    }

    pub(super) fn say(&mut self, level: Level, text: &str) -> bool {
        self.say_at(clock::now(), level, text)
    }

    pub(super) fn say_at(&mut self, time: Time, level: Level, text: &str) -> bool {
        let record = NewRecord { time, level, body: text, attributes: &[], event_name: None };
        let outcome = self.guard.recorder().emit(self.source, &record);
        match outcome {
            Ok(_) => self.accepted.push(text.to_owned()),
            Err(refused) => self.refused.push(refused),
        }
        outcome.is_ok()
    }

    /// `count` numbered records.
    pub(super) fn talk(&mut self, level: Level, count: usize) {
        for _ in 0..count {
            let number = self.accepted.len() + self.refused.len();
            self.say(level, &format!("record {number}"));
        }
    }
}
