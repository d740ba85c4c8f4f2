//! Workers, tasks and the newest decision, reduced to what rules ask for.

use std::collections::BTreeMap;

use crate::clock::Time;
use crate::fleet::decision::{Decision, GateName, Verdict};
use crate::fleet::reaper;
use crate::fleet::snapshot::Worker;
use crate::fleet::state::WorkerState;
use crate::fleet::task::Bucket;
use crate::store::{DecisionRow, Watched};
use crate::watch::observation::{Blocked, DecisionSeen, FleetSeen, ReaperHeld, Stage, WorkerSeen};

/// Since when what the newest decision says has been so.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    /// There was and will be no other look: the oldest waiting task says how long things have stood.
    is_single: bool,
    desired_since: Option<Time>,
    blocked: Option<(GateName, Time)>,
    unknown_pods: BTreeMap<String, Time>,
    held_since: Option<Time>,
}

impl Decisions {
    /// For one look.
    pub(super) fn single() -> Decisions {
        Decisions { is_single: true, ..Decisions::default() }
    }

    /// The newest decision, with the times since which it has said so.
    pub(super) fn seen(&mut self, row: Option<&DecisionRow>, read: &Watched) -> Option<DecisionSeen> {
        let row = row?;
        let oldest = read.demand.live.as_ref().and_then(|live| live.oldest_claimable_at);
        let first_seen = if self.is_single { oldest.unwrap_or(row.at).min(row.at) } else { row.at };
        self.desired_since =
            (row.decision.desired > 0).then(|| self.desired_since.unwrap_or(first_seen).min(row.at));
        let blocking = blocking(&row.decision);
        let before = self.blocked.take();
        let blocked = blocking.map(|(gate, reason)| {
            let since = before.filter(|(other, _)| *other == gate).map_or(first_seen, |(_, since)| since);
            self.blocked = Some((gate, since));
            Blocked { gate: gate.word().to_owned(), reason, since }
        });
        let pods = row.snapshot.live.iter().flat_map(|live| &live.unknown_pods);
        let known = std::mem::take(&mut self.unknown_pods);
        for pod in pods {
            let name = pod.pod_id.0.clone();
            let since = known.get(&name).copied().unwrap_or(row.at);
            let since = if self.is_single { pod.created_at.unwrap_or(since) } else { since };
            self.unknown_pods.insert(name, since);
        }
        let reaper_held = reaper_held(row).map(|(due, limit)| {
            let since = self.held_since.unwrap_or(row.at);
            ReaperHeld { due, limit, since }
        });
        self.held_since = reaper_held.map(|held| held.since);
        Some(DecisionSeen {
            at: row.at,
            desired: row.decision.desired,
            desired_since: self.desired_since,
            blocked,
            unknown_pods: self.unknown_pods.clone().into_iter().collect(),
            reaper_held,
        })
    }
}

/// The first gate that keeps back what is wanted. A fleet at its ceiling is as large as it may be,
/// and one at its rate goes on in the next cycle: neither is an obstacle.
fn blocking(decision: &Decision) -> Option<(GateName, String)> {
    let wanted = decision.live.as_ref().map_or(decision.spawn, |live| live.wanted);
    let empty = decision.capacity.active + decision.capacity.spawning == 0;
    let obstacle = |gate: GateName| match gate {
        GateName::Max => empty,
        GateName::RateLimit | GateName::Min => false,
        _ => true,
    };
    let gates = decision.gates.iter().filter(|gate| gate.verdict == Verdict::Block && obstacle(gate.gate));
    gates.map(|gate| (gate.gate, gate.reason.clone())).next().filter(|_| wanted > 0)
}

/// How many pods the decision left alone since too many were due, and how many may be: by the rule
/// that it was taken by.
fn reaper_held(row: &DecisionRow) -> Option<(usize, usize)> {
    let live = row.snapshot.live.as_ref()?;
    match reaper::judge(&row.snapshot, live, row.snapshot.as_of) {
        reaper::Verdict::TooMany { due, limit } => Some((due, limit)),
        reaper::Verdict::Nothing | reaper::Verdict::Reap { .. } => None,
    }
}

pub(super) fn seen(read: &Watched, decision: Option<DecisionSeen>) -> FleetSeen {
    let (ended, live): (Vec<&Worker>, Vec<&Worker>) = read.workers.iter().partition(|worker| worker.is_ended());
    let counts = |worker: &&&Worker| worker.outcome().is_some_and(|outcome| outcome.counts_for_breaker());
    let demand = read.demand.live.as_ref();
    FleetSeen {
        newest_beat: read.workers.iter().filter_map(|worker| worker.last_heartbeat_at).max(),
        workers: live.into_iter().filter_map(worker_seen).collect(),
        failed: ended.iter().filter(counts).count(),
        ended: ended.len(),
        claimable: demand.and_then(|live| live.buckets.get(&Bucket::Claimable)).copied().unwrap_or(0),
        oldest_claimable: demand.and_then(|live| live.oldest_claimable_at),
        tasks_recent: read.tasks_recent,
        tasks_before: read.tasks_before,
        decision,
    }
}

fn worker_seen(worker: &Worker) -> Option<WorkerSeen> {
    let live = worker.live.as_ref()?;
    let stage = match live.state {
        WorkerState::Planned
        | WorkerState::Requesting
        | WorkerState::Created
        | WorkerState::Provisioning
        | WorkerState::Starting => Stage::Coming,
        WorkerState::Ambiguous => Stage::Ambiguous,
        WorkerState::Alive | WorkerState::Idle => Stage::Idle,
        WorkerState::Busy => Stage::Busy,
        WorkerState::Draining | WorkerState::Terminating => Stage::Leaving,
        WorkerState::Rejected | WorkerState::Gone => return None,
    };
    Some(WorkerSeen {
        id: worker.id.0.clone(),
        created_at: worker.created_at,
        stage,
        stage_since: live.state_since,
        last_heartbeat: worker.last_heartbeat_at,
        progress_at: live.progress_at,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock;
    use crate::fleet::decision::{Capacity, DecisionLive, Gate};
    use crate::fleet::ids::{BootId, Term};
    use crate::fleet::policy::Policy;
    use crate::fleet::snapshot::{Demand, DemandLive, SCHEMA_VERSION, Snapshot};
    use crate::store::{DecisionId, TaskEnds};

    fn at(second: i64) -> Time {
        clock::from_micros(second * 1_000_000)
    }

    fn row(second: i64, desired: u32, gates: &[(GateName, Verdict)], active: u32) -> DecisionRow {
        let gate = |(gate, verdict): &(GateName, Verdict)| Gate {
            gate: *gate,
            verdict: *verdict,
            reason: "why".to_owned(),
            lifts_at: None,
            lifts_when: None,
            subject: None,
            pool: None,
        };
        DecisionRow {
            id: DecisionId(second),
            boot_id: BootId(uuid::Uuid::nil()),
            cycle: second,
            term: Term(1),
            at: at(second),
            trace_id: None,
            snapshot: Snapshot {
                schema_version: SCHEMA_VERSION,
                name: "test".to_owned(),
                as_of: at(second),
                policy: Policy::default(),
                workers: Vec::new(),
                demand: None,
                records: Vec::new(),
                live: None,
            },
            decision: Decision {
                desired,
                capacity: Capacity { active, spawning: 0 },
                spawn: 0,
                terminate: Vec::new(),
                gates: gates.iter().map(gate).collect(),
                live: Some(DecisionLive {
                    actions: Vec::new(),
                    wanted: desired,
                    sentence: String::new(),
                    pools: Vec::new(),
                }),
            },
            results: Vec::new(),
            imported: None,
        }
    }

    fn read(oldest: Option<i64>) -> Watched {
        let live =
            DemandLive { buckets: BTreeMap::new(), oldest_claimable_at: oldest.map(at), pools: BTreeMap::new() };
        Watched {
            now: at(1_000),
            workers: Vec::new(),
            demand: Demand { live: Some(live), ..Demand::default() },
            tasks_recent: TaskEnds::default(),
            tasks_before: TaskEnds::default(),
        }
    }

    const BREAKER: (GateName, Verdict) = (GateName::FailureBreaker, Verdict::Block);

    #[test]
    fn a_block_counts_from_the_first_decision_that_said_so() {
        let mut decisions = Decisions::default();
        let mut since = |row: DecisionRow| {
            let seen = decisions.seen(Some(&row), &read(None)).unwrap();
            (seen.desired_since.map(Time::as_second), seen.blocked.map(|b| (b.gate, b.since.as_second())))
        };
        let blocked = |at| Some(("failure_breaker".to_owned(), at));
        assert_eq!(since(row(10, 2, &[BREAKER], 0)), (Some(10), blocked(10)));
        assert_eq!(since(row(40, 3, &[BREAKER], 0)), (Some(10), blocked(10)));
        assert_eq!(since(row(70, 3, &[], 0)), (Some(10), None));
        assert_eq!(since(row(100, 0, &[BREAKER], 0)), (None, None));
        assert_eq!(since(row(130, 1, &[BREAKER], 0)), (Some(130), blocked(130)));
    }

    #[test]
    fn a_fleet_at_its_ceiling_or_rate_is_not_blocked() {
        let gate = |name, active| {
            let row = row(10, 2, &[(name, Verdict::Block)], active);
            Decisions::default().seen(Some(&row), &read(None)).unwrap().blocked.is_some()
        };
        assert!(!gate(GateName::Max, 2) && !gate(GateName::RateLimit, 0));
        assert!(gate(GateName::Max, 0), "an emergency stop");
        assert!(gate(GateName::Pause, 2) && gate(GateName::Balance, 0));
    }

    #[test]
    fn pods_that_the_decision_left_alone_are_counted_by_its_own_rule() {
        let pods = |count: usize| {
            let pod = |n: usize| serde_json::json!({"pod_id": format!("pod-{n}"), "worker": format!("gpu-{n}"), "lists": 2, "created_at": at(0)});
            let complete = serde_json::json!({"quality": "complete", "age_seconds": 0});
            serde_json::json!({"fleet": "f", "env": "e", "boot_id": uuid::Uuid::nil(), "cycle": 1, "term": 1,
                "inputs": {"database": complete, "provider": complete}, "writes_since": at(0),
                "unknown_pods": (0..count).map(pod).collect::<Vec<_>>()})
        };
        let mut decisions = Decisions::default();
        let mut held = |second: i64, count: usize| {
            let mut row = row(second, 0, &[], 0);
            row.snapshot.live = Some(serde_json::from_value(pods(count)).unwrap());
            let held = decisions.seen(Some(&row), &read(None)).unwrap().reaper_held;
            held.map(|held| (held.due, held.limit, held.since.as_second()))
        };
        assert_eq!(held(600, 3), None, "none is old enough");
        assert_eq!(held(700, 3), Some((3, 2, 700)));
        assert_eq!(held(800, 4), Some((4, 2, 700)));
        assert_eq!(held(900, 2), None, "few: one goes a cycle");
        assert_eq!(held(1_000, 3), Some((3, 2, 1_000)));
    }

    #[test]
    fn a_single_look_counts_from_the_oldest_task() {
        let row = row(990, 2, &[BREAKER], 0);
        let seen = Decisions::single().seen(Some(&row), &read(Some(100))).unwrap();
        assert_eq!(seen.blocked.unwrap().since, at(100));
    }
}
