//! What humans order, each with a row in `audit`.

use std::time::Duration;

use super::Tx;
use super::fault::Fault;
use super::rows::{At, Values, text};
use crate::clock::{self, Time};
use crate::fleet::ids::TaskId;
use crate::fleet::snapshot::Pause;
use crate::fleet::task::Bucket;
use crate::store::HOLD_OLD_MAX;

/// Most rows of the audit that are kept.
const AUDIT_ROWS_MAX: i64 = 100_000;
/// Most tasks of which it is kept when they were let go.
const LET_GO_ROWS_MAX: i64 = 100_000;
/// Who sets tasks aside by a rule.
const ORCHESTRATOR: &str = "orchestrator";

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
        let_go(tx, task).await?;
        return audit(tx, actor, "release a task", Some(&id.to_string()), reason).await;
    };
    crate::store::check_hold(task, bucket)?;
    set_hold(tx, task, bucket, actor, reason).await?;
    audit(tx, actor, "hold a task", Some(&id.to_string()), reason).await
}

/// From now on the task is as old as that is ago.
async fn let_go(tx: &mut Tx, task: TaskId) -> Result<(), Fault> {
    sqlx::query(
        "insert into dogwatch.task_let_go (task_id, at) values ($1, $2)
         on conflict (task_id) do update set at = excluded.at",
    )
    .bind(task.0)
    .bind(tx.at())
    .execute(tx.db())
    .await?;
    sqlx::query(
        "delete from dogwatch.task_let_go where task_id in (
             select task_id from dogwatch.task_let_go order by at desc, task_id desc offset $1)",
    )
    .bind(LET_GO_ROWS_MAX)
    .execute(tx.db())
    .await?;
    Ok(())
}

async fn set_hold(tx: &mut Tx, task: TaskId, bucket: Bucket, actor: &str, reason: &str) -> Result<(), Fault> {
    sqlx::query(
        "insert into dogwatch.task_holds (task_id, bucket, actor, reason, since) values ($1, $2, $3, $4, $5)
         on conflict (task_id) do update set bucket = excluded.bucket, actor = excluded.actor,
             reason = excluded.reason, since = excluded.since",
    )
    .bind(task.0)
    .bind(bucket.word())
    .bind(text(actor))
    .bind(text(reason))
    .bind(tx.at())
    .execute(tx.db())
    .await?;
    Ok(())
}

/// Sets a task aside that killed its workers.
pub(super) async fn hold_poisoned(tx: &mut Tx, task: TaskId, why: &str) -> Result<(), Fault> {
    set_hold(tx, task, Bucket::Poisoned, ORCHESTRATOR, why).await?;
    audit(tx, ORCHESTRATOR, "hold a task", Some(&task.to_string()), why).await
}

/// Sets tasks aside that have waited longer than that, oldest first; held ones stay as they are.
pub(super) async fn hold_old(tx: &mut Tx, older_than: Duration) -> Result<(), Fault> {
    let cutoff = At(clock::minus(tx.now, older_than));
    let held = sqlx::query(
        "with held as (
             insert into dogwatch.task_holds (task_id, bucket, actor, reason, since)
             select t.id, 'too_old', $3::text, $4::text, $2::timestamptz from dogwatch.dw_tasks t
             where t.status = 'Queued' and t.queued_at < $1
                 and not exists (select from dogwatch.task_holds h where h.task_id = t.id)
                 and not exists (select from dogwatch.task_let_go g where g.task_id = t.id and g.at >= $1)
             order by t.queued_at, t.id limit $5
             on conflict (task_id) do nothing
             returning task_id)
         insert into dogwatch.audit (at, actor, verb, target, reason)
         select $2, $3, 'hold a task', task_id::text, $4 from held",
    )
    .bind(cutoff)
    .bind(tx.at())
    .bind(ORCHESTRATOR)
    .bind(format!("queued for more than {} s", older_than.as_secs()))
    .bind(i64::try_from(HOLD_OLD_MAX).unwrap_or(i64::MAX))
    .execute(tx.db())
    .await?
    .rows_affected();
    if held > 0 {
        cut_audit(tx).await?;
    }
    Ok(())
}

pub(super) async fn audit(
    tx: &mut Tx,
    actor: &str,
    verb: &str,
    target: Option<&str>,
    reason: &str,
) -> Result<(), Fault> {
    sqlx::query("insert into dogwatch.audit (at, actor, verb, target, reason) values ($1, $2, $3, $4, $5)")
        .bind(tx.at())
        .bind(text(actor))
        .bind(verb)
        .bind(target.map(text))
        .bind(text(reason))
        .execute(tx.db())
        .await?;
    cut_audit(tx).await
}

async fn cut_audit(tx: &mut Tx) -> Result<(), Fault> {
    sqlx::query("delete from dogwatch.audit where id <= (select max(id) from dogwatch.audit) - $1")
        .bind(AUDIT_ROWS_MAX)
        .execute(tx.db())
        .await?;
    Ok(())
}
