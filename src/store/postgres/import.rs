//! A file's fleet, written into an empty database so that every command can be asked about it.

use super::fault::Fault;
use super::rows::At;
use super::{Tx, decisions, workers};
use crate::fleet::ids::{BootId, Term};
use crate::store::worker_row::WorkerData;
use crate::store::{CycleRecord, Import};

/// Its workers and one decision row at the file's instant. False: it was there already.
pub(super) async fn write(tx: &mut Tx, import: &Import) -> Result<bool, Fault> {
    tx.alone("import").await?;
    let there = sqlx::query("select 1 from dogwatch.decisions where imported = $1")
        .bind(&import.digest)
        .fetch_optional(tx.db())
        .await?;
    if there.is_some() {
        return Ok(false);
    }
    refuse_live(tx).await?;
    for worker in &import.snapshot.workers {
        workers::save(tx, &WorkerData::imported(worker, import.snapshot.as_of)).await?;
    }
    let record = CycleRecord {
        boot_id: import.snapshot.live.as_ref().map_or(BootId(uuid::Uuid::nil()), |live| live.boot_id),
        cycle: import.snapshot.live.as_ref().map_or(0, |live| live.cycle),
        trace_id: None,
        snapshot: import.snapshot.clone(),
        decision: import.decision.clone(),
    };
    let id = decisions::insert(tx, Term(0), &record).await?;
    sqlx::query("update dogwatch.decisions set imported = $2, at = $3 where id = $1")
        .bind(id.0)
        .bind(&import.digest)
        .bind(At(import.snapshot.as_of))
        .execute(tx.db())
        .await?;
    Ok(true)
}

/// A database in which an orchestrator has worked, or that holds tasks, is not written over.
async fn refuse_live(tx: &mut Tx) -> Result<(), Fault> {
    let live = sqlx::query(
        "select 1 where exists (select from dogwatch.processes) or exists (select from dogwatch.lease)
             or exists (select from dogwatch.dw_tasks) or exists (select from dogwatch.decisions where imported is null)",
    )
    .fetch_optional(tx.db())
    .await?;
    match live {
        Some(_) => Err(Fault::bad_row("this database", "it holds a live fleet, nothing is loaded into it")),
        None => Ok(()),
    }
}
