//! Whose fault a death was: the machine's, or the task's that it had just taken.
//!
//! One death soon after a claim is chance. When as many workers as the policy says have died soon
//! after claiming the same task, the task is to blame: the worker's end is a poison task and does
//! not move the breaker, and the task is set aside with it.

use super::super::gates::Question;
use super::super::outcome::Outcome;
use super::super::snapshot::{Suspect, Worker, WorkerLive};
use crate::clock;

/// The outcome and reason of a death, once the task in hand has been looked at.
pub(super) fn judge(
    question: &Question<'_>,
    worker: &Worker,
    live: &WorkerLive,
    (outcome, reason): (Outcome, String),
) -> (Outcome, String) {
    if !matches!(outcome, Outcome::WorkerCrash | Outcome::Stalled) {
        return (outcome, reason);
    }
    let Some((suspect, deaths)) = live.suspects.iter().find_map(|suspect| {
        let deaths = deaths(question, worker, suspect)?;
        Some((suspect, deaths))
    }) else {
        return (outcome, reason);
    };
    let soon = question.policy_live.poison_seconds;
    let reason = format!(
        "task failure loop: {deaths} workers died within {soon} s of claiming task {}, this one: {reason}",
        suspect.task
    );
    (Outcome::PoisonTask, reason)
}

/// How many died of it, this worker among them, where that is enough to blame the task.
fn deaths(question: &Question<'_>, worker: &Worker, suspect: &Suspect) -> Option<usize> {
    let policy = question.policy_live;
    let last_sign = worker.last_heartbeat_at.unwrap_or(suspect.claimed_at);
    let lived = clock::age(last_sign, suspect.claimed_at).as_secs();
    let earlier = suspect.deaths_after_seconds.iter().filter(|after| **after <= policy.poison_seconds).count();
    let deaths = earlier + 1;
    let enough = policy.poison_workers > 0 && deaths >= policy.poison_workers as usize;
    (enough && lived <= policy.poison_seconds).then_some(deaths)
}
