//! Every interleaving of small scenes, by loom, over the same protocol code.

use std::sync::atomic::Ordering;

use ::loom::sync::Arc;
use ::loom::sync::atomic::{AtomicU64, fence};
use ::loom::thread;

use super::super::cells::{Barrier, Cells, Replace};
use super::super::word::{Load, Word};
use super::*;

impl Load for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }
}

impl Word for AtomicU64 {
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    fn swap_if(&self, current: u64, next: u64, success: Ordering) -> Result<u64, u64> {
        self.compare_exchange_weak(current, next, success, Ordering::Relaxed)
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// 64 bytes: two entries of one word of payload, the second over the wrap.
const WORDS: usize = 8;
const SALT: u32 = 5;
const BYTES: u64 = 24;

struct Memory {
    header: [AtomicU64; 4],
    commits: Vec<AtomicU64>,
    data: Vec<AtomicU64>,
}

impl Memory {
    /// An empty ring whose next position is `start`.
    fn new(start: u64) -> Arc<Memory> {
        let commit = Commit { head: start, ..Commit::START }.pack(SALT);
        let commits = commit.into_iter().chain([0; layout::COMMIT_WORDS]);
        let tail = Tail((start / WORD_BYTES) << 7);
        Arc::new(Memory {
            header: [tail.0, start, 0, 0].map(AtomicU64::new),
            commits: commits.map(AtomicU64::new).collect(),
            data: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    fn cells(&self) -> Cells<'_, AtomicU64> {
        let [tail, free, skipped, owner] = &self.header;
        let entries = Entries { data: &self.data, salt: SALT };
        Cells { tail, free, skipped, commits: &self.commits, owner, entries, barrier: Barrier::Fence }
    }

    fn push(&self, value: u64) -> Result<u64, Refused> {
        let head = Head { payload_bytes: 8, kind: Kind::Log, level: Level::Error, source: 0 };
        self.cells().push(head, &value.to_le_bytes())
    }

    fn read(&self, cursor: &mut Cursor, into: &mut Vec<(u64, u64)>) -> End {
        let batch = self.cells().read(cursor, usize::MAX, |entry| {
            into.push((entry.seq, u64::from_le_bytes(entry.payload.try_into().unwrap())));
        });
        batch.end
    }

    /// A mark that is seen brings everything before it along; the CRC is not needed for that.
    fn what_is_marked_is_whole(&self, cursor: &Cursor) {
        let (entries, next) = (self.cells().entries, cursor.next());
        let mark = entries.data[entries.index(next + WORD_BYTES)].load(Ordering::Relaxed);
        let is_marked = mark as u32 == entries.tag(next);
        assert!(!is_marked || entries.entry_at(next, &mut Vec::new()).is_some());
    }

    fn commit(&self) -> Commit {
        Commit::latest(SALT, &self.commits).unwrap()
    }
}

/// Runs a scene in every order of its threads with so many preemptions at most, and makes sure that
/// there were many: a scene that loom does not branch in proves nothing. Loom finds the orders from
/// conflicts with the last access of a word, so the side that mostly writes is spawned and joined
/// first.
fn model(preemptions: usize, orders_at_least: u64, scene: impl Fn() + Sync + Send + 'static) {
    let orders = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&orders);
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        scene();
    });
    let orders = orders.load(Ordering::Relaxed);
    assert!(orders >= orders_at_least, "only {orders} orders");
}

type Seen = Vec<(u64, u64)>;

/// Reads and releases in a thread of its own.
fn consume(memory: &Arc<Memory>, mut cursor: Cursor, times: usize) -> thread::JoinHandle<(Cursor, Seen)> {
    let memory = Arc::clone(memory);
    thread::spawn(move || {
        let mut seen = Vec::new();
        for _ in 0..times {
            memory.read(&mut cursor, &mut seen);
            memory.what_is_marked_is_whole(&cursor);
            assert!(memory.cells().release(&mut cursor, || ()));
        }
        (cursor, seen)
    })
}

fn own(memory: &Memory) -> Cursor {
    memory.cells().own(Replace::OnlyTheDead).unwrap()
}

#[test]
fn two_producers_and_a_consumer_agree() {
    model(2, 1_000, || {
        let memory = Memory::new(32);
        let producers = [11, 22].map(|value| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || memory.push(value).map(|seq| (seq, value)))
        });
        let consumer = consume(&memory, own(&memory), 1);
        let mut pushed = producers.map(|producer| producer.join().unwrap().unwrap());
        let (mut cursor, mut read) = consumer.join().unwrap();
        assert_eq!(memory.read(&mut cursor, &mut read), End::Empty);
        pushed.sort_unstable();
        assert_eq!(read, pushed);
        assert_eq!(cursor.commit().half_written, 0);
    });
}

#[test]
fn room_is_used_again_only_after_it_was_zeroed() {
    model(3, 200, || {
        let memory = Memory::new(32);
        let first = memory.push(1).unwrap();
        let other = Arc::clone(&memory);
        let producer = thread::spawn(move || [2, 3].map(|value| (other.push(value), value)));
        let consumer = consume(&memory, own(&memory), 1);
        let pushed = producer.join().unwrap();
        let (mut cursor, mut read) = consumer.join().unwrap();
        assert_eq!(memory.read(&mut cursor, &mut read), End::Empty);
        let acknowledged = pushed.into_iter().filter_map(|(seq, value)| Some((seq.ok()?, value)));
        let expected: Seen = std::iter::once((first, 1)).chain(acknowledged).collect();
        assert_eq!(read, expected);
    });
}

#[test]
fn a_push_that_was_acknowledged_is_read_even_if_its_producer_was_given_up() {
    model(3, 100, || {
        let memory = Memory::new(8);
        let other = Arc::clone(&memory);
        let producer = thread::spawn(move || other.push(1));
        let (other, mut cursor) = (Arc::clone(&memory), own(&memory));
        let consumer = thread::spawn(move || {
            other.cells().skip_stalled(&mut cursor, Duration::ZERO, Duration::ZERO);
            cursor
        });
        let outcome = producer.join().unwrap();
        let (mut cursor, mut read) = (consumer.join().unwrap(), Vec::new());
        memory.read(&mut cursor, &mut read);
        match outcome {
            Ok(seq) => assert_eq!(read, [(seq, 1)]),
            Err(refused) => assert_eq!(refused, Refused::Skipped),
        }
        assert!(memory.cells().release(&mut cursor, || ()));
        assert_eq!(memory.commit().total(), 1);
        assert_eq!(memory.commit().head, 8 + BYTES);
    });
}

#[test]
fn a_fenced_consumer_releases_nothing_that_its_successor_reads() {
    model(3, 100, || {
        let memory = Memory::new(32);
        memory.push(1).unwrap();
        let mut old = own(&memory);
        memory.read(&mut old, &mut Vec::new());
        let other = Arc::clone(&memory);
        let releasing = thread::spawn(move || other.cells().release(&mut old, || ()));
        let other = Arc::clone(&memory);
        let taking_over = thread::spawn(move || {
            let mut next = other.cells().own(Replace::Anyone)?;
            other.push(2).unwrap();
            let mut read = Vec::new();
            other.read(&mut next, &mut read);
            assert!(other.cells().release(&mut next, || ()));
            Some(read.into_iter().map(|entry| entry.1).collect::<Vec<_>>())
        });
        let released = releasing.join().unwrap();
        match taking_over.join().unwrap() {
            Some(read) => {
                assert_eq!(read, if released { vec![2] } else { vec![1, 2] });
                assert_eq!(memory.commit().taken[Level::Error as usize], 2);
            }
            None => assert!(released, "only a release in progress delays a take-over"),
        }
    });
}
