//! Which idle workers go when there are more than desired.
//!
//! Calm on purpose: only idle workers, only after they were idle for a while, newest first, never
//! within the first heartbeat limit after promotion, and never below what is desired, which holds
//! the floor and the idle buffer. Where it is remembered that more were desired a moment ago, so many
//! stay: a queue that comes and goes does not make workers come and go with it. Workers that are still on their way do not push out one that is
//! at hand; they are judged when they are ready.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::gates::Question;
use super::super::health::{self, Standing};
use super::super::ids::WorkerId;
use super::super::outcome::Outcome;
use super::super::snapshot::Worker;
use super::super::state::WorkerState;
use super::Action;
use crate::clock;

/// Drains for idle workers of the pool above `desired`. `going`: workers about which something is done
/// already. `is_own`: whether a worker is of the pool.
pub(super) fn drains(
    question: &Question<'_>,
    going: &BTreeSet<WorkerId>,
    desired: u32,
    is_own: &dyn Fn(&Worker) -> bool,
) -> Vec<Action> {
    let staying = |worker: &&Worker| {
        is_own(worker)
            && health::standing(worker, question.snapshot) == Standing::Active
            && !going.contains(&worker.id)
    };
    let is_ready = |worker: &&Worker| {
        let state = worker.live.as_ref().map(|live| live.state);
        matches!(state, Some(WorkerState::Idle | WorkerState::Busy))
    };
    let ready: Vec<&Worker> = question.snapshot.workers.iter().filter(staying).filter(is_ready).collect();
    let surplus = ready.len().saturating_sub(desired as usize);
    let limit = question.policy_live.overcapacity_idle_timeout_seconds.min(question.policy.idle_timeout_seconds);
    let mut idle: Vec<(&Worker, Duration)> = ready
        .iter()
        .filter_map(|worker| Some((*worker, idle_for(worker, question)?)))
        .filter(|(_, idle_for)| *idle_for >= Duration::from_secs(limit))
        .collect();
    idle.sort_by_key(|(worker, _)| std::cmp::Reverse((worker.created_at, &worker.id)));
    let drain = |(worker, idle_for): (&Worker, Duration)| {
        let idle_for = idle_for.as_secs();
        let reason = format!(
            "scale-down: idle for {idle_for} s (limit {limit} s), {} ready and {desired} desired",
            ready.len()
        );
        Action::Drain { worker: worker.id.clone(), outcome: Outcome::Planned, reason }
    };
    idle.into_iter().take(surplus).map(drain).collect()
}

/// How long the worker has been idle, if it may be ended for that; time in which it could not have
/// claimed does not count.
fn idle_for(worker: &Worker, question: &Question<'_>) -> Option<Duration> {
    let live = worker.live.as_ref()?;
    let grace = Duration::from_secs(question.policy.heartbeat_timeout_seconds);
    let promoted = worker.promoted_at.or(worker.first_heartbeat_at).unwrap_or(live.state_since);
    if live.state != WorkerState::Idle || health::is_busy(worker) || clock::age(question.now, promoted) < grace {
        return None;
    }
    let idle_since = live.idle_since.unwrap_or(live.state_since);
    Some(health::unseen_for(idle_since, question.snapshot, question.now))
}
