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

mod fleet;
mod recorders;
mod silence;

use std::time::Duration;

use super::alarm::Alarm;
use super::limits::Limits;
use super::observation::{Observation, SourceId};
use crate::clock::{self, Time};

pub use self::fleet::{longest_unheard, oldest_progress};
pub use self::recorders::{spool_fill, stray_age};
pub use self::silence::row_age;

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

impl Finding {
    /// A finding about everybody.
    fn general(alarm: Alarm, since: Time, summary: String) -> Finding {
        Finding { alarm, source: SourceId::default(), since, summary }
    }
}

/// Everything that is wrong.
pub fn findings(seen: &Observation, limits: &Limits) -> Vec<Finding> {
    let mut found: Vec<Finding> = recorders::on_this_machine(seen, limits);
    if let Some(away) = &seen.database_away {
        // What the fleet does cannot be seen: there is nothing to hold silence against.
        found.extend(silence::database_away(seen, away, limits));
        return found;
    }
    found.extend(silence::findings(seen, limits));
    found.extend(fleet::findings(seen, limits));
    found.extend(recorders::findings(seen, limits));
    found
}

/// Alarms that cannot be judged yet or just now: that they are not found says nothing.
pub fn unjudged(seen: &Observation, limits: &Limits) -> Vec<Alarm> {
    let watched = clock::age(seen.now, seen.watching_since);
    let is_unjudged = |alarm: &Alarm| match needs_watching(*alarm, limits) {
        None => false,
        Some(span) => {
            let unread = seen.rows_unreadable.is_some() && alarm.is_read_from_rows();
            let unseen = *alarm == Alarm::DefaultPartition && seen.strays.is_none();
            seen.database_away.is_some() || watched < span || unread || unseen
        }
    };
    Alarm::ALL.into_iter().filter(is_unjudged).collect()
}

/// How long the watch must have looked before the alarm's absence means anything; None: it needs
/// no database.
fn needs_watching(alarm: Alarm, limits: &Limits) -> Option<Duration> {
    match alarm {
        Alarm::DatabaseAway | Alarm::DiskFull => None,
        // The one from disk needs no database, but the one from a heartbeat does.
        Alarm::SpoolFull
        | Alarm::RecordsLost
        | Alarm::ExporterBlocked
        | Alarm::FailureRate
        | Alarm::TaskFailures
        | Alarm::DefaultPartition => Some(Duration::ZERO),
        Alarm::LogSilence | Alarm::AllSilent => Some(limits.silence),
        Alarm::OrchestratorDead => Some(limits.orchestrator_dead),
        Alarm::NoWorkerAlive => Some(limits.no_worker),
        Alarm::WorkersUnheard => Some(limits.workers_unheard),
        Alarm::WorkerNeverSpoke
        | Alarm::WorkerHung
        | Alarm::SpawnBlocked
        | Alarm::OldestTask
        | Alarm::PodsUnaccounted
        | Alarm::ReaperHeld
        | Alarm::ClockSkew => Some(limits.database_away),
        Alarm::Canary => Some(limits.canary),
    }
}

impl Alarm {
    /// Whether its facts come from `system_logs` alone.
    fn is_read_from_rows(self) -> bool {
        matches!(self, Alarm::RecordsLost | Alarm::SpoolFull | Alarm::ExporterBlocked | Alarm::ClockSkew)
    }
}

/// A duration as people read it.
fn seconds(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
