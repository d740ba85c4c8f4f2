//! Tasks, as their owners write and read them. What is read goes through the view `dw_tasks`, what
//! ends a task through its functions, so that they may be an operator's own; only a submit writes to
//! the plain table.

use sqlx::QueryBuilder;

use super::fault::Fault;
use super::rows::{At, Values, json, text};
use super::{Tx, limit};
use crate::clock;
use crate::fleet::ids::{TaskId, WorkerId};
use crate::fleet::task::{NewTask, Task, TaskStatus};
use crate::store::TaskFilter;

/// Tasks that one statement writes.
const SUBMIT_ROWS_MAX: usize = 1_000;

/// Tasks of one call are a microsecond apart, so that they are done in the order they were given.
pub(super) async fn submit(tx: &mut Tx, tasks: &[NewTask]) -> Result<(), Fault> {
    let mut at = tx.now.as_microsecond();
    for chunk in tasks.chunks(SUBMIT_ROWS_MAX) {
        let mut sql = QueryBuilder::new(
            "insert into dogwatch.tasks (id, user_id, task_type, params, run_type, dependant_on, traceparent,
                 created_at, updated_at) ",
        );
        let mut rows = Vec::with_capacity(chunk.len());
        for task in chunk {
            rows.push((json(&task.params)?, At(clock::from_micros(at)), task));
            at += 1;
        }
        sql.push_values(rows, |mut row, (params, at, task)| {
            let waits_for: Vec<uuid::Uuid> = task.dependant_on.iter().map(|id| id.0).collect();
            row.push_bind(task.id.0)
                .push_bind(text(&task.user).into_owned())
                .push_bind(text(&task.task_type).into_owned())
                .push_bind(params)
                .push_bind(task.run_type.as_deref().map(|run| text(run).into_owned()))
                .push_bind(waits_for)
                .push_bind(task.traceparent.clone())
                .push_bind(at)
                .push_bind(at);
        });
        sql.push(" on conflict (id) do nothing").build().execute(tx.db()).await?;
    }
    let Some(first) = tasks.first() else { return Ok(()) };
    let is_seen = sqlx::query("select 1 from dogwatch.dw_tasks where id = $1")
        .bind(first.id.0)
        .fetch_optional(tx.db())
        .await?
        .is_some();
    if is_seen {
        return Ok(());
    }
    // The view is an operator's: what stands in the plain table nobody would ever do.
    let detail = "this fleet's tasks are in a table of its operator's; insert them there";
    Err(Fault::bad_row(format!("task {}", first.id), detail))
}

pub(super) async fn read(tx: &mut Tx, filter: &TaskFilter) -> Result<Vec<Task>, Fault> {
    let rows = select(filter).build().fetch_all(tx.db()).await?;
    rows.iter().map(|row| task(&Values("tasks", row))).collect()
}

/// The statement; a condition that was not asked for is not in it, so that an index can be used.
fn select(filter: &TaskFilter) -> QueryBuilder<sqlx::Postgres> {
    let mut sql = QueryBuilder::new(
        "select id, user_id, task_type, params, run_type, status, worker_id, attempts, error_message, output,
             queued_at, started_at, ended_at, traceparent
         from dogwatch.dw_tasks where true",
    );
    if !filter.ids.is_empty() {
        let ids: Vec<uuid::Uuid> = filter.ids.iter().map(|id| id.0).collect();
        sql.push(" and id = any(").push_bind(ids).push(")");
    }
    if let Some(status) = filter.status {
        sql.push(" and status = ").push_bind(status.word());
    }
    if let Some(user) = &filter.user {
        sql.push(" and user_id = ").push_bind(user.clone());
    }
    if let Some(since) = filter.since {
        sql.push(" and queued_at >= ").push_bind(At(since));
    }
    if let Some(until) = filter.until {
        sql.push(" and queued_at < ").push_bind(At(until));
    }
    sql.push(" order by queued_at desc, id desc limit ").push_bind(limit(filter.limit));
    sql
}

fn task(row: &Values<'_>) -> Result<Task, Fault> {
    Ok(Task {
        id: TaskId(row.uuid("id")?),
        user: row.text("user_id")?,
        task_type: row.text("task_type")?,
        params: row.json("params")?,
        run_type: row.text_opt("run_type")?,
        status: row.word("status", TaskStatus::from_word)?,
        worker: row.text_opt("worker_id")?.map(WorkerId),
        attempts: row.int("attempts")?,
        error: row.text_opt("error_message")?,
        output: row.json_opt("output")?,
        created_at: row.time("queued_at")?,
        started_at: row.time_opt("started_at")?,
        ended_at: row.time_opt("ended_at")?,
        traceparent: row.text_opt("traceparent")?,
    })
}

pub(super) async fn cancel(tx: &mut Tx, task: TaskId) -> Result<bool, Fault> {
    finish(tx, task, None, (TaskStatus::Cancelled, None)).await
}

/// A task leaves the hands of a worker that ends: queued again, or ended. False: it was not in its
/// hands any more.
pub(super) async fn release(
    tx: &mut Tx,
    task: TaskId,
    worker: &WorkerId,
    attempt: i64,
    (status, error): (TaskStatus, Option<&str>),
) -> Result<bool, Fault> {
    let is_done = if status.is_final() {
        finish(tx, task, Some((worker, attempt)), (status, error)).await?
    } else {
        sqlx::query_scalar("select dogwatch.dw_requeue($1, $2, $3, $4, $5)")
            .bind(task.0)
            .bind(&worker.0)
            .bind(attempt)
            .bind(error.map(text))
            .bind(tx.at())
            .fetch_one(tx.db())
            .await?
    };
    sqlx::query("select dogwatch.end_attempt($1, $2, null, $3)")
        .bind(task.0)
        .bind(attempt)
        .bind(tx.at())
        .execute(tx.db())
        .await?;
    Ok(is_done)
}

async fn finish(
    tx: &mut Tx,
    task: TaskId,
    attempt: Option<(&WorkerId, i64)>,
    (status, error): (TaskStatus, Option<&str>),
) -> Result<bool, Fault> {
    Ok(sqlx::query_scalar("select dogwatch.dw_finish($1, $2, $3, $4, $5, null, $6)")
        .bind(task.0)
        .bind(attempt.map(|(worker, _)| worker.0.clone()))
        .bind(attempt.map(|(_, number)| number))
        .bind(status.word())
        .bind(error.map(text))
        .bind(tx.at())
        .fetch_one(tx.db())
        .await?)
}

pub(super) async fn set_user(
    tx: &mut Tx,
    user: &str,
    credits: Option<f64>,
    cloud_enabled: Option<bool>,
) -> Result<(), Fault> {
    sqlx::query(
        "insert into dogwatch.users (user_id, credits, cloud_enabled) values ($1, $2, $3)
         on conflict (user_id) do update set credits = excluded.credits, cloud_enabled = excluded.cloud_enabled",
    )
    .bind(text(user))
    .bind(credits)
    .bind(cloud_enabled)
    .execute(tx.db())
    .await?;
    Ok(())
}
