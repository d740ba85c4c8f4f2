//! The report of a replayed file, in the shape and key order that the incident format promises.
//!
//! Two things are replay's own, because a file has no history: both failure rates count by creation,
//! as the old system's reports did, and a bare file's breaker has no memory. Everything else is what
//! `fleet` says.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::clock::Time;
use crate::fleet::breaker::{self, Rate};
use crate::fleet::decision::{self, Decision};
use crate::fleet::demand::{self, BUCKETS_SHOWN, Tally};
use crate::fleet::findings::{self, Finding};
use crate::fleet::ids::WorkerId;
use crate::fleet::outcome::Outcome;
use crate::fleet::snapshot::{IncidentFile, SCHEMA_VERSION, Worker};

/// What the rules say of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of the format.
    pub schema_version: u32,
    /// The file's own name for itself.
    pub name: String,
    /// The instant.
    pub as_of: Time,
    /// Both failure rates.
    pub failure_rate: FailureRates,
    /// In the file's order.
    pub workers: Vec<WorkerReport>,
    /// The queue; null where the file has none.
    pub demand: Option<DemandReport>,
    /// The decision; null where the file has no demand.
    pub decision: Option<Decision>,
    /// What is wrong, sorted by code.
    pub findings: Vec<Finding>,
}

/// The old system's rate and the classified one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailureRates {
    /// Ended workers.
    pub raw: RawRate,
    /// Failed workers.
    pub classified: ClassifiedRate,
}

/// Ended workers among those created in the window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RawRate {
    /// Ended.
    pub ended: u64,
    /// Created in the window.
    pub total: u64,
    /// ended / total, 4 digits.
    pub rate: f64,
    /// Whether it would block.
    pub blocks: bool,
    /// When it would no longer.
    pub lifts_at: Option<Time>,
}

/// Failed workers among those created in the window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassifiedRate {
    /// Failed.
    pub failures: u64,
    /// Created in the window.
    pub total: u64,
    /// failures / total, 4 digits.
    pub rate: f64,
    /// Whether it blocks.
    pub blocks: bool,
    /// When it no longer does.
    pub lifts_at: Option<Time>,
}

/// A worker's end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerReport {
    /// The worker.
    pub id: WorkerId,
    /// Why it ended; null = it has not.
    pub outcome: Option<Outcome>,
    /// Whether that speaks against its machine.
    pub counts_for_breaker: bool,
}

/// The queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemandReport {
    /// Tasks waiting.
    pub queued: u64,
    /// Tasks in hand.
    pub in_progress: u64,
    /// Tasks by bucket.
    #[serde(serialize_with = "in_order")]
    pub buckets: Tally,
    /// Whether the buckets add up to `queued`.
    pub adds_up: bool,
}

/// Asks every rule about the file.
pub fn replay(file: &IncidentFile) -> Report {
    let snapshot = &file.snapshot;
    let (policy, as_of) = (&snapshot.policy, snapshot.as_of);
    let raw = breaker::raw(snapshot, policy, as_of);
    let classified = breaker::classified(snapshot, policy, as_of);
    let tally = snapshot.demand.as_ref().map(|demand| demand::tally(demand, policy));
    Report {
        schema_version: SCHEMA_VERSION,
        name: snapshot.name.clone(),
        as_of,
        failure_rate: FailureRates {
            raw: RawRate {
                ended: raw.failures,
                total: raw.total,
                rate: rounded(&raw),
                blocks: raw.blocks,
                lifts_at: raw.lifts_at,
            },
            classified: ClassifiedRate {
                failures: classified.failures,
                total: classified.total,
                rate: rounded(&classified),
                blocks: classified.blocks,
                lifts_at: classified.lifts_at,
            },
        },
        workers: snapshot.workers.iter().map(worker_report).collect(),
        decision: tally.as_ref().map(|_| decision::decide(snapshot, policy, as_of)),
        demand: tally.map(|tally| DemandReport {
            queued: tally.queued,
            in_progress: tally.in_progress,
            adds_up: tally.adds_up,
            buckets: tally,
        }),
        findings: findings::findings(snapshot, policy),
    }
}

fn worker_report(worker: &Worker) -> WorkerReport {
    WorkerReport {
        id: worker.id.clone(),
        outcome: worker.outcome(),
        counts_for_breaker: breaker::has_failed(worker),
    }
}

fn rounded(rate: &Rate) -> f64 {
    (rate.rate * 10_000.0).round() / 10_000.0
}

/// The five buckets of the format first, then those that a live source adds.
fn in_order<S: Serializer>(tally: &Tally, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(tally.buckets.len()))?;
    for bucket in BUCKETS_SHOWN {
        map.serialize_entry(bucket.word(), &tally.count(bucket))?;
    }
    for (bucket, count) in tally.buckets.iter().filter(|(bucket, _)| !BUCKETS_SHOWN.contains(bucket)) {
        map.serialize_entry(bucket.word(), count)?;
    }
    map.end()
}
