//! The end of an orchestrator: what becomes of its workers, its lease and its row.
//!
//! `Leave` lets the workers go on; the next orchestrator finds them again. `Drain` asks all to
//! finish, waits a bounded time, ends what is left, and gives their tasks back. Only a leader ends
//! anybody, and every step has a limit, so that the process always ends.

use std::time::Duration;

use super::{ACTOR, LeaseKeeper, Scene, executor};
use crate::error;
use crate::fleet::ids::{PodId, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::provider::Pod;
use crate::store::{Lease, StoreError, WorkerEnd};

/// Why a worker ended with its orchestrator.
const REASON: &str = "dogwatch was stopped by its operator";
/// Period at which leaving pods are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What becomes of the workers when their orchestrator stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopWorkers {
    /// They go on.
    Leave,
    /// They finish what they do, and are ended after a while.
    Drain,
}

/// Says good-bye.
pub(super) async fn say(scene: &Scene, lease: &mut LeaseKeeper) {
    if scene.config.on_stop == StopWorkers::Drain {
        if let Err(failure) = lease.keep(&*scene.store, scene.timer.monotonic()).await {
            tracing::warn!(error = error::chain(&failure), "stopped without ending the workers");
        }
        if let Some(held) = lease.held(scene.timer.monotonic()).cloned() {
            end_all(scene, &held).await;
        }
    }
    let released = lease.release(&*scene.store).await;
    let ended = scene.store.process_ended(scene.config.process.boot_id).await;
    if let Err(failure) = released.and(ended) {
        tracing::warn!(error = error::chain(&failure), "the good-bye could not be written");
    }
    tracing::info!("orchestrator stopped");
}

async fn end_all(scene: &Scene, lease: &Lease) {
    let pods = ours(scene).await;
    for (_, pod) in &pods {
        let _ = scene.within(scene.provider.drain(&pod.id)).await;
    }
    let looks = scene.config.stop_limit.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        if ours(scene).await.iter().all(|(_, pod)| pod.status.is_over()) {
            break;
        }
        scene.timer.sleep(LOOK).await;
    }
    let mut ends = Vec::new();
    for (worker, pod) in &pods {
        ends.push(end(scene, lease, worker, Some(&pod.id)));
    }
    futures_util::future::join_all(ends).await;
    end_rows(scene, lease, &pods).await;
}

/// Rows without a pod, such as those still being asked for.
async fn end_rows(scene: &Scene, lease: &Lease, pods: &[(WorkerId, Pod)]) {
    let rows = scene.store.workers(None, crate::store::READ_ROWS_MAX).await.unwrap_or_default();
    for row in rows.iter().filter(|row| !row.worker.is_ended()) {
        if pods.iter().all(|(worker, _)| *worker != row.worker.id) {
            end(scene, lease, &row.worker.id, None).await;
        }
    }
}

async fn end(scene: &Scene, lease: &Lease, worker: &WorkerId, pod: Option<&PodId>) {
    let mut evidence = Vec::new();
    if let Some(pod) = pod {
        evidence = scene.last_lines(worker, pod).await;
        if let Err(refusal) = scene.within(scene.provider.terminate(pod)).await {
            tracing::warn!(worker_id = %worker, error = %refusal, "its pod may still run");
            return;
        }
    }
    let end =
        WorkerEnd { outcome: Outcome::Operator, reason: REASON.to_owned(), actor: ACTOR.to_owned(), evidence };
    match scene.store.end_worker(lease, worker, &end).await {
        Ok(_) => executor::count_ended(Outcome::Operator),
        // A pod of our name whose row is unknown or ended is over all the same.
        Err(StoreError::BadRow { .. }) => {}
        Err(failure) => {
            tracing::warn!(worker_id = %worker, error = error::chain(&failure), "its row was not ended")
        }
    }
}

async fn ours(scene: &Scene) -> Vec<(WorkerId, Pod)> {
    let listing = scene.within(scene.provider.list()).await.unwrap_or_default();
    let (fleet, env) = (&scene.config.fleet, &scene.config.env);
    let of = |pod: Pod| Some((WorkerId::from_pod_name(&pod.name, fleet, env)?, pod));
    listing.pods.into_iter().filter_map(of).collect()
}
