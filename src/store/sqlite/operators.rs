//! What humans order, each with a row in `audit`.

use std::time::Duration;

use super::Tx;
use super::fault::Fault;
use super::rows::Values;
use crate::clock::{self, Time};
use crate::fleet::ids::TaskId;
use crate::fleet::snapshot::Pause;
use crate::fleet::task::Bucket;
use crate::store::HOLD_OLD_MAX;

/// Most rows of the audit that are kept.
const AUDIT_ROWS_MAX: i64 = 100_000;
/// Who sets tasks aside by a rule.
const ORCHESTRATOR: &str = "orchestrator";

pub(super) async fn pause(tx: &mut Tx, actor: &str, reason: &str, until: Option<Time>) -> Result<(), Fault> {
    sqlx::query("insert or replace into pause (one, actor, reason, since, until) values (1, ?1, ?2, ?3, ?4)")
        .bind(actor)
        .bind(reason)
        .bind(tx.micros())
        .bind(until.map(Time::as_microsecond))
        .execute(tx.db())
        .await?;
    audit(tx, actor, "pause", None, reason).await
}

pub(super) async fn resume(tx: &mut Tx, actor: &str, reason: &str) -> Result<(), Fault> {
    sqlx::query("delete from pause").execute(tx.db()).await?;
    audit(tx, actor, "resume", None, reason).await
}

pub(super) async fn pause_in_force(tx: &mut Tx) -> Result<Option<Pause>, Fault> {
    let row = sqlx::query("select * from pause where until is null or until > ?1")
        .bind(tx.micros())
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
    let id = task.to_string();
    let Some(bucket) = bucket else {
        sqlx::query("delete from task_holds where task_id = ?1").bind(&id).execute(tx.db()).await?;
        sqlx::query("update tasks set let_go_at = ?2 where id = ?1")
            .bind(&id)
            .bind(tx.micros())
            .execute(tx.db())
            .await?;
        return audit(tx, actor, "release a task", Some(&id), reason).await;
    };
    crate::store::check_hold(task, bucket)?;
    set_hold(tx, &id, bucket, actor, reason).await?;
    audit(tx, actor, "hold a task", Some(&id), reason).await
}

async fn set_hold(tx: &mut Tx, task: &str, bucket: Bucket, actor: &str, reason: &str) -> Result<(), Fault> {
    sqlx::query(
        "insert or replace into task_holds (task_id, bucket, actor, reason, since) values (?1, ?2, ?3, ?4, ?5)",
    )
    .bind(task)
    .bind(bucket.word())
    .bind(actor)
    .bind(reason)
    .bind(tx.micros())
    .execute(tx.db())
    .await?;
    Ok(())
}

/// Sets a task aside that killed its workers.
pub(super) async fn hold_poisoned(tx: &mut Tx, task: &str, why: &str) -> Result<(), Fault> {
    set_hold(tx, task, Bucket::Poisoned, ORCHESTRATOR, why).await?;
    audit(tx, ORCHESTRATOR, "hold a task", Some(task), why).await
}

/// Sets tasks aside that have waited longer than that, oldest first; held ones stay as they are.
pub(super) async fn hold_old(tx: &mut Tx, older_than: Duration) -> Result<(), Fault> {
    let reason = format!("queued for more than {} s", older_than.as_secs());
    let cutoff = clock::minus(tx.now, older_than).as_microsecond();
    let held = sqlx::query_scalar::<_, String>(
        "insert into task_holds (task_id, bucket, actor, reason, since)
         select id, 'too_old', ?3, ?4, ?2 from tasks
         where status = 'Queued' and created_at < ?1 and coalesce(let_go_at, 0) < ?1
             and not exists (select 1 from task_holds h where h.task_id = tasks.id)
         order by created_at, id limit ?5
         returning task_id",
    )
    .bind(cutoff)
    .bind(tx.micros())
    .bind(ORCHESTRATOR)
    .bind(&reason)
    .bind(i64::try_from(HOLD_OLD_MAX).unwrap_or(i64::MAX))
    .fetch_all(tx.db())
    .await?;
    for task in &held {
        audit(tx, ORCHESTRATOR, "hold a task", Some(task), &reason).await?;
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
    sqlx::query("insert into audit (at, actor, verb, target, reason) values (?1, ?2, ?3, ?4, ?5)")
        .bind(tx.micros())
        .bind(actor)
        .bind(verb)
        .bind(target)
        .bind(reason)
        .execute(tx.db())
        .await?;
    sqlx::query("delete from audit where id <= (select max(id) from audit) - ?1")
        .bind(AUDIT_ROWS_MAX)
        .execute(tx.db())
        .await?;
    Ok(())
}
