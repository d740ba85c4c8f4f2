//! Decisions as a table: policy, queue and workers in, the decision's words out.

mod cells;
mod fleet_text;
mod lessons;
mod properties;

use expect_test::{Expect, expect};

use super::{Action, Decision, Verdict, decide};

/// Reads the fleet, decides, compares the words.
pub(super) fn check(fleet: &str, expected: Expect) {
    let snapshot = fleet_text::parse(fleet);
    let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
    assert_eq!(decision, decide(&snapshot, &snapshot.policy, snapshot.as_of), "decided differently twice");
    expected.assert_eq(&words(&decision));
}

fn words(decision: &Decision) -> String {
    let live = decision.live.as_ref().unwrap();
    let mut lines = vec![live.sentence.clone()];
    for action in &live.actions {
        let (id, word) = (&action.worker().0, action.word());
        lines.push(match action {
            Action::Spawn { pool, cell: None, .. } => format!("  spawn in {pool}"),
            Action::Spawn { pool, cell: Some(cell), .. } => format!("  spawn in {pool}: {cell}"),
            Action::Reap { pod_id, reason, .. } => format!("  reap {id} = {pod_id}: {reason}"),
            Action::Adopt { pod_id, .. } => format!("  adopt {id} = {pod_id}"),
            Action::Drain { outcome, reason, .. }
            | Action::Terminate { outcome, reason, .. }
            | Action::End { outcome, reason, .. } => format!("  {word} {id}: {}: {reason}", outcome.word()),
        });
    }
    for gate in decision.gates.iter().filter(|gate| gate.verdict == Verdict::Block) {
        let lifts = match (gate.lifts_at, &gate.lifts_when) {
            (Some(at), _) => at.to_string(),
            (None, Some(when)) => when.clone(),
            (None, None) => "never by itself".into(),
        };
        lines.push(format!("  blocked by {} until {lifts}", gate.gate.word()));
    }
    lines.join("\n") + "\n"
}

#[test]
fn workers_come_for_claimable_tasks_a_few_a_cycle() {
    check(
        "queue: 5\npolicy: rate 2",
        expect![[r#"
        2 of 5 wanted workers are asked for; 3 wait: rate limit of 2 a cycle
          spawn in default
          spawn in default
    "#]],
    );
    check(
        "queue: 2",
        expect![[r#"
        2 workers are asked for: 2 desired, 0 active, 0 spawning
          spawn in default
          spawn in default
    "#]],
    );
    check(
        "queue: 3\nw1 busy 60s\nw2 starting 40s",
        expect![[r#"
        2 workers are asked for: 4 desired, 1 active, 1 spawning
          spawn in default
          spawn in default
    "#]],
    );
    check(
        "queue: 0\npolicy: min 0",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning
    "#]],
    );
    check(
        "queue: 0\npolicy: min 0, buffer 1\nw1 busy 60s",
        expect![[r#"
        1 worker is asked for: 2 desired, 1 active, 0 spawning
          spawn in default
    "#]],
    );
}

#[test]
fn the_ceiling_counts_machines_that_may_still_run() {
    check(
        "queue: 9\npolicy: max 3\nw1 busy 60s\nw2 draining 60s tasks 1\nw3 terminating 5s",
        expect![[r#"
            would spawn 1 but for the ceiling (1 active, 0 spawning and 2 leaving), lifts when a worker ends; 1 worker is terminated (w3: asked to end and still there)
              terminate w3: unknown: asked to end and still there
              blocked by max until a worker ends
        "#]],
    );
    check(
        "queue: 9\npolicy: max 3\nw1 busy 60s\nw2 draining 60s tasks 1",
        expect![[r#"
        1 of 2 wanted workers is asked for; 1 waits: ceiling of 3
          spawn in default
    "#]],
    );
    check(
        "queue: 9\npolicy: max 0",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning
          blocked by max until never by itself
    "#]],
    );
}

#[test]
fn idle_workers_go_newest_first_and_calmly() {
    let idle = |w: &str, created: u32, idle: u32| format!("{w} idle {idle}s created {created}s promoted 900s\n");
    check(
        &format!("policy: min 1\n{}{}", idle("w1", 5000, 40), idle("w2", 4000, 40)),
        expect![[r#"
        no worker is wanted: 1 desired, 2 active, 0 spawning; 1 worker is drained (w2: scale-down: idle for 40 s (limit 30 s), 2 ready and 1 desired)
          drain w2: planned: scale-down: idle for 40 s (limit 30 s), 2 ready and 1 desired
    "#]],
    );
    check(
        &format!("policy: min 0, buffer 1\n{}{}", idle("w1", 5000, 40), idle("w2", 4000, 40)),
        expect![[r#"
        no worker is wanted: 1 desired, 2 active, 0 spawning; 1 worker is drained (w2: scale-down: idle for 40 s (limit 30 s), 2 ready and 1 desired)
          drain w2: planned: scale-down: idle for 40 s (limit 30 s), 2 ready and 1 desired
    "#]],
    );
    check(
        &format!("policy: min 0\n{}{}", idle("w1", 5000, 29), idle("w2", 4000, 30)),
        expect![[r#"
        no worker is wanted: 0 desired, 2 active, 0 spawning; 1 worker is drained (w2: scale-down: idle for 30 s (limit 30 s), 2 ready and 0 desired)
          drain w2: planned: scale-down: idle for 30 s (limit 30 s), 2 ready and 0 desired
    "#]],
    );
    check(
        "policy: min 0\nw1 idle 200s created 500s promoted 299s",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning
    "#]],
    );
    check(
        &format!("policy: min 1\n{}w2 starting 30s\nw3 alive 20s\n", idle("w1", 5000, 400)),
        expect![[r#"
        no worker is wanted: 1 desired, 2 active, 1 spawning
    "#]],
    );
    check(
        &format!("policy: min 0\n{}w2 busy 900s\n", idle("w1", 5000, 400)),
        expect![[r#"
        no worker is wanted: 1 desired, 2 active, 0 spawning; 1 worker is drained (w1: scale-down: idle for 400 s (limit 30 s), 2 ready and 1 desired)
          drain w1: planned: scale-down: idle for 400 s (limit 30 s), 2 ready and 1 desired
    "#]],
    );
    check(
        &format!("policy: min 0\nqueue: unseen\n{}", idle("w1", 5000, 400)),
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning
          blocked by observation until the queue is counted
    "#]],
    );
}

#[test]
fn a_drained_worker_ends_when_it_is_idle_or_takes_too_long() {
    check(
        "policy: min 0\nw1 draining 20s leaving operator",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning; 1 worker is terminated (w1: decided: operator)
          terminate w1: operator: decided: operator
    "#]],
    );
    check(
        "policy: min 0\nw1 draining 20s leaving operator tasks 1 progress 3s",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning
    "#]],
    );
    check(
        "policy: min 0\nw1 draining 3601s leaving operator tasks 1 progress 3s",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning; 1 worker is terminated (w1: decided: operator)
          terminate w1: operator: decided: operator
    "#]],
    );
    check(
        "policy: min 0\nw1 terminating 20s leaving planned",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning; 1 worker is terminated (w1: decided: planned)
          terminate w1: planned: decided: planned
    "#]],
    );
    check(
        "policy: min 0\nw1 terminating 20s leaving planned pod exited0",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning; 1 worker is over and closed (w1: decided: planned)
          end w1: planned: decided: planned
    "#]],
    );
    check(
        "policy: min 0\nw1 terminating 20s leaving planned pod unlisted",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning
    "#]],
    );
}

#[test]
fn a_pod_that_is_over_closes_its_row_with_blame() {
    check(
        "policy: min 0\nw1 busy 20s pod signal9",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning; 1 worker is over and closed (w1: ended by signal 9)
          end w1: worker_crash: ended by signal 9
    "#]],
    );
    check(
        "policy: min 0\nw1 idle 20s pod exited0",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning; 1 worker is over and closed (w1: left unasked with exit code 0)
          end w1: external: left unasked with exit code 0
    "#]],
    );
    check(
        "policy: min 0\nw1 idle 20s pod exited101",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning; 1 worker is over and closed (w1: ended with exit code 101)
          end w1: worker_crash: ended with exit code 101
    "#]],
    );
    check(
        "policy: min 0\nw1 starting 20s pod exited1",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 1 spawning; 1 worker is over and closed (w1: ended with exit code 1 before its first heartbeat)
          end w1: boot: ended with exit code 1 before its first heartbeat
    "#]],
    );
    check(
        "policy: min 0\nw1 idle 20s pod terminated",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning; 1 worker is over and closed (w1: externally terminated)
          end w1: external: externally terminated
    "#]],
    );
    check(
        "policy: min 0\nw1 idle 20s pod error",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning; 1 worker is over and closed (w1: the provider says its pod is broken)
          end w1: provider_fault: the provider says its pod is broken
    "#]],
    );
}

#[test]
fn stages_have_deadlines_and_movement_extends_them() {
    check(
        "policy: min 0\nw1 provisioning 601s pod provisioning",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 1 spawning; 1 worker is terminated (w1: spawning timeout: no running pod after 601 s (limit 600 s))
          terminate w1: boot: spawning timeout: no running pod after 601 s (limit 600 s)
    "#]],
    );
    check(
        "policy: min 0\nw1 provisioning 600s pod provisioning",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 1 spawning
    "#]],
    );
    check(
        "policy: min 0\nw1 starting 1201s",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 1 spawning; 1 worker is terminated (w1: startup timeout: no heartbeat after 1201 s (limit 1200 s))
          terminate w1: boot: startup timeout: no heartbeat after 1201 s (limit 1200 s)
    "#]],
    );
    check(
        "policy: min 0\nw1 alive 1201s progress 30s",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning
    "#]],
    );
    check(
        "policy: min 0\nw1 alive 1201s",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning; 1 worker is terminated (w1: startup timeout: not ready after 1201 s (limit 1200 s))
          terminate w1: boot: startup timeout: not ready after 1201 s (limit 1200 s)
    "#]],
    );
}

#[test]
fn standby_and_pause_are_said() {
    check(
        "queue: 2\nterm: none\nw1 idle 20s pod signal9",
        expect![[r#"
        standby: another process leads, so nothing is started or ended here
          blocked by leader until this process takes the lease
    "#]],
    );
    check(
        "queue: 2\npause: 60s",
        expect![[r#"
            would spawn 2 but for the pause (paused by ada since 2025-10-16T11:50:00Z: maintenance), lifts 12:01:00
              blocked by pause until 2025-10-16T12:01:00Z
        "#]],
    );
    check(
        "queue: 2\npause: open",
        expect![[r#"
            would spawn 2 but for the pause (paused by ada since 2025-10-16T11:50:00Z: maintenance), lifts when an operator resumes
              blocked by pause until an operator resumes
        "#]],
    );
    check(
        "queue: 2\npause: -1s",
        expect![[r#"
        2 workers are asked for: 2 desired, 0 active, 0 spawning
          spawn in default
          spawn in default
    "#]],
    );
}

#[test]
fn refusals_by_the_provider_are_answered_with_patience() {
    check(
        "queue: 1\nw1 gone 29s outcome provider_capacity pod none",
        expect![[r#"
            would spawn 1 but for the provider's refusals (1 refused in a row (capacity), the last at 2025-10-16T11:59:31Z), lifts 12:00:31
              blocked by provider_backoff until 2025-10-16T12:00:31Z
        "#]],
    );
    check(
        "queue: 1\nw1 gone 30s outcome provider_capacity pod none",
        expect![[r#"
            would spawn 1 but for the provider's refusals (1 refused in a row (capacity), the last at 2025-10-16T11:59:30Z), lifts 12:00:30
              blocked by provider_backoff until 2025-10-16T12:00:30Z
        "#]],
    );
    check(
        "queue: 1\nw1 gone 300s outcome provider_capacity pod none\nw2 gone 59s outcome provider_capacity pod none",
        expect![[r#"
            would spawn 1 but for the provider's refusals (2 refused in a row (capacity), the last at 2025-10-16T11:59:01Z), lifts 12:04:01
              blocked by provider_backoff until 2025-10-16T12:04:01Z
        "#]],
    );
    check(
        "queue: 2\nw1 gone 20s created 90s outcome provider_capacity pod none\nw2 busy 20s created 30s",
        expect![[r#"
            2 workers are asked for: 3 desired, 1 active, 0 spawning
              spawn in default
              spawn in default
        "#]],
    );
}

#[test]
fn an_open_breaker_says_its_end_and_lets_a_probe_through_where_nobody_is_left() {
    let failed: String =
        (1..=5).map(|n| format!("w{n} gone {}s created 2000s outcome worker_crash\n", n * 50)).collect();
    check(
        &format!("queue: 3\n{failed}"),
        expect![[r#"
            would spawn 3 but for the failure breaker (5 of 5 workers failed in 1800 s: 100.0 %), lifts 12:00:10
              blocked by failure_breaker until 2025-10-16T12:00:10Z
        "#]],
    );
    check(
        &format!("queue: 3\n{}", failed.replace("gone 50s", "gone 60s")),
        expect![[r#"
            1 of 3 wanted workers is asked for; 2 wait: one probe a cycle: 5 failed and none has come up since
              spawn in default
        "#]],
    );
    check(
        &format!("queue: 3\n{failed}w9 starting 10s"),
        expect![[r#"
            would spawn 2 but for the failure breaker (5 of 5 workers failed in 1800 s: 100.0 %), lifts when the probe w9 comes up or fails
              blocked by failure_breaker until the probe w9 comes up or fails
        "#]],
    );
}
