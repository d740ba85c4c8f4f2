//! One trace under one set of rules: what it cost, how long people waited, and the least that it
//! could have cost.

use std::sync::Arc;

use serde::Serialize;

use super::at_once;
use super::faults::Faults;
use super::load::Load;
use super::pods::Cell;
use super::rules::Rules;
use super::runner::Runner;
use super::timeline::{DAY, HOUR, MINUTE, SECOND};
use super::trace::{Trace, TraceCell, micros};
use super::world::World;
use crate::fleet;
use crate::fleet::cell::Offer;
use crate::fleet::decision::GateName;
use crate::fleet::order::{Command, NewOrder, OVERRIDE_LASTS_MAX};
use crate::fleet::policy::{Policy, PolicyLive};
use crate::store::Store as _;

/// The old system's operators switch its breaker off so long after it first stood in the way.
const SWITCHED_OFF_AFTER: i64 = 40 * MINUTE;
/// After its end, a trace may take this long to be finished.
const AFTER_MAX: i64 = 7 * DAY;

/// What a trace came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The trace's name.
    pub trace: String,
    /// The rules' word.
    pub policy: &'static str,
    /// Dollars for the pods' time from create to end.
    pub cost: f64,
    /// Dollars that no rules can go below: all task time, and one mean boot for each run of time in
    /// which something was to be done, at the cheapest cell's price.
    pub cost_lower_bound: f64,
    /// Half of the tasks waited at most so long for their first claim, seconds.
    pub wait_p50_s: f64,
    /// 95 % of the tasks waited at most so long, seconds.
    pub wait_p95_s: f64,
    /// Pods made.
    pub spawns: u64,
    /// Pods that completed a task.
    pub productive_spawns: u64,
    /// Times the provider was asked for a pod.
    pub create_calls: u64,
    /// Share of the pods' paid time in which a task ran, 0 to 1.
    pub busy_share: f64,
    /// Tasks that were not finished in the end.
    pub unfinished: u64,
}

/// Plays the trace.
pub fn bench(trace: &Trace, rules: Rules) -> Outcome {
    let policy = policy(trace, rules);
    let cell = |(cell, offer): (&TraceCell, Offer)| Cell::new(cell.name.clone(), offer, cell.pods);
    let cells = trace.cells.iter().zip(offers(trace)).map(cell);
    let world = World::new(1, policy, Faults::none(), Load::of(trace.clone()), cells.collect());
    world.sim().boots = trace.boot_seconds.iter().map(|boot| micros(*boot)).collect();
    let world = Arc::new(world);
    let mut runner = Runner::new(Arc::clone(&world), 1, rules.method());
    world.sim().begin_load();
    let hours = micros(trace.hours * 3_600.0);
    let mut operators = Operators::default();
    let is_over = |runner: &Runner| {
        let now = runner.now();
        now >= hours && ((runner.is_served() && !has_pods(&world)) || now >= hours + AFTER_MAX)
    };
    while !is_over(&runner) && runner.run_until(runner.now() + MINUTE).is_ok() {
        if rules == Rules::Legacy {
            operators.look(&world);
        }
    }
    outcome(trace, rules, &world)
}

/// The people of the old system: within 40 minutes of its standing in the way they switched its breaker
/// off, and left it so.
#[derive(Default)]
struct Operators {
    /// Since when it has been known to stand in the way.
    since: Option<i64>,
    have_switched: bool,
}

impl Operators {
    fn look(&mut self, world: &World) {
        let now = world.timeline.now();
        if self.since.is_none() && world.store.newest_holds_back() {
            self.since = Some(now);
        }
        if !self.have_switched && self.since.is_some_and(|since| now - since >= SWITCHED_OFF_AFTER) {
            let command = Command::Override { gate: GateName::FailureBreaker, cell: None };
            let (actor, reason) = ("operators".to_owned(), "the breaker is in the way".to_owned());
            let order = NewOrder { command, actor, reason, lasts: Some(OVERRIDE_LASTS_MAX) };
            self.have_switched = at_once(world.store.order(&order)).is_ok();
        }
    }
}

/// What requests for the cells of a trace say: a fleet with one cell names none.
fn offers(trace: &Trace) -> Vec<Offer> {
    let name = |cell: &TraceCell| fleet::cell::Cell { gpu: cell.name.clone(), ..fleet::cell::Cell::default() };
    let named = trace.cells.len() > 1;
    let offer = |cell: &TraceCell| Offer { cell: named.then(|| name(cell)), usd_per_hour: Some(cell.usd_per_hour) };
    trace.cells.iter().map(offer).collect()
}

fn has_pods(world: &World) -> bool {
    world.sim().pods.values().any(|pod| pod.over.is_none())
}

fn policy(trace: &Trace, rules: Rules) -> Policy {
    let mut policy = trace.policy.clone();
    let live = policy.live.get_or_insert_with(PolicyLive::default);
    live.cycle_ms = rules.cycle_ms();
    if trace.cells.len() > 1 && live.cells.is_empty() && live.pools.is_empty() {
        live.cells = offers(trace);
    }
    policy
}

fn outcome(trace: &Trace, rules: Rules, world: &World) -> Outcome {
    let mut sim = world.sim();
    sim.load.waits.sort_unstable();
    let waits = &sim.load.waits;
    let share = |part: f64| {
        let index = (part * waits.len() as f64).ceil() as usize;
        waits.get(index.saturating_sub(1)).map_or(0.0, |wait| *wait as f64 / SECOND as f64)
    };
    let facts = &sim.facts;
    let busy_share = if facts.paid_micros == 0 { 0.0 } else { facts.busy_micros as f64 / facts.paid_micros as f64 };
    Outcome {
        trace: trace.name.clone(),
        policy: rules.word(),
        cost: facts.usd,
        cost_lower_bound: lower_bound(trace),
        wait_p50_s: share(0.5),
        wait_p95_s: share(0.95),
        spawns: facts.pods_made,
        productive_spawns: facts.productive,
        create_calls: facts.create_calls,
        busy_share,
        unfinished: facts.submitted - facts.completed(),
    }
}

/// The least that the trace can cost: all task time, and one mean boot for each maximal run of time
/// in which there is something to do, priced at the cheapest cell that ever has a machine. Tasks run
/// at once, or when their user's limit lets them.
fn lower_bound(trace: &Trace) -> f64 {
    let limit = trace.policy.user_task_limit.max(1) as usize;
    let mut users: std::collections::BTreeMap<&str, Vec<f64>> = std::collections::BTreeMap::new();
    let mut spans: Vec<(f64, f64)> = Vec::new();
    let mut work = 0.0;
    for arrival in &trace.arrivals {
        let free = users.entry(&arrival.user).or_insert_with(|| vec![0.0; limit]);
        for run in &arrival.run_seconds {
            free.sort_by(f64::total_cmp);
            let begin = free[0].max(arrival.at_seconds);
            free[0] = begin + run;
            spans.push((begin, begin + run));
            work += run;
        }
    }
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut runs, mut end) = (0_u32, f64::NEG_INFINITY);
    for (from, to) in spans {
        runs += u32::from(from > end);
        end = end.max(to);
    }
    let boots = trace.boot_seconds.iter().sum::<f64>() / trace.boot_seconds.len().max(1) as f64;
    let has_machines = |name: &str| {
        trace.cells.iter().any(|cell| cell.name == name && cell.pods > 0)
            || trace.capacity.iter().any(|step| step.cell == name && step.pods > 0)
    };
    let prices = trace.cells.iter().filter(|cell| has_machines(&cell.name)).map(|cell| cell.usd_per_hour);
    let price = prices.min_by(f64::total_cmp).unwrap_or(0.0);
    (work + f64::from(runs) * boots) / (HOUR / SECOND) as f64 * price
}
