//! The watch's read: what a cycle sees of workers and queue, and how tasks have ended.

use std::time::Duration;

use super::fault::Fault;
use super::rows::Values;
use super::{Tx, observe, workers};
use crate::store::{TaskEnds, Watched, Windows};

pub(super) async fn watched(tx: &mut Tx, windows: Windows) -> Result<Watched, Fault> {
    let before = windows.tasks_recent + windows.tasks_before;
    Ok(Watched {
        now: tx.now,
        workers: observe::observed_workers(tx, windows.workers_ended).await?,
        demand: observe::demand(tx, windows.user_task_limit).await?,
        tasks_recent: ends(tx, windows.tasks_recent, Duration::ZERO).await?,
        tasks_before: ends(tx, before, windows.tasks_recent).await?,
    })
}

/// By the attempts, which are ours also where the tasks' table is somebody else's. An attempt that
/// its worker did not end itself counts where the task failed with it.
async fn ends(tx: &mut Tx, since: Duration, until: Duration) -> Result<TaskEnds, Fault> {
    let row = sqlx::query(
        "select count(*) as ended,
             count(*) filter (where a.answer is distinct from 'Complete') as failed
         from dogwatch.task_attempts a
         where a.ended_at >= $1 and (a.ended_at < $2 or $3)
             and (a.answer in ('Complete', 'Failed')
                 or a.answer is null and exists (select 1 from dogwatch.dw_tasks t
                     where t.id = a.task_id and t.status = 'Failed' and t.attempts = a.attempt))",
    )
    .bind(workers::before(tx, since))
    .bind(workers::before(tx, until))
    .bind(until.is_zero())
    .fetch_one(tx.db())
    .await?;
    let row = Values("task_attempts", &row);
    Ok(TaskEnds { ended: row.count("ended")?, failed: row.count("failed")? })
}
