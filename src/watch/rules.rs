//! What is wrong with what was seen: pure functions of one [`Observation`].
//!
//! Silence is judged source by source: a source is silent when its newest row is older than the
//! limit although the source itself lived on for half the limit after it. So a killed worker is no
//! silence (it did not live on), and neither is a fleet in which nothing happens at all. Every
//! source of rows is judged against what the *other* database said of it, which is why a dead log
//! pipe cannot hide itself.
//!
//! A fact counts only from [`Observation::watching_since`] on: the first evidence after a gap is
//! not held against anybody (I8).

use std::time::Duration;

use crate::clock::{self, Time};

/// What can ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alarm {
    /// A source that lives writes nothing that arrives.
    LogSilence,
    /// Nothing arrives from anybody, while workers or cycles change.
    AllSilent,
    /// The fleet's database does not answer.
    DatabaseAway,
    /// An orchestrator that never said good-bye shows no sign of life.
    OrchestratorDead,
}

impl Alarm {
    /// All alarms.
    pub const ALL: [Alarm; 4] = [Alarm::LogSilence, Alarm::AllSilent, Alarm::DatabaseAway, Alarm::OrchestratorDead];

    /// Its name in alert rows, metrics and webhooks.
    pub fn word(self) -> &'static str {
        match self {
            Alarm::LogSilence => "log_silence",
            Alarm::AllSilent => "all_silent",
            Alarm::DatabaseAway => "database_away",
            Alarm::OrchestratorDead => "orchestrator_dead",
        }
    }
}

/// Who writes records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// source_type of its rows.
    pub source_type: String,
    /// source_id of its rows.
    pub source_id: String,
}

/// A source that is meant to be alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSource {
    /// Who.
    pub id: SourceId,
    /// Since when it is.
    pub since: Time,
    /// Its last sign of life in the fleet's database.
    pub alive_at: Time,
    /// When its newest row arrived; null = none that is known.
    pub newest: Option<Time>,
    /// Whether it is an orchestrator.
    pub is_orchestrator: bool,
}

/// What one round saw. All times are the fleet database's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The database's clock; the watch's own while the database is away.
    pub now: Time,
    /// Since when the watch has looked, and the database has answered, without a gap.
    pub watching_since: Time,
    /// Why the database does not answer, and since when.
    pub database_away: Option<Away>,
    /// Why rows cannot be read back; evidence of silence, never of health.
    pub rows_unreadable: Option<String>,
    /// Everybody who should be writing.
    pub sources: Vec<LiveSource>,
    /// When a worker or a cycle last changed.
    pub changed_at: Option<Time>,
}

/// A database that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Since when.
    pub since: Time,
    /// What it said.
    pub error: String,
}

/// The limits that rules judge by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Age of the newest row at which a source is silent.
    pub silence: Duration,
    /// How long the database may be away.
    pub database_away: Duration,
    /// Age of an orchestrator's last sign of life at which it is dead.
    pub orchestrator_dead: Duration,
}

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub alarm: Alarm,
    /// With whom; empty where it is about everybody.
    pub source: SourceId,
    /// Since when.
    pub since: Time,
    /// In one sentence, with the numbers.
    pub summary: String,
}

/// Everything that is wrong.
pub fn findings(seen: &Observation, limits: &Limits) -> Vec<Finding> {
    if let Some(away) = &seen.database_away {
        // What the fleet does cannot be seen: there is nothing to hold silence against.
        return database_away(seen, away, limits).into_iter().collect();
    }
    let mut found: Vec<Finding> =
        seen.sources.iter().filter_map(|source| log_silence(seen, source, limits)).collect();
    found.extend(all_silent(seen, limits));
    found.extend(seen.sources.iter().filter_map(|source| orchestrator_dead(seen, source, limits)));
    found
}

/// Alarms that cannot be judged yet or just now: that they are not found says nothing.
pub fn unjudged(seen: &Observation, limits: &Limits) -> Vec<Alarm> {
    let watched = clock::age(seen.now, seen.watching_since);
    let is_unjudged = |alarm: &Alarm| match alarm {
        Alarm::DatabaseAway => false,
        Alarm::LogSilence | Alarm::AllSilent => seen.database_away.is_some() || watched < limits.silence,
        Alarm::OrchestratorDead => seen.database_away.is_some() || watched < limits.orchestrator_dead,
    };
    Alarm::ALL.into_iter().filter(is_unjudged).collect()
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
    Some(Finding { alarm: Alarm::AllSilent, source: SourceId::default(), since: last, summary })
}

fn database_away(seen: &Observation, away: &Away, limits: &Limits) -> Option<Finding> {
    let age = clock::age(seen.now, away.since);
    (age >= limits.database_away).then(|| Finding {
        alarm: Alarm::DatabaseAway,
        source: SourceId::default(),
        since: away.since,
        summary: format!("the fleet's database has not answered for {}: {}", seconds(age), away.error),
    })
}

fn orchestrator_dead(seen: &Observation, source: &LiveSource, limits: &Limits) -> Option<Finding> {
    let age = clock::age(seen.now, source.alive_at);
    let counted = clock::age(seen.now, source.alive_at.max(seen.watching_since));
    (source.is_orchestrator && counted >= limits.orchestrator_dead).then(|| Finding {
        alarm: Alarm::OrchestratorDead,
        source: source.id.clone(),
        since: source.alive_at,
        summary: format!(
            "orchestrator {} has shown no sign of life for {} and never said good-bye",
            source.id.source_id,
            seconds(age)
        ),
    })
}

fn unreadable(seen: &Observation) -> String {
    seen.rows_unreadable.as_ref().map(|error| format!(" (rows cannot be read back: {error})")).unwrap_or_default()
}

fn seconds(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
