//! Who is silent or dead.

use std::time::Duration;

use super::{Finding, seconds};
use crate::clock;
use crate::watch::alarm::Alarm;
use crate::watch::limits::Limits;
use crate::watch::observation::{Away, LiveSource, Observation, SourceId};

pub(super) fn findings(seen: &Observation, limits: &Limits) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        seen.sources.iter().filter_map(|source| log_silence(seen, source, limits)).collect();
    found.extend(all_silent(seen, limits));
    found.extend(seen.sources.iter().filter_map(|source| orchestrator_dead(seen, source, limits)));
    found
}

/// Age of the newest row of a source, counted from its start where it has none.
pub fn row_age(seen: &Observation, source: &LiveSource) -> Duration {
    clock::age(seen.now, source.newest.unwrap_or(source.since).max(source.since))
}

fn log_silence(seen: &Observation, source: &LiveSource, limits: &Limits) -> Option<Finding> {
    let last = source.newest.unwrap_or(source.since).max(source.since);
    let counted_from = last.max(seen.watching_since);
    let lived_on = clock::age(source.alive_at, counted_from) >= limits.silence / 2;
    if clock::age(seen.now, counted_from) < limits.silence || !lived_on {
        return None;
    }
    let SourceId { source_type, source_id } = &source.id;
    let age = seconds(clock::age(seen.now, last));
    let why = unreadable(seen);
    let summary = if source.newest.is_some() {
        format!("nothing has arrived from {source_type} {source_id} for {age}, although it lives{why}")
    } else {
        format!("nothing has ever arrived from {source_type} {source_id}, which has lived for {age}{why}")
    };
    Some(Finding { alarm: Alarm::LogSilence, source: source.id.clone(), since: last, summary })
}

fn all_silent(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let newest = seen.sources.iter().filter_map(|source| source.newest).max();
    let first = seen.sources.iter().map(|source| source.since).min()?;
    let last = newest.unwrap_or(first);
    let counted_from = last.max(seen.watching_since);
    let changed = seen.changed_at.is_some_and(|at| clock::age(at, counted_from) >= limits.silence / 2);
    if clock::age(seen.now, counted_from) < limits.silence || !changed {
        return None;
    }
    let summary = format!(
        "no record has arrived from any of {} live sources for {}, while workers or cycles change{}",
        seen.sources.len(),
        seconds(clock::age(seen.now, last)),
        unreadable(seen)
    );
    Some(Finding::general(Alarm::AllSilent, last, summary))
}

pub(super) fn database_away(seen: &Observation, away: &Away, limits: &Limits) -> Option<Finding> {
    let age = clock::age(seen.now, away.since);
    let summary = format!("the fleet's database has not answered for {}: {}", seconds(age), away.error);
    (age >= limits.database_away).then(|| Finding::general(Alarm::DatabaseAway, away.since, summary))
}

/// Dead: neither its row nor its records move. Stopped: records still come, cycles do not.
fn orchestrator_dead(seen: &Observation, source: &LiveSource, limits: &Limits) -> Option<Finding> {
    if !source.is_orchestrator {
        return None;
    }
    let life = source.newest.map_or(source.alive_at, |newest| newest.max(source.alive_at));
    let without = |at| clock::age(seen.now, std::cmp::max(at, seen.watching_since));
    let name = &source.id.source_id;
    let finding =
        |since, summary| Finding { alarm: Alarm::OrchestratorDead, source: source.id.clone(), since, summary };
    if without(life) >= limits.orchestrator_dead {
        let age = seconds(clock::age(seen.now, life));
        let text = format!("orchestrator {name} has shown no sign of life for {age} and never said good-bye");
        return Some(finding(life, text));
    }
    (without(source.alive_at) >= limits.cycles_stopped).then(|| {
        let age = seconds(clock::age(seen.now, source.alive_at));
        finding(source.alive_at, format!("orchestrator {name} writes records, but has run no cycle for {age}"))
    })
}

fn unreadable(seen: &Observation) -> String {
    seen.rows_unreadable.as_ref().map(|error| format!(" (rows cannot be read back: {error})")).unwrap_or_default()
}
