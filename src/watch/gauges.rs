//! What was seen, as metrics: the same facts that the rules judge, for the rules of Prometheus.
//!
//! The series of a source or recorder that is gone, and of a clock of which nothing is known, get NaN: a
//! gauge would otherwise keep its last value for ever, and zero would say that all is well. While the
//! database is away nothing of the fleet is set: old values stand, and `dogwatch_database_away_seconds`
//! says so.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alarm::Alarm;
use super::alarms::Alarms;
use super::limits::Limits;
use super::observation::{LiveSource, Observation, SourceId, Stage};
use super::rules;
use crate::catalogue;
use crate::clock;

/// The value of a series of which nothing is known: no comparison, minimum or maximum takes it.
const UNKNOWN: f64 = f64::NAN;

/// Which series exist.
#[derive(Debug, Default)]
pub(super) struct Gauged {
    sources: BTreeSet<SourceId>,
    recorders: BTreeSet<SourceId>,
}

impl Gauged {
    /// Sets everything.
    pub(super) fn set(&mut self, seen: &Observation, alarms: &Alarms, limits: &Limits) {
        for alarm in Alarm::ALL {
            let rings = alarms.firing().any(|finding| finding.alarm == alarm);
            metrics::gauge!(catalogue::ALARM.name, "alarm" => alarm.word()).set(f64::from(u8::from(rings)));
        }
        let away = seen.database_away.as_ref().map(|away| clock::age(seen.now, away.since));
        metrics::gauge!(catalogue::DATABASE_AWAY.name).set(away.unwrap_or_default().as_secs_f64());
        if let Some(free) = seen.disk.free_bytes {
            metrics::gauge!(catalogue::DISK_FREE.name).set(free as f64);
        }
        if let Some(fill) = rules::spool_fill(seen) {
            metrics::gauge!(catalogue::SPOOL_FILL.name).set(fill);
        }
        if seen.database_away.is_none() {
            self.sources(seen);
            self.recorders(seen);
            fleet(seen, limits);
            canary(seen);
            if seen.strays.is_some() {
                let age = rules::stray_age(seen).unwrap_or_default();
                metrics::gauge!(catalogue::STRAY_AGE.name).set(age.as_secs_f64());
            }
        }
        metrics::counter!(catalogue::WATCH_ROUNDS.name).increment(1);
    }

    fn sources(&mut self, seen: &Observation) {
        let live: BTreeSet<SourceId> = seen.sources.iter().map(|source| source.id.clone()).collect();
        for gone in self.sources.difference(&live) {
            for metric in [catalogue::NEWEST_ROW_AGE, catalogue::LIFE_AGE, catalogue::CLOCK_SKEW] {
                of(metric, gone, UNKNOWN);
            }
        }
        self.sources = live;
        for source in &seen.sources {
            of(catalogue::NEWEST_ROW_AGE, &source.id, rules::row_age(seen, source).as_secs_f64());
            of(catalogue::LIFE_AGE, &source.id, clock::age(seen.now, source.alive_at).as_secs_f64());
            of(catalogue::CLOCK_SKEW, &source.id, skew_seconds(source));
        }
        let changed = seen.changed_at.map_or(Duration::MAX, |at| clock::age(seen.now, at));
        if changed < Duration::MAX {
            metrics::gauge!(catalogue::CHANGE_AGE.name).set(changed.as_secs_f64());
        }
    }

    fn recorders(&mut self, seen: &Observation) {
        let live: BTreeSet<SourceId> = seen.recorders.iter().map(|recorder| recorder.source.clone()).collect();
        for gone in self.recorders.difference(&live) {
            of(catalogue::SEEN_BLOCKED, gone, UNKNOWN);
            of(catalogue::SEEN_SPOOL_LOW, gone, UNKNOWN);
            of(catalogue::SEEN_LOST, gone, UNKNOWN);
        }
        self.recorders = live;
        for recorder in &seen.recorders {
            of(catalogue::SEEN_BLOCKED, &recorder.source, recorder.blocked.len() as f64);
            of(catalogue::SEEN_SPOOL_LOW, &recorder.source, f64::from(u8::from(recorder.spool_low)));
            of(catalogue::SEEN_LOST, &recorder.source, recorder.lost as f64);
        }
    }
}

/// How far its clock is ahead of the database's.
fn skew_seconds(source: &LiveSource) -> f64 {
    source.skew_micros.map_or(UNKNOWN, |micros| micros as f64 / 1e6)
}

fn of(metric: catalogue::Metric, id: &SourceId, value: f64) {
    let labels = [("source_type", id.source_type.clone()), ("source_id", id.source_id.clone())];
    metrics::gauge!(metric.name, &labels).set(value);
}

fn fleet(seen: &Observation, limits: &Limits) {
    let fleet = &seen.fleet;
    let age = |at| clock::age(seen.now, at).as_secs_f64();
    let set = |metric: catalogue::Metric, value: f64| metrics::gauge!(metric.name).set(value);
    let oldest = |ages: &mut dyn Iterator<Item = f64>| ages.fold(0.0, f64::max);
    let decision = fleet.decision.as_ref();
    let in_stage = |wanted: Stage| fleet.workers.iter().filter(move |worker| worker.stage == wanted);
    let alive = in_stage(Stage::Idle).count() + in_stage(Stage::Busy).count();
    set(catalogue::SEEN_ALIVE, alive as f64);
    set(catalogue::SEEN_DESIRED, decision.map_or(0.0, |decision| f64::from(decision.desired)));
    set(catalogue::BEAT_AGE, rules::longest_unheard(seen).map_or(0.0, |(_, newest)| age(newest)));
    set(catalogue::FIRST_BEAT_DUE_AGE, oldest(&mut in_stage(Stage::Coming).map(|worker| age(worker.created_at))));
    set(catalogue::PROGRESS_AGE, oldest(&mut fleet.workers.iter().filter_map(rules::oldest_progress).map(age)));
    set(catalogue::PROGRESS_LIMIT, limits.worker_hung.as_secs_f64());
    set(catalogue::SEEN_ENDED, fleet.ended as f64);
    set(catalogue::SEEN_FAILED, fleet.failed as f64);
    set(catalogue::CLAIMABLE_AGE, fleet.oldest_claimable.map_or(0.0, age));
    let blocked = decision.and_then(|decision| decision.blocked.as_ref()).filter(|_| fleet.claimable > 0);
    set(catalogue::BLOCKED_AGE, blocked.map_or(0.0, |blocked| age(blocked.since)));
    let pods = decision.into_iter().flat_map(|decision| &decision.unknown_pods).map(|(_, since)| age(*since));
    let ambiguous = in_stage(Stage::Ambiguous).map(|worker| age(worker.stage_since));
    set(catalogue::UNACCOUNTED_AGE, oldest(&mut pods.chain(ambiguous)));
    let held = decision.and_then(|decision| decision.reaper_held);
    set(catalogue::PODS_HELD, held.map_or(0.0, |held| held.due as f64));
    for (window, ends) in [("1h", fleet.tasks_recent), ("24h_before", fleet.tasks_before)] {
        metrics::gauge!(catalogue::SEEN_TASKS_ENDED.name, "window" => window).set(ends.ended as f64);
        metrics::gauge!(catalogue::SEEN_TASKS_FAILED.name, "window" => window).set(ends.failed as f64);
    }
}

fn canary(seen: &Observation) {
    let age = seen.canary.under_way_since.map_or(0.0, |since| clock::age(seen.now, since).as_secs_f64());
    metrics::gauge!(catalogue::CANARY_AGE.name).set(age);
    let changed = u8::from(seen.canary.changed.is_some());
    metrics::gauge!(catalogue::CANARY_CHANGED.name).set(f64::from(changed));
    if let Some(took) = seen.canary.took {
        metrics::gauge!(catalogue::CANARY_TOOK.name).set(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::watch::limits::Rhythm;
    use crate::watch::tests::noticed::{Fault, seen};

    /// The page has these series of w1's clock after each look.
    #[test]
    fn a_clock_that_is_not_known_or_gone_is_not_zero() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let second = Duration::from_secs(1);
        let limits = Limits::of(Rhythm { silence: second, cycle: second, beat: second, progress: second });
        let mut gauged = Gauged::default();
        let mut check = |micros: Option<i64>, is_there: bool, expected: &str| {
            let mut seen = seen(Fault::None, 0, 0);
            seen.sources.retain(|source| is_there || source.id.source_id != "w1");
            let source = seen.sources.iter_mut().find(|source| source.id.source_id == "w1");
            source.into_iter().for_each(|source| source.skew_micros = micros);
            metrics::with_local_recorder(&recorder, || gauged.set(&seen, &Alarms::default(), &limits));
            let page = recorder.handle().render();
            let of_w1 = |line: &&str| line.contains("clock_skew") && line.contains("\"w1\"");
            let line = page.lines().find(of_w1).unwrap_or_default();
            assert_eq!(line.rsplit(' ').next(), Some(expected), "{line}");
        };
        check(None, true, "NaN");
        check(Some(-300_000_000), true, "-300");
        check(Some(0), true, "0");
        check(Some(5_500_000), true, "5.5");
        check(None, false, "NaN");
    }
}
