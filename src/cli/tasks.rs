//! `dogwatch tasks`: the queue as a table or JSON.

use std::collections::BTreeMap;

use super::args::TasksArgs;
use super::open;
use super::render;
use super::{Outcome, when};
use crate::clock::{self, Time};
use crate::error::{BadInput, Exit};
use crate::fleet::ids::TaskId;
use crate::fleet::task::{Task, TaskStatus};
use crate::store::{READ_ROWS_MAX, TaskFilter, UserTotals};

pub(super) async fn main(args: TasksArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let status = args.status.as_deref().map(status).transpose()?;
    when::range(&args.range, clock::now())?;
    let opened = open::fleet(flags).await?;
    let now = opened.store.now().await?;
    if args.by.is_some() {
        let totals = opened.store.task_totals(opened.config.policy.user_task_limit).await?;
        return by_user(&totals, args.output.json);
    }
    let (since, until) = when::range(&args.range, now)?;
    let filter = TaskFilter {
        ids: args.ids.into_iter().map(TaskId).collect(),
        status,
        user: args.user,
        since,
        until,
        limit: args.limit.min(READ_ROWS_MAX),
    };
    let tasks = opened.store.tasks(&filter).await?;
    if args.output.json {
        render::json("tasks", &tasks)?;
    } else {
        table(&tasks, now)?;
    }
    Ok(Exit::Ok)
}

fn status(word: &str) -> Result<TaskStatus, BadInput> {
    let plain = |text: &str| text.to_lowercase().replace([' ', '_', '-'], "");
    TaskStatus::ALL.into_iter().find(|status| plain(status.word()) == plain(word)).ok_or_else(|| {
        BadInput::new(
            format!("--status {word:?} is not a status"),
            "write queued, in-progress, complete, failed or cancelled",
        )
    })
}

fn table(tasks: &[Task], now: Time) -> anyhow::Result<()> {
    let rows = tasks.iter().map(|task| {
        vec![
            task.id.to_string(),
            task.status.word().to_owned(),
            task.user.clone(),
            what(task),
            task.attempts.to_string(),
            task.worker.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            render::ago(now, Some(task.created_at)),
            task.error.as_deref().map_or_else(String::new, first_line),
        ]
    });
    let header = ["task", "status", "user", "what", "attempts", "worker", "queued", "error"];
    render::table(&header, rows.collect())
}

/// A command as it would be typed, shortened; another task by its type.
pub(super) fn what(task: &Task) -> String {
    let argv = task.params.get("argv").and_then(|argv| argv.as_array());
    let text = match argv {
        Some(argv) => argv.iter().filter_map(|word| word.as_str()).collect::<Vec<_>>().join(" "),
        None => task.task_type.clone(),
    };
    if text.chars().count() > 48 { text.chars().take(47).chain(std::iter::once('…')).collect() } else { text }
}

/// The first line alone; a colon that introduces the others goes with them.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_suffix("; last lines:").unwrap_or(line).chars().take(100).collect()
}

fn by_user(totals: &[UserTotals], json: bool) -> Outcome {
    if json {
        render::json("users", &totals)?;
        return Ok(Exit::Ok);
    }
    let rows = totals.iter().map(|total| {
        let of = |status: TaskStatus| total.by_status.get(status.word()).copied().unwrap_or(0).to_string();
        vec![
            total.user.clone(),
            of(TaskStatus::Queued),
            words(&total.by_bucket),
            of(TaskStatus::InProgress),
            of(TaskStatus::Complete),
            of(TaskStatus::Failed),
            of(TaskStatus::Cancelled),
        ]
    });
    let header = ["user", "queued", "of these", "in progress", "complete", "failed", "cancelled"];
    render::table(&header, rows.collect())?;
    Ok(Exit::Ok)
}

/// `3 claimable, 2 user_limit`.
pub(super) fn words(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<_> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(word, count)| format!("{count} {word}")).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}
