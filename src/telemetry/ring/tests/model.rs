//! Random operations on a small ring against a list.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Push(usize, Level),
    Stall(usize, Filled),
    Read(usize),
    Release,
    Skip,
    TakeOver,
    Recover,
}

fn op() -> impl Strategy<Value = Op> {
    let level = prop::sample::select(Level::ALL.to_vec());
    let filled = prop::sample::select(vec![Filled::Yes, Filled::No]);
    prop_oneof![
        8 => (0..600_usize, level).prop_map(|(length, level)| Op::Push(length, level)),
        1 => (0..100_usize, filled).prop_map(|(length, filled)| Op::Stall(length, filled)),
        3 => (0..900_usize).prop_map(Op::Read),
        3 => Just(Op::Release),
        2 => Just(Op::Skip),
        1 => Just(Op::TakeOver),
        1 => Just(Op::Recover),
    ]
}

/// A reserved entry; None: never published.
type Item = (u64, Option<Saved>);

struct Model {
    /// Not released.
    items: VecDeque<Item>,
    /// Of these, passed by the consumer.
    read: usize,
    tail: u64,
    free: u64,
    accepted: u64,
    half_written: u64,
    now: u64,
}

impl Model {
    fn admit(&self, bytes: u64, level: Level) -> Result<u64, Refused> {
        match self.tail - self.free + bytes {
            used if used > SMALL => Err(Refused::Full),
            used if used > SMALL / 10 * 9 && level <= Level::Info => Err(Refused::AboveNinety),
            _ => Ok(self.tail),
        }
    }

    fn add(&mut self, bytes: u64, entry: Option<Saved>) {
        self.half_written += u64::from(entry.is_none());
        self.accepted += 1;
        self.items.push_back((self.tail, entry));
        self.tail += bytes;
    }

    /// The next ones that a reader gets, as many as fit.
    fn take(&mut self, bytes_max: usize) -> Vec<Saved> {
        let (mut out, mut bytes) = (Vec::new(), 0);
        while let Some((_, Some(entry))) = self.items.get(self.read) {
            bytes += entry.payload.len();
            if !out.is_empty() && bytes > bytes_max {
                break;
            }
            out.push(entry.clone());
            self.read += 1;
        }
        out
    }

    fn release(&mut self) {
        self.items.drain(..self.read);
        self.read = 0;
        self.free = self.items.front().map_or(self.tail, |item| item.0);
    }

    fn skip(&mut self) {
        while self.items.get(self.read).is_some_and(|item| item.1.is_none()) {
            self.read += 1;
        }
    }
}

fn run(ops: &[Op]) -> TestCaseResult {
    let (dir, ring) = ring(SMALL);
    let mut consumer = ring.consumer().unwrap();
    let first = layout::FIRST_SEQ;
    let mut model =
        Model { items: VecDeque::new(), read: 0, tail: first, free: first, accepted: 0, half_written: 0, now: 0 };
    for op in ops {
        apply(op, &ring, &mut consumer, &mut model, dir.path())?;
        prop_assert_eq!(ring.depth_bytes(), model.tail - model.free);
    }
    while !model.items.is_empty() {
        for op in [Op::Read(usize::MAX), Op::Skip, Op::Read(0), Op::Release] {
            apply(&op, &ring, &mut consumer, &mut model, dir.path())?;
        }
    }
    let counters = ring.counters();
    prop_assert_eq!((counters.accepted(), counters.half_written), (model.accepted, model.half_written));
    Ok(())
}

fn apply(op: &Op, ring: &Ring, consumer: &mut Consumer, model: &mut Model, dir: &Path) -> TestCaseResult {
    match *op {
        Op::Push(length, level) => {
            let payload = vec![model.accepted as u8 + 1; length];
            let expected = model.admit(layout::entry_bytes(length), level);
            prop_assert_eq!(ring.push(Kind::Log, level, 1, &payload), expected);
            if let Ok(seq) = expected {
                let entry = Saved { seq, kind: Kind::Log, level, source: 1, payload };
                model.add(layout::entry_bytes(length), Some(entry));
            }
        }
        Op::Stall(length, filled) => {
            let bytes = layout::entry_bytes(length);
            let expected = model.admit(bytes, Level::Error);
            prop_assert_eq!(leave_unpublished(ring, &vec![0xEE; length], filled), expected);
            if expected.is_ok() {
                model.add(bytes, None);
            }
        }
        Op::Read(bytes_max) => {
            let mut out = Vec::new();
            consumer.read(bytes_max, |entry| out.push(saved(entry)));
            prop_assert_eq!(out, model.take(bytes_max));
        }
        Op::Release => {
            prop_assert!(consumer.release());
            model.release();
        }
        Op::Skip => {
            for _ in 0..2 {
                model.now += 1;
                consumer.skip_stalled(Duration::from_secs(model.now), Duration::from_secs(1));
            }
            model.skip();
        }
        Op::TakeOver => {
            *consumer = ring.take_over().unwrap();
            model.read = 0;
        }
        Op::Recover => {
            let recovered = recover(dir, KERNEL).unwrap().unwrap();
            let expected: Vec<_> = model.items.iter().filter_map(|item| item.1.clone()).collect();
            prop_assert_eq!(&recovered.entries, &expected);
            prop_assert_eq!(recovered.accepted(), model.accepted);
            prop_assert_eq!(recovered.counters.half_written + recovered.half_written, model.half_written);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_behaves_like_a_list(ops in prop::collection::vec(op(), 1..80)) {
        run(&ops)?;
    }
}

/// Two unfinished entries beside each other, and nobody reads between the skip and the release.
#[test]
fn a_history_that_once_broke_holds() {
    let stall = || Op::Stall(0, Filled::Yes);
    run(&[stall(), stall(), Op::Skip, Op::Release]).unwrap();
}
