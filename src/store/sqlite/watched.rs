//! The watch's read: what a cycle sees of workers and queue, and how tasks have ended.

use super::fault::Fault;
use super::rows::Values;
use super::{Tx, observe};
use crate::clock;
use crate::store::{TaskEnds, Watched, Windows};

pub(super) async fn watched(tx: &mut Tx, windows: Windows) -> Result<Watched, Fault> {
    let recent = clock::minus(tx.now, windows.tasks_recent).as_microsecond();
    let before = clock::minus(tx.now, windows.tasks_recent + windows.tasks_before).as_microsecond();
    Ok(Watched {
        now: tx.now,
        workers: observe::observed_workers(tx, windows.workers_ended).await?,
        demand: observe::demand(tx, windows.user_task_limit).await?,
        tasks_recent: ends(tx, recent, i64::MAX).await?,
        tasks_before: ends(tx, before, recent).await?,
    })
}

/// Answered by the index alone.
async fn ends(tx: &mut Tx, since: i64, until: i64) -> Result<TaskEnds, Fault> {
    let row = sqlx::query(
        "select count(*) as ended, count(*) filter (where status = 'Failed') as failed from tasks
         where generation_processed_at >= ?1 and generation_processed_at < ?2 and status <> 'Cancelled'",
    )
    .bind(since)
    .bind(until)
    .fetch_one(tx.db())
    .await?;
    let row = Values("tasks", &row);
    Ok(TaskEnds { ended: row.count("ended")?, failed: row.count("failed")? })
}
