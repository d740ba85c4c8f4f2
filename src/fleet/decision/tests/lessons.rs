//! What went wrong in the field, one test a lesson that concerns deciding (see docs of the domain).

use expect_test::expect;

use super::super::{GateName, Verdict, decide};
use super::{check, fleet_text};
use crate::fleet::breaker;
use crate::fleet::snapshot::Snapshot;

#[test]
fn lesson_1_a_worker_whose_log_is_silent_is_not_ended() {
    let mut snapshot = fleet_text::parse("policy: min 0\nw1 busy 4000s beat 5s progress 5s");
    let at = snapshot.as_of.to_string();
    let record = format!(r#"{{"source_type": "worker", "source_id": "w1", "timestamp": "{at}"}}"#);
    let mut old: crate::fleet::snapshot::Record = serde_json::from_str(&record).unwrap();
    old.timestamp = crate::clock::minus(snapshot.as_of, std::time::Duration::from_secs(3_900));
    snapshot.records.push(old);
    assert!(decide(&snapshot, &snapshot.policy, snapshot.as_of).live.unwrap().actions.is_empty());
}

#[test]
fn lesson_2_silence_is_the_age_of_what_arrived_while_workers_change() {
    let mut snapshot = fleet_text::parse("w1 busy 30s created 600s");
    let last = crate::clock::minus(snapshot.as_of, std::time::Duration::from_secs(900)).to_string();
    let record = format!(r#"{{"source_type": "orchestrator_gpu", "source_id": "o", "timestamp": "{last}"}}"#);
    snapshot.records.push(serde_json::from_str(&record).unwrap());
    let found = serde_json::to_string(&crate::fleet::findings::findings(&snapshot, &snapshot.policy)).unwrap();
    assert!(found.contains("log_silence") && found.contains("\"silent_seconds\":900"), "{found}");
}

#[test]
fn lesson_3_the_decision_needs_no_log_row() {
    let with = fleet_text::parse("queue: 3\nw1 busy 60s");
    let mut without = with.clone();
    without.records.clear();
    assert_eq!(decide(&with, &with.policy, with.as_of), decide(&without, &without.policy, without.as_of));
}

#[test]
fn lesson_4_a_death_without_last_words_still_has_its_blame_and_reason() {
    for pod in ["signal9", "exited1", "terminated", "error", "exited0"] {
        let snapshot = fleet_text::parse(&format!("w1 busy 20s pod {pod}"));
        let actions = decide(&snapshot, &snapshot.policy, snapshot.as_of).live.unwrap().actions;
        let Some(crate::fleet::decision::Action::End { reason, .. }) = actions.first() else {
            panic!("nothing is done about {pod}")
        };
        assert!(!reason.is_empty(), "{pod}");
    }
}

#[test]
fn lesson_10_a_read_that_was_cut_is_said_and_starts_nothing() {
    let mut snapshot = fleet_text::parse("queue: 9\ndb: partial");
    snapshot.demand.as_mut().unwrap().row_counts = serde_json::from_str(r#"{"tasks": 1000}"#).unwrap();
    assert_eq!(decide(&snapshot, &snapshot.policy, snapshot.as_of).spawn, 0);
    let found = serde_json::to_string(&crate::fleet::findings::findings(&snapshot, &snapshot.policy)).unwrap();
    assert!(found.contains("row_cap_suspected"), "{found}");
}

#[test]
fn lesson_17_a_worker_that_died_before_its_first_word_failed_to_start() {
    check(
        "policy: min 0\nw1 starting 90s pod exited127",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 1 spawning; 1 worker is over and closed (w1: ended with exit code 127 before its first heartbeat)
          end w1: boot: ended with exit code 127 before its first heartbeat
    "#]],
    );
}

#[test]
fn lesson_18_what_is_stored_wins_over_what_is_worded() {
    let mut snapshot = with_ended(&[Some("Spawning timeout"); 6]);
    for worker in snapshot.workers.iter_mut().filter(|worker| worker.is_ended()) {
        worker.live.as_mut().unwrap().outcome = Some(crate::fleet::outcome::Outcome::Planned);
    }
    assert_eq!(breaker::resolved(&snapshot, &snapshot.policy, snapshot.as_of).failures, 0);
}

#[test]
fn lesson_19_an_override_opens_the_breaker_says_whose_it_is_and_ends_by_itself() {
    let failed: String = (1..=5).map(|n| format!("w{n} gone {}s created 2000s outcome boot\n", n * 5)).collect();
    let fleet = format!("queue: 1\nw9 starting 10s\nw8 busy 9s\n{failed}order: override failure_breaker 600s");
    check(
        &fleet,
        expect![[r#"
        no worker is wanted: 2 desired, 1 active, 1 spawning
    "#]],
    );
    let snapshot = fleet_text::parse(&fleet);
    let gate = |at| {
        let gates = decide(&snapshot, &snapshot.policy, at).gates;
        gates.into_iter().find(|gate| gate.gate == GateName::FailureBreaker).unwrap()
    };
    assert!(gate(snapshot.as_of).reason.contains("overridden by ada until 2025-10-16T12:10:00Z: a test"));
    let over = crate::clock::plus(snapshot.as_of, std::time::Duration::from_secs(600));
    assert!(!gate(over).reason.contains("overridden"), "an override that does not end");
}

#[test]
fn lesson_20_no_secret_is_in_what_is_stored() {
    let snapshot = fleet_text::parse("queue: 1");
    let text = serde_json::to_string(&decide(&snapshot, &snapshot.policy, snapshot.as_of)).unwrap();
    assert!(!text.contains("token") && !serde_json::to_string(&snapshot).unwrap().contains("token"));
}

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
            would spawn 1 but for the failure breaker (6 of 7 workers failed in 1800 s: 85.7 %), lifts 12:21:40
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
    // A database's clock that jumps ahead makes a pod that was just made look old.
    check(
        "policy: min 0\nw1 created 133s pod unlisted lists 2\nw2 created 133s pod unlisted lists 3",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 2 spawning; 1 worker is over and closed (w2: not found at the provider, no sign for 133 s)
          end w2: external: not found at the provider, no sign for 133 s
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
            (GateName::Balance, true),
            (GateName::Budget, true),
        ]
    );
}
