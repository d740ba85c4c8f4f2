//! Process starts: who ran when, under which version and settings.

use super::fault::Fault;
use super::rows::{At, Values};
use super::{Tx, limit};
use crate::clock;
use crate::fleet::ids::BootId;
use crate::store::{PROCESS_AWAY, PROCESSES_ROWS_MAX, Process};

pub(super) async fn started(tx: &mut Tx, process: &Process) -> Result<(), Fault> {
    sqlx::query(
        "update dogwatch.processes set ended_at = $4
         where kind = $1 and source_type = $2 and source_id = $3 and ended_at is null and boot_id <> $5
             and seen_at <= $6",
    )
    .bind(&process.kind)
    .bind(&process.source_type)
    .bind(&process.source_id)
    .bind(tx.at())
    .bind(process.boot_id.0)
    .bind(At(clock::minus(tx.now, PROCESS_AWAY)))
    .execute(tx.db())
    .await?;
    sqlx::query(
        "insert into dogwatch.processes (boot_id, kind, source_type, source_id, version, config_hash, host, pid, started_at,
             seen_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
         on conflict (boot_id) do update set seen_at = excluded.seen_at",
    )
    .bind(process.boot_id.0)
    .bind(&process.kind)
    .bind(&process.source_type)
    .bind(&process.source_id)
    .bind(&process.version)
    .bind(&process.config_hash)
    .bind(&process.host)
    .bind(i64::from(process.pid))
    .bind(tx.at())
    .execute(tx.db())
    .await?;
    sqlx::query(
        "delete from dogwatch.processes where ended_at is not null and boot_id in (
             select boot_id from dogwatch.processes order by started_at desc, boot_id desc offset $1)",
    )
    .bind(PROCESSES_ROWS_MAX)
    .execute(tx.db())
    .await?;
    Ok(())
}

pub(super) async fn seen(tx: &mut Tx, boot: BootId) -> Result<(), Fault> {
    sqlx::query("update dogwatch.processes set seen_at = $2 where boot_id = $1 and ended_at is null")
        .bind(boot.0)
        .bind(tx.at())
        .execute(tx.db())
        .await?;
    Ok(())
}

pub(super) async fn ended(tx: &mut Tx, boot: BootId) -> Result<(), Fault> {
    sqlx::query(
        "update dogwatch.processes set seen_at = $2, ended_at = $2 where boot_id = $1 and ended_at is null",
    )
    .bind(boot.0)
    .bind(tx.at())
    .execute(tx.db())
    .await?;
    Ok(())
}

pub(super) async fn newest(tx: &mut Tx, most: usize) -> Result<Vec<Process>, Fault> {
    let rows = sqlx::query("select * from dogwatch.processes order by started_at desc, boot_id desc limit $1")
        .bind(limit(most))
        .fetch_all(tx.db())
        .await?;
    rows.iter()
        .map(|row| {
            let row = Values("processes", row);
            Ok(Process {
                boot_id: BootId(row.uuid("boot_id")?),
                kind: row.text("kind")?,
                source_type: row.text("source_type")?,
                source_id: row.text("source_id")?,
                version: row.text("version")?,
                config_hash: row.text("config_hash")?,
                host: row.text("host")?,
                pid: u32::try_from(row.int("pid")?).unwrap_or(0),
                started_at: row.time("started_at")?,
                seen_at: row.time("seen_at")?,
                ended_at: row.time_opt("ended_at")?,
            })
        })
        .collect()
}
