//! Laws of the decision, on fleets nobody thought of.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::{collection::vec, option};
use uuid::Uuid;

use super::super::{Action, Decision, Verdict, decide};
use crate::clock::{self, Time};
use crate::fleet::cell::Offer;
use crate::fleet::health::{self, Standing};
use crate::fleet::ids::{BootId, PodId, Term, WorkerId};
use crate::fleet::order::{Command, Order, OrderId};
use crate::fleet::outcome::Outcome;
use crate::fleet::policy::{Policy, PolicyLive};
use crate::fleet::refusal::Refusal;
use crate::fleet::scaling;
use crate::fleet::snapshot::{
    Balance, Demand, DemandLive, Input, Inputs, Leaving, Live, Pause, PodSeen, PodStatus, Quality, Snapshot,
    UnknownPod, User, Worker, WorkerLive,
};
use crate::fleet::state::WorkerState;
use crate::fleet::task::Bucket;

/// Instants within an hour before and a little after as_of; one in a while at the ends of time.
fn time() -> impl Strategy<Value = Time> {
    let near = (-3_600_000_000..100_000_000i64).prop_map(|micros| clock::from_micros(AS_OF + micros));
    let whole = (-3_600..100i64).prop_map(|seconds| clock::from_micros(AS_OF + seconds * 1_000_000));
    prop_oneof![80 => near, 80 => whole, 1 => Just(Time::MIN), 1 => Just(Time::MAX)]
}

const AS_OF: i64 = 1_760_616_000_000_000;

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..6u32, 1 => Just(u32::MAX)]
}

fn seconds() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..2_000u64, 1 => Just(u64::MAX)]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    (0..Outcome::ALL.len()).prop_map(|index| Outcome::ALL[index])
}

fn pod() -> impl Strategy<Value = PodSeen> {
    let status = prop_oneof![
        6 => Just(PodStatus::Running),
        1 => Just(PodStatus::Provisioning),
        1 => Just(PodStatus::Exited),
        1 => Just(PodStatus::Terminated),
        1 => Just(PodStatus::Error),
    ];
    (status, option::weighted(0.1, any::<i32>()), option::weighted(0.1, any::<i32>()))
        .prop_map(|(status, exit_code, signal)| PodSeen { status, exit_code, signal })
}

prop_compose! {
    fn worker_live()(
        state in (0..WorkerState::ALL.len()).prop_map(|index| WorkerState::ALL[index]),
        state_since in time(),
        outcome in option::of(outcome()),
        leaving in option::weighted(0.2, (self::outcome(), time())),
        has_pod in prop::bool::weighted(0.8),
        pod in option::weighted(0.8, pod()),
        progress_at in option::of(time()),
        idle_since in option::of(time()),
        (cell, usd) in (option::weighted(0.8, 0..CELLS.len()), option::of(0.0..2.0f64)),
        refusal in option::weighted(0.3, (0..Refusal::ALL.len()).prop_map(|index| Refusal::ALL[index])),
        unlisted in option::weighted(0.5, 0..5u32),
    ) -> WorkerLive {
        WorkerLive {
            state, state_since, outcome,
            leaving: leaving.map(|(outcome, since)| Leaving { outcome, reason: "asked".into(), since }),
            pool: "default".into(),
            pod_id: has_pod.then(|| PodId("pod".into())),
            pod, progress_at, idle_since, tasks: Vec::new(),
            cell: cell.map(|cell| super::fleet_text::cell(CELLS[cell])),
            usd_per_hour: usd, refusal, suspects: Vec::new(), unlisted,
        }
    }
}

prop_compose! {
    fn worker()(
        id in 0..40u32,
        created_at in time(),
        promoted_at in option::of(time()),
        first_heartbeat_at in option::of(time()),
        last_heartbeat_at in option::of(time()),
        ended_at in option::of(time()),
        running_tasks in prop_oneof![3 => Just(0u32), 1 => Just(1), 1 => Just(u32::MAX)],
        tasks_claimed in option::of(0..3u32),
        live in option::weighted(0.95, worker_live()),
    ) -> Worker {
        let status = live.as_ref().map_or(WorkerState::Starting, |live: &WorkerLive| live.state).status();
        Worker {
            id: WorkerId(format!("w{id}")),
            created_at, status, promoted_at, first_heartbeat_at, last_heartbeat_at, ended_at,
            reason: None, running_tasks, tasks_claimed, live,
        }
    }
}

prop_compose! {
    fn policy()(
        (min_workers, max_workers, idle_buffer, spawns) in (count(), count(), count(), count()),
        failure_rate_max in prop_oneof![Just(0.8), Just(0.0), Just(-1.0), Just(0.5)],
        failure_rate_min_workers in 0..6u32,
        (window, beat, idle, overcapacity) in (seconds(), seconds(), seconds(), seconds()),
        (spawning, startup, progress, ambiguous) in (seconds(), seconds(), seconds(), seconds()),
        live in prop::bool::weighted(0.9),
        cells in vec((0..CELLS.len(), option::of(0.0..2.0f64)), 0..3),
        (per_hour, usd_hour, usd_day) in (0..8u32, option::of(0.0..9.0f64), option::of(0.0..9.0f64)),
    ) -> Policy {
        Policy {
            min_workers, max_workers, idle_buffer, failure_rate_max, failure_rate_min_workers,
            failure_window_seconds: window, heartbeat_timeout_seconds: beat, idle_timeout_seconds: idle,
            live: live.then(|| PolicyLive {
                spawns_per_cycle_max: spawns,
                overcapacity_idle_timeout_seconds: overcapacity,
                spawning_timeout_seconds: spawning,
                startup_timeout_seconds: startup,
                progress_timeout_seconds: progress,
                drain_timeout_seconds: progress,
                ambiguous_seconds: ambiguous,
                spawns_per_hour_max: per_hour,
                budget_usd_per_hour: usd_hour,
                budget_usd_per_day: usd_day,
                cells: cells.into_iter().map(|(cell, usd_per_hour)| Offer {
                    cell: Some(super::fleet_text::cell(CELLS[cell])),
                    usd_per_hour,
                }).collect(),
                ..PolicyLive::default()
            }),
            ..Policy::default()
        }
    }
}

fn input() -> impl Strategy<Value = Input> {
    let quality =
        prop_oneof![8 => Just(Quality::Complete), 1 => Just(Quality::Partial), 1 => Just(Quality::Failed)];
    (quality, prop_oneof![8 => 0..3u64, 1 => Just(u64::MAX)]).prop_map(|(quality, age_seconds)| Input {
        quality,
        age_seconds,
        detail: None,
    })
}

const CELLS: [&str; 3] = ["RTX4090/EU-NO-1/a", "RTX4090/EU-NO-1/b", "A40/US-1/a"];

fn order() -> impl Strategy<Value = Order> {
    let overruled = crate::fleet::order::OVERRIDABLE;
    let cell = option::of((0..CELLS.len()).prop_map(|cell| super::fleet_text::cell(CELLS[cell]).to_string()));
    let command = prop_oneof![
        (0..overruled.len(), cell).prop_map(move |(gate, cell)| Command::Override { gate: overruled[gate], cell }),
        Just(Command::PausePool { pool: "default".into() }),
        (count(), count()).prop_map(|(count, beside)| Command::Spawn { pool: None, count, beside }),
        (0..40u32).prop_map(|id| Command::Drain { worker: WorkerId(format!("w{id}")) }),
        (0..40u32).prop_map(|id| Command::Terminate { worker: WorkerId(format!("w{id}")) }),
    ];
    (command, time(), option::of(time())).prop_map(|(command, since, until)| Order {
        id: OrderId(1),
        command,
        actor: "ada".into(),
        reason: "r".into(),
        since,
        until,
    })
}

prop_compose! {
    fn live()(
        term in option::weighted(0.9, Just(Term(3))),
        (database, provider) in (input(), input()),
        writes_since in time(),
        pause in option::weighted(0.2, (time(), option::of(time()))),
        unknown_pods in vec((0..40u32, option::of(time()), 0..4u32), 0..4),
        orders in vec(order(), 0..4),
        (spent, balance) in (option::of(0.0..9.0f64), option::of((option::of(0.0..3.0f64), input()))),
        desired_lately in option::of(0..6u32),
    ) -> Live {
        let unknown = |(id, created_at, lists): (u32, _, _)| UnknownPod {
            pod_id: PodId(format!("pod-{id}")),
            worker: WorkerId(format!("w{id}")),
            created_at,
            first_seen_at: None,
            lists,
        };
        Live {
            fleet: "f".into(), env: "e".into(), boot_id: BootId(Uuid::from_u128(1)), cycle: 1, term,
            inputs: Inputs { database, provider }, writes_since,
            pause: pause.map(|(since, until)| Pause { actor: "ada".into(), reason: "r".into(), since, until }),
            unknown_pods: unknown_pods.into_iter().map(unknown).collect(),
            orders, ended_today_usd: spent,
            balance: balance.map(|(usd, input)| Balance { usd, input }),
            desired_lately,
        }
    }
}

fn demand() -> impl Strategy<Value = Demand> {
    prop_oneof![8 => 0..9u64, 1 => Just(u64::MAX)].prop_map(|claimable| Demand {
        users: vec![User {
            user: "u".into(),
            queued: claimable,
            in_progress: 0,
            credits: None,
            cloud_enabled: None,
            dependency_blocked: 0,
        }],
        live: Some(DemandLive { buckets: [(Bucket::Claimable, claimable)].into(), ..DemandLive::default() }),
        ..Demand::default()
    })
}

prop_compose! {
    fn snapshot()(
        // Boxed: the tree of a whole snapshot does not fit on a test thread's stack.
        policy in policy().boxed(),
        workers in vec(worker().boxed(), 0..12),
        demand in option::weighted(0.95, demand()),
        live in option::weighted(0.9, live().boxed()),
    ) -> Snapshot {
        let (schema_version, name, records) = (1, "random".to_owned(), Vec::new());
        Snapshot { schema_version, name, as_of: clock::from_micros(AS_OF), policy, workers, demand, records, live }
    }
}

fn actions(decision: &Decision) -> Vec<Action> {
    decision.live.as_ref().map(|live| live.actions.clone()).unwrap_or_default()
}

/// The snapshot of the next cycle, if every action was done and nothing else happened.
fn done(snapshot: &Snapshot, decision: &Decision) -> Snapshot {
    let mut next = snapshot.clone();
    next.live.iter_mut().for_each(|live| live.cycle += 1);
    let leave = |next: &mut Snapshot, id: &WorkerId, state, outcome: Outcome| {
        for worker in next.workers.iter_mut().filter(|worker| worker.id == *id) {
            if let Some(live) = &mut worker.live {
                live.state = state;
                worker.status = live.state.status();
                let since = live.leaving.as_ref().map_or(snapshot.as_of, |leaving| leaving.since);
                live.leaving.get_or_insert(Leaving { outcome, reason: "done".into(), since });
            }
        }
    };
    for action in actions(decision) {
        match action {
            Action::Spawn { worker, pool, cell, usd_per_hour } => {
                let mut spawned = super::fleet_text::parse("w requesting 0s pod none").workers.remove(0);
                spawned.id = worker;
                let live = spawned.live.as_mut().unwrap();
                (live.pool, live.cell, live.usd_per_hour) = (pool, cell, usd_per_hour);
                next.workers.push(spawned);
            }
            Action::Adopt { worker, pod_id } => {
                for worker in next.workers.iter_mut().filter(|row| row.id == worker) {
                    worker.live.as_mut().unwrap().pod_id = Some(pod_id.clone());
                }
            }
            Action::Drain { worker, outcome, .. } => leave(&mut next, &worker, WorkerState::Draining, outcome),
            Action::Terminate { worker, outcome, .. } => {
                leave(&mut next, &worker, WorkerState::Terminating, outcome)
            }
            Action::Reap { pod_id, .. } => {
                next.live.iter_mut().for_each(|live| live.unknown_pods.retain(|pod| pod.pod_id != pod_id));
            }
            Action::End { worker, outcome, .. } => leave(&mut next, &worker, WorkerState::Gone, outcome),
        }
    }
    next
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deciding_is_total_and_the_same_again_also_after_storing(snapshot in snapshot(), now in time()) {
        let decision = decide(&snapshot, &snapshot.policy, now);
        prop_assert_eq!(&decision, &decide(&snapshot, &snapshot.policy, now));
        // The ends of time are no RFC 3339 and cannot be stored.
        let text = serde_json::to_string(&snapshot).unwrap();
        if let Ok(stored) = serde_json::from_str::<Snapshot>(&text) {
            prop_assert_eq!(&stored, &snapshot);
            prop_assert_eq!(&decision, &decide(&stored, &stored.policy, now));
        }
    }

    #[test]
    fn nothing_is_spawned_beside_the_gates_and_limits(snapshot in snapshot()) {
        let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
        let load = scaling::load(&snapshot);
        prop_assert!(decision.desired <= snapshot.policy.max_workers);
        prop_assert!(decision.spawn <= decision.desired.saturating_sub(load.covered()));
        let blocked = decision.gates.iter().any(|gate| gate.verdict == Verdict::Block);
        prop_assert!(!blocked || decision.spawn == 0);
        let spawned: Vec<Action> = actions(&decision).into_iter().filter(|a| a.word() == "spawn").collect();
        if let Some(live) = &snapshot.live {
            prop_assert_eq!(spawned.len(), decision.spawn as usize);
            let limit = snapshot.policy.live.clone().unwrap_or_default().spawns_per_cycle_max;
            prop_assert!(decision.spawn <= limit);
            prop_assert!(decision.spawn == 0 || load.machines() + decision.spawn <= snapshot.policy.max_workers);
            prop_assert!(decision.spawn == 0 || (live.term.is_some() && snapshot.demand.is_some()));
        } else {
            prop_assert!(decision.live.is_none() && decision.terminate.is_empty());
            prop_assert!(blocked || decision.spawn == decision.desired.saturating_sub(load.covered()));
        }
        let names: BTreeSet<_> = decision.gates.iter().map(|gate| gate.gate).collect();
        prop_assert_eq!(names.len(), if snapshot.live.is_some() { 11 } else { 6 });
        prop_assert_eq!(names.len(), decision.gates.len());
    }

    #[test]
    fn missing_evidence_ends_nothing(mut snapshot in snapshot()) {
        let before = actions(&decide(&snapshot, &snapshot.policy, snapshot.as_of));
        let unique: BTreeSet<_> = before.iter().map(Action::worker).collect();
        prop_assert_eq!(unique.len(), before.len(), "two actions about one worker");
        let policy = snapshot.policy.clone();
        if let Some(live) = &mut snapshot.live {
            live.inputs.provider.quality = Quality::Partial;
            live.writes_since = snapshot.as_of;
        }
        let by_id: BTreeMap<_, _> = snapshot.workers.iter().rev().map(|worker| (&worker.id, worker)).collect();
        for action in actions(&decide(&snapshot, &policy, snapshot.as_of)) {
            let live = by_id.get(action.worker()).and_then(|worker| worker.live.as_ref());
            match &action {
                Action::End { .. } => {
                    let over = live.and_then(|live| live.pod.as_ref()).is_some_and(|pod| pod.status.is_over());
                    prop_assert!(over, "{action:?} on an incomplete listing");
                }
                Action::Terminate { .. } => {
                    let ordered = snapshot.live.iter().flat_map(|live| &live.orders);
                    let ordered = ordered.map(|order| order.command.target()).any(|id| id == action.worker().0);
                    let leaves = ordered || live.is_some_and(|live| {
                        live.leaving.is_some() || matches!(live.state, WorkerState::Draining | WorkerState::Terminating)
                    });
                    prop_assert!(leaves, "{action:?} right after a gap");
                }
                Action::Reap { .. } => prop_assert!(false, "{action:?} on an incomplete listing"),
                Action::Drain { .. } | Action::Spawn { .. } | Action::Adopt { .. } => {}
            }
        }
        if let Some(live) = &mut snapshot.live {
            live.inputs.database.quality = Quality::Partial;
        }
        prop_assert!(actions(&decide(&snapshot, &policy, snapshot.as_of)).is_empty());
    }

    #[test]
    fn only_idle_workers_above_the_desired_count_are_drained(mut snapshot in snapshot()) {
        let mut seen = BTreeSet::new();
        snapshot.workers.retain(|worker| seen.insert(worker.id.clone()));
        let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
        let mut drained = 0;
        let ordered: BTreeSet<String> =
            snapshot.live.iter().flat_map(|live| &live.orders).map(|order| order.command.target()).collect();
        let drains = |action: &&Action| action.word() == "drain" && !ordered.contains(&action.worker().0);
        for action in actions(&decision).iter().filter(drains) {
            let worker = snapshot.workers.iter().find(|worker| worker.id == *action.worker()).unwrap();
            prop_assert_eq!(worker.live.as_ref().unwrap().state, WorkerState::Idle);
            prop_assert!(!health::is_busy(worker));
            prop_assert_eq!(health::standing(worker, &snapshot), Standing::Active);
            drained += 1;
        }
        prop_assert!(drained == 0 || decision.capacity.active - drained >= decision.desired);
    }

    #[test]
    fn a_gate_is_shut_until_the_published_instant_and_open_at_it(snapshot in snapshot()) {
        let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
        for gate in decision.gates {
            prop_assert!(gate.verdict == Verdict::Block || (gate.lifts_at.is_none() && gate.lifts_when.is_none()));
            let Some(lifts_at) = gate.lifts_at.filter(|at| *at < Time::MAX) else { continue };
            prop_assert!(lifts_at > snapshot.as_of, "{gate:?}");
            let verdict_at = |now| {
                let then = decide(&snapshot, &snapshot.policy, now);
                then.gates.iter().find(|other| other.gate == gate.gate).map(|gate| gate.verdict)
            };
            let just_before = clock::from_micros(lifts_at.as_microsecond() - 1);
            prop_assert_eq!(verdict_at(just_before), Some(Verdict::Block), "{:?}", gate.gate);
            prop_assert_eq!(verdict_at(lifts_at), Some(Verdict::Pass), "{:?}", gate.gate);
        }
    }

    #[test]
    fn what_was_done_is_not_done_again(mut snapshot in snapshot()) {
        let mut seen = BTreeSet::new();
        snapshot.workers.retain(|worker| seen.insert(worker.id.clone()));
        prop_assume!(snapshot.live.is_some());
        let first = decide(&snapshot, &snapshot.policy, snapshot.as_of);
        let next = done(&snapshot, &first);
        let second = decide(&next, &next.policy, next.as_of);
        let (machines, max) = (scaling::load(&next).machines(), snapshot.policy.max_workers);
        prop_assert!(first.spawn == 0 || machines <= max);
        prop_assert!(first.spawn == 0 || first.spawn + second.spawn <= first.desired);
        for action in actions(&second) {
            let again = actions(&first).into_iter().find(|before| before.worker() == action.worker());
            match (&action, again.as_ref().map(Action::word)) {
                // Asked again because its pod is still there; the provider's answer is the same.
                (Action::Terminate { .. }, Some("terminate" | "drain")) => {}
                // Gone while it was asked: what ends it is another piece of evidence.
                (Action::End { .. } | Action::Terminate { .. }, Some("adopt")) => {}
                // Another pod of its name, that is nobody's since it ended; or the next of several.
                (Action::Reap { .. }, Some("end" | "reap" | "terminate" | "drain")) => {}
                // What was hidden by an action about a pod of its name.
                (_, Some("reap")) => {}
                (action, before) => prop_assert!(before.is_none(), "{action:?} after {before:?}"),
            }
        }
    }
}
