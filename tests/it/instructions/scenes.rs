//! What the children do between their marks.
//!
//! A child keeps three files in its folder: the ring; `acks`, where it writes the sequence number
//! that a push returned, at the place of the record's number; and `spooled`, where it copies what
//! it has read before it releases it, as the spooler does.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use dogwatch::telemetry::record::{Kind, Level};
use dogwatch::telemetry::ring::{self, Consumer, Ring, RingConfig};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use uuid::Uuid;

use super::judge;
use super::stepper::mark;
use super::{Scene, Watch};

/// The files that a kill may leave in any state.
pub(super) const FILES: [&str; 3] = [RING, ACKS, SPOOLED];
pub(super) const RING: &str = "ring";
pub(super) const ACKS: &str = "acks";
pub(super) const SPOOLED: &str = "spooled";
pub(super) const KERNEL: Uuid = Uuid::from_u128(8);
/// Bytes of entries: the smallest ring there is.
pub(super) const CAPACITY_BYTES: u64 = 4_096;
/// Where entries begin in the file, as the ring's layout says.
const ENTRIES_AT: u64 = 36_864;
const CONFIG: RingConfig =
    RingConfig { capacity_bytes: CAPACITY_BYTES, boot: Uuid::from_u128(7), kernel_boot: KERNEL };
/// Number of the first record of a scene: the second one then lies over the end of the ring.
pub(super) const FIRST: u64 = 58;
/// Through these the tracer tells the second thread to go on, and hears that it has.
const GO: &str = "go";
const DONE: &str = "done";

/// A ring is made, and the first record put in.
pub(super) const CREATE: Scene = Scene {
    name: "create",
    prepare: no_files,
    act: |dir| {
        let acks = File::options().write(true).open(dir.join(ACKS)).unwrap();
        mark();
        let ring = Ring::create(dir, &CONFIG).unwrap();
        push(&ring, &acks, 0);
        end();
    },
    meanwhile: None,
    judge: judge::unfinished_ring,
    watch: Watch::Instructions,
};

/// Three pushes, the second one over the end of the ring.
pub(super) const PUSH: Scene = Scene {
    name: "push",
    prepare: no_files,
    act: |dir| {
        let (ring, acks, _consumer) = nearly_round(dir);
        mark();
        for number in FIRST..FIRST + 3 {
            push(&ring, &acks, number);
        }
        end();
    },
    meanwhile: None,
    judge: judge::ring_and_spool,
    watch: Watch::Instructions,
};

/// One push, and another thread puts two records in behind it before the kill.
pub(super) const OVERTAKEN: Scene = Scene {
    name: "push, overtaken",
    prepare: |dir| {
        no_files(dir);
        for pipe in [GO, DONE] {
            mkfifo(&dir.join(pipe), Mode::S_IRWXU).unwrap();
        }
    },
    act: |dir| {
        let (ring, acks, _consumer) = nearly_round(dir);
        std::thread::scope(|scope| {
            let (other, to, acks) = (ring.clone(), dir.to_owned(), &acks);
            scope.spawn(move || {
                File::open(to.join(GO)).unwrap().read_exact(&mut [0]).unwrap();
                push(&other, acks, FIRST + 1);
                push(&other, acks, FIRST + 2);
                OpenOptions::new().write(true).open(to.join(DONE)).unwrap().write_all(&[1]).unwrap();
            });
            mark();
            push(&ring, acks, FIRST);
            end();
        });
    },
    meanwhile: Some(|dir| {
        OpenOptions::new().write(true).open(dir.join(GO)).unwrap().write_all(&[1]).unwrap();
        File::open(dir.join(DONE)).unwrap().read_exact(&mut [0]).unwrap();
    }),
    judge: judge::overtaken,
    watch: Watch::Instructions,
};

/// A batch is read, copied and released, another push, and once more.
pub(super) const RELEASE: Scene = Scene {
    name: "read and release",
    prepare: no_files,
    act: |dir| {
        let (ring, acks, mut consumer) = nearly_round(dir);
        let spooled = OpenOptions::new().append(true).open(dir.join(SPOOLED)).unwrap();
        push(&ring, &acks, FIRST);
        push(&ring, &acks, FIRST + 1);
        mark();
        spool(&mut consumer, &spooled);
        push(&ring, &acks, FIRST + 2);
        spool(&mut consumer, &spooled);
        end();
    },
    meanwhile: None,
    judge: judge::ring_and_spool,
    watch: Watch::Instructions,
};

/// A dead process's ring with a hole is recovered into the spool and removed.
pub(super) const RECOVER: Scene = Scene {
    name: "recover",
    prepare: |dir| {
        no_files(dir);
        let (ring, acks, _consumer) = nearly_round(dir);
        let never_published = ring.push(Kind::Log, Level::Error, 0, &payload(FIRST)).unwrap();
        push(&ring, &acks, FIRST + 1);
        push(&ring, &acks, FIRST + 2);
        drop(ring);
        let mark_at = ENTRIES_AT + never_published % CAPACITY_BYTES + 8;
        OpenOptions::new().write(true).open(dir.join(RING)).unwrap().write_all_at(&[0; 8], mark_at).unwrap();
    },
    act: |dir| {
        let mut spooled = OpenOptions::new().append(true).open(dir.join(SPOOLED)).unwrap();
        mark();
        let found = ring::recover(dir, KERNEL).unwrap().unwrap();
        for entry in &found.entries {
            spooled.write_all(&line(entry.seq, &entry.payload)).unwrap();
        }
        spooled.sync_data().unwrap();
        ring::remove(dir).unwrap();
        end();
    },
    meanwhile: None,
    judge: judge::recovery,
    watch: Watch::SystemCalls,
};

fn no_files(dir: &Path) {
    for name in [ACKS, SPOOLED] {
        File::create(dir.join(name)).unwrap();
    }
}

/// A ring in which records up to [`FIRST`] were put and all but two released.
fn nearly_round(dir: &Path) -> (Ring, File, Consumer) {
    let ring = Ring::create(dir, &CONFIG).unwrap();
    let acks = File::options().write(true).open(dir.join(ACKS)).unwrap();
    let spooled = OpenOptions::new().append(true).open(dir.join(SPOOLED)).unwrap();
    let mut consumer = ring.consumer().unwrap();
    for number in 0..FIRST - 2 {
        push(&ring, &acks, number);
        spool(&mut consumer, &spooled);
    }
    push(&ring, &acks, FIRST - 2);
    push(&ring, &acks, FIRST - 1);
    (ring, acks, consumer)
}

/// The record of that number.
pub(super) fn payload(number: u64) -> Vec<u8> {
    let filler = (0..number * 7 % 90).map(|at| (at + number) as u8);
    number.to_le_bytes().into_iter().chain(filler).collect()
}

fn push(ring: &Ring, acks: &File, number: u64) {
    let seq = ring.push(Kind::Log, Level::Error, 0, &payload(number)).unwrap();
    acks.write_all_at(&seq.to_le_bytes(), number * 8).unwrap();
}

fn spool(consumer: &mut Consumer, mut spooled: &File) {
    let mut lines = Vec::new();
    consumer.read(usize::MAX, |entry| lines.extend(line(entry.seq, entry.payload)));
    spooled.write_all(&lines).unwrap();
    assert!(consumer.release());
}

fn line(seq: u64, payload: &[u8]) -> Vec<u8> {
    [&seq.to_le_bytes(), &(payload.len() as u64).to_le_bytes(), payload].concat()
}

/// Stands at the mark until it is killed.
pub(super) fn end() -> ! {
    loop {
        mark();
    }
}
