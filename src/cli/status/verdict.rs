//! The sentence, and what to do next. Pure.

use super::Facts;
use crate::cli::render;
use crate::fleet::decision::GateName;
use crate::fleet::task::TaskStatus;

/// What it all means.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// Whether nobody has to act.
    pub(super) ok: bool,
    /// How things are.
    pub(super) sentence: String,
    /// What to do, or "nothing to do".
    pub(super) next: String,
}

/// The worst thing first: it decides what to do next.
pub(super) fn of(facts: &Facts) -> Verdict {
    let queued = facts.tasks_in(TaskStatus::Queued);
    let running = facts.tasks_in(TaskStatus::InProgress);
    let claimable = facts.queued.get("claimable").copied().unwrap_or(0);
    let problem = |sentence: String, next: &str| Verdict { ok: false, sentence, next: next.to_owned() };
    if let Some(alarm) = facts.alarms.first() {
        let more = facts.alarms.len() - 1;
        let others =
            if more > 0 { format!(" (and {})", render::count(more as u64, "other alarm")) } else { String::new() };
        return problem(
            format!("An alarm rings: {alarm}{others}."),
            "look at `dogwatch alerts`, then at `dogwatch spool ls`",
        );
    }
    if !facts.orchestrator_alive && (queued > 0 || running > 0 || facts.workers_alive() > 0) {
        let seen = facts.orchestrator_seen_at.map_or_else(
            || "none has run here".to_owned(),
            |at| format!("last seen {}", render::ago(facts.now, Some(at))),
        );
        return problem(
            format!(
                "No orchestrator is at work ({seen}) while {} and {} are in progress.",
                waiting(queued),
                render::count(running, "task")
            ),
            "start `dogwatch up`",
        );
    }
    if !facts.orchestrator_alive {
        return Verdict {
            ok: true,
            sentence: "Nothing runs here and no task waits.".to_owned(),
            next: "start `dogwatch up`, then `dogwatch submit -- CMD`".to_owned(),
        };
    }
    let workers = render::count(facts.workers_alive(), "worker");
    // As many workers as there may be, all of them at work: the queue moves, which is all it has to.
    let alive = facts.workers_alive();
    let is_full = facts.max_workers.is_some_and(|max| max > 0 && alive >= u64::from(max));
    let blocking = facts.blocking.iter().find(|gate| !(is_full && gate.gate == GateName::Max));
    if let (Some(gate), true) = (blocking, claimable > 0) {
        return problem(
            format!("{} while spawning is blocked: {} ({workers}).", capital(&waiting(queued)), gate.reason),
            gate.lifts_when.as_deref().unwrap_or(if gate.lifts_at.is_some() {
                "wait: the block lifts by itself"
            } else {
                "change the setting that the block names"
            }),
        );
    }
    let sentence = match (queued, running) {
        (0, 0) => format!("All is quiet: no task waits, {workers}."),
        _ => {
            format!("All is well: {} in progress, {}, {workers}.", render::count(running, "task"), waiting(queued))
        }
    };
    Verdict { ok: true, sentence, next: "nothing to do".to_owned() }
}

fn waiting(queued: u64) -> String {
    match queued {
        0 => "no task waits".to_owned(),
        1 => "1 task waits".to_owned(),
        more => format!("{more} tasks wait"),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The whole page: the sentence first, what to do last.
pub(super) fn page(facts: &Facts, verdict: &Verdict) -> String {
    let counts = |map: &std::collections::BTreeMap<String, u64>| {
        let parts: Vec<_> = map.iter().filter(|(_, n)| **n > 0).map(|(word, n)| format!("{n} {word}")).collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    };
    let mut lines = vec![
        verdict.sentence.clone(),
        String::new(),
        format!("workers    {}", counts(&facts.workers)),
        format!("tasks      {}", counts(&facts.tasks)),
        format!("queued     {}", counts(&facts.queued)),
        format!("decision   {}", facts.decision.as_deref().unwrap_or("none yet")),
        format!("records    newest arrived {}", render::ago(facts.now, facts.newest_row_at)),
    ];
    lines.extend(facts.orchestrators.iter().map(|one| {
        let since = render::ago(facts.now, Some(one.started_at));
        format!("{:9}  {} {} on {}, started {since}", one.standing, one.source_id, one.version, one.host)
    }));
    lines.push(format!("logs       to {}", facts.logs_to));
    lines.extend(facts.recorders.iter().map(|line| format!("recorder   {line}")));
    lines.extend(facts.exporters.iter().map(|line| format!("exporter   {line}")));
    lines.push(format!(
        "alarms     {}",
        if facts.alarms.is_empty() { "none".to_owned() } else { facts.alarms.join("; ") }
    ));
    lines.push(String::new());
    lines.push(format!("Next: {}.", verdict.next));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::fleet::decision::{Gate, Verdict as GateVerdict};

    fn facts() -> Facts {
        Facts {
            now: clock::from_micros(100_000_000),
            orchestrator_alive: true,
            orchestrator_seen_at: Some(clock::from_micros(99_000_000)),
            orchestrators: Vec::new(),
            workers: [("busy".to_owned(), 2)].into(),
            tasks: [("In Progress".to_owned(), 2), ("Queued".to_owned(), 3)].into(),
            queued: [("claimable".to_owned(), 3)].into(),
            decision: None,
            blocking: Vec::new(),
            max_workers: Some(2),
            alarms: Vec::new(),
            newest_row_at: None,
            recorders: Vec::new(),
            logs_to: "logs.db".into(),
            exporters: Vec::new(),
        }
    }

    fn check(facts: &Facts, ok: bool, sentence: &str, next: &str) {
        let verdict = of(facts);
        assert_eq!((verdict.ok, verdict.sentence.as_str(), verdict.next.as_str()), (ok, sentence, next));
    }

    #[test]
    fn the_worst_thing_decides() {
        check(&facts(), true, "All is well: 2 tasks in progress, 3 tasks wait, 2 workers.", "nothing to do");
        let quiet = Facts { tasks: [].into(), queued: [].into(), workers: [].into(), ..facts() };
        check(&quiet, true, "All is quiet: no task waits, 0 workers.", "nothing to do");
        let headless = Facts { orchestrator_alive: false, ..facts() };
        check(
            &headless,
            false,
            "No orchestrator is at work (last seen 1s ago) while 3 tasks wait and 2 tasks are in progress.",
            "start `dogwatch up`",
        );
        let gate = Gate {
            gate: GateName::Max,
            verdict: GateVerdict::Block,
            reason: "max is 0".into(),
            lifts_at: None,
            lifts_when: Some("MAX_ACTIVE_GPUS is raised".into()),
            subject: None,
            pool: None,
        };
        let full = Facts { blocking: vec![gate.clone()], ..facts() };
        check(&full, true, "All is well: 2 tasks in progress, 3 tasks wait, 2 workers.", "nothing to do");
        let blocked = Facts { blocking: vec![gate], max_workers: Some(0), ..facts() };
        check(
            &blocked,
            false,
            "3 tasks wait while spawning is blocked: max is 0 (2 workers).",
            "MAX_ACTIVE_GPUS is raised",
        );
        let alarmed = Facts { alarms: vec!["log silence of worker/w1".into(), "x".into()], ..headless };
        check(
            &alarmed,
            false,
            "An alarm rings: log silence of worker/w1 (and 1 other alarm).",
            "look at `dogwatch alerts`, then at `dogwatch spool ls`",
        );
    }
}
