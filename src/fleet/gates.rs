//! The questions that must all be answered with yes before anything is spawned.
//!
//! Every gate is asked in every cycle, also after one has said no, so that an operator sees all that
//! stands in the way and not only the first of it. Each answers with its numbers, and says when it
//! opens: at an instant (the first at which it would pass, everything else being equal), on a
//! condition, or never by itself (neither given).

use std::time::Duration;

use super::breaker::{self, Rate};
use super::decision::{Gate, GateName, Verdict};
use super::outcome::Outcome;
use super::policy::{Policy, PolicyLive};
use super::scaling::Load;
use super::snapshot::{Input, Live, Quality, Snapshot, Worker};
use crate::backoff::Backoff;
use crate::clock::{self, Time};

/// What was seen longer ago than this is not spent money on, seconds.
pub const OBSERVATION_AGE_SECONDS_MAX: u64 = 120;

/// After a refusal by the provider: 30 s, doubled by each further one, at most 15 min.
const PROVIDER_BACKOFF: Backoff =
    Backoff { base: Duration::from_secs(30), ceiling: Duration::from_secs(900), jitter: 0.0 };

/// Everything the gates look at.
#[derive(Debug)]
pub struct Question<'a> {
    /// What was seen.
    pub snapshot: &'a Snapshot,
    /// The numbers in force.
    pub policy: &'a Policy,
    /// The numbers of a running fleet in force.
    pub policy_live: &'a PolicyLive,
    /// The instant of the question.
    pub now: Time,
    /// What there is.
    pub load: Load,
    /// Tasks a worker may take at once; null where the queue was not seen.
    pub claimable: Option<u64>,
}

/// All answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// One a gate, in a fixed order.
    pub gates: Vec<Gate>,
    /// Workers that may be asked for in this cycle if every gate passes.
    pub spawns_max: u32,
    /// Why it is no more, in words.
    pub spawns_max_reason: String,
}

/// Asks every gate.
pub fn evaluate(question: &Question<'_>) -> Answers {
    let mut gates = vec![min(question), max(question)];
    let Some(live) = &question.snapshot.live else {
        let rate = breaker::classified(question.snapshot, question.policy, question.now);
        gates.push(failure_breaker(&rate, question.policy, None));
        gates.push(pass(GateName::Observation, "a file is taken as it is written".into()));
        gates.push(pass(GateName::Pause, "a file holds no pause".into()));
        gates.push(no_override());
        return Answers { gates, spawns_max: u32::MAX, spawns_max_reason: "no limit".into() };
    };
    let rate = breaker::resolved(question.snapshot, question.policy, question.now);
    let probe = probe(question);
    gates.push(failure_breaker(&rate, question.policy, probe.map(|at| (at, question.now))));
    gates.push(observation(question, live));
    gates.push(pause(live, question.now));
    gates.push(no_override());
    gates.push(leader(live));
    let (rate_limit, spawns_max, spawns_max_reason) = rate_limit(question, rate.blocks);
    gates.push(rate_limit);
    gates.push(provider_backoff(question));
    Answers { gates, spawns_max, spawns_max_reason }
}

fn pass(gate: GateName, reason: String) -> Gate {
    Gate { gate, verdict: Verdict::Pass, reason, lifts_at: None, lifts_when: None }
}

fn block(gate: GateName, reason: String, lifts_at: Option<Time>, lifts_when: Option<&str>) -> Gate {
    Gate { gate, verdict: Verdict::Block, reason, lifts_at, lifts_when: lifts_when.map(str::to_owned) }
}

fn min(question: &Question<'_>) -> Gate {
    let Load { capacity, .. } = question.load;
    let floor = question.policy.min_workers;
    let Load { busy, .. } = question.load;
    let reason =
        format!("{} active and {} spawning, {busy} busy; at least {floor}", capacity.active, capacity.spawning);
    pass(GateName::Min, reason)
}

fn max(question: &Question<'_>) -> Gate {
    let ceiling = question.policy.max_workers;
    let load = question.load;
    let live = question.snapshot.live.is_some();
    let machines = if live { load.machines() } else { load.covered() };
    let leaving = if live { format!(" and {} leaving", load.leaving) } else { String::new() };
    let reason =
        format!("{} active, {} spawning{leaving}; at most {ceiling}", load.capacity.active, load.capacity.spawning);
    if ceiling == 0 {
        return block(GateName::Max, format!("{reason}: emergency stop"), None, None);
    }
    if machines >= ceiling {
        return block(GateName::Max, reason, None, Some("a worker ends"));
    }
    pass(GateName::Max, reason)
}

/// `probe`: when one worker may be tried in spite of the rate, and the instant of the question.
fn failure_breaker(rate: &Rate, policy: &Policy, probe: Option<(Time, Time)>) -> Gate {
    let reason = format!(
        "{} of {} workers failed in {} s: {:.1} %; blocks above {:.1} % of at least {}",
        rate.failures,
        rate.total,
        policy.failure_window_seconds,
        rate.rate * 100.0,
        policy.failure_rate_max * 100.0,
        policy.failure_rate_min_workers
    );
    if !rate.blocks {
        return pass(GateName::FailureBreaker, reason);
    }
    match probe {
        Some((at, now)) if at <= now => {
            pass(GateName::FailureBreaker, format!("{reason}; one probe is let through: no worker is left"))
        }
        Some((at, _)) => {
            let lifts_at = rate.lifts_at.map_or(at, |lifts_at| lifts_at.min(at));
            block(GateName::FailureBreaker, reason, Some(lifts_at), None)
        }
        None => block(GateName::FailureBreaker, reason, rate.lifts_at, None),
    }
}

/// A fleet with tasks and without any worker may try one, after a delay.
fn probe(question: &Question<'_>) -> Option<Time> {
    let nobody_left = question.load.covered() == 0;
    let demand = question.claimable.is_some_and(|claimable| claimable > 0);
    (nobody_left && demand).then(|| breaker::probe_at(question.snapshot, question.policy))
}

/// Whether the database was seen whole and lately enough to act on.
pub fn database_is_seen(live: &Live) -> bool {
    let Input { quality, age_seconds, .. } = live.inputs.database;
    quality == Quality::Complete && age_seconds <= OBSERVATION_AGE_SECONDS_MAX
}

fn observation(question: &Question<'_>, live: &Live) -> Gate {
    let seen = |name: &str, input: &Input| {
        let detail = input.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        let quality = match input.quality {
            Quality::Complete => "complete",
            Quality::Partial => "partial",
            Quality::Failed => "not seen",
        };
        format!("{name} {quality}, {} s old{detail}", input.age_seconds)
    };
    let reason =
        format!("{}; {}", seen("database", &live.inputs.database), seen("provider", &live.inputs.provider));
    if !database_is_seen(live) {
        return block(GateName::Observation, reason, None, Some("the database is read completely"));
    }
    if question.claimable.is_none() {
        let reason = format!("{reason}; the queue was not seen");
        return block(GateName::Observation, reason, None, Some("the queue is counted"));
    }
    pass(GateName::Observation, reason)
}

fn pause(live: &Live, now: Time) -> Gate {
    match &live.pause {
        None => pass(GateName::Pause, "no pause in force".into()),
        Some(pause) if pause.until.is_some_and(|until| until <= now) => {
            pass(GateName::Pause, format!("the pause by {} is over", pause.actor))
        }
        Some(pause) => {
            let reason = format!("paused by {} since {}: {}", pause.actor, pause.since, pause.reason);
            let lifts_when = pause.until.is_none().then_some("an operator resumes");
            block(GateName::Pause, reason, pause.until, lifts_when)
        }
    }
}

fn no_override() -> Gate {
    pass(GateName::Override, "no override in force".into())
}

fn leader(live: &Live) -> Gate {
    match live.term {
        Some(term) => pass(GateName::Leader, format!("this process leads by term {}", term.0)),
        None => block(
            GateName::Leader,
            "standby: another process leads".into(),
            None,
            Some("this process takes the lease"),
        ),
    }
}

/// The gate, how many may be asked for, and why no more.
fn rate_limit(question: &Question<'_>, breaker_is_open: bool) -> (Gate, u32, String) {
    let limit = question.policy_live.spawns_per_cycle_max;
    let streak = breaker::streak(question.snapshot, question.policy);
    if limit == 0 {
        let reason = "at most 0 workers a cycle".to_owned();
        return (block(GateName::RateLimit, reason.clone(), None, None), 0, reason);
    }
    if let Some(streak) = streak {
        let reason = format!("one probe a cycle: {} failed and none has come up since", streak.failures);
        return (pass(GateName::RateLimit, reason.clone()), 1, reason);
    }
    if breaker_is_open {
        let reason = "one probe a cycle: the failure breaker is open".to_owned();
        return (pass(GateName::RateLimit, reason.clone()), 1, reason);
    }
    (pass(GateName::RateLimit, format!("at most {limit} a cycle")), limit, format!("rate limit of {limit} a cycle"))
}

fn provider_backoff(question: &Question<'_>) -> Gate {
    let workers = || question.snapshot.workers.iter();
    let got_a_pod = |worker: &&Worker| worker.live.as_ref().is_some_and(|live| live.pod_id.is_some());
    let newest_success = workers().filter(got_a_pod).map(|worker| worker.created_at).max();
    let refused = |worker: &&Worker| {
        let by_provider = matches!(worker.outcome(), Some(Outcome::ProviderCapacity | Outcome::ProviderFault));
        by_provider && !got_a_pod(worker) && newest_success.is_none_or(|success| worker.created_at > success)
    };
    let refusals = workers().filter(refused).count();
    let Some(last) = workers().filter(refused).map(|w| w.ended_at.unwrap_or(w.created_at)).max() else {
        return pass(GateName::ProviderBackoff, "the provider has not refused since its last pod".into());
    };
    let attempt = u32::try_from(refusals - 1).unwrap_or(u32::MAX);
    let delay = PROVIDER_BACKOFF.delay(attempt, 0.0);
    let opens = clock::plus(last, delay);
    let reason = format!("{refusals} refused in a row, the last at {last}; next try after {} s", delay.as_secs());
    if question.now < opens {
        block(GateName::ProviderBackoff, reason, Some(opens), None)
    } else {
        pass(GateName::ProviderBackoff, reason)
    }
}
