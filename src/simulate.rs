//! A fleet's life in a moment: seeds with everything that goes wrong, and traces that compare policies.
//!
//! The decision, the executor, the lease and the observer are the ones that production runs; the
//! database is `store::memory`; provider, agents, users, networks and clocks are simulated, and faults
//! strike at the traits. It promises: one seed is one history, on every machine; nothing sleeps and no
//! clock is read; what must never be is checked whenever the database or the provider is asked.
//!
//! A life is made of spells: 18 hours in which faults strike, then calm until the queue is empty. At
//! the end of each calm nothing may be left over.

mod agents;
mod bench;
mod bugs;
mod decisions;
mod facts;
mod faults;
mod field;
mod hands;
mod load;
mod mishaps;
mod pods;
mod processes;
mod rng;
mod rules;
mod runner;
#[cfg(test)]
mod tests;
mod timeline;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::future::Future;

use futures_util::FutureExt as _;
use serde::Serialize;

pub use bench::{Outcome, bench};
pub use field::field;
pub use rules::Rules;
pub use trace::{Arrival, CapacityStep, Trace, TraceCell, TraceError};

use facts::Broken;
use faults::Faults;
use load::Load;
use pods::Cell;
use rng::Rng;
use runner::Runner;
use timeline::{DAY, HOUR};
use world::World;

use crate::fleet;
use crate::fleet::cell::Offer;
use crate::fleet::policy::{Policy, PolicyLive};

/// Spell in which faults strike.
const CHAOS: i64 = 18 * HOUR;
/// Shortest calm.
const CALM_MIN: i64 = 4 * HOUR;
/// Longest calm: by then the queue must be empty.
const CALM_MAX: i64 = 48 * HOUR;

/// What one seed came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Life {
    /// The seed.
    pub seed: u64,
    /// Days asked for.
    pub days: u32,
    /// The invariant that did not hold, when and how; null where all held.
    pub broken: Option<String>,
    /// Days that passed.
    pub fleet_days: f64,
    /// Decisions that were committed.
    pub cycles: u64,
    /// Spells of calm at whose end nothing was left over.
    pub calms: u64,
    /// Tasks submitted.
    pub submitted: u64,
    /// Tasks whose completion was accepted.
    pub completed: u64,
    /// Times the provider was asked for a pod.
    pub create_calls: u64,
    /// Pods made.
    pub pods: u64,
    /// How often each fault struck, and what else was counted.
    pub struck: BTreeMap<&'static str, u64>,
    /// Orchestrators killed, by the call and its side.
    pub kills: BTreeMap<String, u64>,
    /// A hash over all decisions: the same for the same seed.
    pub history: u64,
}

/// Lives one seed.
pub fn live(seed: u64, days: u32) -> Life {
    live_in(&chaotic(seed), seed, days)
}

/// A world in which everything may go wrong.
fn chaotic(seed: u64) -> std::sync::Arc<World> {
    let mut rng = Rng::new(seed, 0);
    let faults = Faults::drawn(&mut rng);
    let load = Load::drawn(&mut rng);
    let max_workers = 3 + u32::try_from(rng.below(8)).unwrap_or(0);
    let cells = cells(&mut rng);
    let named = cells.iter().filter(|cell| cell.offer.cell.is_some());
    let live = PolicyLive { cells: named.map(|cell| cell.offer.clone()).collect(), ..PolicyLive::default() };
    let policy = Policy {
        min_workers: u32::try_from(rng.below(2)).unwrap_or(0),
        max_workers,
        idle_buffer: u32::try_from(rng.below(2)).unwrap_or(0),
        live: Some(live),
        ..Policy::default()
    };
    std::sync::Arc::new(World::new(seed, policy, faults, load, cells))
}

/// One cell without a name and with room for everybody, or two to four, the cheapest first, each of
/// which may be too small for all.
fn cells(rng: &mut Rng) -> Vec<Cell> {
    const NAMES: [(&str, &str, f64); 4] = [
        ("NVIDIA A40", "EU-SE-1", 0.39),
        ("NVIDIA GeForce RTX 4090", "EU-RO-1", 0.59),
        ("NVIDIA GeForce RTX 4090", "EU-NO-1", 0.61),
        ("NVIDIA L40S", "US-KS-2", 0.86),
    ];
    let count = 1 + usize::try_from(rng.below(4)).unwrap_or(0);
    if count == 1 {
        let offer = Offer { cell: None, usd_per_hour: Some(0.59) };
        return vec![Cell::new("default".to_owned(), offer, 20)];
    }
    let cell = |(gpu, region, usd_per_hour): &(&str, &str, f64)| {
        let cell = fleet::cell::Cell {
            gpu: (*gpu).to_owned(),
            region: (*region).to_owned(),
            image: "render:7".to_owned(),
        };
        let capacity = 1 + u32::try_from(rng.below(10)).unwrap_or(0);
        Cell::new(cell.to_string(), Offer { cell: Some(cell), usd_per_hour: Some(*usd_per_hour) }, capacity)
    };
    NAMES.iter().take(count).map(cell).collect()
}

fn live_in(world: &std::sync::Arc<World>, seed: u64, days: u32) -> Life {
    let mut runner = Runner::new(std::sync::Arc::clone(world), 2, crate::orchestrator::Method::OURS);
    let mut sim = world.sim();
    sim.begin_mishaps();
    sim.begin_load();
    drop(sim);
    let broken = spells(&mut runner, i64::from(days) * DAY).err();
    let sim = world.sim();
    let facts = &sim.facts;
    let side = |(point, side): &(&str, hands::Side)| format!("{side:?} {point}").to_lowercase();
    let mut struck = sim.faults.struck();
    struck.insert("kills", facts.kills.values().sum());
    Life {
        seed,
        days,
        broken: broken.map(|broken| broken.to_string()),
        fleet_days: sim.now as f64 / DAY as f64,
        cycles: facts.cycles,
        calms: facts.calms,
        submitted: facts.submitted,
        completed: facts.completed(),
        create_calls: facts.create_calls,
        pods: facts.pods_made,
        struck,
        kills: facts.kills.iter().map(|(key, count)| (side(key), *count)).collect(),
        history: facts.history,
    }
}

fn spells(runner: &mut Runner, end: i64) -> Result<(), Broken> {
    while runner.now() < end {
        runner.chaos(true);
        runner.run_until(runner.now() + CHAOS.min(end))?;
        runner.chaos(false);
        let began = runner.now();
        runner.run_until(began + CALM_MIN)?;
        while !runner.is_served() {
            runner.run_until(runner.now() + HOUR)?;
            if runner.now() - began > CALM_MAX {
                return Err(runner.not_served());
            }
        }
        runner.is_quiet()?;
    }
    Ok(())
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, rest) = (self.at / DAY, self.at % DAY);
        let (hours, minutes, seconds) = (rest / HOUR, rest / timeline::MINUTE % 60, rest / timeline::SECOND % 60);
        write!(f, "{} (day {days}, {hours:02}:{minutes:02}:{seconds:02}): {}", self.invariant, self.detail)
    }
}

/// The answer of a part of the world that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match future.now_or_never() {
        Some(answer) => answer,
        None => unreachable!("the memory store answers at once"),
    }
}
