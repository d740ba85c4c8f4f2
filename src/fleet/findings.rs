//! What a snapshot shows to be wrong, beside the decision.
//!
//! Each finding is a rule of its own over the snapshot alone, so that replay says of an old incident
//! exactly what the watch would have said. They report; they change nothing. Order: by code, then as
//! each rule says.

mod silence;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::demand;
use super::ids::WorkerId;
use super::outcome::Outcome;
use super::policy::Policy;
use super::snapshot::{Record, Snapshot, Worker};
use crate::clock::{self, Time};

pub use silence::{ORCHESTRATOR_SOURCE, silence};

/// Workers created within this of each other may have been meant for the same task, seconds.
pub const DOUBLE_SPAWN_SECONDS: u64 = 60;
/// A worker ended as planned within this after promotion never had a chance, seconds.
pub const EARLY_KILL_SECONDS: u64 = 120;
/// The row cap of the REST layer: a count of exactly this is no count.
pub const ROW_CAP: u64 = 1_000;

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Finding {
    /// A source's cycle numbers went back: it was started again, or there are two.
    CycleNumberReset {
        /// Which kind of source.
        source_type: String,
        /// Which source.
        source_id: Option<String>,
        /// The higher number.
        from: i64,
        /// The lower number after it.
        to: i64,
    },
    /// Two counts of claimable tasks differ.
    DemandContradiction {
        /// What the other count said.
        reported: u64,
        /// What the buckets say.
        computed: u64,
    },
    /// Two workers close together, and one of them never had a task.
    DoubleSpawn {
        /// The earlier and the later.
        workers: [WorkerId; 2],
        /// Time between their creations, whole seconds.
        gap_seconds: u64,
    },
    /// Ended as planned right after promotion, without a task.
    EarlyKill {
        /// The worker.
        worker: WorkerId,
        /// From promotion to end, whole seconds.
        seconds_after_promotion: u64,
    },
    /// Workers of which nobody knows why they ended.
    EndedWithoutReason {
        /// The workers.
        workers: Vec<WorkerId>,
    },
    /// Workers change while no record arrives.
    LogSilence {
        /// The source that is silent.
        source_type: String,
        /// Its newest record.
        last_record_at: Time,
        /// Time since then, whole seconds.
        silent_seconds: u64,
        /// Changes of workers since then.
        worker_changes_since: u64,
        /// The first instant at which this could have been known.
        detectable_at: Time,
    },
    /// A worker that never spoke.
    NeverHeartbeat {
        /// The worker.
        worker: WorkerId,
        /// Time since its creation, whole seconds.
        age_seconds: u64,
    },
    /// A row count that looks like a cap.
    RowCapSuspected {
        /// `tasks` or `workers`.
        what: String,
        /// The count.
        count: u64,
    },
}

/// Everything wrong with the snapshot, sorted by code.
pub fn findings(snapshot: &Snapshot, policy: &Policy) -> Vec<Finding> {
    let mut all = cycle_number_resets(&snapshot.records);
    all.extend(demand_contradiction(snapshot, policy));
    all.extend(double_spawns(&snapshot.workers));
    all.extend(early_kills(&snapshot.workers));
    all.extend(ended_without_reason(&snapshot.workers));
    all.extend(log_silence(snapshot, policy));
    all.extend(never_heartbeats(snapshot, policy));
    all.extend(row_caps(snapshot));
    all
}

/// By time of the later record.
fn cycle_number_resets(records: &[Record]) -> Vec<Finding> {
    let mut sources: BTreeMap<(&str, Option<&str>), Vec<_>> = BTreeMap::new();
    for record in records {
        if let Some(cycle) = record.cycle {
            let source = (record.source_type.as_str(), record.source_id.as_deref());
            sources.entry(source).or_default().push((record.timestamp, cycle));
        }
    }
    let mut resets = Vec::new();
    for ((source_type, source_id), mut cycles) in sources {
        cycles.sort_by_key(|(at, _)| *at);
        for pair in cycles.windows(2) {
            let ((_, from), (at, to)) = (pair[0], pair[1]);
            if to < from {
                let (source_type, source_id) = (source_type.to_owned(), source_id.map(str::to_owned));
                resets.push((at, Finding::CycleNumberReset { source_type, source_id, from, to }));
            }
        }
    }
    resets.sort_by_key(|(at, _)| *at);
    resets.into_iter().map(|(_, finding)| finding).collect()
}

fn demand_contradiction(snapshot: &Snapshot, policy: &Policy) -> Option<Finding> {
    let demand = snapshot.demand.as_ref()?;
    let reported = demand.reported_claimable?;
    let computed = demand::tally(demand, policy).claimable();
    (reported != computed).then_some(Finding::DemandContradiction { reported, computed })
}

/// Every pair, not only neighbours; by (created_at, id) of the first, then of the second.
fn double_spawns(workers: &[Worker]) -> Vec<Finding> {
    let mut sorted: Vec<&Worker> = workers.iter().collect();
    sorted.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    let idle_to_the_end = |worker: &Worker| worker.is_ended() && worker.tasks_claimed == Some(0);
    let limit = std::time::Duration::from_secs(DOUBLE_SPAWN_SECONDS);
    let mut pairs = Vec::new();
    for (index, first) in sorted.iter().enumerate() {
        for second in &sorted[index + 1..] {
            let gap = clock::age(second.created_at, first.created_at);
            if gap > limit {
                break;
            }
            if idle_to_the_end(first) || idle_to_the_end(second) {
                let workers = [first.id.clone(), second.id.clone()];
                pairs.push(Finding::DoubleSpawn { workers, gap_seconds: gap.as_secs() });
            }
        }
    }
    pairs
}

/// By worker id.
fn early_kills(workers: &[Worker]) -> Vec<Finding> {
    let limit = std::time::Duration::from_secs(EARLY_KILL_SECONDS);
    by_id(workers, |worker| {
        let (promoted_at, ended_at) = (worker.promoted_at?, worker.ended_at?);
        let planned_without_work = worker.outcome() == Some(Outcome::Planned) && worker.tasks_claimed == Some(0);
        let after = clock::age(ended_at, promoted_at);
        let early = planned_without_work && ended_at >= promoted_at && after <= limit;
        early.then(|| Finding::EarlyKill { worker: worker.id.clone(), seconds_after_promotion: after.as_secs() })
    })
}

/// One finding for all, in the snapshot's order.
fn ended_without_reason(workers: &[Worker]) -> Option<Finding> {
    let silent = |worker: &&Worker| worker.is_ended() && worker.reason.as_deref().unwrap_or_default().is_empty();
    let workers: Vec<WorkerId> = workers.iter().filter(silent).map(|worker| worker.id.clone()).collect();
    (!workers.is_empty()).then_some(Finding::EndedWithoutReason { workers })
}

fn log_silence(snapshot: &Snapshot, policy: &Policy) -> Option<Finding> {
    let of_the_orchestrator = |record: &&Record| record.source_type == ORCHESTRATOR_SOURCE;
    let times = snapshot.records.iter().filter(of_the_orchestrator).map(|record| record.timestamp);
    let last = times.filter(|at| *at <= snapshot.as_of).max()?;
    let changes = snapshot
        .workers
        .iter()
        .flat_map(|worker| [Some(worker.created_at), worker.promoted_at, worker.ended_at])
        .flatten();
    silence(ORCHESTRATOR_SOURCE, last, changes, policy.log_silence_seconds, snapshot.as_of)
}

/// By worker id.
fn never_heartbeats(snapshot: &Snapshot, policy: &Policy) -> Vec<Finding> {
    let limit = std::time::Duration::from_secs(policy.heartbeat_timeout_seconds);
    by_id(&snapshot.workers, |worker| {
        let unheard = worker.first_heartbeat_at.is_none() && worker.last_heartbeat_at.is_none();
        let age = clock::age(snapshot.as_of, worker.created_at);
        (worker.status.is_alive() && unheard && age > limit)
            .then(|| Finding::NeverHeartbeat { worker: worker.id.clone(), age_seconds: age.as_secs() })
    })
}

/// By what was counted.
fn row_caps(snapshot: &Snapshot) -> Vec<Finding> {
    let Some(counts) = snapshot.demand.as_ref().and_then(|demand| demand.row_counts.as_ref()) else {
        return Vec::new();
    };
    [("tasks", counts.tasks), ("workers", counts.workers)]
        .into_iter()
        .filter(|(_, count)| *count == Some(ROW_CAP))
        .map(|(what, _)| Finding::RowCapSuspected { what: what.to_owned(), count: ROW_CAP })
        .collect()
}

fn by_id(workers: &[Worker], rule: impl Fn(&Worker) -> Option<Finding>) -> Vec<Finding> {
    let mut sorted: Vec<&Worker> = workers.iter().collect();
    sorted.sort_by_key(|worker| &worker.id);
    sorted.into_iter().filter_map(rule).collect()
}
