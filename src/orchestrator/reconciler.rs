//! Rows that lag behind what is known, because a process was killed or a write was lost.
//!
//! Nothing is started or ended here; rows only learn what the snapshot proves: that an answer will
//! never come, which pod an agent that has spoken lives in, and how far a pod is on its way.

use super::executor::Executor;
use crate::fleet::decision::Action;
use crate::fleet::ids::WorkerId;
use crate::fleet::snapshot::{PodStatus, Worker, WorkerLive};
use crate::fleet::state::WorkerState;
use crate::store::{Lease, SpawnAnswer, Store, StoreError};

/// Tidies every row that the decision does not act on.
pub(super) async fn tidy(executor: &Executor<'_>, actions: &[Action]) {
    let acted_on = |worker: &WorkerId| actions.iter().any(|action| action.worker() == worker);
    for worker in executor.snapshot.workers.iter().filter(|worker| !worker.is_ended() && !acted_on(&worker.id)) {
        if executor.may_act().is_err() {
            return;
        }
        if let Some(lesson) = lesson(executor, worker) {
            let taught = lesson.teach(&*executor.scene.store, executor.lease, &worker.id).await;
            executor.written(taught);
        }
    }
}

/// What a row must learn.
enum Lesson {
    Answer(SpawnAnswer),
    Pod(WorkerState),
}

impl Lesson {
    async fn teach(&self, store: &dyn Store, lease: &Lease, worker: &WorkerId) -> Result<(), StoreError> {
        match self {
            Lesson::Answer(answer) => store.spawn_answer(lease, worker, answer).await,
            Lesson::Pod(state) => store.pod_state(lease, worker, *state).await,
        }
    }
}

fn lesson(executor: &Executor<'_>, worker: &Worker) -> Option<Lesson> {
    let live = worker.live.as_ref()?;
    match live.state {
        // Cycles do not overlap: nobody waits for this answer any more.
        WorkerState::Planned | WorkerState::Requesting => {
            let reason = "the orchestrator did not live to see the provider's answer".to_owned();
            Some(Lesson::Answer(SpawnAnswer::Ambiguous { reason }))
        }
        // Adopting a pod for it is the decision's choice.
        WorkerState::Ambiguous => None,
        // Its agent spoke before the provider's answer, and that answer was lost.
        _ if live.pod_id.is_none() => {
            executor.pod_of(&worker.id).map(|pod_id| Lesson::Answer(SpawnAnswer::Created { pod_id }))
        }
        _ => arrived(live).map(Lesson::Pod),
    }
}

/// The state that a pod's listing proves, where the row does not have it yet.
fn arrived(live: &WorkerLive) -> Option<WorkerState> {
    let proven = match live.pod.as_ref()?.status {
        PodStatus::Provisioning => WorkerState::Provisioning,
        PodStatus::Starting | PodStatus::Running => WorkerState::Starting,
        PodStatus::Exited | PodStatus::Error | PodStatus::Terminated => return None,
    };
    let on_its_way = matches!(live.state, WorkerState::Created | WorkerState::Provisioning);
    (on_its_way && live.state != proven && live.state.may_become(proven)).then_some(proven)
}
