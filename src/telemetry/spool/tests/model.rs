//! Any order of appends, syncs, crashes, commits and drops at the cap, against a small model.
//!
//! The model is a list of sequences and two numbers: how many of them are durable, and what the
//! slot has been given. What the spool does must be explained by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::telemetry::spool::verify::verify;

#[derive(Debug, Clone)]
enum Operation {
    /// That many records, each so many sequences after the one before.
    Append(u64, u64),
    Flush,
    Sync,
    /// The process ends and another one goes on; the files are as they are.
    Reopen,
    /// The power fails; that share of what was not synced stays; the ring survives or not.
    Crash(u8, bool),
    /// That many records are read, and that share of them committed.
    Deliver(usize, u8),
    /// Segments that are delivered are deleted, and the oldest over that cap dropped.
    Room(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (1..12u64, 1..4u64).prop_map(|(records, step)| Operation::Append(records, step)),
        1 => Just(Operation::Flush),
        3 => Just(Operation::Sync),
        1 => Just(Operation::Reopen),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(kept, ring)| Operation::Crash(kept, ring)),
        4 => (1..20usize, any::<u8>()).prop_map(|(records, share)| Operation::Deliver(records, share)),
        1 => (1_000..4_000u64).prop_map(Operation::Room),
    ]
}

/// The real thing and the model beside it.
struct Run {
    disk: MemoryDisk,
    open: Option<(Folder, Writer, Cursor)>,
    /// What was appended and is not known to be durable: the ring.
    ring: Vec<u64>,
    durable: BTreeSet<u64>,
    /// What was flushed and is perhaps durable, perhaps not.
    perhaps: BTreeSet<u64>,
    given: Vec<u64>,
    next: u64,
}

impl Run {
    fn new() -> Run {
        let disk = MemoryDisk::default();
        drop(Folder::create(&root(), BOOT, Arc::new(disk.clone())).unwrap());
        let [durable, perhaps] = [BTreeSet::new(), BTreeSet::new()];
        let mut run = Run { disk, open: None, ring: vec![], durable, perhaps, given: vec![], next: 1 };
        run.reopen();
        run
    }

    fn reopen(&mut self) {
        self.open = None;
        let folder = Folder::adopt(&root(), BOOT, Arc::new(self.disk.clone())).unwrap().unwrap();
        let mut writer = Writer::open(&folder, small(400)).unwrap();
        for &seq in self.ring.iter().filter(|&&seq| seq >= writer.next_seq()).collect::<Vec<_>>() {
            append(&mut writer, [seq]);
        }
        let cursor = Cursor::open(&folder, "database").unwrap();
        self.open = Some((folder, writer, cursor));
    }

    fn apply(&mut self, operation: &Operation) {
        let Some((_, writer, cursor)) = &mut self.open else { return };
        match *operation {
            Operation::Append(records, step) => {
                for _ in 0..records {
                    self.next += step;
                    append(writer, [self.next]);
                    self.ring.push(self.next);
                }
            }
            Operation::Flush => writer.flush().unwrap(),
            Operation::Sync => {
                writer.sync().unwrap();
                self.durable.extend(self.ring.drain(..));
            }
            Operation::Reopen => self.reopen(),
            Operation::Crash(kept, ring) => {
                self.open = None;
                self.disk.crash_keeping(|unsynced| unsynced * usize::from(kept) / 255);
                if !ring {
                    self.perhaps.extend(self.ring.drain(..));
                }
                self.reopen();
            }
            Operation::Deliver(records, share) => {
                let batch = cursor.next_batch(records, usize::MAX).unwrap();
                let seqs = seqs(&batch);
                let taken = seqs.len() * usize::from(share) / 255;
                if let Some(&last) = seqs.get(taken.wrapping_sub(1)) {
                    cursor.commit(last, &all_delivered(taken)).unwrap();
                    self.given.extend(&seqs[..taken]);
                }
            }
            Operation::Room(cap_bytes) => {
                writer.config.cap_bytes = cap_bytes;
                writer.keep_room().unwrap();
            }
        }
    }

    fn check(mut self) {
        let Some((folder, mut writer, mut cursor)) = self.open.take() else { return };
        writer.sync().unwrap();
        self.durable.extend(self.ring.drain(..));
        self.given.extend(drain(&mut cursor));
        let given: BTreeSet<u64> = self.given.iter().copied().collect();
        let lost = self.durable.difference(&given).count() as u64;
        let (state, told) =
            (cursor.state(), cursor.state().evicted + cursor.state().absent + cursor.state().corrupt);
        let dropped = Ledger::load(&self.disk, folder.path(), BOOT).unwrap().evicted_below > 0;
        assert!(dropped || lost == 0, "{lost} durable records were not delivered");
        assert!(lost <= told, "{lost} are lost and {told} are told");
        assert!(given.iter().all(|seq| self.durable.contains(seq) || self.perhaps.contains(seq)));
        assert_eq!(state.total().delivered + told, state.ordinal);
        for line in verify(&self.disk, &root()).unwrap() {
            assert!(line.ok && line.pending == 0, "{line:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_spool_does_what_the_model_says(operations in prop::collection::vec(operation(), 1..40)) {
        let mut run = Run::new();
        for operation in &operations {
            run.apply(operation);
        }
        run.check();
    }
}

/// The power fails when a segment has its header and the one before has more than the ledger knows.
#[test]
fn a_history_that_once_broke_holds() {
    use Operation::{Append, Crash, Deliver, Flush, Reopen};
    let mut run = Run::new();
    for operation in [Append(8, 1), Flush, Reopen, Append(1, 1), Flush, Deliver(2, 128), Crash(137, true)] {
        run.apply(&operation);
    }
    assert_eq!(run.open.as_ref().map(|(_, writer, _)| writer.next_seq()), Some(11));
    run.check();
}

/// What was delivered goes with the power, and nothing else is left; what comes after it is dropped at the cap.
#[test]
fn a_cursor_ahead_of_an_empty_spool_counts_what_is_dropped() {
    use Operation::{Append, Crash, Deliver, Flush, Room};
    let mut run = Run::new();
    for operation in
        [Append(2, 1), Flush, Deliver(2, 128), Crash(0, false), Append(10, 1), Room(1_000), Append(13, 1)]
    {
        run.apply(&operation);
    }
    run.check();
}
