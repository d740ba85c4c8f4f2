//! Silence and death.

use super::*;

#[test]
fn a_source_that_lives_and_writes_nothing_is_silent() {
    check(&seen(39, vec![source("w1", -500, 39, Some(0))]), &[]);
    check(&seen(40, vec![source("w1", -500, 39, Some(0)), source("w2", -500, 39, Some(30))]), &["log_silence w1"]);
    check(&seen(40, vec![source("w1", -500, 30, Some(0))]), &["log_silence w1", "all_silent"]);
}

#[test]
fn a_source_that_never_wrote_is_silent_from_its_start() {
    check(&seen(39, vec![source("w1", 0, 39, None)]), &[]);
    check(&seen(45, vec![source("w1", 0, 44, None)]), &["log_silence w1", "all_silent"]);
}

#[test]
fn the_field_case_logging_dies_at_a_start_while_workers_are_created() {
    let mut restarted = source("orchestrator", 0, 60, None);
    restarted.is_orchestrator = true;
    let workers = vec![restarted, source("w1", 20, 60, None), source("w2", 55, 60, None)];
    check(&seen(61, workers), &["log_silence orchestrator", "log_silence w1", "all_silent"]);
}

#[test]
fn dead_sources_and_a_quiet_fleet_are_no_silence() {
    let killed = source("w1", -500, 14, Some(0));
    check(&seen(100, vec![killed, source("w2", -500, 99, Some(95))]), &[]);
    let frozen = seen(3_600, vec![source("w1", -500, 1, Some(0)), source("w2", -500, 2, Some(0))]);
    check(&frozen, &[]);
    check(&seen(3_600, vec![]), &[]);
}

#[test]
fn the_first_evidence_after_a_gap_is_held_against_nobody() {
    let mut after = seen(1_000, vec![source("w1", -500, 999, Some(0))]);
    after.watching_since = at(990);
    check(&after, &[]);
    after.now = at(1_030);
    after.sources[0].alive_at = at(1_030);
    after.changed_at = Some(at(1_030));
    check(&after, &["log_silence w1", "all_silent"]);
}

#[test]
fn rows_that_cannot_be_read_back_are_evidence_of_silence() {
    let mut locked = seen(45, vec![source("w1", -500, 44, Some(0))]);
    locked.rows_unreadable = Some("database is locked".to_owned());
    let found = findings(&locked, &limits());
    assert_eq!(found.len(), 2);
    assert!(found[0].summary.contains("database is locked"), "{}", found[0].summary);
    assert_eq!(found[0].since, at(0));
}

#[test]
fn a_database_that_is_away_rings_alone() {
    let mut away = seen(19, vec![source("w1", -500, 0, Some(-100))]);
    away.database_away = Some(Away { since: at(0), error: "no route".to_owned() });
    check(&away, &[]);
    away.now = at(20);
    check(&away, &["database_away"]);
}

#[test]
fn an_orchestrator_without_sign_of_life_is_dead() {
    let mut orchestrator = source("o1", -500, 0, Some(0));
    orchestrator.is_orchestrator = true;
    check(&seen(39, vec![orchestrator.clone()]), &[]);
    check(&seen(40, vec![orchestrator.clone()]), &["orchestrator_dead o1"]);
    orchestrator.is_orchestrator = false;
    check(&seen(40, vec![orchestrator]), &[]);
}

#[test]
fn an_orchestrator_that_writes_and_does_not_cycle_has_stopped() {
    let mut orchestrator = source("o1", -500, 0, Some(85));
    orchestrator.is_orchestrator = true;
    check(&seen(89, vec![orchestrator.clone()]), &[]);
    let stopped = seen(90, vec![orchestrator]);
    check(&stopped, &["orchestrator_dead o1"]);
    assert!(summary(&stopped).contains("has run no cycle for 90 s"));
}
