//! A shipper between a feed in memory and a destination that follows a script.

mod running;

use std::sync::{Arc, Mutex};

use super::*;
use crate::backoff::Backoff;
use crate::telemetry::exporter::samples::{START_MICROS, stored};

pub(super) const CONFIG: Config = Config {
    limits: Limits {
        batch_start: 16,
        batch_max: 64,
        backoff: Backoff { base: Duration::from_millis(10), ceiling: Duration::from_millis(80), jitter: 0.5 },
        retry_after_max: Duration::from_secs(60),
        probe_every: Duration::from_secs(5),
        open_after: 3,
        quarantine_run_max: 4,
    },
    batch_bytes_max: 1 << 20,
    export_deadline: Duration::from_secs(10),
    linger: Duration::ZERO,
};

/// A feed in memory; the test keeps the other end.
#[derive(Clone, Default)]
pub(super) struct Memory(pub(super) Arc<Mutex<Held>>);

#[derive(Default)]
pub(super) struct Held {
    pub(super) records: Vec<Stored>,
    pub(super) cursor: usize,
    pub(super) ledger: Tally,
    pub(super) set_aside: Vec<(u64, String)>,
    /// How many of the next calls fail: read, commit, quarantine.
    pub(super) failing: [u32; 3],
    pub(super) panics: u32,
    pub(super) gone: bool,
    pub(super) finished: bool,
}

impl Memory {
    pub(super) fn with(seqs: std::ops::Range<u64>) -> Memory {
        let memory = Memory::default();
        memory.0.lock().unwrap().records = seqs.map(stored).collect();
        memory
    }

    pub(super) fn boxed(&self) -> Box<dyn Feed> {
        Box::new(self.clone())
    }

    /// accepted = delivered + dropped + quarantined + pending.
    pub(super) fn assert_law(&self) {
        let held = self.0.lock().unwrap();
        let Tally { delivered, dropped, quarantined } = held.ledger;
        assert_eq!(delivered + dropped + quarantined, held.cursor as u64);
    }

    fn left(&self) -> usize {
        let held = self.0.lock().unwrap();
        held.records.len() - held.cursor
    }
}

fn fail(count: &mut u32, doing: &'static str) -> Result<(), FeedError> {
    if *count == 0 {
        return Ok(());
    }
    *count -= 1;
    Err(FeedError::Unavailable { doing, source: std::io::Error::other("planted") })
}

impl Feed for Memory {
    fn next_batch(&mut self, records_max: usize, _bytes_max: usize) -> Result<Vec<Stored>, FeedError> {
        let mut held = self.0.lock().unwrap();
        if held.gone {
            return Err(FeedError::Gone { detail: "planted".into() });
        }
        if held.panics > 0 {
            held.panics -= 1;
            drop(held);
            panic!("planted");
        }
        fail(&mut held.failing[0], "reading")?;
        Ok(held.records[held.cursor..].iter().take(records_max).cloned().collect())
    }

    fn commit(&mut self, through_seq: u64, tally: Tally) -> Result<(), FeedError> {
        let mut held = self.0.lock().unwrap();
        fail(&mut held.failing[1], "moving the cursor")?;
        let cursor = held.records.partition_point(|record| record.seq <= through_seq);
        assert!(cursor > held.cursor, "a cursor never goes back");
        held.cursor = cursor;
        held.ledger.delivered += tally.delivered;
        held.ledger.dropped += tally.dropped;
        held.ledger.quarantined += tally.quarantined;
        Ok(())
    }

    fn quarantine(&mut self, record: &Stored, why: &str) -> Result<(), FeedError> {
        let mut held = self.0.lock().unwrap();
        fail(&mut held.failing[2], "setting aside")?;
        assert_eq!(held.records[held.cursor].seq, record.seq);
        held.set_aside.push((record.seq, why.to_owned()));
        Ok(())
    }

    fn pending(&mut self) -> Pending {
        let held = self.0.lock().unwrap();
        let records = (held.records.len() - held.cursor) as u64;
        let oldest = held.records.get(held.cursor).map(|record| START_MICROS + record.seq as i64 * 1_000);
        Pending { records, oldest_unix_micros: oldest }
    }

    fn is_finished(&self) -> bool {
        self.0.lock().unwrap().finished
    }
}

/// What a destination got, and what it answers.
#[derive(Clone, Default)]
pub(super) struct Script(pub(super) Arc<Mutex<Destination>>);

type Answer = dyn FnMut(&[Stored]) -> Result<Exported, ExportError> + Send;

#[derive(Default)]
pub(super) struct Destination {
    pub(super) got: Vec<u64>,
    pub(super) asked: usize,
    pub(super) answer: Option<Box<Answer>>,
}

impl Script {
    pub(super) fn answering(
        answer: impl FnMut(&[Stored]) -> Result<Exported, ExportError> + Send + 'static,
    ) -> Script {
        let script = Script::default();
        script.answer(answer);
        script
    }

    pub(super) fn answer(&self, answer: impl FnMut(&[Stored]) -> Result<Exported, ExportError> + Send + 'static) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).answer = Some(Box::new(answer));
    }

    pub(super) fn got(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).got.clone()
    }
}

impl Exporter for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn export(&mut self, batch: &[Stored], _: Time, _: Duration) -> Result<Exported, ExportError> {
        let mut destination = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        destination.asked += 1;
        let exported = match &mut destination.answer {
            Some(answer) => answer(batch)?,
            None => all(batch)?,
        };
        destination.got.extend(batch.iter().map(|record| record.seq));
        Ok(exported)
    }
}

pub(super) fn all(batch: &[Stored]) -> Result<Exported, ExportError> {
    Ok(Exported { delivered: batch.len() as u64, rejected: 0 })
}

pub(super) fn outage() -> Result<Exported, ExportError> {
    Err(ExportError::retry("planted outage"))
}

fn refuse(batch: &[Stored], poison: impl Fn(u64) -> bool) -> Result<Exported, ExportError> {
    if batch.iter().any(|record| poison(record.seq)) {
        return Err(ExportError::Refused { detail: "planted poison".into() });
    }
    all(batch)
}

fn shipper(script: &Script, feeds: &[&Memory], config: Config) -> Shipper {
    Shipper::new(Box::new(script.clone()), feeds.iter().map(|feed| feed.boxed()).collect(), config)
}

fn at(now: Duration) -> Moment {
    Moment { now, wall: clock::plus(clock::from_micros(START_MICROS), now), random: 0.5 }
}

/// Steps in virtual time until all feeds are empty; returns the time it took.
fn run(shipper: &mut Shipper, feeds: &[&Memory]) -> Duration {
    let mut now = Duration::ZERO;
    for _ in 0..20_000 {
        if feeds.iter().all(|feed| feed.left() == 0) {
            shipper.step(at(now));
            feeds.iter().for_each(|feed| feed.assert_law());
            return now;
        }
        match shipper.step(at(now)) {
            Step::Wait(until) => now = until.max(now),
            Step::Worked => {}
            Step::Idle => panic!("idle with records pending"),
        }
    }
    panic!("no end");
}

#[test]
fn everything_arrives_in_order_and_the_law_holds() {
    let (script, feed) = (Script::default(), Memory::with(0..1_000));
    let mut shipper = shipper(&script, &[&feed], CONFIG);
    run(&mut shipper, &[&feed]);
    assert_eq!(script.got(), (0..1_000).collect::<Vec<_>>());
    assert!(script.0.lock().unwrap().asked < 30);
    let facts = shipper.standing().facts();
    assert_eq!((facts.state, facts.delivered, facts.newest_seq), (State::Idle, 1_000, Some(999)));
    assert_eq!(facts.pending, Pending::default());
}

#[test]
fn an_outage_of_a_week_loses_nothing() {
    let (script, feed) = (Script::answering(|_| outage()), Memory::with(0..200));
    let mut shipper = shipper(&script, &[&feed], CONFIG);
    let mut now = Duration::ZERO;
    while let Step::Worked | Step::Wait(_) = shipper.step(at(now)) {
        let facts = shipper.standing().facts();
        let State::Retrying { until } = facts.state else { panic!("{:?}", facts.state) };
        assert!(until > at(now).wall);
        assert_eq!(facts.last_error.unwrap().1, "planted outage");
        now += Duration::from_secs(3_600);
        if now > Duration::from_secs(7 * 86_400) {
            break;
        }
    }
    assert_eq!(shipper.standing().facts().pending.records, 200);
    assert_eq!(shipper.standing().facts().retries, 7 * 24 + 1);
    script.answer(all);
    shipper.hurry(now);
    run(&mut shipper, &[&feed]);
    assert_eq!(script.got(), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_wish_to_be_left_alone_is_respected() {
    let mut first = true;
    let script = Script::answering(move |batch| {
        if std::mem::take(&mut first) {
            return Err(ExportError::Retry { after: Some(Duration::from_secs(30)), detail: "429".into() });
        }
        all(batch)
    });
    let feed = Memory::with(0..10);
    let took = run(&mut shipper(&script, &[&feed], CONFIG), &[&feed]);
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(40), "{took:?}");
}

#[test]
fn a_blocked_exporter_holds_says_the_remedy_and_goes_on_by_itself() {
    let blocked = || ExportError::Blocked { detail: "401".into(), remedy: "set the key".into() };
    let (script, feed) = (Script::answering(move |_| Err(blocked())), Memory::with(0..100));
    let mut shipper = shipper(&script, &[&feed], CONFIG);
    assert_eq!(shipper.step(at(Duration::ZERO)), Step::Worked);
    let State::Blocked { remedy, .. } = shipper.standing().facts().state else { panic!("not blocked") };
    assert_eq!(remedy, "set the key");
    let Step::Wait(probe_at) = shipper.step(at(Duration::ZERO)) else { panic!("does not wait") };
    assert!(probe_at >= Duration::from_secs(4), "{probe_at:?}");
    script.answer(all);
    run(&mut shipper, &[&feed]);
    assert_eq!(script.got().len(), 100);
    assert_eq!(shipper.standing().facts().state, State::Idle);
}

#[test]
fn poison_is_set_aside_and_nothing_else() {
    let poison = |seq| seq % 37 == 5;
    let (script, feed) = (Script::answering(move |batch| refuse(batch, poison)), Memory::with(0..500));
    run(&mut shipper(&script, &[&feed], CONFIG), &[&feed]);
    let held = feed.0.lock().unwrap();
    assert_eq!(script.got(), (0..500).filter(|seq| !poison(*seq)).collect::<Vec<_>>());
    let set_aside: Vec<_> = held.set_aside.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(set_aside, (0..500).filter(|seq| poison(*seq)).collect::<Vec<_>>());
    assert_eq!(held.set_aside[0].1, "planted poison");
    assert_eq!(held.ledger.quarantined, set_aside.len() as u64);
}

#[test]
fn a_record_that_makes_the_exporter_panic_is_poison() {
    let script = Script::answering(|batch| {
        assert!(batch.iter().all(|record| record.seq != 42), "planted panic");
        all(batch)
    });
    let feed = Memory::with(0..100);
    run(&mut shipper(&script, &[&feed], CONFIG), &[&feed]);
    let held = feed.0.lock().unwrap();
    assert_eq!(held.set_aside, [(42, "the exporter panicked: planted panic".to_owned())]);
    assert_eq!(script.got().len(), 99);
}

#[test]
fn a_destination_that_refuses_everything_is_blocked_and_most_is_held() {
    let (script, feed) = (Script::answering(|batch| refuse(batch, |_| true)), Memory::with(0..100));
    let mut shipper = shipper(&script, &[&feed], CONFIG);
    while shipper.step(at(Duration::from_secs(1))) == Step::Worked {}
    assert!(matches!(shipper.standing().facts().state, State::Blocked { .. }));
    assert_eq!(feed.0.lock().unwrap().set_aside.len(), 5);
    feed.assert_law();
}

#[test]
fn what_a_destination_rejects_for_good_is_dropped_and_not_delivered() {
    let partly = |batch: &[Stored]| Ok(Exported { delivered: batch.len() as u64 - 1, rejected: 1 });
    let (script, feed) = (Script::answering(partly), Memory::with(0..16));
    let mut shipper = shipper(&script, &[&feed], CONFIG);
    run(&mut shipper, &[&feed]);
    assert_eq!(feed.0.lock().unwrap().ledger, Tally { delivered: 15, dropped: 1, quarantined: 0 });
    assert_eq!(shipper.standing().facts().rejected, 1);
}

#[test]
fn a_cursor_that_cannot_be_moved_causes_no_second_delivery() {
    let (script, feed) = (Script::default(), Memory::with(0..100));
    feed.0.lock().unwrap().failing = [2, 5, 0];
    let mut shipper = shipper(&script, &[&feed], CONFIG);
    run(&mut shipper, &[&feed]);
    assert_eq!(script.got(), (0..100).collect::<Vec<_>>());
    let (_, text) = shipper.standing().facts().last_error.unwrap();
    assert_eq!(text, "the spool cannot be used (moving the cursor): planted");
}

#[test]
fn a_quarantine_that_cannot_be_written_loses_nothing() {
    let script = Script::answering(|batch| refuse(batch, |seq| seq == 7));
    let feed = Memory::with(0..20);
    feed.0.lock().unwrap().failing = [0, 0, 3];
    run(&mut shipper(&script, &[&feed], CONFIG), &[&feed]);
    assert_eq!(feed.0.lock().unwrap().set_aside.len(), 1);
    assert_eq!(script.got().len(), 19);
}

#[test]
fn feeds_take_turns_and_a_broken_one_holds_up_nobody() {
    let (script, one, two) = (Script::default(), Memory::with(0..200), Memory::with(1_000..1_200));
    let mut shipper = shipper(&script, &[&one, &two], CONFIG);
    shipper.step(at(Duration::ZERO));
    shipper.step(at(Duration::ZERO));
    assert!(one.left() < 200 && two.left() < 200);
    one.0.lock().unwrap().failing[0] = 3;
    let mut now = Duration::ZERO;
    while two.left() > 0 {
        if let Step::Wait(until) = shipper.step(at(now)) {
            now = until;
        }
    }
    assert!(one.left() > 0);
    run(&mut shipper, &[&one, &two]);
    let (ours, theirs): (Vec<_>, Vec<_>) = script.got().into_iter().partition(|seq| *seq < 1_000);
    assert_eq!((ours, theirs), ((0..200).collect(), (1_000..1_200).collect()));
}

#[test]
fn a_feed_that_is_gone_or_finished_is_dropped_and_an_adopted_one_is_served() {
    let (script, gone, done) = (Script::default(), Memory::with(0..5), Memory::default());
    (gone.0.lock().unwrap().gone, done.0.lock().unwrap().finished) = (true, true);
    let mut shipper = shipper(&script, &[&gone, &done], CONFIG);
    assert_eq!(shipper.step(at(Duration::ZERO)), Step::Idle);
    assert!(shipper.feeds.is_empty());
    let adopted = Memory::with(10..20);
    shipper.adopt(adopted.boxed());
    run(&mut shipper, &[&adopted]);
    assert_eq!(script.got(), (10..20).collect::<Vec<_>>());
}

#[test]
fn small_batches_linger_and_full_ones_do_not() {
    let config = Config { linger: Duration::from_secs(5), ..CONFIG };
    let (script, feed) = (Script::default(), Memory::with(0..1));
    let mut shipper = shipper(&script, &[&feed], config);
    assert_eq!(shipper.step(at(Duration::ZERO)), Step::Worked);
    feed.0.lock().unwrap().records.push(stored(1));
    assert!(matches!(shipper.step(at(Duration::from_secs(1))), Step::Wait(_)));
    feed.0.lock().unwrap().records.extend((2..40).map(stored));
    assert_eq!(shipper.step(at(Duration::from_secs(1))), Step::Worked);
    assert!(feed.left() > 0 && feed.left() < 39);
    shipper.hurry(Duration::from_secs(1));
    assert_eq!(shipper.step(at(Duration::from_secs(1))), Step::Worked);
    run(&mut shipper, &[&feed]);
}

#[test]
fn whatever_happens_each_record_ends_once_and_in_order() {
    for seed in 0..200_u64 {
        let mut state = seed;
        let mut chance = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % 100
        };
        let poison = move |seq: u64| (seq * 2_654_435_761 + seed).is_multiple_of(29);
        let script = Script::answering(move |batch| match chance() {
            0..20 => outage(),
            20..24 => Err(ExportError::Blocked { detail: "x".into(), remedy: "y".into() }),
            24..26 => Err(ExportError::Retry { after: Some(Duration::from_secs(2)), detail: "429".into() }),
            _ => refuse(batch, poison),
        });
        let (one, two) = (Memory::with(0..150), Memory::with(1_000..1_150));
        one.0.lock().unwrap().failing = [seed as u32 % 3, seed as u32 % 5, seed as u32 % 2];
        run(&mut shipper(&script, &[&one, &two], CONFIG), &[&one, &two]);
        for feed in [&one, &two] {
            let held = feed.0.lock().unwrap();
            let is_mine = |seq: &u64| held.records.iter().any(|record| record.seq == *seq);
            let got: Vec<_> = script.got().into_iter().filter(is_mine).collect();
            let good: Vec<_> = held.records.iter().map(|r| r.seq).filter(|seq| !poison(*seq)).collect();
            assert_eq!(got, good, "seed {seed}");
            assert_eq!(held.set_aside.len(), held.records.len() - good.len());
        }
    }
}
