//! Rows of `tasks`, as their owners write and read them.

use sqlx::QueryBuilder;

use super::fault::Fault;
use super::rows::{Values, json};
use super::{Tx, limit};
use crate::fleet::ids::{TaskId, WorkerId};
use crate::fleet::task::{NewTask, Task, TaskStatus};
use crate::store::TaskFilter;

/// Tasks of one call are a microsecond apart, so that they are done in the order they were given.
pub(super) async fn submit(tx: &mut Tx, tasks: &[NewTask]) -> Result<(), Fault> {
    for (at, task) in (tx.micros()..).zip(tasks) {
        sqlx::query(
            "insert into tasks (id, user_id, task_type, params, run_type, dependant_on, traceparent, created_at,
                 updated_at)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8) on conflict (id) do nothing",
        )
        .bind(task.id.to_string())
        .bind(&task.user)
        .bind(&task.task_type)
        .bind(json(&task.params)?)
        .bind(&task.run_type)
        .bind(json(&task.dependant_on)?)
        .bind(&task.traceparent)
        .bind(at)
        .execute(tx.db())
        .await?;
    }
    Ok(())
}

pub(super) async fn read(tx: &mut Tx, filter: &TaskFilter) -> Result<Vec<Task>, Fault> {
    let rows = select(filter)?.build().fetch_all(tx.db()).await?;
    rows.iter().map(|row| task(&Values("tasks", row))).collect()
}

/// The statement; a condition that was not asked for is not in it, so that an index can be used.
fn select(filter: &TaskFilter) -> Result<QueryBuilder<sqlx::Sqlite>, Fault> {
    let mut sql = QueryBuilder::new("select * from tasks where true");
    if !filter.ids.is_empty() {
        sql.push(" and id in (select value from json_each(").push_bind(json(&filter.ids)?).push("))");
    }
    if let Some(status) = filter.status {
        sql.push(" and status = ").push_bind(status.word());
    }
    if let Some(user) = &filter.user {
        sql.push(" and user_id = ").push_bind(user.clone());
    }
    if let Some(since) = filter.since {
        sql.push(" and created_at >= ").push_bind(since.as_microsecond());
    }
    if let Some(until) = filter.until {
        sql.push(" and created_at < ").push_bind(until.as_microsecond());
    }
    sql.push(" order by created_at desc, id desc limit ").push_bind(limit(filter.limit));
    Ok(sql)
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
        created_at: row.time("created_at")?,
        started_at: row.time_opt("generation_started_at")?,
        ended_at: row.time_opt("generation_processed_at")?,
        traceparent: row.text_opt("traceparent")?,
    })
}

pub(super) async fn cancel(tx: &mut Tx, task: TaskId) -> Result<bool, Fault> {
    let cancelled = sqlx::query(
        "update tasks set status = 'Cancelled', generation_processed_at = ?2, updated_at = ?2
         where id = ?1 and status in ('Queued', 'In Progress')",
    )
    .bind(task.to_string())
    .bind(tx.micros())
    .execute(tx.db())
    .await?
    .rows_affected();
    if cancelled > 0 {
        tx.ended.push(TaskStatus::Cancelled);
    }
    Ok(cancelled > 0)
}

pub(super) async fn set_user(
    tx: &mut Tx,
    user: &str,
    credits: Option<f64>,
    cloud_enabled: Option<bool>,
) -> Result<(), Fault> {
    sqlx::query(
        "insert into users (user_id, credits, cloud_enabled) values (?1, ?2, ?3)
         on conflict (user_id) do update set credits = excluded.credits, cloud_enabled = excluded.cloud_enabled",
    )
    .bind(user)
    .bind(credits)
    .bind(cloud_enabled)
    .execute(tx.db())
    .await?;
    Ok(())
}
