//! A decision in one sentence that a tired operator understands.
//!
//! First what happens about the wanted workers, then what happens to those that are there. It says
//! only what the decision holds and decides nothing.

use super::super::gates;
use super::super::snapshot::Live;
use super::{Action, Decision, Gate, Verdict};

/// The whole decision in one sentence. `limit`: why no more than `decision.spawn` are asked for.
pub(super) fn sentence(live: &Live, decision: &Decision, wanted: u32, limit: &str, actions: &[Action]) -> String {
    if live.term.is_none() {
        return "standby: another process leads, so nothing is started or ended here".into();
    }
    if !gates::database_is_seen(live) {
        let detail = live.inputs.database.detail.as_deref().unwrap_or("no detail");
        return format!("the database was not seen whole ({detail}), so nothing is started or ended");
    }
    let mut parts = vec![about_wanted(decision, wanted, limit)];
    let many = |count: usize| if count == 1 { "1 worker is".to_owned() } else { format!("{count} workers are") };
    for (word, what) in
        [("adopt", "found again"), ("end", "over and closed"), ("terminate", "terminated"), ("drain", "drained")]
    {
        let mut of_this_kind = actions.iter().filter(|action| action.word() == word);
        if let Some(first) = of_this_kind.next() {
            let count = 1 + of_this_kind.count();
            let reason = reason(first).map(|reason| format!(" ({}: {reason})", first.worker())).unwrap_or_default();
            parts.push(format!("{} {what}{reason}", many(count)));
        }
    }
    parts.join("; ")
}

fn about_wanted(decision: &Decision, wanted: u32, limit: &str) -> String {
    let Decision { desired, capacity, spawn, .. } = decision;
    let sum = format!("{desired} desired, {} active, {} spawning", capacity.active, capacity.spawning);
    if wanted == 0 {
        return format!("no worker is wanted: {sum}");
    }
    let blocking: Vec<String> =
        decision.gates.iter().filter(|gate| gate.verdict == Verdict::Block).map(blocked_by).collect();
    let waits = if wanted - spawn == 1 { "waits" } else { "wait" };
    if !blocking.is_empty() {
        return format!("none of {wanted} wanted is asked for: {}", blocking.join(", and "));
    }
    if *spawn == wanted {
        let workers = if wanted == 1 { "1 worker is" } else { &format!("{wanted} workers are") };
        return format!("{workers} asked for: {sum}");
    }
    let are = if *spawn == 1 { "is" } else { "are" };
    format!("{spawn} of {wanted} wanted workers {are} asked for; {} {waits}: {limit}", wanted - spawn)
}

fn blocked_by(gate: &Gate) -> String {
    let lifts = match (&gate.lifts_at, &gate.lifts_when) {
        (Some(at), _) => format!("lifts at {at}"),
        (None, Some(when)) => format!("lifts when {when}"),
        (None, None) => "does not lift by itself".into(),
    };
    format!("{} ({}; {lifts})", gate.gate.word(), gate.reason)
}

fn reason(action: &Action) -> Option<&str> {
    match action {
        Action::Drain { reason, .. } | Action::Terminate { reason, .. } | Action::End { reason, .. } => {
            Some(reason)
        }
        Action::Spawn { .. } | Action::Adopt { .. } => None,
    }
}
