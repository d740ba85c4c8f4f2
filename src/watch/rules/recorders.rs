//! What is wrong with the recorders, the disk, the canary, the clocks and the log table.

use std::time::Duration;

use super::{Finding, seconds};
use crate::clock;
use crate::store::STRAY_ROWS_MAX;
use crate::watch::alarm::Alarm;
use crate::watch::limits::Limits;
use crate::watch::observation::{LiveSource, Observation, RecorderSeen};

/// Judged also while the database is away.
pub(super) fn on_this_machine(seen: &Observation, limits: &Limits) -> Vec<Finding> {
    [disk_full(seen, limits), spool_full(seen, limits)].into_iter().flatten().collect()
}

pub(super) fn findings(seen: &Observation, limits: &Limits) -> Vec<Finding> {
    let mut found: Vec<Finding> = canary(seen, limits).into_iter().collect();
    for recorder in &seen.recorders {
        found.extend(of_recorder(seen, recorder, limits));
    }
    found.extend(seen.sources.iter().filter_map(|source| clock_skew(seen, source, limits)));
    found.extend(default_partition(seen, limits));
    found
}

fn disk_full(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let free = seen.disk.free_bytes.filter(|free| *free < limits.disk_free_min_bytes)?;
    let summary = format!(
        "{} MiB are free on the disk of {}: records go to stdout once it is full, and databases stop",
        free >> 20,
        seen.disk.folder
    );
    Some(Finding::general(Alarm::DiskFull, seen.now, summary))
}

/// Share of the cap that the spool on this machine has used; None where it could not be seen.
pub fn spool_fill(seen: &Observation) -> Option<f64> {
    let bytes = seen.disk.spool_bytes.filter(|_| seen.disk.spool_cap_bytes > 0)?;
    Some(bytes as f64 / seen.disk.spool_cap_bytes as f64)
}

fn spool_full(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let fill = spool_fill(seen).filter(|fill| *fill >= limits.spool_full_share)?;
    let summary = format!(
        "the spool of {} has {:.0} % of its cap: an exporter does not keep up, and DEBUG and INFO are refused \
         from 90 % on",
        seen.disk.folder,
        fill * 100.0
    );
    Some(Finding::general(Alarm::SpoolFull, seen.now, summary))
}

fn of_recorder(seen: &Observation, recorder: &RecorderSeen, limits: &Limits) -> Vec<Finding> {
    let name = format!("{} {}", recorder.source.source_type, recorder.source.source_id);
    let finding = |alarm, since, summary| Finding { alarm, source: recorder.source.clone(), since, summary };
    let mut found = Vec::new();
    if let Some(at) = recorder.lost_at.filter(|at| clock::age(seen.now, *at) < limits.loss_told) {
        let text = format!("{name} has lost {} records since it started", recorder.lost);
        found.push(finding(Alarm::RecordsLost, at, text));
    }
    if recorder.spool_low {
        let text = format!("the spool of {name} is nearly at its cap: DEBUG and INFO are refused");
        found.push(finding(Alarm::SpoolFull, recorder.at, text));
    }
    if let Some((exporter, error)) = recorder.blocked.first() {
        let text = format!("exporter {exporter} of {name} holds until somebody acts: {error}");
        found.push(finding(Alarm::ExporterBlocked, recorder.at, text));
    }
    found
}

fn canary(seen: &Observation, limits: &Limits) -> Option<Finding> {
    if let Some(changed) = &seen.canary.changed {
        let text = format!("what the watch wrote came back changed: {changed}");
        return Some(Finding::general(Alarm::Canary, seen.now, text));
    }
    let since = seen.canary.under_way_since?;
    let age = clock::age(seen.now, since.max(seen.watching_since));
    let text = format!(
        "a record that the watch wrote {} ago has not come back through recorder, spool and exporter",
        seconds(clock::age(seen.now, since))
    );
    (age >= limits.canary).then(|| Finding::general(Alarm::Canary, since, text))
}

fn clock_skew(seen: &Observation, source: &LiveSource, limits: &Limits) -> Option<Finding> {
    let skew = source.skew_micros? as f64 / 1e6;
    let fresh = clock::age(seen.now, source.newest?) < limits.silence;
    let way = if skew > 0.0 { "ahead of" } else { "behind" };
    let summary = format!(
        "the clock of {} {} is {:.0} s {way} the database's",
        source.id.source_type,
        source.id.source_id,
        skew.abs()
    );
    (fresh && skew.abs() >= limits.clock_skew.as_secs_f64()).then(|| Finding {
        alarm: Alarm::ClockSkew,
        source: source.id.clone(),
        since: seen.now,
        summary,
    })
}

/// How long the first of the rows in the DEFAULT partition has lain there.
pub fn stray_age(seen: &Observation) -> Option<Duration> {
    seen.strays?.first_arrived.map(|at| clock::age(seen.now, at))
}

fn default_partition(seen: &Observation, limits: &Limits) -> Option<Finding> {
    let strays = seen.strays?;
    let since = strays.first_arrived?;
    let age = stray_age(seen).filter(|age| *age >= limits.default_partition)?;
    let or_more = if strays.rows >= STRAY_ROWS_MAX { " or more" } else { "" };
    let summary = format!(
        "{}{or_more} rows of system_logs lie in its DEFAULT partition, the first of them for {}: nobody makes \
         partitions, or their times are far off",
        strays.rows,
        seconds(age)
    );
    Some(Finding::general(Alarm::DefaultPartition, since, summary))
}
