//! The recorder on a tmpfs of 4 MiB that runs full under it.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::Duration;

use dogwatch::clock;
use dogwatch::telemetry::record::Level;
use dogwatch::telemetry::ring::Refused;
use dogwatch::telemetry::spool::disk::RealDisk;
use dogwatch::telemetry::spool::verify;
use dogwatch::telemetry::{self, Config, Guard, NewRecord, SourceNo};
use tracing_subscriber::layer::SubscriberExt as _;

use super::{mount, tell};
use crate::recorded;

pub(super) const RING_BYTES: u64 = 512 << 10;
pub(super) const LIMIT: Duration = Duration::from_secs(20);
/// What a flush may take before the disk counts as full.
const STUCK: Duration = Duration::from_millis(1_500);
/// Records between two looks at the disk.
const BURST: u64 = 100;
/// Bursts that the disk and the spool's reserve can hold at the most.
const BURSTS_MAX: u64 = 400;
/// Records that are offered to the full ring.
const IN_VAIN: u64 = 500;

/// Events that are emitted then.
const EVENTS: u64 = 100;

/// What was offered, and what became of it at once.
#[derive(Default)]
struct Offered {
    accepted: u64,
    refused: u64,
}

/// Fills the disk, offers until the ring is full, too, makes room, and accounts for everything.
pub(super) fn run(dir: &Path) {
    let (disk, logs) = (dir.join("small"), dir.join("logs.db"));
    mount(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"], &disk).unwrap();
    let (layer, guard) = telemetry::start(config(&disk, &logs)).unwrap();
    let mut offered = Offered::default();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        offered.burst(&guard, BURST);
        assert!(guard.flush(LIMIT), "there is room: {:?}", guard.trouble());
        fill(&disk.join("ballast"));
        until_full(&guard, &mut offered);
        let (kept, refused) = (offered.accepted, offered.refused);
        assert_eq!(refused, 0, "refused while the ring had room");
        while offered.refused == 0 {
            offered.burst(&guard, 1);
        }
        let in_ring = offered.accepted - kept;
        let accepted_when_full = offered.accepted;
        offered.burst(&guard, IN_VAIN);
        // The caller of a macro hears nothing of it.
        for again in 0..EVENTS {
            tracing::error!(again, "the disk is full and so is the ring");
        }
        let trouble = wait_for(|| guard.trouble()).expect("the recorder says why records wait");
        tell(&format!(
            "filesystems: full disk: tmpfs of 4 MiB takes no more after {kept} records, {in_ring} more are kept by \
             the ring alone, then {} refused and counted; the recorder says: {trouble}",
            offered.refused
        ));
        assert!(accepted_when_full >= kept + RING_BYTES / 2 / 400, "the ring kept {in_ring} only");
    });
    std::fs::remove_file(disk.join("ballast")).unwrap();
    assert!(guard.flush(LIMIT), "there is room again: {:?}", guard.trouble());
    let refused_before = offered.refused;
    offered.burst(&guard, BURST);
    assert_eq!(offered.refused, refused_before, "refused after room was made");
    assert!(guard.wait_delivered(|_| ()), "blocked");
    let shutdown = guard.shutdown(LIMIT);
    account(&disk, &logs, &offered, &shutdown);
}

impl Offered {
    /// Never fails and never blocks, whatever the disk does.
    fn burst(&mut self, guard: &Guard, count: u64) {
        for _ in 0..count {
            let body = format!("number {:06} {}", self.accepted, "x".repeat(200));
            let time = clock::now();
            let record = NewRecord { time, level: Level::Warning, body: &body, attributes: &[], event_name: None };
            match guard.recorder().emit(SourceNo::OWN, &record) {
                Ok(_) => self.accepted += 1,
                Err(Refused::Full) => self.refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// Offers burst by burst until one does not reach the disk any more.
fn until_full(guard: &Guard, offered: &mut Offered) {
    for _ in 0..BURSTS_MAX {
        offered.burst(guard, BURST);
        if !guard.flush(STUCK) {
            return;
        }
    }
    panic!("the disk never runs full");
}

pub(super) fn fill(ballast: &Path) {
    let mut file = File::create(ballast).unwrap();
    loop {
        match file.write(&[0xA5; 4_096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn account(disk: &Path, logs: &Path, offered: &Offered, shutdown: &telemetry::Shutdown) {
    let lines = verify(&RealDisk, &disk.join("spool")).unwrap();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.ok), "{lines:#?}");
    let sum = |field: fn(&telemetry::spool::Line) -> u64| lines.iter().map(field).sum::<u64>();
    let (accepted, delivered) = (sum(|line| line.accepted), sum(|line| line.delivered));
    let refused = sum(|line| line.refused.values().sum());
    assert_eq!(sum(|line| line.offered), accepted + refused);
    // Above three quarters of the ring the fallback prints lines to stdout, which are counted as
    // such; nothing else may be missing.
    let printed = sum(|line| line.dropped.get("stdout").copied().unwrap_or(0));
    let over_rate = sum(|line| line.dropped.get("fallback_rate").copied().unwrap_or(0));
    assert_eq!(sum(|line| line.dropped.values().sum()), printed + over_rate, "{lines:#?}");
    assert_eq!((accepted, sum(|line| line.pending)), (delivered + printed + over_rate, 0), "{lines:#?}");
    let (rows, numbers) = recorded::numbered(logs);
    assert_eq!(rows, numbers, "no record is there twice");
    assert!((offered.accepted - printed - over_rate..=offered.accepted).contains(&rows), "{rows} rows");
    // Beside ours: those of the events for which the fallback had not made room.
    assert!((offered.refused..=offered.refused + EVENTS).contains(&refused), "{refused}");
    tell(&format!(
        "filesystems: full disk: room made; {accepted} accepted = {delivered} delivered (ours {rows}, each once) \
         + {printed} printed to stdout + {over_rate} over its rate, {refused} refused; the conservation law holds; at the end: {shutdown}"
    ));
}

pub(super) fn wait_for<T>(what: impl Fn() -> Option<T>) -> Option<T> {
    let (_never, inbox) = std::sync::mpsc::channel::<()>();
    let until = clock::monotonic() + LIMIT;
    loop {
        let value = what();
        if value.is_some() || clock::monotonic() > until {
            return value;
        }
        let _ = inbox.recv_timeout(Duration::from_millis(20));
    }
}

fn config(disk: &Path, logs: &Path) -> Config {
    Config { ring_bytes: RING_BYTES, ..recorded::config(disk.join("spool"), logs, "full disk") }
}
