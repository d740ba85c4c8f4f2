//! The simulator itself: seeds hold, are the same again, and planted bugs are found.
//!
//! Bounded in the normal run; `DOGWATCH_TEST_LONG=1` lives more seeds and looks for each bug from the
//! first seed on.

use super::bugs::Bug;
use super::*;
use crate::store::taken_again;

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

/// Seeds that showed something, and the days they need for it.
#[test]
fn seeds_that_once_broke_hold() {
    // 13: the provider cannot be reached, and a pod elsewhere shows that it can again. 50: a calm ends in
    // the moment in which the last task does. 106: the database's clock jumps ahead while a pod that was
    // just made is not listed yet.
    for (seed, days) in [(13, 1), (50, 2), (106, 10)] {
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

#[test]
fn a_trace_is_the_same_again_and_a_bad_one_is_refused_by_its_path() {
    let text = serde_json::to_string(&field(2)).unwrap();
    assert_eq!(Trace::parse(&text), Ok(field(2)));
    let mut bad = field(2);
    bad.capacity[0].cell = "elsewhere".into();
    let refused = Trace::parse(&serde_json::to_string(&bad).unwrap()).unwrap_err();
    assert_eq!(refused.to_string(), "$.capacity[0]: expected the name of one of the cells");
}
