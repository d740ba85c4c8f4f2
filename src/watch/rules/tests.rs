//! Rules in virtual time: what must ring, when, and what must not.

use super::*;

const LIMITS: Limits = Limits {
    silence: Duration::from_secs(40),
    database_away: Duration::from_secs(20),
    orchestrator_dead: Duration::from_secs(90),
};

fn at(second: i64) -> Time {
    clock::from_micros((1_000_000 + second) * 1_000_000)
}

fn source(name: &str, since: i64, alive_at: i64, newest: Option<i64>) -> LiveSource {
    LiveSource {
        id: SourceId { source_type: "worker".to_owned(), source_id: name.to_owned() },
        since: at(since),
        alive_at: at(alive_at),
        newest: newest.map(at),
        is_orchestrator: false,
    }
}

fn seen(now: i64, sources: Vec<LiveSource>) -> Observation {
    let changed_at = sources.iter().map(|source| source.alive_at).max();
    Observation {
        now: at(now),
        watching_since: at(-1_000),
        database_away: None,
        rows_unreadable: None,
        sources,
        changed_at,
    }
}

/// Findings as `alarm source`, in order.
fn check(seen: &Observation, expected: &[&str]) {
    let found: Vec<_> = findings(seen, &LIMITS)
        .iter()
        .map(|finding| format!("{} {}", finding.alarm.word(), finding.source.source_id).trim().to_owned())
        .collect();
    assert_eq!(found, expected, "{seen:?}");
}

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
    let found = findings(&locked, &LIMITS);
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
    check(&seen(89, vec![orchestrator.clone()]), &[]);
    check(&seen(90, vec![orchestrator.clone()]), &["orchestrator_dead o1"]);
    orchestrator.is_orchestrator = false;
    check(&seen(90, vec![orchestrator]), &[]);
}

#[test]
fn what_cannot_be_judged_is_not_called_well() {
    let mut start = seen(0, vec![]);
    assert_eq!(unjudged(&start, &LIMITS), []);
    start.watching_since = at(-50);
    assert_eq!(unjudged(&start, &LIMITS), [Alarm::OrchestratorDead]);
    start.watching_since = at(-30);
    assert_eq!(unjudged(&start, &LIMITS), [Alarm::LogSilence, Alarm::AllSilent, Alarm::OrchestratorDead]);
    start.watching_since = at(-1_000);
    start.database_away = Some(Away { since: at(0), error: "no route".to_owned() });
    assert_eq!(unjudged(&start, &LIMITS), [Alarm::LogSilence, Alarm::AllSilent, Alarm::OrchestratorDead]);
}
