//! A report in words, verdict first.

use std::fmt::Write as _;

use super::expectation::Mismatch;
use super::report::Report;
use crate::clock::Time;
use crate::fleet::decision::{Decision, Gate, Verdict};
use crate::fleet::demand::BUCKETS_SHOWN;
use crate::fleet::findings::Finding;
use crate::fleet::outcome::Outcome;
use crate::fleet::snapshot::IncidentFile;

pub(super) fn words(report: &Report, file: &IncidentFile, unmet: &[Mismatch]) -> String {
    let mut lines = vec![verdict(report), format!("{} (as of {})", report.name, report.as_of)];
    let rate = &report.failure_rate;
    lines.push(format!(
        "failure rate: {} of {} failed ({:.1} %){}; the old rule: {} of {} ended ({:.1} %){}",
        rate.classified.failures,
        rate.classified.total,
        rate.classified.rate * 100.0,
        blocks(rate.classified.blocks, rate.classified.lifts_at),
        rate.raw.ended,
        rate.raw.total,
        rate.raw.rate * 100.0,
        blocks(rate.raw.blocks, rate.raw.lifts_at),
    ));
    lines.push(outcomes(report));
    if let Some(demand) = &report.demand {
        let more = demand.buckets.buckets.keys().filter(|bucket| !BUCKETS_SHOWN.contains(bucket));
        let buckets = BUCKETS_SHOWN.iter().chain(more);
        let sum: Vec<String> =
            buckets.map(|bucket| format!("{} {}", demand.buckets.count(*bucket), bucket.word())).collect();
        let adds_up = if demand.adds_up { "" } else { "; THIS DOES NOT ADD UP" };
        lines.push(format!(
            "queue: {} = {}; {} in progress{adds_up}",
            demand.queued,
            sum.join(" + "),
            demand.in_progress
        ));
    }
    for gate in report.decision.iter().flat_map(|decision| &decision.gates) {
        lines.push(format!("gate {}", gate_words(gate)));
    }
    lines.extend(report.findings.iter().map(|finding| format!("finding {}", finding_words(finding))));
    lines.push(match (&file.expect, unmet.len()) {
        (None, _) => "the file expects nothing".into(),
        (Some(_), 0) => "everything that the file expects is so".into(),
        (Some(_), count) => format!("{count} of the file's expectations are not met"),
    });
    lines.extend(unmet.iter().map(|mismatch| format!("  {mismatch}")));
    lines.join("\n") + "\n"
}

fn verdict(report: &Report) -> String {
    let Some(decision) = &report.decision else {
        return format!("No decision: the file says nothing of the queue; {} findings.", report.findings.len());
    };
    let Decision { desired, capacity, spawn, .. } = decision;
    let sum = format!("{desired} desired, {} active, {} spawning", capacity.active, capacity.spawning);
    let wanted = desired.saturating_sub(capacity.active).saturating_sub(capacity.spawning);
    let blocked: Vec<&Gate> = decision.gates.iter().filter(|gate| gate.verdict == Verdict::Block).collect();
    match &decision.live {
        Some(live) => format!("The orchestrator: {}.", live.sentence),
        None if wanted == 0 => format!("No worker is wanted: {sum}."),
        None if blocked.is_empty() => format!("Spawn {spawn}: {sum}."),
        None => {
            let gates: Vec<String> = blocked.iter().map(|gate| gate_words(gate)).collect();
            format!("Spawn none of {wanted} wanted: {}.", gates.join("; "))
        }
    }
}

fn blocks(blocks: bool, lifts_at: Option<Time>) -> String {
    match (blocks, lifts_at) {
        (false, _) => String::new(),
        (true, Some(at)) => format!(", blocks until {at}"),
        (true, None) => ", blocks and never lifts by itself".into(),
    }
}

fn outcomes(report: &Report) -> String {
    let count = |outcome: Outcome| report.workers.iter().filter(|worker| worker.outcome == Some(outcome)).count();
    let ended = report.workers.iter().filter(|worker| worker.outcome.is_some()).count();
    let mut text = format!("workers: {}, {ended} ended", report.workers.len());
    for outcome in Outcome::ALL {
        if count(outcome) > 0 {
            let _ = write!(text, ", {} {}", count(outcome), outcome.word());
        }
    }
    text
}

fn gate_words(gate: &Gate) -> String {
    let name = gate.gate.word();
    match (gate.verdict, gate.lifts_at, &gate.lifts_when) {
        (Verdict::Pass, ..) => format!("{name} passes: {}", gate.reason),
        (Verdict::Block, Some(at), _) => format!("{name} blocks until {at}: {}", gate.reason),
        (Verdict::Block, None, Some(when)) => format!("{name} blocks until {when}: {}", gate.reason),
        (Verdict::Block, None, None) => format!("{name} blocks and never lifts by itself: {}", gate.reason),
    }
}

fn finding_words(finding: &Finding) -> String {
    match finding {
        Finding::CycleNumberReset { source_type, source_id, from, to } => {
            let id = source_id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
            format!("cycle_number_reset: {source_type}{id} went from cycle {from} to {to}")
        }
        Finding::DemandContradiction { reported, computed } => {
            format!("demand_contradiction: {reported} claimable reported, {computed} counted")
        }
        Finding::DoubleSpawn { workers: [first, second], gap_seconds } => {
            format!("double_spawn: {first} and {second} were created {gap_seconds} s apart")
        }
        Finding::EarlyKill { worker, seconds_after_promotion } => {
            format!("early_kill: {worker} was ended {seconds_after_promotion} s after promotion, without a task")
        }
        Finding::EndedWithoutReason { workers } => {
            let names: Vec<&str> = workers.iter().map(|worker| worker.0.as_str()).collect();
            format!("ended_without_reason: {}", names.join(", "))
        }
        Finding::LogSilence {
            source_type,
            last_record_at,
            silent_seconds,
            worker_changes_since,
            detectable_at,
        } => {
            format!(
                "log_silence: {source_type} silent for {silent_seconds} s since {last_record_at} while workers \
                 changed {worker_changes_since} times; could have been known at {detectable_at}"
            )
        }
        Finding::NeverHeartbeat { worker, age_seconds } => {
            format!("never_heartbeat: {worker} has never spoken in {age_seconds} s")
        }
        Finding::RowCapSuspected { what, count } => {
            format!("row_cap_suspected: exactly {count} rows of {what} is a cap, not a count")
        }
    }
}
