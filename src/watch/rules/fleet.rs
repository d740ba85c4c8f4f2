//! What is wrong with workers, tasks and pods.

use std::time::Duration;

use super::{Finding, seconds};
use crate::clock::{self, Time};
use crate::store::TaskEnds;
use crate::watch::alarm::Alarm;
use crate::watch::limits::{
    FAILURE_ENDED_MIN, FAILURE_WINDOW, Limits, TASKS_ENDED_MIN, TASKS_TIMES_BEFORE, WORKERS_UNHEARD_MIN,
};
use crate::watch::observation::{DecisionSeen, Observation, SourceId, Stage, WorkerSeen};

/// source_type of a worker's rows.
const WORKER: &str = "worker";

pub(super) fn findings(seen: &Observation, limits: &Limits) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    found.extend(no_worker_alive(seen, limits));
    found.extend(workers_unheard(seen, limits));
    for worker in &seen.fleet.workers {
        found.extend(never_spoke(seen, worker, limits));
        found.extend(hung(seen, worker, limits));
    }
    found.extend(failure_rate(seen, limits));
    found.extend(task_failures(seen, limits));
    found.extend(spawn_blocked(seen, limits));
    found.extend(oldest_task(seen, limits));
    found.extend(pods_unaccounted(seen, limits));
    found.extend(reaper_held(seen, limits));
    found
}

/// The newest decision, while it says something about the present.
fn decision<'a>(seen: &'a Observation, limits: &Limits) -> Option<&'a DecisionSeen> {
    seen.fleet.decision.as_ref().filter(|decision| clock::age(seen.now, decision.at) < limits.cycles_stopped)
}

fn speaks(worker: &&WorkerSeen) -> bool {
    matches!(worker.stage, Stage::Idle | Stage::Busy) && worker.last_heartbeat.is_some()
}

fn about(worker: &WorkerSeen) -> SourceId {
    SourceId::new(WORKER, worker.id.clone())
}

fn no_worker_alive(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let decision = decision(seen, limits).filter(|decision| decision.desired > 0)?;
    if seen.fleet.workers.iter().any(|worker| speaks(&worker)) {
        return None;
    }
    let since = decision.desired_since.unwrap_or(decision.at).max(seen.fleet.newest_beat.unwrap_or(Time::MIN));
    let age = clock::age(seen.now, since.max(seen.watching_since));
    let coming = seen.fleet.workers.iter().filter(|worker| worker.stage == Stage::Coming).count();
    let summary = format!(
        "{} workers are wanted and none has been alive for {} ({coming} are coming up, {} tasks could be claimed)",
        decision.desired,
        seconds(clock::age(seen.now, since)),
        seen.fleet.claimable
    );
    (age >= limits.no_worker).then(|| Finding::general(Alarm::NoWorkerAlive, since, summary))
}

/// Age of the freshest heartbeat of the workers that should beat; None where there are too few.
pub fn longest_unheard(seen: &Observation) -> Option<(usize, Time)> {
    let beats: Vec<Time> =
        seen.fleet.workers.iter().filter(speaks).filter_map(|worker| worker.last_heartbeat).collect();
    let newest = beats.iter().copied().max()?;
    (beats.len() >= WORKERS_UNHEARD_MIN).then_some((beats.len(), newest))
}

fn workers_unheard(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let (count, newest) = longest_unheard(seen)?;
    let age = clock::age(seen.now, newest.max(seen.watching_since));
    let summary = format!(
        "none of {count} workers has sent a heartbeat for {}: look at the gateway and the network first",
        seconds(clock::age(seen.now, newest))
    );
    (age >= limits.workers_unheard).then(|| Finding::general(Alarm::WorkersUnheard, newest, summary))
}

fn never_spoke(seen: &Observation, worker: &WorkerSeen, limits: &Limits) -> Option<Finding> {
    let age = clock::age(seen.now, worker.created_at);
    let silent = worker.stage == Stage::Coming && worker.last_heartbeat.is_none();
    (silent && age >= limits.first_heartbeat).then(|| Finding {
        alarm: Alarm::WorkerNeverSpoke,
        source: about(worker),
        since: worker.created_at,
        summary: format!("worker {} was created {} ago and has not spoken yet", worker.id, seconds(age)),
    })
}

/// Since when a busy worker has not moved.
pub fn oldest_progress(worker: &WorkerSeen) -> Option<Time> {
    (worker.stage == Stage::Busy).then(|| worker.progress_at.unwrap_or(worker.stage_since).max(worker.stage_since))
}

fn hung(seen: &Observation, worker: &WorkerSeen, limits: &Limits) -> Option<Finding> {
    let since = oldest_progress(worker)?;
    let age = clock::age(seen.now, since);
    let beats = clock::age(seen.now, worker.last_heartbeat?) < limits.workers_unheard;
    (beats && age >= limits.worker_hung).then(|| Finding {
        alarm: Alarm::WorkerHung,
        source: about(worker),
        since,
        summary: format!("worker {} beats, but its program has not moved for {}", worker.id, seconds(age)),
    })
}

fn failure_rate(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let (ended, failed) = (seen.fleet.ended, seen.fleet.failed);
    let is_high = ended >= FAILURE_ENDED_MIN && share(failed, ended) > limits.failure_share;
    let summary = format!(
        "{failed} of the {ended} workers that ended within {} min never came up, stalled or crashed",
        FAILURE_WINDOW.as_secs() / 60
    );
    is_high.then(|| Finding::general(Alarm::FailureRate, clock::minus(seen.now, FAILURE_WINDOW), summary))
}

fn task_failures(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let of = |ends: TaskEnds| if ends.ended == 0 { 0.0 } else { ends.failed as f64 / ends.ended as f64 };
    let (recent, before) = (seen.fleet.tasks_recent, seen.fleet.tasks_before);
    let unusual = recent.ended >= TASKS_ENDED_MIN
        && of(recent) > limits.task_failure_share
        && of(recent) > of(before) * TASKS_TIMES_BEFORE;
    let summary = format!(
        "{} of {} tasks that ended within the last hour failed ({:.0} %; {:.0} % in the day before)",
        recent.failed,
        recent.ended,
        of(recent) * 100.0,
        of(before) * 100.0
    );
    unusual
        .then(|| Finding::general(Alarm::TaskFailures, clock::minus(seen.now, Duration::from_secs(3_600)), summary))
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn spawn_blocked(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let blocked = decision(seen, limits)?.blocked.as_ref().filter(|_| seen.fleet.claimable > 0)?;
    let summary = format!(
        "{} tasks could be claimed, and gate {} has kept workers from being made for {}: {}",
        seen.fleet.claimable,
        blocked.gate,
        seconds(clock::age(seen.now, blocked.since)),
        blocked.reason
    );
    let stands = clock::age(seen.now, blocked.since) >= limits.spawn_blocked;
    stands.then(|| Finding::general(Alarm::SpawnBlocked, blocked.since, summary))
}

fn oldest_task(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let oldest = seen.fleet.oldest_claimable?;
    let age = clock::age(seen.now, oldest);
    let summary = format!(
        "the oldest of {} tasks that could be claimed has waited for {}",
        seen.fleet.claimable,
        seconds(age)
    );
    (age >= limits.oldest_task).then(|| Finding::general(Alarm::OldestTask, oldest, summary))
}

fn pods_unaccounted(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let ambiguous = seen.fleet.workers.iter().filter(|worker| worker.stage == Stage::Ambiguous);
    let pods = decision(seen, limits).into_iter().flat_map(|decision| decision.unknown_pods.iter().cloned());
    let old: Vec<(String, Time)> = ambiguous
        .map(|worker| (worker.id.clone(), worker.stage_since))
        .chain(pods)
        .filter(|(_, since)| clock::age(seen.now, *since) >= limits.pod_unaccounted)
        .collect();
    let (first, since) = old.iter().min_by_key(|(_, since)| *since)?.clone();
    let summary = format!(
        "{} pods are unaccounted for, the oldest ({first}) for {}: they may cost money and do nothing",
        old.len(),
        seconds(clock::age(seen.now, since))
    );
    Some(Finding::general(Alarm::PodsUnaccounted, since, summary))
}

/// None of them is ended, so a human must look, at once: another database or a wrong name is likelier
/// than so many orphans.
fn reaper_held(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let held = decision(seen, limits)?.reaper_held?;
    let summary = format!(
        "{} pods of our name are nobody's, more than {} at once, so none is ended: is this the fleet's database?",
        held.due, held.limit
    );
    Some(Finding::general(Alarm::ReaperHeld, held.since, summary))
}
