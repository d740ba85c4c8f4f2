//! The decision itself: a pure, total function of a snapshot, a policy and an instant.
//!
//! The same arguments give the same decision, byte for byte, which is what makes a stored decision
//! checkable. Doing what it says and asking again with what was done in the snapshot gives nothing
//! more to do. Where the database was not seen whole, nothing is started and nothing is ended. Pools
//! are decided one after the other, in the policy's order; together they stay below the fleet's
//! ceiling.

use std::collections::BTreeSet;

use super::super::demand;
use super::super::gates::{self, Answers, Question};
use super::super::ids::WorkerId;
use super::super::order::Command;
use super::super::policy::{Policy, PolicyLive};
use super::super::pool::{self, Pool};
use super::super::reaper;
use super::super::scaling::{self, Load};
use super::super::snapshot::{Live, Snapshot, Worker};
use super::{Action, Capacity, Decision, DecisionLive, Gate, PoolPart, Verdict, ends, scale_down, sentence};
use crate::clock::Time;

/// Most workers asked for in one decision, whatever the policy says.
const SPAWNS_MAX: u32 = 1_000;

/// What to do about the snapshot at `now` (the database's clock, as all its times).
pub fn decide(snapshot: &Snapshot, policy: &Policy, now: Time) -> Decision {
    let scene = Scene::new(snapshot, policy, now);
    let pools = pool::pools(policy);
    let mut parts = Vec::with_capacity(pools.len());
    let mut room = policy.max_workers.saturating_sub(scene.fleet.machines()).min(SPAWNS_MAX);
    for pool in &pools {
        let part = scene.part(pool, room);
        room = room.saturating_sub(part.spawn);
        parts.push(part);
    }
    let sum = |of: fn(&Part) -> u32| parts.iter().map(of).fold(0_u32, u32::saturating_add);
    let mut decision = Decision {
        desired: sum(|part| part.desired).min(policy.max_workers),
        capacity: scene.fleet.capacity,
        spawn: sum(|part| part.spawn),
        terminate: Vec::new(),
        gates: parts.iter().flat_map(|part| part.answers.gates.iter().cloned()).collect(),
        live: None,
    };
    let Some(live) = &snapshot.live else { return decision };
    let actions = scene.actions(live, &parts);
    decision.terminate = actions.iter().filter_map(terminated).collect();
    let sentence = sentence::sentence(&scene, live, &decision, &parts, &actions);
    let pools = if scene.declared { parts.iter().map(Part::shown).collect() } else { Vec::new() };
    decision.live = Some(DecisionLive { actions, wanted: sum(|part| part.wanted), sentence, pools });
    decision
}

/// What is the same for every pool.
pub(super) struct Scene<'a> {
    pub(super) snapshot: &'a Snapshot,
    policy: &'a Policy,
    policy_live: PolicyLive,
    pub(super) now: Time,
    fleet: Load,
    /// Whether the policy declares its pools; else one takes every worker and every task.
    declared: bool,
}

/// What follows for one pool.
pub(super) struct Part {
    pub(super) pool: Pool,
    policy: Policy,
    load: Load,
    claimable: Option<u64>,
    pub(super) desired: u32,
    pub(super) wanted: u32,
    pub(super) spawn: u32,
    /// Workers that would be asked for in this cycle if every gate passed.
    pub(super) would_spawn: u32,
    /// Why no more than `spawn` are asked for although every gate passes.
    pub(super) limit: String,
    pub(super) answers: Answers,
    spawns: Vec<super::super::cell::Offer>,
}

impl Part {
    pub(super) fn capacity(&self) -> Capacity {
        self.load.capacity
    }

    pub(super) fn blocking(&self) -> impl Iterator<Item = &Gate> {
        self.answers.gates.iter().filter(|gate| gate.verdict == Verdict::Block)
    }

    fn shown(&self) -> PoolPart {
        PoolPart {
            pool: self.pool.name.clone(),
            claimable: self.claimable,
            desired: self.desired,
            capacity: self.load.capacity,
            wanted: self.wanted,
            spawn: self.spawn,
        }
    }
}

impl<'a> Scene<'a> {
    fn new(snapshot: &'a Snapshot, policy: &'a Policy, now: Time) -> Scene<'a> {
        Scene {
            snapshot,
            policy,
            policy_live: policy.live.clone().unwrap_or_default(),
            now,
            fleet: scaling::load(snapshot),
            declared: pool::are_declared(policy),
        }
    }

    fn question<'b>(
        &'b self,
        pool: &'b Pool,
        policy: &'b Policy,
        load: Load,
        claimable: Option<u64>,
    ) -> Question<'b> {
        Question {
            snapshot: self.snapshot,
            policy,
            policy_live: &self.policy_live,
            pool,
            now: self.now,
            load,
            fleet: self.fleet,
            fleet_max: self.policy.max_workers,
            claimable,
        }
    }

    /// Decides for one pool; the fleet has `room` for so many machines more.
    fn part(&self, pool: &Pool, room: u32) -> Part {
        let load = if self.declared { scaling::load_of_pool(self.snapshot, &pool.name) } else { self.fleet };
        let policy = if self.declared { pool::policy_of(self.policy, pool) } else { self.policy.clone() };
        let claimable = self.claimable(pool);
        // A queue that was not seen is not an empty queue: what is there is what is wanted.
        let asked = claimable.unwrap_or_else(|| u64::from(load.covered().saturating_sub(load.busy)));
        let question = self.question(pool, &policy, load, claimable);
        let desired = scaling::desired(&policy, load.busy, asked).max(ordered(&question)).min(policy.max_workers);
        let wanted = desired.saturating_sub(load.covered());
        let mut answers = gates::evaluate(&question);
        if self.declared {
            answers.gates.iter_mut().for_each(|gate| gate.pool = Some(pool.name.clone()));
        }
        let open = answers.gates.iter().all(|gate| gate.verdict == Verdict::Pass);
        let own_room = policy.max_workers.saturating_sub(load.machines());
        let room = if self.snapshot.live.is_some() { room.min(own_room) } else { u32::MAX };
        // The limit of calm days: a probe alone is part of the trouble that is said to be in the way.
        let limit = self.policy_live.spawns_per_cycle_max.min(pool.spawns_per_cycle_max);
        let would_spawn = wanted.min(limit.max(1)).min(room.max(1));
        let most = if open { wanted.min(answers.spawns_max).min(room) } else { 0 };
        let (spawns, short) = match self.snapshot.live {
            Some(_) => fill(&question, &answers, most),
            None => (Vec::new(), None),
        };
        let spawn =
            if self.snapshot.live.is_some() { u32::try_from(spawns.len()).unwrap_or(u32::MAX) } else { most };
        let limit = if let Some(short) = short {
            short
        } else if room < answers.spawns_max {
            format!("ceiling of {}", policy.max_workers.min(self.policy.max_workers))
        } else {
            answers.spawns_max_reason.clone()
        };
        let pool = pool.clone();
        Part { pool, policy, load, claimable, desired, wanted, spawn, would_spawn, limit, answers, spawns }
    }

    /// Tasks that the pool's workers may take at once; null where the queue was not seen.
    fn claimable(&self, pool: &Pool) -> Option<u64> {
        let demand = self.snapshot.demand.as_ref()?;
        if self.declared {
            let counted = demand.live.as_ref().map(|live| &live.pools)?;
            return Some(counted.get(&pool.name).copied().unwrap_or(0));
        }
        Some(demand::tally(demand, self.policy).claimable())
    }

    fn actions(&self, live: &Live, parts: &[Part]) -> Vec<Action> {
        if live.term.is_none() || !gates::database_is_seen(live) {
            return Vec::new();
        }
        let Some(first) = parts.first() else { return Vec::new() };
        let question = self.question(&first.pool, self.policy, self.fleet, first.claimable);
        let mut actions = ends::actions(&question, live);
        let mut going: BTreeSet<WorkerId> = actions.iter().map(|action| action.worker().clone()).collect();
        let mut drains = Vec::new();
        for part in parts.iter().filter(|part| part.claimable.is_some()) {
            let question = self.question(&part.pool, &part.policy, part.load, part.claimable);
            let is_own = |worker: &Worker| {
                !self.declared || worker.live.as_ref().is_some_and(|live| live.pool == part.pool.name)
            };
            let lately = if self.declared { None } else { live.desired_lately };
            let keep = part.desired.max(lately.unwrap_or(0).min(part.policy.max_workers));
            drains.extend(scale_down::drains(&question, &going, keep, &is_own));
        }
        if self.declared {
            let nobodys = |worker: &Worker| {
                let pool = worker.live.as_ref().map(|live| &live.pool);
                pool.is_some_and(|pool| parts.iter().all(|part| part.pool.name != *pool))
            };
            drains.extend(scale_down::drains(&question, &going, 0, &nobodys));
        }
        going.extend(drains.iter().map(|action| action.worker().clone()));
        actions.extend(drains);
        actions.extend(self.reap(live, &going));
        actions.extend(self.spawns(live, parts));
        actions
    }

    fn reap(&self, live: &Live, going: &BTreeSet<WorkerId>) -> Option<Action> {
        match reaper::judge(self.snapshot, live, self.now) {
            reaper::Verdict::Reap { pod, reason, .. } if !going.contains(&pod.worker) => {
                Some(Action::Reap { worker: pod.worker.clone(), pod_id: pod.pod_id.clone(), reason })
            }
            _ => None,
        }
    }

    fn spawns(&self, live: &Live, parts: &[Part]) -> Vec<Action> {
        let all = parts.iter().flat_map(|part| part.spawns.iter().map(move |offer| (&part.pool, offer)));
        let spawn = |(index, (pool, offer)): (u32, (&Pool, &super::super::cell::Offer))| Action::Spawn {
            worker: WorkerId::planned(self.snapshot.as_of, live.boot_id, live.cycle, index),
            pool: pool.name.clone(),
            cell: offer.cell.clone(),
            usd_per_hour: offer.usd_per_hour,
        };
        (0_u32..).zip(all).map(spawn).collect()
    }
}

/// The floor that operators' spawn orders put under the pool.
fn ordered(question: &Question<'_>) -> u32 {
    let floor = |command: &Command| match command {
        Command::Spawn { pool, count, beside } if pool.as_deref().is_none_or(|pool| pool == question.pool.name) => {
            Some(beside.saturating_add(*count))
        }
        _ => None,
    };
    question.orders().filter_map(|order| floor(&order.command)).max().unwrap_or(0)
}

/// Chooses a cell for each of `most` workers, best first; says why some get none.
fn fill(question: &Question<'_>, answers: &Answers, most: u32) -> (Vec<super::super::cell::Offer>, Option<String>) {
    let (mut chosen, mut usd, mut short) = (Vec::new(), 0.0, None);
    for opening in &answers.openings {
        let price = opening.offer.usd_per_hour.unwrap_or(0.0);
        for _ in 0..opening.room {
            if chosen.len() >= most as usize {
                return (chosen, None);
            }
            if !gates::affords(question, usd, price) {
                short = Some("the hour's budget".to_owned());
                break;
            }
            usd += price;
            chosen.push(opening.offer.clone());
        }
        short = short.or_else(|| opening.probe.clone());
    }
    let short =
        if chosen.len() < most as usize { short.or_else(|| Some("no cell is open".to_owned())) } else { None };
    (chosen, short)
}

fn terminated(action: &Action) -> Option<WorkerId> {
    match action {
        Action::Terminate { worker, .. } => Some(worker.clone()),
        Action::Spawn { .. }
        | Action::Adopt { .. }
        | Action::Drain { .. }
        | Action::End { .. }
        | Action::Reap { .. } => None,
    }
}
