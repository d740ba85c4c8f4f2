//! What a cycle saw and decided, as metrics under the catalogue's names.

use std::collections::BTreeMap;

use crate::catalogue;
use crate::fleet::decision::{Decision, Verdict};
use crate::fleet::snapshot::Snapshot;
use crate::fleet::state::WorkerState;
use crate::fleet::task::Bucket;

/// Sets all gauges that follow from a snapshot and its decision. Every label that can occur is
/// set each time, so that none keeps an old value.
pub(super) fn set(snapshot: &Snapshot, decision: &Decision, leads: bool) {
    metrics::gauge!(catalogue::LEADER.name).set(f64::from(u8::from(leads)));
    metrics::gauge!(catalogue::WORKERS_DESIRED.name).set(f64::from(decision.desired));
    workers(snapshot);
    tasks(snapshot);
    let wanted = decision.live.as_ref().map_or(decision.spawn, |live| live.wanted);
    for gate in &decision.gates {
        let blocks = gate.verdict == Verdict::Block && wanted > 0;
        metrics::gauge!(catalogue::SPAWN_BLOCKED.name, "gate" => gate.gate.word()).set(f64::from(u8::from(blocks)));
    }
}

fn workers(snapshot: &Snapshot) {
    let mut states: BTreeMap<&'static str, u32> =
        WorkerState::ALL.iter().filter(|state| !state.is_ended()).map(|state| (state.word(), 0)).collect();
    for worker in &snapshot.workers {
        let state = worker.live.as_ref().map(|live| live.state.word());
        if let Some(count) = state.and_then(|state| states.get_mut(state)) {
            *count += 1;
        }
    }
    for (state, count) in states {
        metrics::gauge!(catalogue::WORKERS.name, "state" => state).set(f64::from(count));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; nobody queues 2^53 tasks")]
fn tasks(snapshot: &Snapshot) {
    let Some(demand) = &snapshot.demand else { return };
    let buckets = demand.live.as_ref().map(|live| &live.buckets);
    for bucket in Bucket::ALL {
        let count = buckets.and_then(|buckets| buckets.get(&bucket)).copied().unwrap_or(0);
        metrics::gauge!(catalogue::TASKS_QUEUED.name, "bucket" => bucket.word()).set(count as f64);
    }
    let in_progress: u64 = demand.users.iter().map(|user| user.in_progress).sum();
    metrics::gauge!(catalogue::TASKS_IN_PROGRESS.name).set(in_progress as f64);
}
