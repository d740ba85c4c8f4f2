//! What an orchestrator writes, each time guarded by its lease.

use super::fault::Fault;
use super::rows::Values;
use super::{Tx, decisions, lease, operators, settings, tasks, workers};
use crate::fleet::cell::Offer;
use crate::fleet::ids::{TaskId, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::state::WorkerState;
use crate::store::task_rules::released;
use crate::store::worker_row::WorkerData;
use crate::store::{CycleRecord, DecisionId, Intent, Lease, SpawnAnswer, WorkerEnd};

/// What is wrong with the row, once that itself has been written down.
type Noted = Result<(), String>;

pub(super) async fn commit(
    tx: &mut Tx,
    held: &Lease,
    record: &CycleRecord,
    intents: &[Intent],
) -> Result<DecisionId, Fault> {
    lease::guard(tx, held).await?;
    for intent in intents {
        match intent {
            Intent::Spawn { worker, pool, token_sha256, offer } => {
                spawn(tx, worker, (pool, offer), *token_sha256).await?;
            }
            Intent::HoldOld { older_than } => operators::hold_old(tx, *older_than).await?,
            Intent::Leave { worker, state, outcome, reason } => {
                let mut row = known(tx, worker).await?;
                let now = tx.now;
                row.leave(*state, *outcome, reason, now);
                workers::save(tx, &row).await?;
            }
        }
    }
    settings::keep_up(tx, &record.snapshot.policy).await?;
    decisions::write(tx, held, record).await
}

/// A worker that is there already is a repeated intent: while its agent has not spoken, the token
/// of the repetition is the one that a pod may carry.
async fn spawn(
    tx: &mut Tx,
    worker: &WorkerId,
    (pool, offer): (&str, &Offer),
    token_sha256: [u8; 32],
) -> Result<(), Fault> {
    let row = match workers::load(tx, &worker.0).await? {
        None => WorkerData::requesting(worker.clone(), pool.to_owned(), token_sha256, offer.clone(), tx.now),
        Some(mut row) => {
            row.requested_again(token_sha256);
            row
        }
    };
    workers::save(tx, &row).await
}

pub(super) async fn spawn_answer(
    tx: &mut Tx,
    held: &Lease,
    worker: &WorkerId,
    answer: &SpawnAnswer,
) -> Result<Noted, Fault> {
    lease::guard(tx, held).await?;
    let mut row = known(tx, worker).await?;
    let now = tx.now;
    let noted = row.spawn_answer(answer, now);
    workers::save(tx, &row).await?;
    Ok(noted)
}

pub(super) async fn pod_state(
    tx: &mut Tx,
    held: &Lease,
    worker: &WorkerId,
    state: WorkerState,
) -> Result<Noted, Fault> {
    lease::guard(tx, held).await?;
    let mut row = known(tx, worker).await?;
    let now = tx.now;
    let noted = row.pod_state(state, now);
    workers::save(tx, &row).await?;
    Ok(noted)
}

pub(super) async fn end_worker(
    tx: &mut Tx,
    held: &Lease,
    worker: &WorkerId,
    end: &WorkerEnd,
) -> Result<Vec<TaskId>, Fault> {
    lease::guard(tx, held).await?;
    let mut row = known(tx, worker).await?;
    let now = tx.now;
    if !row.end(end, now) {
        return Ok(Vec::new());
    }
    workers::save(tx, &row).await?;
    let rows = sqlx::query(
        "select id, attempts from dogwatch.dw_tasks where status = 'In Progress' and worker_id = $1
         order by started_at, id",
    )
    .bind(&worker.0)
    .fetch_all(tx.db())
    .await?;
    let why = row.end_in_words();
    let blamed = row.outcome == Some(Outcome::PoisonTask);
    let mut given_back = Vec::with_capacity(rows.len());
    for row in &rows {
        let row = Values("tasks", row);
        let (id, attempts) = (TaskId(row.uuid("id")?), row.int("attempts")?);
        let (status, error) = released(attempts, &why);
        if tasks::release(tx, id, worker, attempts, (status, error.as_deref())).await? {
            given_back.push(id);
            if blamed {
                operators::hold_poisoned(tx, id, &why).await?;
            }
        }
    }
    Ok(given_back)
}

async fn known(tx: &mut Tx, worker: &WorkerId) -> Result<WorkerData, Fault> {
    let row = workers::load(tx, &worker.0).await?;
    row.ok_or_else(|| Fault::bad_row(format!("worker {worker}"), "there is no such row"))
}
