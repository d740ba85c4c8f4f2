//! The workers' way in: one function a call of RPC.md, each inside one write transaction.
//!
//! Refusals are found before anything is written.

use sqlx::Row as _;
use uuid::Uuid;

use super::fault::Fault;
use super::rows::{Values, json};
use super::{Tx, workers};
use crate::fleet::ids::{TaskId, WorkerId};
use crate::fleet::task::{ATTEMPTS_MAX, TaskStatus};
use crate::rpc;
use crate::store::REFUSALS_ROWS_MAX;
use crate::store::task_rules::{AttemptNow, Ending, TaskNow, Verdict, is_to_be_cancelled, judge, released};
use crate::store::worker_row::{WorkerData, clamp};

type Answer<T> = Result<T, Fault>;

/// The caller's worker, checked.
pub(super) async fn admit(tx: &mut Tx, caller: &rpc::Caller) -> Answer<WorkerData> {
    let worker = workers::load(tx, &caller.worker_id).await?.ok_or_else(rpc::Refusal::unknown_caller)?;
    worker.admit(caller)?;
    Ok(worker)
}

pub(super) async fn register(tx: &mut Tx, caller: &rpc::Caller, info: &rpc::AgentInfo) -> Answer<()> {
    let mut worker = workers::load(tx, &caller.worker_id).await?.ok_or_else(rpc::Refusal::unknown_caller)?;
    let incarnation = caller.incarnation.to_string();
    let known = sqlx::query("select 1 from incarnations where worker_id = ?1 and incarnation = ?2")
        .bind(&caller.worker_id)
        .bind(&incarnation)
        .fetch_optional(tx.db())
        .await?
        .is_some();
    let now = tx.now;
    worker.register(caller, info, known, now)?;
    sqlx::query("insert or ignore into incarnations (worker_id, incarnation, at) values (?1, ?2, ?3)")
        .bind(&caller.worker_id)
        .bind(&incarnation)
        .bind(now.as_microsecond())
        .execute(tx.db())
        .await?;
    workers::save(tx, &worker).await
}

pub(super) async fn heartbeat(tx: &mut Tx, caller: &rpc::Caller, beat: &rpc::Heartbeat) -> Answer<rpc::Orders> {
    let mut worker = admit(tx, caller).await?;
    let in_hand = in_hand(tx, &worker.id).await?;
    let now = tx.now;
    if worker.beat(beat, in_hand, now) {
        workers::save(tx, &worker).await?;
        if let Some(gpu) = &beat.gpu {
            workers::save_gpu(tx, &worker.id, gpu).await?;
        }
    }
    let mut cancel = None;
    if let Some(task) = beat.current_task {
        let newest = newest_attempt(tx, task).await?;
        cancel =
            is_to_be_cancelled(&worker.id, newest.as_ref().map(|(task, attempt)| (task, attempt))).then_some(task);
    }
    Ok(worker.orders(cancel))
}

pub(super) async fn claim(
    tx: &mut Tx,
    caller: &rpc::Caller,
    claim: &rpc::Claim,
    user_task_limit: u32,
) -> Answer<Option<rpc::Claimed>> {
    let mut worker = admit(tx, caller).await?;
    if let Some(repeated) = claimed_before(tx, &worker.id, claim.claim_id).await? {
        return Ok(Some(repeated));
    }
    if !worker.may_claim() {
        return Ok(None);
    }
    let task = match left_by_the_start_before(tx, &worker.id, caller.incarnation).await? {
        Some(task) => Some(task),
        None => oldest_claimable(tx, claim.run_type.as_deref(), &worker.pool, user_task_limit).await?,
    };
    let Some(task) = task else { return Ok(None) };
    sqlx::query(
        "update tasks set status = 'In Progress', worker_id = ?2, attempts = attempts + 1, updated_at = ?3,
             generation_started_at = ?3, progress_at = null, progress_fraction = null, progress_note = null
         where id = ?1",
    )
    .bind(&task)
    .bind(&worker.id.0)
    .bind(tx.micros())
    .execute(tx.db())
    .await?;
    sqlx::query(
        "insert into task_attempts (task_id, attempt, worker_id, incarnation, claim_id, claimed_at)
         select id, attempts, worker_id, ?2, ?3, ?4 from tasks where id = ?1",
    )
    .bind(&task)
    .bind(caller.incarnation.to_string())
    .bind(claim.claim_id.to_string())
    .bind(tx.micros())
    .execute(tx.db())
    .await?;
    let now = tx.now;
    worker.claimed(now);
    workers::save(tx, &worker).await?;
    claimed_before(tx, &worker.id, claim.claim_id).await
}

/// The task of this claim, where it was answered before.
async fn claimed_before(tx: &mut Tx, worker: &WorkerId, claim: Uuid) -> Answer<Option<rpc::Claimed>> {
    let row = sqlx::query(
        "select t.id, a.attempt, t.task_type, t.params, t.traceparent, t.user_id
         from task_attempts a join tasks t on t.id = a.task_id where a.worker_id = ?1 and a.claim_id = ?2",
    )
    .bind(&worker.0)
    .bind(claim.to_string())
    .fetch_optional(tx.db())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Values("tasks", &row);
    Ok(Some(rpc::Claimed {
        task_id: row.uuid("id")?,
        attempt: row.int("attempt")?,
        task_type: row.text("task_type")?,
        params: row.json("params")?,
        traceparent: row.text_opt("traceparent")?,
        user: row.text("user_id")?,
    }))
}

/// A task that an earlier start of the same agent took with it: it stays with its worker until
/// that has ended, so this start does it again. Those without attempts left fail.
async fn left_by_the_start_before(tx: &mut Tx, worker: &WorkerId, incarnation: Uuid) -> Answer<Option<String>> {
    let rows = sqlx::query(
        "select t.id, t.attempts from tasks t join task_attempts a on a.task_id = t.id and a.attempt = t.attempts
         where t.status = 'In Progress' and t.worker_id = ?1 and a.incarnation <> ?2
         order by t.generation_started_at, t.id limit ?3",
    )
    .bind(&worker.0)
    .bind(incarnation.to_string())
    .bind(LEFT_TASKS_MAX)
    .fetch_all(tx.db())
    .await?;
    for row in &rows {
        let row = Values("tasks", row);
        let (id, attempts) = (row.text("id")?, row.int("attempts")?);
        if attempts < ATTEMPTS_MAX {
            return Ok(Some(id));
        }
        let (status, error) = released(attempts, "the agent was started again");
        release(tx, &id, attempts, status, error.as_deref()).await?;
    }
    Ok(None)
}

/// Most tasks of an earlier start that are looked at in one claim.
const LEFT_TASKS_MAX: i64 = 100;

async fn oldest_claimable(
    tx: &mut Tx,
    run_type: Option<&str>,
    pool: &str,
    user_task_limit: u32,
) -> Answer<Option<String>> {
    let row = sqlx::query(
        "select id from dw_queue
         where bucket = 'ready' and (?1 is null or run_type is null or run_type = ?1) and ?2 > 0
           and pool in ('', ?3)
           and user_id not in (
               select user_id from dw_tasks where status = 'In Progress' group by user_id having count(*) >= ?2)
         order by queued_at, id limit 1",
    )
    .bind(run_type)
    .bind(i64::from(user_task_limit))
    .bind(pool)
    .fetch_optional(tx.db())
    .await?;
    Ok(row.map(|row| row.try_get("id")).transpose()?)
}

pub(super) async fn progress(
    tx: &mut Tx,
    caller: &rpc::Caller,
    progress: &rpc::Progress,
) -> Answer<rpc::ProgressReply> {
    let mut worker = admit(tx, caller).await?;
    let task = TaskId(progress.task_id);
    let rows = attempt(tx, progress.task_id, progress.attempt).await?;
    let rows = rows.as_ref().map(|(task, attempt)| (task, attempt));
    match judge(task, progress.attempt, &worker.id, rows, Ending::Complete)? {
        Verdict::Answer(end) => Ok(rpc::ProgressReply { cancel: end.status == TaskStatus::Cancelled.word() }),
        Verdict::End(_) => {
            sqlx::query(
                "update tasks set progress_at = ?2, progress_fraction = ?3, progress_note = ?4, updated_at = ?2
                 where id = ?1",
            )
            .bind(progress.task_id.to_string())
            .bind(tx.micros())
            .bind(progress.fraction.map(|fraction| fraction.clamp(0.0, 1.0)))
            .bind(progress.note.as_deref().map(clamp))
            .execute(tx.db())
            .await?;
            worker.progress_at = Some(tx.now);
            workers::save(tx, &worker).await?;
            Ok(rpc::ProgressReply { cancel: false })
        }
    }
}

pub(super) async fn complete(tx: &mut Tx, caller: &rpc::Caller, complete: &rpc::Complete) -> Answer<rpc::TaskEnd> {
    let output = json(&complete.output)?;
    over(tx, caller, (complete.task_id, complete.attempt), Ending::Complete, (Some(&output), None)).await
}

pub(super) async fn fail(tx: &mut Tx, caller: &rpc::Caller, fail: &rpc::Fail) -> Answer<rpc::TaskEnd> {
    let ending = if fail.retryable { Ending::FailRetryable } else { Ending::FailForGood };
    let error = clamp(&fail.error);
    over(tx, caller, (fail.task_id, fail.attempt), ending, (None, Some(&error))).await
}

/// An attempt says that it is over, with its (output, error).
async fn over(
    tx: &mut Tx,
    caller: &rpc::Caller,
    (id, number): (Uuid, i64),
    ending: Ending,
    (output, error): (Option<&str>, Option<&str>),
) -> Answer<rpc::TaskEnd> {
    let mut worker = admit(tx, caller).await?;
    let rows = attempt(tx, id, number).await?;
    let rows = rows.as_ref().map(|(task, attempt)| (task, attempt));
    let status = match judge(TaskId(id), number, &worker.id, rows, ending)? {
        Verdict::Answer(end) => return Ok(end),
        Verdict::End(status) => status,
    };
    let task = id.to_string();
    release(tx, &task, number, status, error).await?;
    sqlx::query("update task_attempts set answer = ?3 where task_id = ?1 and attempt = ?2")
        .bind(&task)
        .bind(number)
        .bind(status.word())
        .execute(tx.db())
        .await?;
    if let Some(output) = output {
        sqlx::query("update tasks set output = ?2 where id = ?1").bind(&task).bind(output).execute(tx.db()).await?;
    }
    let in_hand = in_hand(tx, &worker.id).await?;
    let now = tx.now;
    worker.task_over(in_hand, now);
    workers::save(tx, &worker).await?;
    Ok(rpc::TaskEnd { status: status.word().into(), attempts: number })
}

/// A task leaves its worker's hands: queued again, or ended. An error replaces the one before.
pub(super) async fn release(
    tx: &mut Tx,
    task: &str,
    attempt: i64,
    status: TaskStatus,
    error: Option<&str>,
) -> Result<(), Fault> {
    sqlx::query(
        "update tasks set status = ?2, error_message = coalesce(?3, error_message), updated_at = ?4,
             worker_id = case when ?5 then worker_id end,
             generation_started_at = case when ?5 then generation_started_at end,
             generation_processed_at = case when ?5 then ?4 end
         where id = ?1",
    )
    .bind(task)
    .bind(status.word())
    .bind(error)
    .bind(tx.micros())
    .bind(status.is_final())
    .execute(tx.db())
    .await?;
    if status.is_final() {
        tx.ended.push(status);
    }
    sqlx::query("update task_attempts set ended_at = ?3 where task_id = ?1 and attempt = ?2")
        .bind(task)
        .bind(attempt)
        .bind(tx.micros())
        .execute(tx.db())
        .await?;
    Ok(())
}

pub(super) async fn exit(tx: &mut Tx, caller: &rpc::Caller, report: &rpc::ExitReport) -> Answer<()> {
    let mut worker = admit(tx, caller).await?;
    let now = tx.now;
    worker.exit(report, now);
    workers::save(tx, &worker).await
}

async fn in_hand(tx: &mut Tx, worker: &WorkerId) -> Answer<u32> {
    let count: i64 =
        sqlx::query_scalar("select count(*) from tasks where status = 'In Progress' and worker_id = ?1")
            .bind(&worker.0)
            .fetch_one(tx.db())
            .await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

async fn attempt(tx: &mut Tx, task: Uuid, number: i64) -> Answer<Option<(TaskNow, AttemptNow)>> {
    let row = sqlx::query(
        "select t.status, t.attempts, t.worker_id, a.worker_id as claimed_by, a.answer
         from tasks t join task_attempts a on a.task_id = t.id where t.id = ?1 and a.attempt = ?2",
    )
    .bind(task.to_string())
    .bind(number)
    .fetch_optional(tx.db())
    .await?;
    row.as_ref().map(|row| decode_attempt(&Values("tasks", row))).transpose()
}

async fn newest_attempt(tx: &mut Tx, task: Uuid) -> Answer<Option<(TaskNow, AttemptNow)>> {
    let row = sqlx::query(
        "select t.status, t.attempts, t.worker_id, a.worker_id as claimed_by, a.answer
         from tasks t join task_attempts a on a.task_id = t.id and a.attempt = t.attempts where t.id = ?1",
    )
    .bind(task.to_string())
    .fetch_optional(tx.db())
    .await?;
    row.as_ref().map(|row| decode_attempt(&Values("tasks", row))).transpose()
}

fn decode_attempt(row: &Values<'_>) -> Answer<(TaskNow, AttemptNow)> {
    let task = TaskNow {
        status: row.word("status", TaskStatus::from_word)?,
        attempts: row.int("attempts")?,
        worker: row.text_opt("worker_id")?.map(WorkerId),
    };
    let attempt = AttemptNow {
        worker: WorkerId(row.text("claimed_by")?),
        answer: row.word_opt("answer", TaskStatus::from_word)?,
    };
    Ok((task, attempt))
}

/// One row a worker and minute; the oldest go where there are too many.
pub(super) async fn note_refusal(
    tx: &mut Tx,
    function: &'static str,
    caller: &rpc::Caller,
    refusal: &rpc::Refusal,
) -> Result<(), Fault> {
    let minute = tx.micros().div_euclid(60_000_000);
    let added = sqlx::query(
        "insert or ignore into refusals (worker_id, minute, function, code, message) values (?1, ?2, ?3, ?4, ?5)",
    )
    .bind(crate::store::short(&caller.worker_id))
    .bind(minute)
    .bind(function)
    .bind(&refusal.code)
    .bind(&refusal.message)
    .execute(tx.db())
    .await?
    .rows_affected();
    if added > 0 {
        sqlx::query(
            "delete from refusals where (worker_id, minute) in (
                 select worker_id, minute from refusals order by minute desc, worker_id limit -1 offset ?1)",
        )
        .bind(REFUSALS_ROWS_MAX)
        .execute(tx.db())
        .await?;
    }
    Ok(())
}
