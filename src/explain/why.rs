//! `dogwatch why` and `dogwatch eta`: one stored decision, explained by taking it again.
//!
//! Nothing is worked out here: the stored snapshot goes through the same `decide`, and what is shown is
//! its verdict, the buckets of the queue with their sum, every gate with its inputs and its end, and
//! what would have happened without the gates that were shut.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::clock::Time;
use crate::fleet::decision::{Capacity, Decision, Eta, Gate, PoolPart, Verdict, eta};
use crate::fleet::demand::{self, Tally};
use crate::fleet::snapshot::Snapshot;
use crate::fleet::task::Bucket;
use crate::store::{ActionResult, DecisionRow};

/// A decision, explained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Why {
    /// Number of the decision's row.
    pub decision: i64,
    /// The cycle's number in its process.
    pub cycle: i64,
    /// The process.
    pub boot_id: String,
    /// The instant it is about.
    pub as_of: Time,
    /// The file it was loaded from, as a digest; null for a cycle of this fleet.
    pub imported: Option<String>,
    /// The whole in one sentence.
    pub verdict: String,
    /// The queue, and whether the buckets add up to it.
    pub queue: Option<Queue>,
    /// How the number of workers came about.
    pub sum: Sum,
    /// The declared pools.
    pub pools: Vec<PoolPart>,
    /// Every gate.
    pub gates: Vec<Gate>,
    /// What would have happened without the gates that were shut.
    pub counterfactual: Counterfactual,
    /// What was done, and what became of it.
    pub actions: Vec<Done>,
    /// Whether taking the decision again gives the stored one.
    pub reproduced: bool,
}

/// The queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Queue {
    /// Tasks waiting.
    pub queued: u64,
    /// Tasks in hand.
    pub in_progress: u64,
    /// Tasks by bucket; those without tasks are left out.
    pub buckets: Vec<(Bucket, u64)>,
    /// Whether the buckets add up.
    pub adds_up: bool,
    /// When the oldest claimable task was queued.
    pub oldest_claimable_at: Option<Time>,
}

/// How the number of workers came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Workers to have.
    pub desired: u32,
    /// Workers there were.
    pub capacity: Capacity,
    /// Workers that were wanted and not there.
    pub wanted: u32,
    /// Workers that were asked for.
    pub spawn: u32,
}

/// What would have happened without the gates that were shut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counterfactual {
    /// The gates that were shut.
    pub but_for: Vec<String>,
    /// Workers that were wanted and would have been asked for, some of them in later cycles.
    pub would_spawn: u32,
}

/// An action, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Done {
    /// The action's word.
    pub action: String,
    /// The worker.
    pub worker: String,
    /// What became of it; null = not known.
    pub result: Option<ActionResult>,
}

/// Explains the row by taking its decision again.
pub fn why(row: &DecisionRow) -> Why {
    let snapshot = &row.snapshot;
    let decision = &row.decision;
    let live = decision.live.as_ref();
    let wanted = live.map_or_else(
        || decision.desired.saturating_sub(decision.capacity.active + decision.capacity.spawning),
        |live| live.wanted,
    );
    let but_for: Vec<String> = shut(decision).map(|gate| gate.gate.word().to_owned()).collect();
    let actions = live.map(|live| live.actions.as_slice()).unwrap_or_default();
    Why {
        decision: row.id.0,
        cycle: row.cycle,
        boot_id: row.boot_id.to_string(),
        as_of: snapshot.as_of,
        imported: row.imported.clone(),
        verdict: live.map_or_else(|| plain_verdict(decision, wanted), |live| live.sentence.clone()),
        queue: queue(snapshot),
        sum: Sum { desired: decision.desired, capacity: decision.capacity, wanted, spawn: decision.spawn },
        pools: live.map(|live| live.pools.clone()).unwrap_or_default(),
        gates: decision.gates.clone(),
        counterfactual: Counterfactual { would_spawn: if but_for.is_empty() { 0 } else { wanted }, but_for },
        actions: actions
            .iter()
            .enumerate()
            .map(|(index, action)| Done {
                action: action.word().to_owned(),
                worker: action.worker().to_string(),
                result: row.results.get(index).cloned().flatten(),
            })
            .collect(),
        reproduced: row.is_reproduced(),
    }
}

fn shut(decision: &Decision) -> impl Iterator<Item = &Gate> {
    decision.gates.iter().filter(|gate| gate.verdict == Verdict::Block)
}

/// A file's decision has no sentence of its own.
fn plain_verdict(decision: &Decision, wanted: u32) -> String {
    let gates: Vec<&str> = shut(decision).map(|gate| gate.gate.word()).collect();
    match (wanted, gates.is_empty()) {
        (0, _) => "no worker is wanted".to_owned(),
        (_, true) => format!("{} workers would be asked for", decision.spawn),
        (_, false) => format!("would spawn {wanted} but for {}", gates.join(", and ")),
    }
}

fn queue(snapshot: &Snapshot) -> Option<Queue> {
    let seen = snapshot.demand.as_ref()?;
    let Tally { queued, in_progress, buckets, adds_up } = demand::tally(seen, &snapshot.policy);
    Some(Queue {
        queued,
        in_progress,
        buckets: Bucket::ALL
            .into_iter()
            .filter_map(|bucket| Some((bucket, *buckets.get(&bucket)?)))
            .filter(|(_, tasks)| *tasks > 0)
            .collect(),
        adds_up,
        oldest_claimable_at: seen.live.as_ref().and_then(|live| live.oldest_claimable_at),
    })
}

/// When workers will be asked for, by the row's snapshot.
pub fn when(row: &DecisionRow) -> Eta {
    eta(&row.snapshot, &row.snapshot.policy)
}

/// The explanation for people: verdict first.
pub fn words(why: &Why) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", why.verdict);
    let _ = writeln!(out, "  cycle {} of {} at {}, decision {}", why.cycle, why.boot_id, why.as_of, why.decision);
    let _ = match &why.queue {
        None => writeln!(out, "\nqueue: not seen"),
        Some(queue) => {
            let parts: Vec<String> =
                queue.buckets.iter().map(|(bucket, tasks)| format!("{tasks} {}", bucket.word())).collect();
            let sum = if parts.is_empty() { "empty".to_owned() } else { parts.join(" + ") };
            let adds_up = if queue.adds_up { "" } else { " (does NOT add up)" };
            writeln!(out, "\nqueue: {} = {sum}{adds_up}; {} in progress", queue.queued, queue.in_progress)
        }
    };
    let Sum { desired, capacity, wanted, spawn } = &why.sum;
    let _ = writeln!(
        out,
        "workers: {desired} desired - {} active - {} spawning = {wanted} wanted, {spawn} asked for",
        capacity.active, capacity.spawning
    );
    for pool in &why.pools {
        let PoolPart { pool, desired, wanted, spawn, .. } = pool;
        let _ = writeln!(out, "  pool {pool}: {desired} desired, {wanted} wanted, {spawn} asked for");
    }
    let _ = writeln!(out, "\ngates:");
    for line in gates_in_words(&why.gates, why.pools.len()) {
        let _ = writeln!(out, "  {line}");
    }
    if !why.counterfactual.but_for.is_empty() && why.counterfactual.would_spawn > 0 {
        let but_for = why.counterfactual.but_for.join(", ");
        let _ = writeln!(out, "\nwithout {but_for}: {} would be asked for", why.counterfactual.would_spawn);
    }
    for done in &why.actions {
        let became = match &done.result {
            None => "result not known".to_owned(),
            Some(result) => format!("{}: {}", if result.ok { "done" } else { "NOT done" }, result.detail),
        };
        let _ = writeln!(out, "\n{} {}: {became}", done.action, done.worker);
    }
    if !why.reproduced {
        let _ = writeln!(out, "\nthis dogwatch would decide otherwise: the row is of another version");
    }
    out
}

/// A line for each gate. What all pools have to say with the same words is said once.
fn gates_in_words(gates: &[Gate], pools: usize) -> Vec<String> {
    let in_every = |gate: &Gate| gate_in_words(gate, Some("every pool"));
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for gate in gates {
        *times.entry(in_every(gate)).or_default() += 1;
    }
    let mut lines = Vec::new();
    for gate in gates {
        let line = in_every(gate);
        match times.get(&line).copied() {
            Some(same) if pools > 1 && same == pools => {
                times.remove(&line);
                lines.push(line);
            }
            Some(_) => lines.push(gate_in_words(gate, gate.pool.as_deref())),
            // Said already.
            None => {}
        }
    }
    lines
}

fn gate_in_words(gate: &Gate, pool: Option<&str>) -> String {
    let pool = pool.map(|pool| format!(" [{pool}]")).unwrap_or_default();
    let (mark, lifts) = match (gate.verdict, &gate.lifts_at, &gate.lifts_when) {
        (Verdict::Pass, _, _) => ("pass ", String::new()),
        (Verdict::Block, Some(at), _) => ("BLOCK", format!("; lifts at {at}")),
        (Verdict::Block, None, Some(when)) => ("BLOCK", format!("; lifts when {when}")),
        (Verdict::Block, None, None) => ("BLOCK", "; does not lift by itself".to_owned()),
    };
    format!("{mark} {}{pool}: {}{lifts}", gate.gate.word(), gate.reason)
}

/// The end for people.
pub fn eta_in_words(eta: &Eta) -> String {
    let mut out = match (eta.wanted, eta.at, eta.conditions.is_empty()) {
        (0, _, _) => "no worker is wanted\n".to_owned(),
        (_, Some(at), _) if eta.asked.len() == 1 => format!("{} are asked for at once, at {at}\n", eta.spawn),
        (wanted, Some(at), _) => {
            format!("{at}: {} of {wanted} wanted are asked for, if nothing else changes\n", eta.spawn)
        }
        (wanted, None, false) => format!("{wanted} wanted; first this must happen:\n"),
        (wanted, None, true) => format!("{wanted} wanted; no end can be named\n"),
    };
    for condition in &eta.conditions {
        let when = condition.when.as_deref().unwrap_or("somebody changes it: it does not lift by itself");
        let _ = writeln!(out, "  {}: {when}", condition.gate);
    }
    for asked in eta.asked.iter().filter(|asked| !asked.shut.is_empty()) {
        let _ = writeln!(out, "  at {} shut: {}", asked.at, asked.shut.join(", "));
    }
    out
}

#[cfg(test)]
mod tests;
