//! The simulator itself: seeds hold, are the same again, and planted bugs are found.
//!
//! Bounded in the normal run; `DOGWATCH_TEST_LONG=1` lives more seeds and looks for each bug from the
//! first seed on.

use super::bench::Outcome as Played;
use super::bugs::Bug;
use super::*;
use crate::fleet::outcome::Outcome;
use crate::fleet::task::TaskStatus;
use crate::store::taken_again;
use crate::store::{Store as _, TaskFilter};

/// Seeds within which a planted bug must be found.
const BUG_SEEDS: u64 = 200;

#[expect(clippy::disallowed_methods, reason = "whether the long versions run is asked of the environment")]
fn is_long() -> bool {
    std::env::var("DOGWATCH_TEST_LONG").is_ok_and(|value| value == "1")
}

#[test]
fn seeds_hold() {
    for seed in 0..if is_long() { 100 } else { 3 } {
        let life = live(seed, 1);
        assert_eq!(life.broken, None, "dogwatch simulate --seeds {seed}..{} --days 1", seed + 1);
        assert!(life.cycles > 1_000 && life.calms > 0, "{life:?}");
        taken_again::count(life.cycles);
    }
}

/// Nothing else goes wrong: for ten minutes no orchestrator and no agent reaches the database.
#[test]
fn ten_minutes_without_a_database_cost_no_worker_and_no_task() {
    let mut kept = 0;
    for seed in 0..if is_long() { 50 } else { 5 } {
        let policy =
            Policy { min_workers: 0, max_workers: 6, live: Some(PolicyLive::default()), ..Policy::default() };
        let load = Load::drawn(&mut Rng::new(seed, 0));
        let cell = Cell::new("default".to_owned(), Offer { cell: None, usd_per_hour: Some(0.59) }, 20);
        let world = std::sync::Arc::new(World::new(seed, policy, Faults::none(), load, vec![cell]));
        let mut runner = Runner::new(std::sync::Arc::clone(&world), 2, crate::orchestrator::Method::OURS);
        world.sim().begin_load();
        runner.chaos(true);
        // At the first instant after a while at which workers are there.
        while world.store.open_workers().len() < 2 {
            runner.run_until(runner.now() + timeline::MINUTE).unwrap();
        }
        runner.run_until(runner.now() + 10 * timeline::MINUTE).unwrap();
        let away = 10 * timeline::MINUTE;
        let (began, pods) = (runner.now(), world.sim().facts.pods_made);
        world.sim().outage_until = began + away;
        runner.run_until(began + away).unwrap();
        assert_eq!(world.sim().facts.pods_made, pods, "seed {seed}: nothing is done unseen");
        kept += world.store.open_workers().len();
        runner.chaos(false);
        runner.run_until(runner.now() + 3 * HOUR).unwrap();
        assert!(runner.is_served(), "seed {seed}");
        runner.is_quiet().unwrap();
        for row in at_once(world.store.workers(None, 0)).unwrap() {
            assert_eq!(row.worker.outcome(), Some(Outcome::Planned), "seed {seed}: {row:?}");
        }
        for task in at_once(world.store.tasks(&TaskFilter::default())).unwrap() {
            assert_eq!((task.status, task.attempts), (TaskStatus::Complete, 1), "seed {seed}: {task:?}");
        }
    }
    assert!(kept > 5, "{kept} workers lived through it");
}

/// Seeds that showed something, and the days they need for it.
#[test]
fn seeds_that_once_broke_hold() {
    // 13: the provider cannot be reached, and a pod elsewhere shows that it can again. 50: a calm ends in
    // the moment in which the last task does. 106: the database's clock jumps ahead while a pod that was
    // just made is not listed yet. 776: a leader is killed after it gave a worker up, a leader that was stopped
    // asks for its pod only then, and the next one carries out what the row says.
    for (seed, days) in [(13, 1), (50, 2), (106, 10), (776, 9)] {
        assert_eq!(live(seed, days).broken, None, "dogwatch simulate --seeds {seed}..{} --days {days}", seed + 1);
    }
}

#[test]
fn a_seed_is_one_history() {
    let one = live(3, 1);
    assert_eq!(one, live(3, 1));
    assert_ne!(one.history, 0);
}

/// Looks from `first` on, which is a seed that found it when this was written.
fn is_found(bug: Bug, first: u64) {
    let first = if is_long() { 0 } else { first };
    let found = (first..first + BUG_SEEDS).find_map(|seed| {
        let world = chaotic(seed);
        world.sim().planted = Some(bug);
        live_in(&world, seed, 1).broken.map(|broken| (seed, broken))
    });
    match found {
        Some((seed, broken)) => println!("{bug:?}: seed {seed}: {broken}"),
        None => panic!("{bug:?} is not found within {BUG_SEEDS} seeds"),
    }
}

macro_rules! bugs {
    ($($test:ident: $bug:ident, $first:literal;)*) => {
        $(#[test]
        fn $test() {
            is_found(Bug::$bug, $first);
        })*

        #[test]
        fn every_bug_has_its_test() {
            assert_eq!([$(Bug::$bug),*], Bug::ALL);
        }
    };
}

bugs! {
    spawning_workers_that_do_not_count_are_found: SpawningNotCounted, 0;
    ends_on_a_partial_listing_are_found: PartialIsWhole, 2;
    a_claim_without_a_second_look_is_found: ClaimUnchecked, 0;
    a_lease_checked_before_the_write_is_found: LeaseCheckedBefore, 0;
    forgotten_attempts_are_found: AttemptsForgotten, 0;
    planned_stops_that_count_are_found: PlannedCounts, 0;
    staleness_after_an_outage_is_found: StaleAfterOutage, 0;
    a_failed_listing_taken_as_empty_is_found: FailedIsEmpty, 2;
    an_end_one_window_off_is_found: EtaOneWindowOff, 0;
    a_lost_answer_taken_as_refusal_is_found: LostIsRefused, 1;
    an_order_without_an_end_is_found: OrderForEver, 3;
    two_completions_are_found: TwoCompletions, 6;
}

#[test]
fn a_trace_is_played_under_each_policy_and_costs_no_less_than_the_bound() {
    let mut trace = field(1);
    trace.arrivals.truncate(6);
    trace.capacity.clear();
    for rules in Rules::ALL {
        let outcome = bench(&trace, rules);
        assert_eq!(outcome.unfinished, 0, "{outcome:?}");
        assert!(outcome.cost >= outcome.cost_lower_bound && outcome.productive_spawns > 0, "{outcome:?}");
    }
}

/// The middle one.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

#[test]
fn the_field_like_days_keep_to_their_budgets() {
    let days: Vec<Trace> = (1..=5).map(field).collect();
    let ours: Vec<Played> = days.iter().map(|day| bench(day, Rules::Ours)).collect();
    let legacy: Vec<Played> = days.iter().map(|day| bench(day, Rules::Legacy)).collect();
    let of = |outcomes: &[Played], value: fn(&Played) -> f64| median(outcomes.iter().map(value).collect());
    let dear = of(&ours, |day| day.cost / day.cost_lower_bound);
    let productive = of(&ours, |day| day.productive_spawns as f64 / day.spawns as f64);
    let busy = of(&ours, |day| day.busy_share);
    let calls = of(&legacy, |day| day.create_calls as f64) / of(&ours, |day| day.create_calls as f64);
    println!(
        "cost {dear:.2} x the bound, {productive:.2} productive, {busy:.2} busy, {calls:.1} x our create calls"
    );
    assert!(dear <= 1.3 && productive >= 0.9 && busy >= 0.7 && calls >= 10.0);
    assert!(ours.iter().chain(&legacy).all(|day| day.unfinished == 0));
}

#[test]
fn a_trace_is_the_same_again_and_a_bad_one_is_refused_by_its_path() {
    let text = serde_json::to_string(&field(2)).unwrap();
    assert_eq!(Trace::parse(&text), Ok(field(2)));
    let mut bad = field(2);
    bad.capacity[0].cell = "elsewhere".into();
    let refused = Trace::parse(&serde_json::to_string(&bad).unwrap()).unwrap_err();
    assert_eq!(refused.to_string(), "$.capacity[0]: expected the name of one of the cells");
}
