//! The ring, from outside: order, contents, refusals, the fork, spans, taking over.

mod kill;
mod loom;
mod model;
mod places;
mod recovery;

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use super::*;

/// A file system of one kind everywhere.
struct Says(u64);

impl place::Kinds for Says {
    fn magic(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.0)
    }

    fn upper(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

const EXT4: u64 = 0xEF53;
const BOOT: Uuid = Uuid::from_u128(7);
const KERNEL: Uuid = Uuid::from_u128(8);
const SMALL: u64 = 4_096;

/// A ring whose file lies in a folder of its own.
fn ring(capacity_bytes: u64) -> (tempfile::TempDir, Ring) {
    let dir = tempfile::tempdir().unwrap();
    let config = RingConfig { capacity_bytes, boot: BOOT, kernel_boot: KERNEL };
    let ring = Ring::create_at(dir.path(), dir.path(), &config, &Says(EXT4)).unwrap();
    assert_eq!(*ring.backing(), Backing::DataFolder);
    (dir, ring)
}

fn log(ring: &Ring, payload: &[u8]) -> Result<u64, Refused> {
    ring.push(Kind::Log, Level::Warning, 3, payload)
}

/// All that can be read, as owned entries.
fn drain(consumer: &mut Consumer) -> Vec<Saved> {
    let mut out = Vec::new();
    consumer.read(usize::MAX, |entry| out.push(saved(entry)));
    out
}

fn saved(entry: Entry<'_>) -> Saved {
    let Entry { seq, kind, level, source, payload } = entry;
    Saved { seq, kind, level, source, payload: payload.to_vec() }
}

/// An entry that was reserved and never published, with its head stored or not.
fn leave_unpublished(ring: &Ring, payload: &[u8], with_head: Filled) -> Result<u64, Refused> {
    let cells = ring.0.cells();
    let head = Head { payload_bytes: payload.len(), kind: Kind::Log, level: Level::Error, source: 0 };
    let position = cells.reserve(head.entry_bytes(), head.level)?;
    if with_head == Filled::Yes {
        cells.fill(position, head.pack(), payload);
    }
    Ok(position)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filled {
    Yes,
    No,
}

#[test]
fn entries_come_out_as_they_went_in_at_every_length_and_over_the_wrap() {
    let (_dir, ring) = ring(SMALL);
    let mut consumer = ring.consumer().unwrap();
    for round in 0..40_usize {
        for length in 0..70_usize {
            let payload: Vec<u8> = (0..length).map(|at| (at * 7 + round) as u8).collect();
            let level = Level::ALL[length % 5];
            let seq = ring.push(Kind::Span, level, length as u16, &payload).unwrap();
            let entry = Saved { seq, kind: Kind::Span, level, source: length as u16, payload };
            assert_eq!(drain(&mut consumer), [entry]);
            assert!(consumer.release());
        }
    }
    assert_eq!(ring.depth_bytes(), 0);
    assert_eq!(ring.counters().accepted(), 40 * 70);
    assert_eq!(ring.counters().taken, [560; 5]);
}

#[test]
fn many_producers_lose_and_mix_nothing() {
    const THREADS: u64 = 4;
    const EACH: u64 = 20_000;
    const RETRIES_MAX: u64 = 50_000_000;
    let (_dir, ring) = ring(64 << 10);
    let mut consumer = ring.consumer().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let producers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let ring = ring.clone();
                scope.spawn(move || {
                    let mut acknowledged = Vec::new();
                    for number in 0..EACH {
                        let payload = payload_of(thread, number);
                        let seq = (0..RETRIES_MAX).find_map(|_| {
                            let outcome = ring.push(Kind::Log, Level::Error, thread as u16, &payload);
                            if outcome.is_err() {
                                assert_eq!(outcome, Err(Refused::Full));
                                std::thread::yield_now();
                            }
                            outcome.ok()
                        });
                        acknowledged.push((seq.unwrap(), payload));
                    }
                    acknowledged
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut read = Vec::new();
            loop {
                let last = done.load(SeqCst);
                let batch = consumer.read(8 << 10, |entry| read.push((entry.seq, entry.payload.to_vec())));
                assert!(consumer.release());
                assert!(!last || batch.end != End::Unpublished, "everybody is done");
                if last && batch.end == End::Empty {
                    return read;
                }
            }
        });
        let mut pushed: Vec<_> = producers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        done.store(true, SeqCst);
        let found = reader.join().unwrap();
        pushed.sort_unstable();
        assert!(found == pushed, "what was read is what was acknowledged, in order");
    });
    let counters = ring.counters();
    assert_eq!(counters.taken[Level::Error as usize], THREADS * EACH);
    assert_eq!(counters.half_written, 0);
}

/// A payload that knows who made it, of a length that varies.
fn payload_of(thread: u64, number: u64) -> Vec<u8> {
    let mut payload = [thread.to_le_bytes(), number.to_le_bytes()].concat();
    payload.resize(16 + (number % 97) as usize, (thread * 31 + number) as u8);
    payload
}

#[test]
fn above_ninety_percent_only_warnings_get_in_and_every_refusal_is_counted() {
    let (_dir, ring) = ring(SMALL);
    let payload = [9; 112];
    let mut kept = 0;
    while ring.push(Kind::Log, Level::Info, 0, &payload).is_ok() {
        kept += 1;
    }
    assert_eq!(kept, SMALL / 10 * 9 / 128);
    let push = |level, payload: &[u8]| ring.push(Kind::Log, level, 0, payload);
    assert_eq!(push(Level::Debug, &payload), Err(Refused::AboveNinety));
    while push(Level::Warning, &payload).is_ok() {
        kept += 1;
    }
    assert_eq!(kept, SMALL / 128);
    assert_eq!(push(Level::Critical, &[]), Err(Refused::Full));
    assert_eq!(push(Level::Debug, &[]), Err(Refused::Full));
    assert_eq!(push(Level::Error, &vec![0; ring.max_payload_bytes() + 1]), Err(Refused::TooLarge));
    ring.close();
    assert_eq!(push(Level::Error, &[]), Err(Refused::Closed));
    let expected = [[1, 0, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0; 5], [0, 0, 0, 1, 0], [0; 5]];
    assert_eq!(ring.counters().refused, expected);
    assert_eq!(ring.counters().refused_total(), 7);
    assert_eq!(ring.depth_bytes(), SMALL);
}

#[test]
fn the_longest_payload_fits_an_empty_ring_wherever_it_starts() {
    let (_dir, ring) = ring(SMALL);
    let mut consumer = ring.consumer().unwrap();
    for step in 0..64 {
        log(&ring, &vec![1; step]).unwrap();
        let longest = vec![step as u8; ring.max_payload_bytes()];
        log(&ring, &longest).unwrap();
        assert_eq!(drain(&mut consumer)[1].payload, longest);
        assert!(consumer.release());
    }
}

#[test]
fn a_batch_has_its_limit_and_at_least_one_entry() {
    let (_dir, ring) = ring(SMALL);
    for _ in 0..5 {
        log(&ring, &[1; 100]).unwrap();
    }
    let mut consumer = ring.consumer().unwrap();
    assert_eq!(consumer.read(250, |_| ()), Batch { entries: 2, bytes: 200, end: End::Limit });
    assert_eq!(consumer.read(0, |_| ()), Batch { entries: 1, bytes: 100, end: End::Limit });
    assert_eq!(consumer.read(200, |_| ()), Batch { entries: 2, bytes: 200, end: End::Empty });
}

#[test]
fn there_is_one_consumer_and_a_replaced_one_does_nothing_more() {
    let (_dir, ring) = ring(SMALL);
    log(&ring, b"one").unwrap();
    let mut old = ring.consumer().unwrap();
    assert_eq!(drain(&mut old).len(), 1);
    assert!(ring.consumer().is_none());
    let mut next = ring.take_over().unwrap();
    assert!(!old.is_owner());
    assert_eq!(old.read(usize::MAX, |_| panic!("fenced")).end, End::Fenced);
    assert!(!old.release_aside([1, 0, 0]), "nor does it count what it set aside");
    assert_eq!((ring.depth_bytes(), ring.counters().lost_aside()), (24, 0));
    drop(old);
    assert!(ring.consumer().is_none(), "the end of a fenced one changes nothing");
    assert_eq!(drain(&mut next).len(), 1, "what was not released is read again");
    assert!(next.release());
    drop(next);
    assert!(drain(&mut ring.consumer().unwrap()).is_empty());
    assert_eq!(ring.counters().accepted(), 1);
}

#[test]
fn a_stalled_producer_is_passed_over_after_the_patience_and_counted() {
    const PATIENCE: Duration = Duration::from_secs(1);
    for filled in [Filled::Yes, Filled::No] {
        let (_dir, ring) = ring(SMALL);
        let mut consumer = ring.consumer().unwrap();
        let lost = leave_unpublished(&ring, &[5; 40], filled).unwrap();
        leave_unpublished(&ring, &[5; 8], filled).unwrap();
        log(&ring, b"after").unwrap();
        assert_eq!(consumer.read(usize::MAX, |_| ()).end, End::Unpublished);
        assert_eq!(consumer.skip_stalled(Duration::from_secs(10), PATIENCE), 0);
        leave_unpublished(&ring, b"young", filled).unwrap();
        assert_eq!(consumer.skip_stalled(Duration::from_millis(10_999), PATIENCE), 0);
        assert_eq!(consumer.skip_stalled(Duration::from_secs(11), PATIENCE), 1);
        assert_eq!(drain(&mut consumer)[0].payload, b"after");
        assert_eq!(consumer.skip_stalled(Duration::from_secs(11), PATIENCE), 0, "the young one has its own second");
        assert_eq!(consumer.skip_stalled(Duration::from_secs(12), PATIENCE), 1);
        assert_eq!(drain(&mut consumer), []);
        let late = ring.0.cells().publish(lost, 0, 0);
        assert_eq!(late, Err(Refused::Skipped), "the one that wakes up late is told");
        assert!(consumer.release());
        assert_eq!(ring.counters().half_written, 3, "two beside each other are two");
        assert_eq!(ring.counters().accepted(), 4);
        assert_eq!(ring.depth_bytes(), 0);
    }
}

#[test]
fn a_producer_that_publishes_in_time_is_not_passed_over() {
    let (_dir, ring) = ring(SMALL);
    let mut consumer = ring.consumer().unwrap();
    let head = Head { payload_bytes: 4, kind: Kind::Log, level: Level::Error, source: 0 };
    let cells = ring.0.cells();
    let position = cells.reserve(head.entry_bytes(), head.level).unwrap();
    cells.fill(position, head.pack(), b"late");
    assert_eq!(consumer.skip_stalled(Duration::ZERO, Duration::from_secs(1)), 0);
    let crc = crc32c::crc32c_append(ring.0.salt, b"late");
    assert_eq!(cells.publish(position, head.pack(), crc), Ok(position));
    assert_eq!(consumer.skip_stalled(Duration::from_secs(9), Duration::from_secs(1)), 0);
    assert_eq!(drain(&mut consumer)[0].payload, b"late");
}

/// Whether `work` says so in a forked child. It allocates nothing and takes no lock.
#[expect(unsafe_code, reason = "a closure that runs between fork and exec is the way to be a forked child")]
pub(in crate::telemetry) fn holds_in_a_forked_child(work: impl Fn() -> bool + Send + Sync + 'static) -> bool {
    let mut command = Command::new("/bin/true");
    // SAFETY: the closure allocates nothing and takes no lock.
    let command = unsafe {
        command.pre_exec(move || if work() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) })
    };
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_forked_child_is_refused_and_its_parent_goes_on() {
    let (_dir, ring) = ring(SMALL);
    log(&ring, b"before").unwrap();
    let in_child = ring.clone();
    assert!(holds_in_a_forked_child(move || {
        let refused = log(&in_child, b"child") == Err(Refused::Forked);
        let alone = in_child.consumer().is_none();
        in_child.close();
        refused && alone
    }));
    log(&ring, b"after").unwrap();
    let mut consumer = ring.consumer().unwrap();
    let payloads: Vec<_> = drain(&mut consumer).into_iter().map(|entry| entry.payload).collect();
    assert_eq!(payloads, [b"before".to_vec(), b"after".to_vec()]);
    assert_eq!(ring.counters().refused[Refused::Forked as usize][Level::Warning as usize], 1);
}

#[test]
fn slots_for_open_spans_are_used_again_and_the_lack_of_one_is_counted() {
    let (_dir, ring) = ring(SMALL);
    let mut slots: Vec<_> = (0..spans::SLOTS).map(|_| ring.open_span(&span("s")).unwrap()).collect();
    assert_eq!(ring.open_span(&span("one too many")), None);
    assert_eq!(ring.counters().spans_without_slot, 1);
    ring.close_span(slots.swap_remove(100));
    assert_eq!(ring.open_span(&span("again")), Some(SpanSlot(100)));
}

fn span(name: &str) -> OpenSpan<'_> {
    OpenSpan {
        trace_id: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
        span_id: 11,
        parent_span_id: 12,
        start_unix_micros: -13,
        cycle: 638,
        source: 14,
        name: name.into(),
    }
}
