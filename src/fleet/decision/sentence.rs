//! A decision in one sentence that a tired operator understands.
//!
//! First what happens about the wanted workers, then what happens to those that are there. A block is
//! said as what would happen without it, what it is, and when it ends. It says only what the decision
//! holds and decides nothing.

use super::super::gates;
use super::super::reaper;
use super::super::snapshot::Live;
use super::decide::{Part, Scene};
use super::{Action, Decision, Gate, GateName};
use crate::clock::Time;

/// The whole decision in one sentence.
pub(super) fn sentence(
    scene: &Scene<'_>,
    live: &Live,
    decision: &Decision,
    parts: &[Part],
    actions: &[Action],
) -> String {
    if live.term.is_none() {
        return "standby: another process leads, so nothing is started or ended here".into();
    }
    if !gates::database_is_seen(live) {
        let detail = live.inputs.database.detail.as_deref().unwrap_or("no detail");
        return format!("the database was not seen whole ({detail}), so nothing is started or ended");
    }
    let wanted: u32 = parts.iter().map(|part| part.wanted).fold(0, u32::saturating_add);
    let mut words = Vec::new();
    if wanted == 0 {
        let capacity = decision.capacity;
        let sum =
            format!("{} desired, {} active, {} spawning", decision.desired, capacity.active, capacity.spawning);
        words.push(format!("no worker is wanted: {sum}"));
    }
    for part in parts.iter().filter(|part| part.wanted > 0) {
        let pool = if parts.len() > 1 { format!("pool {}: ", part.pool.name) } else { String::new() };
        words.push(format!("{pool}{}", about_wanted(scene, part)));
    }
    words.extend(about_actions(actions));
    if let reaper::Verdict::TooMany { due, limit } = reaper::judge(scene.snapshot, live, scene.now) {
        words.push(format!("{due} pods are nobody's, more than {limit} at once, so none is ended: look at them"));
    }
    words.join("; ")
}

fn about_actions(actions: &[Action]) -> Vec<String> {
    let many = |count: usize| if count == 1 { "1 worker is".to_owned() } else { format!("{count} workers are") };
    let mut words = Vec::new();
    for (word, what) in [
        ("adopt", "found again"),
        ("end", "over and closed"),
        ("terminate", "terminated"),
        ("drain", "drained"),
        ("reap", "nobody's and ended"),
    ] {
        let mut of_this_kind = actions.iter().filter(|action| action.word() == word);
        if let Some(first) = of_this_kind.next() {
            let count = 1 + of_this_kind.count();
            let reason = reason(first).map(|reason| format!(" ({}: {reason})", first.worker())).unwrap_or_default();
            words.push(format!("{} {what}{reason}", many(count)));
        }
    }
    words
}

fn about_wanted(scene: &Scene<'_>, part: &Part) -> String {
    let (wanted, spawn, capacity) = (part.wanted, part.spawn, part.capacity());
    let blocking: Vec<String> = part.blocking().map(|gate| blocked_by(gate, scene.snapshot.as_of)).collect();
    if !blocking.is_empty() {
        return format!("would spawn {} but for {}", part.would_spawn, blocking.join(", and "));
    }
    if spawn == wanted {
        let workers = if wanted == 1 { "1 worker is" } else { &format!("{wanted} workers are") };
        let sum = format!("{} desired, {} active, {} spawning", part.desired, capacity.active, capacity.spawning);
        return format!("{workers} asked for: {sum}");
    }
    let waits = if wanted - spawn == 1 { "waits" } else { "wait" };
    let are = if spawn == 1 { "is" } else { "are" };
    format!("{spawn} of {wanted} wanted workers {are} asked for; {} {waits}: {}", wanted - spawn, part.limit)
}

/// `breaker RTX4090/EU-NO-1, lifts 17:42:22`.
fn blocked_by(gate: &Gate, as_of: Time) -> String {
    let name = match gate.gate {
        GateName::FailureBreaker if gate.subject.is_some() => "breaker",
        GateName::FailureBreaker => "the failure breaker",
        GateName::ProviderBackoff => "the provider's refusals",
        GateName::Max => "the ceiling",
        GateName::Observation => "what could not be seen",
        GateName::Pause => "the pause",
        GateName::RateLimit => "the rate limit",
        GateName::Balance => "the account's balance",
        GateName::Budget => "the budget",
        GateName::Min | GateName::Override | GateName::Leader => gate.gate.word(),
    };
    let subject = match &gate.subject {
        Some(subject) if gate.gate == GateName::FailureBreaker => format!(" {subject}"),
        Some(subject) => format!(" of {subject}"),
        // The rest of the reason is for whoever asks why.
        None => format!(" ({})", gate.reason.split("; ").next().unwrap_or_default()),
    };
    let lifts = match (&gate.lifts_at, &gate.lifts_when) {
        (Some(at), _) => format!("lifts {}", clock_of(*at, as_of)),
        (None, Some(when)) => format!("lifts when {when}"),
        (None, None) => "which does not lift by itself".into(),
    };
    format!("{name}{subject}, {lifts}")
}

/// The time of day where it is the same day, else the whole instant.
fn clock_of(at: Time, as_of: Time) -> String {
    let format =
        if at.strftime("%F").to_string() == as_of.strftime("%F").to_string() { "%H:%M:%S" } else { "%FT%H:%M:%SZ" };
    at.strftime(format).to_string()
}

fn reason(action: &Action) -> Option<&str> {
    match action {
        Action::Drain { reason, .. }
        | Action::Terminate { reason, .. }
        | Action::End { reason, .. }
        | Action::Reap { reason, .. } => Some(reason),
        Action::Spawn { .. } | Action::Adopt { .. } => None,
    }
}
