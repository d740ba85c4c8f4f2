//! Pods of our name that belong to nobody, and which of them may be ended.
//!
//! Ending a pod that is somebody's is worse than paying for one that is nobody's, so the rule is
//! slow: the name must parse to our fleet and environment, the database must have been read whole and
//! must not know the pod, a complete listing must have shown it at least twice in a row, and it must
//! be older than ten minutes. One goes a cycle. If many are due at once, the mistake is more likely
//! ours (another database, a wrong name), so none goes and a human is called.

use std::time::Duration;

use super::snapshot::{Live, Quality, Snapshot, UnknownPod};
use super::state::WorkerState;
use crate::clock::{self, Time};

/// Complete listings in a row that must have shown the pod.
pub const LISTS_MIN: u32 = 2;
/// Age below which a pod is left alone, seconds.
pub const AGE_SECONDS_MIN: u64 = 600;
/// So many may always be due at once.
const DUE_MAX: usize = 2;
/// Above [`DUE_MAX`], this share of our pods may be due at once.
const DUE_SHARE_MAX: f64 = 0.2;

/// What is to be done about pods that are nobody's.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<'a> {
    /// Nothing is due.
    Nothing,
    /// This one goes.
    Reap {
        /// The pod.
        pod: &'a UnknownPod,
        /// How many more are due.
        left: usize,
        /// Why it goes.
        reason: String,
    },
    /// Too many are due at once: none goes.
    TooMany {
        /// How many are due.
        due: usize,
        /// How many may be.
        limit: usize,
    },
}

/// Asks the rule.
pub fn judge<'a>(snapshot: &'a Snapshot, live: &'a Live, now: Time) -> Verdict<'a> {
    let inputs = &live.inputs;
    if inputs.provider.quality != Quality::Complete || inputs.database.quality != Quality::Complete {
        return Verdict::Nothing;
    }
    let mut due: Vec<&UnknownPod> =
        live.unknown_pods.iter().filter(|pod| is_orphan(pod, snapshot) && is_due(pod, now)).collect();
    due.sort_by_key(|pod| (born(pod), &pod.pod_id));
    let Some(pod) = due.first() else { return Verdict::Nothing };
    let known = snapshot.workers.iter().filter(|worker| {
        let live = worker.live.as_ref();
        !worker.is_ended() && live.is_some_and(|live| live.pod.is_some())
    });
    let ours = known.count() + live.unknown_pods.len();
    let limit = DUE_MAX.max((ours as f64 * DUE_SHARE_MAX) as usize);
    if due.len() > limit {
        return Verdict::TooMany { due: due.len(), limit };
    }
    let age = born(pod).map_or(0, |born| clock::age(now, born).as_secs());
    let reason = format!("pod {} is nobody's: in {} complete lists, {age} s old", pod.pod_id, pod.lists);
    Verdict::Reap { pod, left: due.len() - 1, reason }
}

/// Whether no row claims the pod, and none may still come to.
fn is_orphan(pod: &UnknownPod, snapshot: &Snapshot) -> bool {
    let Some(worker) = snapshot.workers.iter().find(|worker| worker.id == pod.worker) else { return true };
    let Some(live) = &worker.live else { return worker.is_ended() };
    if worker.is_ended() || live.state.is_ended() {
        return true;
    }
    let waits_for_a_pod =
        matches!(live.state, WorkerState::Planned | WorkerState::Requesting | WorkerState::Ambiguous);
    !waits_for_a_pod && live.pod_id.as_ref().is_some_and(|own| *own != pod.pod_id)
}

fn is_due(pod: &UnknownPod, now: Time) -> bool {
    let old = born(pod).is_some_and(|born| clock::age(now, born) > Duration::from_secs(AGE_SECONDS_MIN));
    pod.lists >= LISTS_MIN && old
}

/// The later of what the provider says and what we have seen: its clock is not ours.
fn born(pod: &UnknownPod) -> Option<Time> {
    pod.created_at.max(pod.first_seen_at)
}

#[cfg(test)]
mod tests;
