//! What went wrong in the field, one test a lesson that concerns deciding (see docs of the domain).

use expect_test::expect;

use super::super::{GateName, Verdict, decide};
use super::{check, fleet_text};
use crate::fleet::breaker;
use crate::fleet::snapshot::Snapshot;

fn with_ended(reasons: &[Option<&str>]) -> Snapshot {
    let mut snapshot = fleet_text::parse("queue: 1\nw0 busy 60s");
    let ended = fleet_text::parse("w1 gone 10s created 500s").workers.remove(0);
    snapshot.workers.extend(reasons.iter().map(|reason| {
        let mut worker = ended.clone();
        worker.reason = reason.map(str::to_owned);
        worker
    }));
    snapshot
}

#[test]
fn lesson_5_ended_is_not_failed() {
    let snapshot = with_ended(&[
        Some("Idle timeout (320s) with no work available"),
        Some("scale_down_idle (capacity 2 > desired 1)"),
        Some("manual"),
        Some("Failed to spawn: no longer any instances available"),
        Some("Exception in worker check: 'data'"),
        None,
    ]);
    let (policy, now) = (&snapshot.policy, snapshot.as_of);
    assert!(breaker::raw(&snapshot, policy, now).blocks, "the old rule blocks");
    for rate in [breaker::classified(&snapshot, policy, now), breaker::resolved(&snapshot, policy, now)] {
        assert_eq!((rate.failures, rate.blocks), (0, false));
    }
    let failed = with_ended(&[Some("Spawning timeout"); 9]);
    assert!(breaker::resolved(&failed, &failed.policy, failed.as_of).blocks);
}

#[test]
fn lesson_6_the_end_of_a_block_is_an_instant() {
    let failed: String = (1..=6).map(|n| format!("w{n} gone {}s outcome boot\n", n * 100)).collect();
    check(
        &format!("queue: 1\nw0 busy 60s\n{failed}"),
        expect![[r#"
        none of 1 wanted is asked for: failure_breaker (6 of 7 workers failed in 1800 s: 85.7 %; blocks above 80.0 % of at least 5; lifts at 2025-10-16T12:21:40Z)
          blocked by failure_breaker until 2025-10-16T12:21:40Z
    "#]],
    );
}

#[test]
fn lesson_7_failures_count_when_they_become_known() {
    let slow: String = (1..=5).map(|n| format!("w{n} gone 5s created {}s outcome boot\n", 1800 + n)).collect();
    let snapshot = fleet_text::parse(&format!("queue: 1\nw0 starting 10s\n{slow}"));
    assert!(!breaker::classified(&snapshot, &snapshot.policy, snapshot.as_of).blocks);
    assert!(breaker::resolved(&snapshot, &snapshot.policy, snapshot.as_of).blocks);
}

#[test]
fn lesson_8_a_worker_on_its_way_covers_its_task_whatever_state_it_is_in() {
    for state in ["planned", "requesting", "created", "ambiguous", "provisioning", "starting", "alive"] {
        let snapshot = fleet_text::parse(&format!("queue: 1\nw1 {state} 5s"));
        let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
        assert_eq!((decision.desired, decision.spawn), (1, 0), "{state}");
    }
    check(
        "queue: 1\nterm: none",
        expect![[r#"
        standby: another process leads, so nothing is started or ended here
          blocked by leader until this process takes the lease
    "#]],
    );
}

#[test]
fn lesson_9_only_claimable_tasks_ask_for_workers() {
    let mut snapshot = fleet_text::parse("policy: min 0");
    snapshot.demand = Some(
        serde_json::from_str(
            r#"{"users": [{"user": "a", "queued": 22, "in_progress": 0}, {"user": "b", "queued": 5, "in_progress": 5},
                {"user": "c", "queued": 7, "in_progress": 0, "credits": 0}]}"#,
        )
        .unwrap(),
    );
    assert_eq!(decide(&snapshot, &snapshot.policy, snapshot.as_of).desired, 5);
}

#[test]
fn lesson_11_could_not_see_is_not_zero() {
    check(
        "queue: unseen\nw1 idle 4000s\nw2 idle 4000s",
        expect![[r#"
        no worker is wanted: 2 desired, 2 active, 0 spawning
          blocked by observation until the queue is counted
    "#]],
    );
    check(
        "queue: 4\ndb: failed",
        expect![[r#"
        the database was not seen whole (timed out), so nothing is started or ended
          blocked by observation until the database is read completely
    "#]],
    );
    check(
        "queue: 4\ndb: partial\nw1 busy 9000s beat 9000s pod signal9\nw2 draining 10s",
        expect![[r#"
        the database was not seen whole (timed out), so nothing is started or ended
          blocked by observation until the database is read completely
    "#]],
    );
    check(
        "provider: failed\nw1 idle 20s pod unlisted beat 15s\nw2 busy 20s pod unlisted beat 15s",
        expect![[r#"
        no worker is wanted: 1 desired, 2 active, 0 spawning
    "#]],
    );
    check(
        "provider: partial\nw1 ambiguous 500s pod none",
        expect![[r#"
        no worker is wanted: 1 desired, 0 active, 1 spawning
    "#]],
    );
}

#[test]
fn lesson_11_nobody_is_stale_before_one_limit_of_uninterrupted_writes() {
    check(
        "writes: 300s\nw1 idle 9000s beat 9000s\nw2 busy 9000s beat 9000s",
        expect![[r#"
        no worker is wanted: 1 desired, 2 active, 0 spawning; 1 worker is drained (w1: scale-down: idle for 300 s (limit 30 s), 2 ready and 1 desired)
          drain w1: planned: scale-down: idle for 300 s (limit 30 s), 2 ready and 1 desired
    "#]],
    );
    check(
        "writes: 301s\nw1 idle 9000s beat 9000s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning; 1 worker is terminated (w1: stale heartbeat (9000 s old, limit 300 s))
          terminate w1: stalled: stale heartbeat (9000 s old, limit 300 s)
    "#]],
    );
}

#[test]
fn lesson_12_a_worker_that_never_spoke_is_late_and_not_stale() {
    check(
        "policy: min 0\nw1 starting 301s beat none",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 1 spawning
    "#]],
    );
}

#[test]
fn lesson_13_alive_is_not_ready_is_not_moving() {
    check(
        "policy: min 0\nw1 busy 1201s beat 1s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning; 1 worker is terminated (w1: stuck task: no progress for 1201 s (limit 1200 s))
          terminate w1: stalled: stuck task: no progress for 1201 s (limit 1200 s)
    "#]],
    );
    check(
        "policy: min 0\nw1 busy 9000s beat 1s progress 1200s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning
    "#]],
    );
}

#[test]
fn lesson_14_a_worker_of_any_state_comes_to_an_end() {
    for state in [
        "planned",
        "requesting",
        "created",
        "ambiguous",
        "provisioning",
        "starting",
        "alive",
        "idle",
        "busy",
        "draining",
        "terminating",
    ] {
        for pod in ["unlisted", "none", "exited1", "running"] {
            let snapshot = fleet_text::parse(&format!("w1 {state} 99000s beat 99000s pod {pod}"));
            let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
            let acted = decision.live.unwrap().actions.iter().any(|action| action.worker().0 == "w1");
            assert!(acted, "nothing is ever done about a {state} worker whose pod is {pod}");
        }
    }
}

#[test]
fn lesson_15_a_lost_pod_is_closed_only_on_a_complete_listing_and_after_a_grace() {
    check(
        "policy: min 0\nw1 idle 9s pod unlisted beat 9s",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning
    "#]],
    );
    check(
        "policy: min 0\nw1 idle 10s pod unlisted beat 10s",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning; 1 worker is over and closed (w1: not found at the provider, no sign for 10 s)
          end w1: external: not found at the provider, no sign for 10 s
    "#]],
    );
    check(
        "policy: min 0\nw1 idle 90s pod unlisted beat 2s",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning
    "#]],
    );
    check(
        "policy: min 0\nw1 ambiguous 119s pod none\nw2 ambiguous 120s pod none",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 2 spawning; 1 worker is over and closed (w2: no answer to the request and no pod listed for 120 s)
          end w2: provider_fault: no answer to the request and no pod listed for 120 s
    "#]],
    );
    check(
        "policy: min 0\nw1 ambiguous 500s pod none\nunknown: w1=pod-9, w8=pod-1",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 1 spawning; 1 worker is found again
          adopt w1 = pod-9
    "#]],
    );
}

#[test]
fn lesson_16_a_long_render_that_moves_is_left_alone() {
    check(
        "policy: min 0\nw1 busy 90000s progress 1199s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning
    "#]],
    );
}

#[test]
fn every_gate_is_asked_also_after_one_has_said_no() {
    let snapshot = fleet_text::parse("queue: 4\npolicy: max 0, rate 0\nterm: none\npause: open\ndb: failed");
    let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
    let verdicts: Vec<_> = decision.gates.iter().map(|gate| (gate.gate, gate.verdict == Verdict::Pass)).collect();
    assert_eq!(
        verdicts,
        [
            (GateName::Min, true),
            (GateName::Max, false),
            (GateName::FailureBreaker, true),
            (GateName::Observation, false),
            (GateName::Pause, false),
            (GateName::Override, true),
            (GateName::Leader, false),
            (GateName::RateLimit, false),
            (GateName::ProviderBackoff, true),
        ]
    );
}
