//! The questions that must all be answered with yes before anything is spawned.
//!
//! Every gate is asked in every cycle, also after one has said no, so that an operator sees all that
//! stands in the way and not only the first of it. Each answers with its numbers, and says when it
//! opens: at an instant (the first at which it would pass, everything else being equal), on a
//! condition, or never by itself (neither given). An operator's override turns some into a yes for a
//! while; the answer then says whose.

mod money;
mod openings;
mod shut;

use super::breaker::{self, Rate};
use super::cell::Offer;
use super::decision::{Gate, GateName, Verdict};
use super::order::{Command, Order};
use super::policy::{Policy, PolicyLive};
use super::pool::Pool;
use super::refusal;
use super::scaling::Load;
use super::snapshot::{Input, Live, Quality, Snapshot};
use crate::clock::Time;
pub(super) use money::affords;
pub use openings::Opening;
use shut::Shut;

/// What was seen longer ago than this is not spent money on, seconds.
pub const OBSERVATION_AGE_SECONDS_MAX: u64 = 120;

/// Everything the gates look at.
#[derive(Debug)]
pub struct Question<'a> {
    /// What was seen.
    pub snapshot: &'a Snapshot,
    /// The numbers in force, the pool's own among them.
    pub policy: &'a Policy,
    /// The numbers of a running fleet in force.
    pub policy_live: &'a PolicyLive,
    /// The pool that is asked about.
    pub pool: &'a Pool,
    /// The instant of the question.
    pub now: Time,
    /// What there is in the pool.
    pub load: Load,
    /// What there is in the fleet.
    pub fleet: Load,
    /// The fleet's ceiling.
    pub fleet_max: u32,
    /// Tasks a worker may take at once; null where the queue was not seen.
    pub claimable: Option<u64>,
}

impl Question<'_> {
    /// The orders in force.
    pub fn orders(&self) -> impl Iterator<Item = &Order> {
        self.all_orders().filter(|order| order.holds(self.now))
    }

    /// The order that overrules this gate at `at`, for the cell of that offer where one is given.
    fn overruled(&self, gate: GateName, offer: Option<&Offer>, at: Time) -> Option<&Order> {
        self.all_orders().filter(|order| order.holds(at)).find(|order| match &order.command {
            Command::Override { gate: other, cell: only } => {
                let name = || offer.and_then(Offer::name);
                *other == gate && only.as_ref().is_none_or(|only| name().is_some_and(|name| name == *only))
            }
            _ => false,
        })
    }

    /// The first instant after `at` at which an order ends: what was so before need not be so then.
    fn next_order_end(&self, at: Time) -> Option<Time> {
        self.all_orders().filter_map(|order| order.until).filter(|until| *until > at).min()
    }

    fn all_orders(&self) -> impl Iterator<Item = &Order> {
        self.snapshot.live.iter().flat_map(|live| &live.orders)
    }
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
    /// The cells to ask, best first, and how many of each.
    pub openings: Vec<Opening>,
}

/// Asks every gate.
pub fn evaluate(question: &Question<'_>) -> Answers {
    let mut gates = vec![min(question), max(question)];
    let Some(live) = &question.snapshot.live else {
        let rate = breaker::classified(question.snapshot, question.policy, question.now);
        let reason = rate_in_words(&rate, question.policy);
        gates.push(match rate.blocks {
            true => block(GateName::FailureBreaker, reason, rate.lifts_at, None),
            false => pass(GateName::FailureBreaker, reason),
        });
        gates.push(pass(GateName::Observation, "a file is taken as it is written".into()));
        gates.push(pass(GateName::Pause, "a file holds no pause".into()));
        gates.push(override_gate(question));
        let spawns_max_reason = "no limit".into();
        return Answers { gates, spawns_max: u32::MAX, spawns_max_reason, openings: Vec::new() };
    };
    gates.push(failure_breaker(question));
    gates.push(observation(question, live));
    gates.push(pause(question, live));
    gates.push(override_gate(question));
    gates.push(leader(live));
    let (rate_limit, spawns_max, spawns_max_reason) = rate_limit(question);
    gates.push(rate_limit);
    gates.push(openings::provider_backoff(question));
    gates.push(money::balance(question, live));
    gates.push(money::budget(question));
    Answers { gates, spawns_max, spawns_max_reason, openings: openings::openings(question) }
}

fn pass(gate: GateName, reason: String) -> Gate {
    Gate { gate, verdict: Verdict::Pass, reason, lifts_at: None, lifts_when: None, subject: None, pool: None }
}

fn block(gate: GateName, reason: String, lifts_at: Option<Time>, lifts_when: Option<&str>) -> Gate {
    let lifts_when = lifts_when.map(str::to_owned);
    Gate { gate, verdict: Verdict::Block, reason, lifts_at, lifts_when, subject: None, pool: None }
}

/// The answer of a gate that is shut, or overruled.
fn shut(question: &Question<'_>, gate: GateName, reason: String, shut: Shut) -> Gate {
    if let Some(order) = question.overruled(gate, None, question.now) {
        return pass(gate, format!("{reason}; overridden by {}", order.by()));
    }
    match shut {
        Shut::Until(at) => block(gate, reason, Some(at), None),
        Shut::When(when) => block(gate, reason, None, Some(&when)),
        Shut::Forever => block(gate, reason, None, None),
    }
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
    if live && question.fleet.machines() >= question.fleet_max {
        let reason = format!(
            "{reason}; {} machines in the fleet, at most {}",
            question.fleet.machines(),
            question.fleet_max
        );
        let lifts_when = (question.fleet_max > 0).then_some("a worker ends");
        return block(GateName::Max, reason, None, lifts_when);
    }
    pass(GateName::Max, reason)
}

fn rate_in_words(rate: &Rate, policy: &Policy) -> String {
    format!(
        "{} of {} workers failed in {} s: {:.1} %; blocks above {:.1} % of at least {}",
        rate.failures,
        rate.total,
        policy.failure_window_seconds,
        rate.rate * 100.0,
        policy.failure_rate_max * 100.0,
        policy.failure_rate_min_workers
    )
}

/// The fleet's failure rate, then the breaker of each cell of the pool: one cell that may be asked is
/// enough.
fn failure_breaker(question: &Question<'_>) -> Gate {
    let Question { snapshot, policy, now, .. } = *question;
    let mut reason = rate_in_words(&breaker::resolved(snapshot, policy, now), policy);
    let raw = breaker::raw(snapshot, policy, now);
    if raw.failures > 0 {
        reason.push_str(&format!("; by the old rule {} of {}: {:.1} %", raw.failures, raw.total, raw.rate * 100.0));
    }
    reason.push_str(&openings::breakers_in_words(question));
    let by_rate = rate_shut(question, now);
    let shut_at = |at| shut::both(rate_shut(question, at), openings::breakers_shut(question, at));
    let Some(shut_now) = shut::first(question, shut_at) else {
        if breaker::resolved(snapshot, policy, now).blocks {
            reason.push_str("; one probe is let through: no worker is left");
        }
        return pass(GateName::FailureBreaker, reason);
    };
    let cells = openings::shut_names(question);
    let mut gate = shut(question, GateName::FailureBreaker, reason, shut_now);
    gate.subject = (gate.verdict == Verdict::Block && by_rate.is_none()).then_some(cells).flatten();
    gate
}

/// Whether the fleet's failure rate stands in the way; with tasks and without any worker left one
/// may be tried, after a delay.
fn rate_shut(question: &Question<'_>, at: Time) -> Option<Shut> {
    let rate = breaker::resolved(question.snapshot, question.policy, at);
    if !rate.blocks {
        return None;
    }
    let nobody_left = question.fleet.covered() == 0;
    let demand = question.claimable.is_some_and(|claimable| claimable > 0);
    let probe = (nobody_left && demand).then(|| breaker::probe_at(question.snapshot, question.policy));
    match (probe, rate.lifts_at) {
        (Some(probe), _) if probe <= at => None,
        (Some(probe), lifts_at) => Some(Shut::Until(lifts_at.map_or(probe, |lifts_at| lifts_at.min(probe)))),
        (None, Some(lifts_at)) => Some(Shut::Until(lifts_at)),
        (None, None) => Some(Shut::Forever),
    }
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

/// An operator's pause of the fleet, then of the pool.
fn pause(question: &Question<'_>, live: &Live) -> Gate {
    let fleet = live.pause.as_ref().filter(|pause| pause.until.is_none_or(|until| until > question.now));
    let of_pool = question.orders().filter(|order| match &order.command {
        Command::PausePool { pool } => *pool == question.pool.name,
        _ => false,
    });
    // Of several the one that lasts longest.
    let pool = of_pool.max_by_key(|order| order.until.unwrap_or(Time::MAX));
    let lifts_when = |until: Option<Time>| until.is_none().then_some("an operator resumes");
    match (fleet, pool, &live.pause) {
        (Some(pause), None, _) => {
            let reason = format!("paused by {} since {}: {}", pause.actor, pause.since, pause.reason);
            block(GateName::Pause, reason, pause.until, lifts_when(pause.until))
        }
        (None, Some(order), _) => {
            let reason = format!("pool {} paused by {}", question.pool.name, order.by());
            block(GateName::Pause, reason, order.until, lifts_when(order.until))
        }
        (Some(pause), Some(order), _) => {
            let until = pause.until.zip(order.until).map(|(fleet, pool)| fleet.max(pool));
            let reason =
                format!("paused by {} and, for pool {}, by {}", pause.actor, question.pool.name, order.by());
            block(GateName::Pause, reason, until, lifts_when(until))
        }
        (None, None, Some(pause)) => pass(GateName::Pause, format!("the pause by {} is over", pause.actor)),
        (None, None, None) => pass(GateName::Pause, "no pause in force".into()),
    }
}

fn override_gate(question: &Question<'_>) -> Gate {
    let overrides = question.orders().filter(|order| matches!(order.command, Command::Override { .. }));
    let words: Vec<String> =
        overrides.map(|order| format!("{} overridden by {}", order.command.target(), order.by())).collect();
    let reason = if words.is_empty() { "no override in force".into() } else { words.join("; ") };
    pass(GateName::Override, reason)
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
fn rate_limit(question: &Question<'_>) -> (Gate, u32, String) {
    let limit = question.policy_live.spawns_per_cycle_max.min(question.pool.spawns_per_cycle_max);
    if limit == 0 {
        let reason = "at most 0 workers a cycle".to_owned();
        return (block(GateName::RateLimit, reason.clone(), None, None), 0, reason);
    }
    let (asked, shut_until) = asked_for_lately(question);
    let hour = question.policy_live.spawns_per_hour_max;
    if let Some(until) = shut_until {
        let reason = format!("{asked} asked for within an hour; at most {hour}");
        let gate = shut(question, GateName::RateLimit, reason, until);
        if gate.verdict == Verdict::Block {
            let reason = gate.reason.clone();
            return (gate, 0, reason);
        }
    }
    let left = if question.overruled(GateName::RateLimit, None, question.now).is_some() {
        u32::MAX
    } else {
        hour.saturating_sub(asked)
    };
    if let Some(streak) = breaker::streak(question.snapshot, question.policy) {
        let reason = format!("one probe a cycle: {} failed and none has come up since", streak.failures);
        return (pass(GateName::RateLimit, reason.clone()), 1, reason);
    }
    if breaker::resolved(question.snapshot, question.policy, question.now).blocks {
        let reason = "one probe a cycle: the failure breaker is open".to_owned();
        return (pass(GateName::RateLimit, reason.clone()), 1, reason);
    }
    let answer = format!("at most {limit} a cycle and {hour} an hour, {asked} within the last");
    let reason = if left < limit {
        format!("rate limit of {hour} an hour")
    } else {
        format!("rate limit of {limit} a cycle")
    };
    (pass(GateName::RateLimit, answer), limit.min(left), reason)
}

/// Workers asked for within the last hour, and when there is room for one more where there is none.
fn asked_for_lately(question: &Question<'_>) -> (u32, Option<Shut>) {
    const HOUR: std::time::Duration = std::time::Duration::from_secs(3_600);
    let max = question.policy_live.spawns_per_hour_max as usize;
    let mut lately: Vec<Time> = question
        .snapshot
        .workers
        .iter()
        .filter(|worker| refusal::was_asked_for(worker))
        .map(|worker| worker.created_at)
        .filter(|at| *at <= question.snapshot.as_of && crate::clock::plus(*at, HOUR) > question.now)
        .collect();
    lately.sort_unstable();
    let asked = u32::try_from(lately.len()).unwrap_or(u32::MAX);
    let shut = match lately.len().checked_sub(max) {
        None => None,
        Some(_) if max == 0 => Some(Shut::Forever),
        Some(excess) => Some(Shut::Until(crate::clock::plus(lately[excess], HOUR))),
    };
    (asked, shut)
}
