//! Cells, refusals, money, orders, pools and blame, in the words of the fleet table.

use expect_test::expect;

use super::super::{Verdict, decide, eta};
use super::{check, fleet_text};
use crate::fleet::refusal::Refusal;

const CELL: &str = "RTX4090/EU-NO-1";

fn failed(n: u32, created: u32, ended: u32) -> String {
    format!("f{n} gone {ended}s created {created}s outcome boot cell {CELL}\n")
}

fn three(ended: u32) -> String {
    (0..3).map(|n| failed(n, 500, ended + n)).collect()
}

#[test]
fn a_cell_opens_after_three_failures_in_a_row_and_another_is_asked_instead() {
    check(
        &format!("queue: 2\ncells: {CELL}\n{}{}", failed(1, 500, 20), failed(2, 500, 10)),
        expect![[r#"
        1 of 2 wanted workers is asked for; 1 waits: one probe a cycle: 2 failed and none has come up since
          spawn in default: RTX4090/EU-NO-1
    "#]],
    );
    check(
        &format!("queue: 2\ncells: {CELL}\n{}", three(20)),
        expect![[r#"
        would spawn 2 but for breaker RTX4090/EU-NO-1, lifts 12:00:40
          blocked by failure_breaker until 2025-10-16T12:00:40Z
    "#]],
    );
    check(
        &format!("queue: 2\ncells: {CELL}, A40/US-1\n{}", three(20)),
        expect![[r#"
        1 of 2 wanted workers is asked for; 1 waits: one probe a cycle: 3 failed and none has come up since
          spawn in default: A40/US-1
    "#]],
    );
    check(
        &format!("queue: 2\ncells: {CELL}\n{}ok busy 5s created 400s cell {CELL}", three(20)),
        expect![[r#"
        2 workers are asked for: 3 desired, 1 active, 0 spawning
          spawn in default: RTX4090/EU-NO-1
          spawn in default: RTX4090/EU-NO-1
    "#]],
    );
}

#[test]
fn half_open_is_one_probe_and_a_failed_probe_waits_five_then_fifteen_minutes() {
    check(
        &format!("queue: 2\ncells: {CELL}\n{}", three(60)),
        expect![[r#"
        1 of 2 wanted workers is asked for; 1 waits: one probe a cycle: 3 failed and none has come up since
          spawn in default: RTX4090/EU-NO-1
    "#]],
    );
    check(
        &format!("queue: 2\ncells: {CELL}\n{}p starting 5s beat none cell {CELL}", three(90)),
        expect![[r#"
        would spawn 1 but for breaker RTX4090/EU-NO-1, lifts when the probe p comes up or fails
          blocked by failure_breaker until the probe p comes up or fails
    "#]],
    );
    check(
        &format!("queue: 2\ncells: {CELL}\n{}{}", three(400), failed(7, 300, 20)),
        expect![[r#"
        would spawn 2 but for breaker RTX4090/EU-NO-1, lifts 12:04:40
          blocked by failure_breaker until 2025-10-16T12:04:40Z
    "#]],
    );
    let twice = format!("{}{}{}", three(900), failed(7, 800, 700), failed(8, 390, 20));
    check(
        &format!("queue: 2\ncells: {CELL}\n{twice}"),
        expect![[r#"
        would spawn 2 but for the failure breaker (5 of 5 workers failed in 1800 s: 100.0 %), lifts 12:14:40
          blocked by failure_breaker until 2025-10-16T12:14:40Z
    "#]],
    );
}

#[test]
fn another_image_at_the_same_place_is_half_open_at_once() {
    let old: String =
        (0..3).map(|n| format!("f{n} gone 20s created 500s outcome worker_crash cell {CELL}/render:6\n")).collect();
    check(
        &format!("queue: 2\ncells: {CELL}/render:7\n{old}"),
        expect![[r#"
        1 of 2 wanted workers is asked for; 1 waits: one probe a cycle: 3 failed and none has come up since
          spawn in default: RTX4090/EU-NO-1
    "#]],
    );
    check(
        &format!("queue: 2\ncells: {CELL}/render:6\n{old}"),
        expect![[r#"
        would spawn 2 but for breaker RTX4090/EU-NO-1, lifts 12:00:40
          blocked by failure_breaker until 2025-10-16T12:00:40Z
    "#]],
    );
}

#[test]
fn each_refusal_has_its_own_patience_and_place() {
    let refused = |ended: u32, refusal: &str| {
        let outcome = if refusal == "capacity" { "provider_capacity" } else { "provider_fault" };
        format!("r{ended} gone {ended}s outcome {outcome} refusal {refusal} pod none cell {CELL}\n")
    };
    let cells = format!("queue: 1\ncells: {CELL}, A40/US-1\n");
    check(
        &format!("{cells}{}", refused(10, "capacity")),
        expect![[r#"
        1 worker is asked for: 1 desired, 0 active, 0 spawning
          spawn in default: A40/US-1
    "#]],
    );
    check(
        &format!("{cells}{}", refused(10, "balance")),
        expect![[r#"
        would spawn 1 but for the provider's refusals of RTX4090/EU-NO-1 and A40/US-1, lifts 12:04:50
          blocked by provider_backoff until 2025-10-16T12:04:50Z
    "#]],
    );
    let one = format!("queue: 1\ncells: {CELL}\n");
    check(
        &format!("{one}{}", refused(59, "capacity")),
        expect![[r#"
        would spawn 1 but for the provider's refusals of RTX4090/EU-NO-1, lifts 12:00:01
          blocked by provider_backoff until 2025-10-16T12:00:01Z
    "#]],
    );
    check(
        &format!("{one}{}", refused(60, "capacity")),
        expect![[r#"
        1 worker is asked for: 1 desired, 0 active, 0 spawning
          spawn in default: RTX4090/EU-NO-1
    "#]],
    );
    check(
        &format!("{one}{}", refused(60, "request")),
        expect![[r#"
        would spawn 1 but for the provider's refusals of RTX4090/EU-NO-1, lifts 12:04:00
          blocked by provider_backoff until 2025-10-16T12:04:00Z
    "#]],
    );
    check(
        &format!("{one}{}order: override provider_backoff {CELL} 60s", refused(60, "request")),
        expect![[r#"
        1 worker is asked for: 1 desired, 0 active, 0 spawning
          spawn in default: RTX4090/EU-NO-1
    "#]],
    );
    // All that an hour shows of a cell that has said no for a day, asked again as soon as it may be.
    for refusal in Refusal::ALL {
        let hour: String = (0..4).map(|n| refused(n * 930, refusal.word())).collect();
        let longest = if refusal == Refusal::Unreachable { "12:05:00" } else { "12:15:00" };
        let snapshot = fleet_text::parse(&format!("{one}{hour}"));
        let said = decide(&snapshot, &snapshot.policy, snapshot.as_of).live.unwrap().sentence;
        assert!(said.ends_with(&format!(", lifts {longest}")), "{said}");
    }
    let many: String = (1..=9).map(|n| refused(n * 100, "capacity")).collect();
    check(
        &format!("{one}{many}"),
        expect![[r#"
        would spawn 1 but for the provider's refusals of RTX4090/EU-NO-1, lifts 12:13:20
          blocked by provider_backoff until 2025-10-16T12:13:20Z
    "#]],
    );
}

#[test]
fn money_has_limits_and_a_day_ends_at_midnight() {
    let cells = format!("cells: {CELL}@0.6, A40/US-1@0.4");
    check(
        &format!("queue: 5\npolicy: hour$ 1\n{cells}"),
        expect![[r#"
        2 of 5 wanted workers are asked for; 3 wait: the hour's budget
          spawn in default: RTX4090/EU-NO-1
          spawn in default: A40/US-1
    "#]],
    );
    check(
        &format!("queue: 5\npolicy: hour$ 1\n{cells}\nw1 busy 60s usd 0.8"),
        expect![[r#"
        would spawn 3 but for the budget ($0.80 an hour (at most $1.00), $0.01 today (no limit)), lifts when a worker ends
          blocked by budget until a worker ends
    "#]],
    );
    check(
        &format!("queue: 5\npolicy: day$ 4\n{cells}\nspent: 3.9\nw1 busy 900s usd 0.6"),
        expect![[r#"
        would spawn 3 but for the budget ($0.60 an hour (no limit), $4.05 today (at most $4.00)), lifts 2025-10-17T00:00:00Z
          blocked by budget until 2025-10-17T00:00:00Z
    "#]],
    );
    check(
        &format!("queue: 5\npolicy: day$ 4\n{cells}\nspent: 4\norder: override budget 60s"),
        expect![[r#"
        3 of 5 wanted workers are asked for; 2 wait: rate limit of 3 a cycle
          spawn in default: RTX4090/EU-NO-1
          spawn in default: RTX4090/EU-NO-1
          spawn in default: RTX4090/EU-NO-1
    "#]],
    );
    check(
        "queue: 1\nbalance: 0.5",
        expect![[r#"
        would spawn 1 but for the account's balance ($0.50 on the account, 0 s ago), lifts when money is put on the provider's account
          blocked by balance until money is put on the provider's account
    "#]],
    );
    check(
        "queue: 1\nbalance: unseen",
        expect![[r#"
        1 worker is asked for: 1 desired, 0 active, 0 spawning
          spawn in default
    "#]],
    );
}

#[test]
fn an_hour_has_a_limit_too() {
    check(
        // Nobody was asked for the third: another one of its cell was not granted.
        "queue: 3\npolicy: hourly 2\nw1 gone 60s created 3000s outcome planned\nw2 busy 600s\n\
         w3 rejected 60s outcome planned pod none",
        expect![[r#"
        would spawn 3 but for the rate limit (2 asked for within an hour), lifts 12:10:00
          blocked by rate_limit until 2025-10-16T12:10:00Z
    "#]],
    );
}

#[test]
fn orders_are_followed_once_and_while_they_hold() {
    check(
        "policy: min 0\nw1 idle 9s\norder: spawn 2 beside 1 600s",
        expect![[r#"
        2 workers are asked for: 3 desired, 1 active, 0 spawning
          spawn in default
          spawn in default
    "#]],
    );
    check(
        "policy: min 0\nw1 idle 9s\nw2 starting 5s\nw3 requesting 1s pod none\norder: spawn 2 beside 1 600s",
        expect![[r#"
            no worker is wanted: 3 desired, 1 active, 2 spawning
        "#]],
    );
    check(
        "policy: min 0\nw1 idle 9s\norder: spawn 2 beside 1 0s",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning
    "#]],
    );
    check(
        "w1 busy 60s\norder: drain w1 60s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning; 1 worker is drained (w1: asked by ada: a test)
          drain w1: operator: asked by ada: a test
    "#]],
    );
    check(
        "w1 draining 6s tasks 1 leaving operator\norder: drain w1 60s",
        expect![[r#"
        1 worker is asked for: 1 desired, 0 active, 0 spawning
          spawn in default
    "#]],
    );
    check(
        "w1 busy 60s\nw2 requesting 4s pod none\norder: terminate w1 60s\norder: terminate w2 60s",
        expect![[r#"
            no worker is wanted: 1 desired, 1 active, 1 spawning; 1 worker is terminated (w1: asked by ada: a test)
              terminate w1: operator: asked by ada: a test
        "#]],
    );
    check(
        "queue: 1\norder: pause 60s",
        expect![[r#"
        would spawn 1 but for the pause (pool default paused by ada until 2025-10-16T12:01:00Z: a test), lifts 12:01:00
          blocked by pause until 2025-10-16T12:01:00Z
    "#]],
    );
    // Of two the longer one counts, whichever was given first.
    check(
        "queue: 1\norder: pause 60s\norder: pause 90s\norder: pause 30s",
        expect![[r#"
        would spawn 1 but for the pause (pool default paused by ada until 2025-10-16T12:01:30Z: a test), lifts 12:01:30
          blocked by pause until 2025-10-16T12:01:30Z
    "#]],
    );
}

#[test]
fn a_task_is_to_blame_when_its_workers_die_soon_after_the_claim() {
    check(
        "w1 busy 3s task yes died 1 pod signal9 beat 1s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning; 1 worker is over and closed (w1: task failure loop: 2 workers died within 60 s of claiming task 00000000-0000-0000-0000-000000000001, this one: ended by signal 9)
          end w1: poison_task: task failure loop: 2 workers died within 60 s of claiming task 00000000-0000-0000-0000-000000000001, this one: ended by signal 9
    "#]],
    );
    check(
        "w1 busy 3s task yes died 400 pod signal9 beat 1s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning; 1 worker is over and closed (w1: ended by signal 9)
          end w1: worker_crash: ended by signal 9
    "#]],
    );
    check(
        "w1 busy 300s task yes died 1 pod signal9 beat 1s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning; 1 worker is over and closed (w1: ended by signal 9)
          end w1: worker_crash: ended by signal 9
    "#]],
    );
    check(
        "policy: min 0\nw1 busy 400s task yes died 2 beat 399s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 0 spawning; 1 worker is terminated (w1: task failure loop: 2 workers died within 60 s of claiming task 00000000-0000-0000-0000-000000000001, this one: stale heartbeat (399 s old, limit 300 s))
          terminate w1: poison_task: task failure loop: 2 workers died within 60 s of claiming task 00000000-0000-0000-0000-000000000001, this one: stale heartbeat (399 s old, limit 300 s)
    "#]],
    );
}

#[test]
fn more_workers_a_moment_ago_keep_workers_and_the_unlisted_are_waited_for() {
    check(
        "policy: min 0\nlately: 1\nw1 idle 400s promoted 900s",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning
    "#]],
    );
    check(
        "policy: min 0\nlately: 0\nw1 idle 400s promoted 900s",
        expect![[r#"
        no worker is wanted: 0 desired, 1 active, 0 spawning; 1 worker is drained (w1: scale-down: idle for 400 s (limit 30 s), 1 ready and 0 desired)
          drain w1: planned: scale-down: idle for 400 s (limit 30 s), 1 ready and 0 desired
    "#]],
    );
    check(
        "policy: min 0\nw1 ambiguous 500s pod none lists 2\nw2 ambiguous 500s pod none lists 3",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 2 spawning; 1 worker is over and closed (w2: no answer to the request and no pod listed for 500 s)
          end w2: provider_fault: no answer to the request and no pod listed for 500 s
    "#]],
    );
}

#[test]
fn slow_starts_that_were_measured_widen_the_deadline_within_bounds() {
    check(
        "policy: min 0\nw1 starting 1300s\nw2 busy 10s created 1500s promoted 300s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 1 spawning
    "#]],
    );
    check(
        "policy: min 0\nw1 starting 2500s\nw2 busy 10s created 9000s promoted 300s",
        expect![[r#"
        no worker is wanted: 1 desired, 1 active, 1 spawning; 1 worker is terminated (w1: startup timeout: no heartbeat after 2500 s (limit 2400 s))
          terminate w1: boot: startup timeout: no heartbeat after 2500 s (limit 2400 s)
    "#]],
    );
}

#[test]
fn pods_that_are_nobodys_go_one_a_cycle() {
    check(
        "policy: min 0\nunknown: gpu-8=pod-8@700s, gpu-9=pod-9@900s",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning; 1 worker is nobody's and ended (gpu-9: pod pod-9 is nobody's: in 2 complete lists, 900 s old)
          reap gpu-9 = pod-9: pod pod-9 is nobody's: in 2 complete lists, 900 s old
    "#]],
    );
    check(
        "policy: min 0\nunknown: a=p1@700s, b=p2@800s, c=p3@900s",
        expect![[r#"
        no worker is wanted: 0 desired, 0 active, 0 spawning; 3 pods are nobody's, more than 2 at once, so none is ended: look at them
    "#]],
    );
}

#[test]
fn pools_have_their_own_numbers_below_one_ceiling() {
    let mut snapshot =
        fleet_text::parse("policy: max 3, rate 9\nw1 busy 60s pool video\nw9 idle 400s promoted 900s pool old");
    let pool = |name: &str, max| crate::fleet::pool::Pool {
        name: name.into(),
        max_workers: max,
        spawns_per_cycle_max: 9,
        ..Default::default()
    };
    snapshot.policy.live.as_mut().unwrap().pools = vec![pool("video", 2), pool("image", 5)];
    let live = snapshot.demand.as_mut().unwrap().live.as_mut().unwrap();
    live.pools = [("video".to_owned(), 4), ("image".to_owned(), 4)].into();
    let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
    let live = decision.live.unwrap();
    let parts: Vec<_> = live.pools.iter().map(|part| (part.pool.as_str(), part.desired, part.spawn)).collect();
    assert_eq!(parts, [("video", 2, 1), ("image", 4, 0)], "{}", live.sentence);
    let drained: Vec<_> =
        live.actions.iter().filter(|a| a.word() == "drain").map(|a| a.worker().0.as_str()).collect();
    assert_eq!(drained, ["w9"], "a worker of a pool that is declared no more");
}

#[test]
fn the_end_of_several_blocks_is_found_by_asking() {
    let fleet = format!("queue: 1\ncells: {CELL}\n{}pause: 300s\norder: override failure_breaker 100s", three(20));
    let snapshot = fleet_text::parse(&fleet);
    let eta = eta(&snapshot, &snapshot.policy);
    assert_eq!(eta.at.unwrap().to_string(), "2025-10-16T12:05:00Z");
    let before = crate::clock::from_micros(eta.at.unwrap().as_microsecond() - 1);
    assert_eq!(decide(&snapshot, &snapshot.policy, before).spawn, 0);
    let open = decide(&snapshot, &snapshot.policy, eta.at.unwrap());
    assert_eq!((open.spawn, open.gates.iter().all(|gate| gate.verdict == Verdict::Pass)), (1, true));
}
