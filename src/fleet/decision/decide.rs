//! The decision itself: a pure, total function of a snapshot, a policy and an instant.
//!
//! The same arguments give the same decision, byte for byte, which is what makes a stored decision
//! checkable. Doing what it says and asking again with what was done in the snapshot gives nothing
//! more to do. Where the database was not seen whole, nothing is started and nothing is ended.

use super::super::demand;
use super::super::gates::{self, Answers, Question};
use super::super::ids::WorkerId;
use super::super::policy::Policy;
use super::super::scaling;
use super::super::snapshot::{Live, Snapshot};
use super::{Action, Decision, DecisionLive, Verdict, ends, scale_down, sentence};
use crate::clock::Time;

/// The pool of a fleet that names none.
pub const DEFAULT_POOL: &str = "default";

/// Most workers asked for in one decision, whatever the policy says.
const SPAWNS_MAX: u32 = 1_000;

/// What to do about the snapshot at `now` (the database's clock, as all its times).
pub fn decide(snapshot: &Snapshot, policy: &Policy, now: Time) -> Decision {
    let load = scaling::load(snapshot);
    let claimable = snapshot.demand.as_ref().map(|demand| demand::tally(demand, policy).claimable());
    // A queue that was not seen is not an empty queue: what is there is what is wanted.
    let asked = claimable.unwrap_or_else(|| u64::from(load.covered().saturating_sub(load.busy)));
    let desired = scaling::desired(policy, load.busy, asked);
    let wanted = desired.saturating_sub(load.covered());
    let policy_live = policy.live.clone().unwrap_or_default();
    let question = Question { snapshot, policy, policy_live: &policy_live, now, load, claimable };
    let Answers { gates, spawns_max, spawns_max_reason } = gates::evaluate(&question);
    let open = gates.iter().all(|gate| gate.verdict == Verdict::Pass);

    let mut decision =
        Decision { desired, capacity: load.capacity, spawn: 0, terminate: Vec::new(), gates, live: None };
    let Some(live) = &snapshot.live else {
        decision.spawn = if open { wanted } else { 0 };
        return decision;
    };
    let room = policy.max_workers.saturating_sub(load.machines());
    if open {
        decision.spawn = wanted.min(spawns_max).min(room).min(SPAWNS_MAX);
    }
    let mut actions = Vec::new();
    if live.term.is_some() && gates::database_is_seen(live) {
        actions = ends::actions(&question, live);
        if claimable.is_some() {
            let going = actions.iter().map(|action| action.worker().clone()).collect();
            actions.extend(scale_down::drains(&question, &going, desired));
        }
        actions.extend(spawns(snapshot, live, decision.spawn));
    }
    decision.terminate = actions.iter().filter_map(terminated).collect();
    let limit = if room < spawns_max { format!("ceiling of {}", policy.max_workers) } else { spawns_max_reason };
    let sentence = sentence::sentence(live, &decision, wanted, &limit, &actions);
    decision.live = Some(DecisionLive { actions, wanted, sentence });
    decision
}

fn spawns(snapshot: &Snapshot, live: &Live, count: u32) -> impl Iterator<Item = Action> {
    let planned = move |index| WorkerId::planned(snapshot.as_of, live.boot_id, live.cycle, index);
    (0..count).map(move |index| Action::Spawn { worker: planned(index), pool: DEFAULT_POOL.to_owned() })
}

fn terminated(action: &Action) -> Option<WorkerId> {
    match action {
        Action::Terminate { worker, .. } => Some(worker.clone()),
        Action::Spawn { .. } | Action::Adopt { .. } | Action::Drain { .. } | Action::End { .. } => None,
    }
}
