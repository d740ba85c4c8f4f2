//! What humans order, each with a row in `audit`.

use super::Tx;
use super::fault::Fault;
use super::rows::{At, Values, text};
use crate::clock::Time;
use crate::fleet::ids::TaskId;
use crate::fleet::snapshot::Pause;
use crate::fleet::task::Bucket;

/// Most rows of the audit that are kept.
const AUDIT_ROWS_MAX: i64 = 100_000;

pub(super) async fn pause(tx: &mut Tx, actor: &str, reason: &str, until: Option<Time>) -> Result<(), Fault> {
    sqlx::query(
        "insert into dogwatch.pause (actor, reason, since, until) values ($1, $2, $3, $4)
         on conflict (one) do update set actor = excluded.actor, reason = excluded.reason, since = excluded.since,
             until = excluded.until",
    )
    .bind(text(actor))
    .bind(text(reason))
    .bind(tx.at())
    .bind(until.map(At))
    .execute(tx.db())
    .await?;
    audit(tx, actor, "pause", None, reason).await
}

pub(super) async fn resume(tx: &mut Tx, actor: &str, reason: &str) -> Result<(), Fault> {
    sqlx::query("delete from dogwatch.pause").execute(tx.db()).await?;
    audit(tx, actor, "resume", None, reason).await
}

pub(super) async fn pause_in_force(tx: &mut Tx) -> Result<Option<Pause>, Fault> {
    let row = sqlx::query("select * from dogwatch.pause where until is null or until > $1")
        .bind(tx.at())
        .fetch_optional(tx.db())
        .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Values("pause", &row);
    Ok(Some(Pause {
        actor: row.text("actor")?,
        reason: row.text("reason")?,
        since: row.time("since")?,
        until: row.time_opt("until")?,
    }))
}

pub(super) async fn hold(
    tx: &mut Tx,
    task: TaskId,
    bucket: Option<Bucket>,
    actor: &str,
    reason: &str,
) -> Result<(), Fault> {
    let id = task.0;
    let Some(bucket) = bucket else {
        sqlx::query("delete from dogwatch.task_holds where task_id = $1").bind(id).execute(tx.db()).await?;
        return audit(tx, actor, "release a task", Some(&id.to_string()), reason).await;
    };
    crate::store::check_hold(task, bucket)?;
    sqlx::query(
        "insert into dogwatch.task_holds (task_id, bucket, actor, reason, since) values ($1, $2, $3, $4, $5)
         on conflict (task_id) do update set bucket = excluded.bucket, actor = excluded.actor,
             reason = excluded.reason, since = excluded.since",
    )
    .bind(id)
    .bind(bucket.word())
    .bind(text(actor))
    .bind(text(reason))
    .bind(tx.at())
    .execute(tx.db())
    .await?;
    audit(tx, actor, "hold a task", Some(&id.to_string()), reason).await
}

async fn audit(tx: &mut Tx, actor: &str, verb: &str, target: Option<&str>, reason: &str) -> Result<(), Fault> {
    sqlx::query("insert into dogwatch.audit (at, actor, verb, target, reason) values ($1, $2, $3, $4, $5)")
        .bind(tx.at())
        .bind(text(actor))
        .bind(verb)
        .bind(target)
        .bind(text(reason))
        .execute(tx.db())
        .await?;
    sqlx::query("delete from dogwatch.audit where id <= (select max(id) from dogwatch.audit) - $1")
        .bind(AUDIT_ROWS_MAX)
        .execute(tx.db())
        .await?;
    Ok(())
}
