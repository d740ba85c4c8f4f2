//! `dogwatch replay --from T --to T [--policy FILE]`: what other numbers would have decided.
//!
//! Every stored decision of the time is taken again twice: with the policy it was taken with, which
//! must give the stored decision, and with the other one. What differs is listed. The snapshots are
//! those of history: what the other decisions would have led to is not in them, so a difference is a
//! first step and not a simulated day.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::clock::Time;
use crate::fleet::decision::{Decision, Verdict, decide};
use crate::fleet::policy::Policy;
use crate::store::DecisionRow;

/// What was found over the time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WhatIf {
    /// Decisions that were taken again.
    pub decisions: u64,
    /// Those whose stored snapshot and policy no longer give the stored decision: rows of another
    /// version.
    pub not_reproduced: u64,
    /// Workers that were asked for.
    pub spawned: u64,
    /// Workers that the other policy would have asked for.
    pub would_spawn: u64,
    /// Where the other policy differs, oldest first.
    pub differences: Vec<Difference>,
}

impl WhatIf {
    /// Adds what was found over a later time.
    pub fn add(&mut self, later: WhatIf) {
        self.decisions += later.decisions;
        self.not_reproduced += later.not_reproduced;
        self.spawned += later.spawned;
        self.would_spawn += later.would_spawn;
        self.differences.extend(later.differences);
    }
}

/// A decision that would have been another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Number of the row.
    pub decision: i64,
    /// The instant.
    pub at: Time,
    /// The cycle.
    pub cycle: i64,
    /// What was decided.
    pub was: Side,
    /// What would have been.
    pub would_be: Side,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Workers to have.
    pub desired: u32,
    /// Workers to ask for.
    pub spawn: u32,
    /// Workers about which something is done, with its word.
    pub actions: Vec<String>,
    /// The gates that were shut.
    pub shut: Vec<String>,
}

/// Policies that cannot be laid over another.
#[derive(Debug, thiserror::Error)]
pub enum BadPolicy {
    /// Not a table of numbers that a policy knows.
    #[error("{0}")]
    Form(String),
}

/// Takes decisions again, oldest first.
pub fn what_if(rows: &[DecisionRow], overlay: Option<&Map<String, Value>>) -> Result<WhatIf, BadPolicy> {
    let mut found = WhatIf::default();
    for row in rows {
        let snapshot = &row.snapshot;
        let other = laid_over(&snapshot.policy, overlay)?;
        let would_be = side(&decide(snapshot, &other, snapshot.as_of));
        let was = side(&row.decision);
        found.decisions += 1;
        found.not_reproduced += u64::from(!row.is_reproduced());
        found.spawned += u64::from(was.spawn);
        found.would_spawn += u64::from(would_be.spawn);
        if was != would_be {
            let (decision, at, cycle) = (row.id.0, snapshot.as_of, row.cycle);
            found.differences.push(Difference { decision, at, cycle, was, would_be });
        }
    }
    Ok(found)
}

/// The policy with the keys of `overlay` in place of its own; `live` is laid over likewise.
pub fn laid_over(policy: &Policy, overlay: Option<&Map<String, Value>>) -> Result<Policy, BadPolicy> {
    let Some(overlay) = overlay else { return Ok(policy.clone()) };
    let form = |error: serde_json::Error| BadPolicy::Form(error.to_string());
    let mut own = serde_json::to_value(policy).map_err(form)?;
    for (key, value) in overlay {
        match (own.get_mut(key).and_then(Value::as_object_mut), value) {
            (Some(inner), Value::Object(values)) => inner.extend(values.clone()),
            _ => own[key.as_str()] = value.clone(),
        }
    }
    serde_json::from_value(own).map_err(form)
}

fn side(decision: &Decision) -> Side {
    let actions = decision.live.as_ref().map(|live| live.actions.as_slice()).unwrap_or_default();
    let mut shut: Vec<String> = decision
        .gates
        .iter()
        .filter(|gate| gate.verdict == Verdict::Block)
        .map(|gate| gate.gate.word().to_owned())
        .collect();
    shut.dedup();
    Side {
        desired: decision.desired,
        spawn: decision.spawn,
        actions: actions
            .iter()
            .filter(|action| action.word() != "spawn")
            .map(|action| format!("{} {}", action.word(), action.worker()))
            .collect(),
        shut,
    }
}

/// For people.
pub fn words(found: &WhatIf) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} decisions taken again: {} would be another; {} workers asked for, {} would have been",
        found.decisions,
        found.differences.len(),
        found.spawned,
        found.would_spawn
    );
    if found.not_reproduced > 0 {
        let _ =
            writeln!(out, "{} rows are of another version and were compared all the same", found.not_reproduced);
    }
    for Difference { at, cycle, was, would_be, .. } in &found.differences {
        let _ = writeln!(out, "{at} cycle {cycle}: {} -> {}", side_in_words(was), side_in_words(would_be));
    }
    out
}

fn side_in_words(side: &Side) -> String {
    let shut = if side.shut.is_empty() { String::new() } else { format!(", shut: {}", side.shut.join(" ")) };
    let actions = if side.actions.is_empty() { String::new() } else { format!(", {}", side.actions.join(", ")) };
    format!("{} desired, spawn {}{shut}{actions}", side.desired, side.spawn)
}
