//! The kill matrix: whatever a SIGKILL interrupts, a record whose macro has returned is delivered
//! exactly once.
//!
//! A child process emits numbered records through the layer and writes each number to a pipe as
//! soon as its macro has returned. It is killed at a random moment: while it emits from one or four
//! threads, rotates, syncs, delivers, or takes over what an earlier one left. Another process then
//! adopts and delivers into SQLite, and every number that came through the pipe must be there once.
//! The same program on tracing-appender and on OpenTelemetry's batch processor stands beside it in
//! one table; nothing is asserted of these two but that they ran.
//!
//! 40 runs, or 1,000 with `DOGWATCH_TEST_LONG=1`.

mod child;
mod found;
mod table;
mod victim;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use child::{CLOSED_EVERY, Mode, Order, Program};
use found::SpanRow;
use table::Total;
use victim::{Moment, Victim};

/// Runs of dogwatch; the other two get a quarter of them.
const RUNS: u64 = 40;
const RUNS_LONG: u64 = 1_000;
/// Numbers that are acknowledged before a kill, at most.
const NUMBERS_MAX: u64 = 1_500;
/// Most time from the last number that is waited for to the kill.
const SPIN_MAX: Duration = Duration::from_micros(400);
/// Most time from the beginning of a start to its kill.
const ADOPTING_MAX: Duration = Duration::from_millis(40);
/// Kills in a row while the same folder is taken over, at most.
const ADOPTERS_MAX: u64 = 3;

/// Random numbers that a seed repeats (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }

    fn time_below(&mut self, end: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(end.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// A moment while it emits; few numbers are as likely as many.
    fn while_emitting(&mut self) -> Moment {
        let most = 1 + self.below(NUMBERS_MAX);
        Moment::AfterNumbers(1 + self.below(most), self.time_below(SPIN_MAX))
    }
}

#[expect(clippy::disallowed_methods, reason = "the long version is asked for by the environment")]
fn runs() -> u64 {
    if std::env::var_os("DOGWATCH_TEST_LONG").is_some_and(|value| value == "1") { RUNS_LONG } else { RUNS }
}

#[test]
fn what_was_acknowledged_is_delivered_exactly_once_whenever_the_kill_comes() {
    let runs = runs();
    let mut recorder = Total::new("dogwatch");
    for run in 0..runs {
        one_run(run, &mut recorder);
    }
    let mut others = [
        (Program::Appender, Total::new("tracing-appender, non-blocking")),
        (Program::Batch, Total::new("OpenTelemetry batch processor")),
    ];
    for (program, total) in &mut others {
        for run in 0..runs / 4 {
            other_run(*program, run, total);
        }
    }
    let [(_, appender), (_, batch)] = &others;
    table::print(&[&recorder, appender, batch]);
    assert_eq!(recorder.runs, runs);
    assert!(recorder.acknowledged >= runs, "each run acknowledges something");
    assert!(appender.acknowledged > 0 && batch.acknowledged > 0, "the other two ran");
}

/// Without a kill each program delivers everything: what the table says is the kill's doing.
#[test]
fn what_is_spared_loses_nothing() {
    for program in [Program::Recorder(Mode::Delivering), Program::Appender, Program::Batch] {
        let folder = tempfile::tempdir().unwrap();
        let order = Order { numbers_max: 300, ..order(program, folder.path(), 4) };
        let mut acknowledged = Victim::start(&order).spared();
        let mut found = match program {
            Program::Recorder(_) => found::in_database(folder.path()),
            Program::Appender | Program::Batch => found::in_file(folder.path()),
        };
        acknowledged.sort_unstable();
        found.sort_unstable();
        assert_eq!(acknowledged.len(), 4 * 300);
        assert!(found == acknowledged, "{program:?}: {} of {}", found.len(), acknowledged.len());
    }
}

fn order(program: Program, folder: &Path, threads: u64) -> Order {
    Order { program, folder: folder.to_owned(), threads, process: 0, numbers_max: u64::MAX }
}

/// One folder, one or more processes that are killed in it, and one that delivers.
fn one_run(run: u64, total: &mut Total) {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice(run);
    let threads = if run.is_multiple_of(2) { 1 } else { 4 };
    let mode = Mode::ALL[(run / 2) as usize % Mode::ALL.len()];
    let mut order = order(Program::Recorder(mode), folder.path(), threads);
    let mut acknowledged = Vec::new();
    if mode == Mode::Adopting {
        // What there is to take over.
        order.program = Program::Recorder(Mode::Holding);
        acknowledged.extend(Victim::start(&order).killed_at(dice.while_emitting()).numbers);
        order.program = Program::Recorder(mode);
        for process in 1..=1 + dice.below(ADOPTERS_MAX) {
            order.process = process;
            let dead = Victim::start(&order).killed_at(Moment::AfterStart(dice.time_below(ADOPTING_MAX)));
            total.kills_while_adopting += u64::from(!dead.had_started);
            total.kills += 1;
            acknowledged.extend(dead.numbers);
        }
    } else {
        acknowledged.extend(Victim::start(&order).killed_at(dice.while_emitting()).numbers);
    }
    total.kills += 1;
    let lines = found::deliver(folder.path());
    for line in &lines {
        assert!(line.ok, "run {run} {mode:?}: the conservation law does not hold: {line:?}");
        assert_eq!((line.pending, line.quarantined), (0, 0), "run {run} {mode:?}: {line:?}");
        assert!(line.dropped.keys().all(|cause| cause == "half_written"), "run {run} {mode:?}: {line:?}");
        total.refused += line.refused.values().sum::<u64>();
        total.half_written += line.dropped.values().sum::<u64>();
        total.accepted += line.accepted;
        total.delivered += line.delivered;
    }
    let found = found::in_database(folder.path());
    let outcome = total.add(&acknowledged, &found);
    assert_eq!(outcome.lost, [0_u64; 0], "run {run} {mode:?}: acknowledged and not delivered");
    assert_eq!(outcome.duplicates, 0, "run {run} {mode:?}: delivered more than once");
    assert_eq!(total.refused, 0, "run {run} {mode:?}: the emitter waits for room");
    judge_spans(&found::spans(folder.path()), &acknowledged, total);
    // A thread that was killed between its macro and the pipe has one number more.
    let unacknowledged_max = threads * (1 + order.process);
    assert!(outcome.unacknowledged <= unacknowledged_max, "run {run} {mode:?}: {outcome:?}");
}

/// Each emitter's span was open at the kill, and is told once; of those that had closed before a
/// number was acknowledged each is there once, and none as interrupted.
fn judge_spans(spans: &[SpanRow], acknowledged: &[u64], total: &mut Total) {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "a span is there twice: {spans:#?}");
    let named = |name: &str, is_interrupted| {
        spans.iter().filter(move |span| span.message == name && span.is_interrupted == is_interrupted).count()
    };
    // Process and thread stand above a number's lower half.
    let emitters = acknowledged.iter().map(|number| number >> 32).collect::<BTreeSet<_>>().len();
    assert!(named("emitter", true) >= emitters, "{emitters} were open: {spans:#?}");
    assert_eq!(named("emitter", false), 0, "{spans:#?}");
    let closed: BTreeSet<u64> = spans.iter().filter_map(|span| span.number.map(i64::cast_unsigned)).collect();
    let missing = acknowledged.iter().find(|number| **number % CLOSED_EVERY == 0 && !closed.contains(*number));
    assert_eq!(missing, None, "its span had closed: {spans:#?}");
    let caught = named("closed", true);
    assert!(caught <= named("emitter", true), "one at most in each emitter was open: {spans:#?}");
    total.interrupted += (named("emitter", true) + caught) as u64;
    total.closed += closed.len() as u64;
}

fn other_run(program: Program, run: u64, total: &mut Total) {
    let folder = tempfile::tempdir().unwrap();
    let threads = if run.is_multiple_of(2) { 1 } else { 4 };
    let order = order(program, folder.path(), threads);
    let dead = Victim::start(&order).killed_at(Dice(run).while_emitting());
    total.kills += 1;
    total.add(&dead.numbers, &found::in_file(folder.path()));
}
