//! What becomes of workers that are over, lost, late, silent or stuck.
//!
//! At most one action a worker, by the strongest evidence: what the provider shows, then what a
//! complete listing does not show, then deadlines of the stage the worker is in. A deadline counts
//! from the later of the stage's beginning, the last movement and the start of uninterrupted writes
//! (I8). An outcome that was decided when the worker was asked to leave stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::gates::Question;
use super::super::health::{self, Liveness, Progress};
use super::super::ids::{PodId, WorkerId};
use super::super::outcome::Outcome;
use super::super::snapshot::{Live, PodSeen, PodStatus, Quality, Worker, WorkerLive};
use super::super::state::WorkerState;
use super::Action;
use crate::clock;

/// A listing may lag behind what it lists by this long, seconds.
pub const NOT_LISTED_GRACE_SECONDS: u64 = 10;

/// Adoptions, ends and terminations, in this order.
pub(super) fn actions(question: &Question<'_>, live: &Live) -> Vec<Action> {
    let judge = Judge {
        question,
        listing_age: (live.inputs.provider.quality == Quality::Complete)
            .then(|| Duration::from_secs(live.inputs.provider.age_seconds)),
        unknown_pods: unknown_pods(live),
    };
    let mut seen = BTreeSet::new();
    let workers = question.snapshot.workers.iter().filter(|worker| seen.insert(&worker.id));
    let mut actions: Vec<Action> = workers.filter_map(|worker| judge.action(worker)).collect();
    actions.sort_by_key(|action| match action {
        Action::Adopt { .. } => 0,
        Action::End { .. } => 1,
        Action::Terminate { .. } | Action::Drain { .. } | Action::Spawn { .. } => 2,
    });
    actions
}

/// The pod to adopt for each worker that has one: the oldest, where a lost answer was asked for twice.
fn unknown_pods(live: &Live) -> BTreeMap<&WorkerId, &PodId> {
    let mut pods: Vec<_> = live.unknown_pods.iter().collect();
    pods.sort_by_key(|pod| (pod.created_at.is_none(), pod.created_at, &pod.pod_id));
    let mut by_worker = BTreeMap::new();
    for pod in pods {
        by_worker.entry(&pod.worker).or_insert(&pod.pod_id);
    }
    by_worker
}

struct Judge<'a> {
    question: &'a Question<'a>,
    /// Age of the listing where it was complete; null where "not listed" means nothing.
    listing_age: Option<Duration>,
    unknown_pods: BTreeMap<&'a WorkerId, &'a PodId>,
}

impl Judge<'_> {
    fn action(&self, worker: &Worker) -> Option<Action> {
        let live = worker.live.as_ref()?;
        if worker.is_ended() || live.state.is_ended() {
            return None;
        }
        self.adopt(worker, live)
            .or_else(|| self.over(worker, live))
            .or_else(|| self.not_listed(worker, live))
            .or_else(|| live.pod_id.as_ref().and_then(|_| self.terminate(worker, live)))
    }

    fn adopt(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let waits_for_a_pod = matches!(live.state, WorkerState::Requesting | WorkerState::Ambiguous);
        let pod_id = self.unknown_pods.get(&worker.id).filter(|_| waits_for_a_pod && live.pod_id.is_none())?;
        Some(Action::Adopt { worker: worker.id.clone(), pod_id: (*pod_id).clone() })
    }

    /// The provider shows that nothing can run in the pod any more.
    fn over(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let pod = live.pod.as_ref().filter(|pod| pod.status.is_over())?;
        let (outcome, reason) = how_it_ended(pod, is_heard(worker));
        Some(end(worker, live, outcome, reason))
    }

    /// A complete listing does not name the pod, and nothing has been heard for longer than it may lag.
    fn not_listed(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let listing_age = self.listing_age.filter(|_| live.pod.is_none())?;
        if self.unknown_pods.contains_key(&worker.id) {
            return None;
        }
        let grace = Duration::from_secs(NOT_LISTED_GRACE_SECONDS);
        let known = live.pod_id.is_some();
        // What was made lately may be listed late; what has spoken was listed before.
        let is_settled = known && is_heard(worker);
        let limit =
            if is_settled { grace } else { grace.max(seconds(self.question.policy_live.ambiguous_seconds)) };
        let last_sign = worker.last_heartbeat_at.max(Some(live.state_since)).unwrap_or(live.state_since);
        let silent = clock::age(self.question.now, last_sign);
        if silent < limit.saturating_add(listing_age) {
            return None;
        }
        let (outcome, reason) = if known {
            (Outcome::External, format!("not found at the provider, no sign for {} s", silent.as_secs()))
        } else {
            let reason = format!("no answer to the request and no pod listed for {} s", silent.as_secs());
            (Outcome::ProviderFault, reason)
        };
        Some(end(worker, live, outcome, reason))
    }

    /// Deadlines of the stage that the worker is in.
    fn terminate(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        use WorkerState::{
            Alive, Ambiguous, Busy, Created, Draining, Gone, Idle, Planned, Provisioning, Rejected, Requesting,
            Starting, Terminating,
        };
        match live.state {
            Terminating => self.again(worker, live),
            _ if live.leaving.is_some() => self.draining(worker, live),
            Draining => self.draining(worker, live),
            Planned | Requesting | Created | Ambiguous | Provisioning | Starting => self.starting(worker, live),
            Alive => self.stale(worker, live).or_else(|| self.not_ready(worker, live)),
            Idle | Busy => self.stale(worker, live).or_else(|| self.stuck(worker, live)),
            Rejected | Gone => None,
        }
    }

    /// The provider was asked before, and the pod is still there.
    fn again(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        live.pod.as_ref()?;
        Some(terminate(worker, live, Outcome::Unknown, "asked to end and still there".into()))
    }

    fn draining(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        if !health::is_busy(worker) {
            return Some(terminate(worker, live, Outcome::Planned, "drained".into()));
        }
        let since = live.leaving.as_ref().map_or(live.state_since, |leaving| leaving.since);
        let limit = seconds(self.question.policy_live.drain_timeout_seconds);
        let waited = health::unseen_for(since, self.question.snapshot, self.question.now);
        if waited > limit {
            let reason = format!("drain timeout: busy for {} s (limit {} s)", waited.as_secs(), limit.as_secs());
            return Some(terminate(worker, live, Outcome::Planned, reason));
        }
        self.stale(worker, live).or_else(|| self.stuck(worker, live))
    }

    /// Two stages: until the provider's pod runs, and until the agent speaks.
    fn starting(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let policy = self.question.policy_live;
        let runs = live.state == WorkerState::Starting
            || live.pod.as_ref().is_some_and(|pod| pod.status == PodStatus::Running);
        let (stage, since, limit) = if runs {
            ("startup timeout: no heartbeat", live.state_since, policy.startup_timeout_seconds)
        } else {
            // That it does not run yet is what a listing says; without one it is not known.
            live.pod.as_ref()?;
            ("spawning timeout: no running pod", worker.created_at, policy.spawning_timeout_seconds)
        };
        let waited = health::unseen_for(since, self.question.snapshot, self.question.now);
        (waited > seconds(limit)).then(|| {
            let reason = format!("{stage} after {} s (limit {limit} s)", waited.as_secs());
            terminate(worker, live, Outcome::Boot, reason)
        })
    }

    /// It speaks and cannot work yet; movement extends the deadline.
    fn not_ready(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let limit = self.question.policy_live.startup_timeout_seconds;
        let moved = live.progress_at.max(Some(live.state_since)).unwrap_or(live.state_since);
        let waited = health::unseen_for(moved, self.question.snapshot, self.question.now);
        (waited > seconds(limit)).then(|| {
            let reason = format!("startup timeout: not ready after {} s (limit {limit} s)", waited.as_secs());
            terminate(worker, live, Outcome::Boot, reason)
        })
    }

    fn stale(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let Question { snapshot, policy, now, .. } = *self.question;
        let Liveness::Stale { age } = health::judge(worker, snapshot, policy, now).liveness else { return None };
        let limit = policy.heartbeat_timeout_seconds;
        let reason = format!("stale heartbeat ({} s old, limit {limit} s)", age.as_secs());
        Some(terminate(worker, live, Outcome::Stalled, reason))
    }

    fn stuck(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let Question { snapshot, policy, policy_live, now, .. } = *self.question;
        let Progress::Stuck { age } = health::judge(worker, snapshot, policy, now).progress else { return None };
        let limit = policy_live.progress_timeout_seconds;
        let reason = format!("stuck task: no progress for {} s (limit {limit} s)", age.as_secs());
        Some(terminate(worker, live, Outcome::Stalled, reason))
    }
}

fn is_heard(worker: &Worker) -> bool {
    worker.first_heartbeat_at.or(worker.last_heartbeat_at).or(worker.promoted_at).is_some()
}

fn how_it_ended(pod: &PodSeen, heard: bool) -> (Outcome, String) {
    let crash = if heard { Outcome::WorkerCrash } else { Outcome::Boot };
    let before = if heard { "" } else { " before its first heartbeat" };
    match (pod.signal, pod.exit_code, pod.status) {
        (Some(signal), _, _) => (crash, format!("ended by signal {signal}{before}")),
        (None, Some(0), _) => (Outcome::External, format!("left unasked with exit code 0{before}")),
        (None, Some(code), _) => (crash, format!("ended with exit code {code}{before}")),
        (None, None, PodStatus::Terminated) => (Outcome::External, format!("externally terminated{before}")),
        (None, None, PodStatus::Error) => {
            (Outcome::ProviderFault, format!("the provider says its pod is broken{before}"))
        }
        (None, None, _) => (crash, format!("its pod exited, exit code not known{before}")),
    }
}

fn end(worker: &Worker, live: &WorkerLive, outcome: Outcome, reason: String) -> Action {
    let (outcome, reason) = decided(live, outcome, reason);
    Action::End { worker: worker.id.clone(), outcome, reason }
}

fn terminate(worker: &Worker, live: &WorkerLive, outcome: Outcome, reason: String) -> Action {
    let (outcome, reason) = decided(live, outcome, reason);
    Action::Terminate { worker: worker.id.clone(), outcome, reason }
}

/// What was decided when it was asked to leave stays.
fn decided(live: &WorkerLive, outcome: Outcome, reason: String) -> (Outcome, String) {
    match &live.leaving {
        Some(leaving) => (leaving.outcome, leaving.reason.clone()),
        None => (outcome, reason),
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
