//! A stored decision, explained, and taken again under other numbers.

use expect_test::expect;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::*;
use crate::explain::what_if;
use crate::fleet::decision::decide;
use crate::fleet::ids::{BootId, Term};
use crate::fleet::pool::Pool;
use crate::fleet::snapshot;
use crate::store::DecisionId;

/// Two wanted in one cell whose breaker is open, and six tasks of which four wait for other reasons.
const FLEET: &str = r#"{
    "schema_version": 1, "name": "render.prod cycle 638", "as_of": "2025-10-16T17:40:22Z",
    "policy": {"max_workers": 4, "live": {"cells": [{"cell": {"gpu": "NVIDIA GeForce RTX 4090", "region": "EU-NO-1"}}]}},
    "workers": [
        {"id": "w1", "created_at": "2025-10-16T17:20:00Z", "status": "terminated", "ended_at": "2025-10-16T17:39:00Z",
         "live": {"outcome": "boot", "pod_id": "p1", "cell": {"gpu": "NVIDIA GeForce RTX 4090", "region": "EU-NO-1"}}},
        {"id": "w2", "created_at": "2025-10-16T17:20:01Z", "status": "terminated", "ended_at": "2025-10-16T17:39:30Z",
         "live": {"outcome": "boot", "pod_id": "p2", "cell": {"gpu": "NVIDIA GeForce RTX 4090", "region": "EU-NO-1"}}},
        {"id": "w3", "created_at": "2025-10-16T17:20:02Z", "status": "terminated", "ended_at": "2025-10-16T17:40:00Z",
         "live": {"outcome": "boot", "pod_id": "p3", "cell": {"gpu": "NVIDIA GeForce RTX 4090", "region": "EU-NO-1"}}}],
    "demand": {"users": [{"user": "a", "queued": 6, "in_progress": 0}],
        "live": {"buckets": {"claimable": 2, "no_credits": 3, "dependency": 1}}},
    "live": {"fleet": "render", "env": "prod", "boot_id": "00000000-0000-0000-0000-000000000007", "cycle": 638, "term": 4,
        "inputs": {"database": {"quality": "complete", "age_seconds": 0},
                   "provider": {"quality": "complete", "age_seconds": 0}},
        "writes_since": "2025-10-16T10:00:00Z"}}"#;

fn row() -> DecisionRow {
    let snapshot = snapshot::parse(FLEET).unwrap().snapshot;
    DecisionRow {
        id: DecisionId(9),
        boot_id: BootId(Uuid::from_u128(7)),
        cycle: 638,
        term: Term(4),
        at: snapshot.as_of,
        trace_id: None,
        decision: decide(&snapshot, &snapshot.policy, snapshot.as_of),
        results: Vec::new(),
        imported: None,
        snapshot,
    }
}

#[test]
fn the_verdict_names_the_breaker_and_its_end_and_everything_else_follows() {
    let why = why(&row());
    assert!(why.reproduced && why.queue.as_ref().unwrap().adds_up);
    assert_eq!((why.counterfactual.would_spawn, why.counterfactual.but_for.len()), (2, 1));
    let expected = expect![[r#"
        would spawn 2 but for breaker RTX4090/EU-NO-1, lifts 17:41:00
          cycle 638 of 00000000-0000-0000-0000-000000000007 at 2025-10-16T17:40:22Z, decision 9

        queue: 6 = 3 no_credits + 1 dependency + 2 claimable; 0 in progress
        workers: 2 desired - 0 active - 0 spawning = 2 wanted, 0 asked for

        gates:
          pass  min: 0 active and 0 spawning, 0 busy; at least 1
          pass  max: 0 active, 0 spawning and 0 leaving; at most 4
          BLOCK failure_breaker: 3 of 3 workers failed in 1800 s: 100.0 %; blocks above 80.0 % of at least 5; by the old rule 3 of 3: 100.0 %; breaker of RTX4090/EU-NO-1 open until 2025-10-16T17:41:00Z (3 failures in a row); lifts at 2025-10-16T17:41:00Z
          pass  observation: database complete, 0 s old; provider complete, 0 s old
          pass  pause: no pause in force
          pass  override: no override in force
          pass  leader: this process leads by term 4
          pass  rate_limit: one probe a cycle: 3 failed and none has come up since
          pass  provider_backoff: the provider has not refused since its last pod
          pass  balance: the provider names no balance
          pass  budget: no budget is set

        without failure_breaker: 2 would be asked for
    "#]];
    expected.assert_eq(&words(&why));
}

#[test]
fn what_all_pools_say_alike_is_said_once() {
    let mut row = row();
    row.snapshot.policy.live.get_or_insert_default().pools = [("video", 1), ("rest", 2)]
        .map(|(name, min_workers)| Pool {
            name: name.into(),
            task_types: vec![name.into()],
            min_workers,
            ..Pool::default()
        })
        .into();
    row.decision = decide(&row.snapshot, &row.snapshot.policy, row.snapshot.as_of);
    let said = words(&why(&row));
    let count = |start: &str| said.lines().filter(|line| line.trim_start().starts_with(start)).count();
    for gate in ["failure_breaker", "leader", "pause", "budget", "balance"] {
        assert_eq!(count(&format!("pass  {gate} [every pool]: ")), 1, "{gate}\n{said}");
        assert_eq!(count(&format!("pass  {gate}")), 1, "{gate}\n{said}");
    }
    assert_eq!(
        (count("pass  min [video]: "), count("pass  min [rest]: "), count("pass  min ")),
        (1, 1, 2),
        "{said}"
    );
}

#[test]
fn the_end_is_found_by_asking_and_holds() {
    let row = row();
    let eta = when(&row);
    let expected = expect![[r#"
        2025-10-16T17:41:00Z: 1 of 2 wanted are asked for, if nothing else changes
          at 2025-10-16T17:40:22Z shut: failure_breaker
    "#]];
    expected.assert_eq(&eta_in_words(&eta));
    let at = eta.at.unwrap();
    let spawn_at = |at| decide(&row.snapshot, &row.snapshot.policy, at).spawn;
    assert_eq!(spawn_at(crate::clock::from_micros(at.as_microsecond() - 1)), 0);
    assert_eq!(spawn_at(at), eta.spawn);
}

#[test]
fn another_policy_is_compared_with_what_was_decided() {
    let rows = [row()];
    let same = what_if::what_if(&rows, None).unwrap();
    assert_eq!((same.decisions, same.not_reproduced, same.differences.len()), (1, 0, 0));
    let overlay = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
    let bigger = overlay(r#"{"min_workers": 3, "live": {"cells": [{"cell": {"gpu": "A40", "region": "US-1"}}]}}"#);
    let other = what_if::what_if(&rows, Some(&bigger)).unwrap();
    assert_eq!((other.spawned, other.would_spawn), (0, 1), "one probe first after trouble");
    assert_eq!(other.differences[0].was.shut, ["failure_breaker"]);
    assert_eq!(other.differences[0].would_be.desired, 3);
    let wrong = overlay(r#"{"max_worker": 3}"#);
    assert!(what_if::what_if(&rows, Some(&wrong)).unwrap_err().to_string().contains("max_worker"));
}
