//! When workers will be asked for, everything else being equal.
//!
//! Not estimated: the decision itself is asked again at each instant at which a gate says that it
//! opens, until one of them asks for workers.

use serde::Serialize;

use super::super::policy::Policy;
use super::super::snapshot::Snapshot;
use super::{Decision, Gate, Verdict, decide};
use crate::clock::Time;

/// Most instants that are asked.
const ROUNDS_MAX: usize = 64;

/// When workers will be asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Eta {
    /// Workers that are wanted and not there.
    pub wanted: u32,
    /// The first instant at which some are asked for if nothing else changes; null where none are
    /// wanted, or where a condition must be met first.
    pub at: Option<Time>,
    /// How many are asked for then.
    pub spawn: u32,
    /// Conditions that must be met first, each with its gate's word.
    pub conditions: Vec<Condition>,
    /// The instants that were asked, and what stood in the way at each.
    pub asked: Vec<Asked>,
}

/// Something that must happen first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Condition {
    /// The gate that waits for it.
    pub gate: String,
    /// What must happen; null = the gate does not open by itself.
    pub when: Option<String>,
}

/// One instant that was asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Asked {
    /// The instant.
    pub at: Time,
    /// The gates that were shut, by their words.
    pub shut: Vec<String>,
}

/// Asks `decide` at each instant at which something opens.
pub fn eta(snapshot: &Snapshot, policy: &Policy) -> Eta {
    let first = decide(snapshot, policy, snapshot.as_of);
    let wanted = first.live.as_ref().map_or(first.spawn, |live| live.wanted);
    let mut eta = Eta { wanted, at: None, spawn: 0, conditions: Vec::new(), asked: Vec::new() };
    if wanted == 0 && first.gates.iter().all(|gate| gate.verdict == Verdict::Pass) {
        return eta;
    }
    let mut at = snapshot.as_of;
    let mut decision = first;
    for _ in 0..ROUNDS_MAX {
        let shut: Vec<&Gate> = shut(&decision);
        eta.asked.push(Asked { at, shut: shut.iter().map(|gate| gate.gate.word().to_owned()).collect() });
        if decision.spawn > 0 {
            (eta.at, eta.spawn) = (Some(at), decision.spawn);
            eta.conditions.clear();
            return eta;
        }
        eta.conditions = conditions(&shut);
        let Some(next) = next(&shut, at) else { return eta };
        at = next;
        decision = decide(snapshot, policy, at);
    }
    eta
}

fn shut(decision: &Decision) -> Vec<&Gate> {
    decision.gates.iter().filter(|gate| gate.verdict == Verdict::Block).collect()
}

/// The next instant at which a gate opens: some pool may be open then, so the nearest is asked.
fn next(shut: &[&Gate], at: Time) -> Option<Time> {
    shut.iter().filter_map(|gate| gate.lifts_at).filter(|lifts_at| *lifts_at > at).min()
}

fn conditions(shut: &[&Gate]) -> Vec<Condition> {
    let of = |gate: &&&Gate| gate.lifts_at.is_none();
    let mut conditions: Vec<Condition> = shut
        .iter()
        .filter(of)
        .map(|gate| Condition { gate: gate.gate.word().to_owned(), when: gate.lifts_when.clone() })
        .collect();
    conditions.sort();
    conditions.dedup();
    conditions
}
