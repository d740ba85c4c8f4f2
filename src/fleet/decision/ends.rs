//! What becomes of workers that are over, lost, late, silent or stuck.
//!
//! At most one action a worker, by the strongest evidence: what the provider shows, then what a
//! complete listing does not show, then deadlines of the stage the worker is in. A deadline counts
//! from the later of the stage's beginning, the last movement and the start of uninterrupted writes
//! (I8). An outcome that was decided when the worker was asked to leave stays.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::super::gates::Question;
use super::super::health::{self, Liveness, Progress};
use super::super::ids::{PodId, WorkerId};
use super::super::order::{Command, Order};
use super::super::outcome::Outcome;
use super::super::snapshot::{Live, PodSeen, PodStatus, Quality, Worker, WorkerLive};
use super::super::state::WorkerState;
use super::{Action, blame};
use crate::clock;

/// A listing may lag behind what it lists by this long, seconds.
pub const NOT_LISTED_GRACE_SECONDS: u64 = 10;
/// Complete listings in a row without it before a pod that has never spoken does not exist.
pub const AMBIGUOUS_LISTS_MIN: u32 = 3;
/// How far a deadline of the start may be widened where starts are measured to be slow.
const SLOW_START_FACTOR_MAX: u64 = 2;

/// Adoptions, ends and terminations, in this order.
pub(super) fn actions(question: &Question<'_>, live: &Live) -> Vec<Action> {
    let judge = Judge {
        question,
        listing_age: (live.inputs.provider.quality == Quality::Complete)
            .then(|| Duration::from_secs(live.inputs.provider.age_seconds)),
        unknown_pods: unknown_pods(live),
        slowest: slowest_starts(question),
    };
    let workers = &question.snapshot.workers;
    let mut seen = HashSet::with_capacity(workers.len());
    let workers = workers.iter().filter(|worker| seen.insert(&worker.id));
    let mut actions: Vec<Action> = workers.filter_map(|worker| judge.action(worker)).collect();
    actions.sort_by_key(|action| match action {
        Action::Adopt { .. } => 0,
        Action::End { .. } => 1,
        Action::Terminate { .. } | Action::Drain { .. } | Action::Spawn { .. } | Action::Reap { .. } => 2,
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
    slowest: SlowestStarts,
}

/// The longest starts that were measured, of workers that came up: a deadline that would have ended
/// them is too short for the others.
#[derive(Debug, Clone, Copy, Default)]
struct SlowestStarts {
    /// From intent to the first heartbeat.
    to_heartbeat: Duration,
    /// From the first heartbeat to readiness.
    to_ready: Duration,
}

fn slowest_starts(question: &Question<'_>) -> SlowestStarts {
    let mut slowest = SlowestStarts::default();
    for worker in &question.snapshot.workers {
        if let (Some(first), Some(ready)) = (worker.first_heartbeat_at, worker.promoted_at) {
            slowest.to_heartbeat = slowest.to_heartbeat.max(clock::age(first, worker.created_at));
            slowest.to_ready = slowest.to_ready.max(clock::age(ready, first));
        }
    }
    slowest
}

/// The limit, widened to one and a half of the longest that was measured, within bounds.
fn widened(limit: u64, slowest: Duration) -> u64 {
    let measured = slowest.as_secs().saturating_mul(3) / 2;
    limit.max(measured.min(limit.saturating_mul(SLOW_START_FACTOR_MAX)))
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
            .or_else(|| self.ordered(worker, live))
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
        let ended = blame::judge(self.question, worker, live, how_it_ended(pod, is_heard(worker)));
        Some(end(worker, live, ended))
    }

    /// An operator's order, once: a worker that is leaving is not asked again.
    fn ordered(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        live.pod_id.as_ref()?;
        if live.state == WorkerState::Terminating {
            return None;
        }
        let of = |wanted: fn(&Command) -> Option<&WorkerId>| {
            self.question.orders().find(|order| wanted(&order.command) == Some(&worker.id))
        };
        let reason = |order: &Order| format!("asked by {}: {}", order.actor, order.reason);
        let to_end = of(|command| match command {
            Command::Terminate { worker } => Some(worker),
            _ => None,
        });
        if let Some(order) = to_end {
            return Some(terminate(worker, live, (Outcome::Operator, reason(order))));
        }
        let order = of(|command| match command {
            Command::Drain { worker } => Some(worker),
            _ => None,
        });
        let order = order.filter(|_| live.leaving.is_none() && live.state != WorkerState::Draining)?;
        let (outcome, reason) = (Outcome::Operator, reason(order));
        if live.state.may_become(WorkerState::Draining) {
            return Some(Action::Drain { worker: worker.id.clone(), outcome, reason });
        }
        Some(terminate(worker, live, (outcome, reason)))
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
        // The database's clock may jump, and listings cannot: what was never seen must lack in several.
        let lists_enough = is_settled || live.unlisted.is_none_or(|lists| lists >= AMBIGUOUS_LISTS_MIN);
        if silent < limit.saturating_add(listing_age) || !lists_enough {
            return None;
        }
        let ended = if known {
            (Outcome::External, format!("not found at the provider, no sign for {} s", silent.as_secs()))
        } else {
            let reason = format!("no answer to the request and no pod listed for {} s", silent.as_secs());
            (Outcome::ProviderFault, reason)
        };
        Some(end(worker, live, ended))
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
        Some(terminate(worker, live, (Outcome::Unknown, "asked to end and still there".into())))
    }

    fn draining(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        if !health::is_busy(worker) {
            return Some(terminate(worker, live, (Outcome::Planned, "drained".into())));
        }
        let since = live.leaving.as_ref().map_or(live.state_since, |leaving| leaving.since);
        let limit = seconds(self.question.policy_live.drain_timeout_seconds);
        let waited = health::unseen_for(since, self.question.snapshot, self.question.now);
        if waited > limit {
            let reason = format!("drain timeout: busy for {} s (limit {} s)", waited.as_secs(), limit.as_secs());
            return Some(terminate(worker, live, (Outcome::Planned, reason)));
        }
        self.stale(worker, live).or_else(|| self.stuck(worker, live))
    }

    /// Two stages: until the provider's pod runs, and until the agent speaks.
    fn starting(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let policy = self.question.policy_live;
        let runs = live.state == WorkerState::Starting
            || live.pod.as_ref().is_some_and(|pod| pod.status == PodStatus::Running);
        let (stage, since, limit) = if runs {
            let limit = widened(policy.startup_timeout_seconds, self.slowest.to_heartbeat);
            ("startup timeout: no heartbeat", live.state_since, limit)
        } else {
            // That it does not run yet is what a listing says; without one it is not known.
            live.pod.as_ref()?;
            ("spawning timeout: no running pod", worker.created_at, policy.spawning_timeout_seconds)
        };
        let waited = health::unseen_for(since, self.question.snapshot, self.question.now);
        (waited > seconds(limit)).then(|| {
            let reason = format!("{stage} after {} s (limit {limit} s)", waited.as_secs());
            terminate(worker, live, (Outcome::Boot, reason))
        })
    }

    /// It speaks and cannot work yet; movement extends the deadline.
    fn not_ready(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let limit = widened(self.question.policy_live.startup_timeout_seconds, self.slowest.to_ready);
        let moved = live.progress_at.max(Some(live.state_since)).unwrap_or(live.state_since);
        let waited = health::unseen_for(moved, self.question.snapshot, self.question.now);
        (waited > seconds(limit)).then(|| {
            let reason = format!("startup timeout: not ready after {} s (limit {limit} s)", waited.as_secs());
            terminate(worker, live, (Outcome::Boot, reason))
        })
    }

    fn stale(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let Question { snapshot, policy, now, .. } = *self.question;
        let Liveness::Stale { age } = health::judge(worker, snapshot, policy, now).liveness else { return None };
        let limit = policy.heartbeat_timeout_seconds;
        let reason = format!("stale heartbeat ({} s old, limit {limit} s)", age.as_secs());
        let ended = blame::judge(self.question, worker, live, (Outcome::Stalled, reason));
        Some(terminate(worker, live, ended))
    }

    fn stuck(&self, worker: &Worker, live: &WorkerLive) -> Option<Action> {
        let Question { snapshot, policy, policy_live, now, .. } = *self.question;
        let Progress::Stuck { age } = health::judge(worker, snapshot, policy, now).progress else { return None };
        let limit = policy_live.progress_timeout_seconds;
        let reason = format!("stuck task: no progress for {} s (limit {limit} s)", age.as_secs());
        let ended = blame::judge(self.question, worker, live, (Outcome::Stalled, reason));
        Some(terminate(worker, live, ended))
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

fn end(worker: &Worker, live: &WorkerLive, ended: (Outcome, String)) -> Action {
    let (outcome, reason) = decided(live, ended);
    Action::End { worker: worker.id.clone(), outcome, reason }
}

fn terminate(worker: &Worker, live: &WorkerLive, ended: (Outcome, String)) -> Action {
    let (outcome, reason) = decided(live, ended);
    Action::Terminate { worker: worker.id.clone(), outcome, reason }
}

/// What was decided when it was asked to leave stays.
fn decided(live: &WorkerLive, ended: (Outcome, String)) -> (Outcome, String) {
    match &live.leaving {
        Some(leaving) => (leaving.outcome, leaving.reason.clone()),
        None => ended,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
