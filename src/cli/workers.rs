//! `dogwatch workers`: who works, who ended, and why.

use super::args::WorkersArgs;
use super::{Outcome, open, render, when};
use crate::clock;
use crate::error::Exit;
use crate::store::{READ_ROWS_MAX, WorkerRow};

pub(super) async fn main(args: WorkersArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    when::range(&args.range, clock::now())?;
    let opened = open::fleet(flags).await?;
    let now = opened.store.now().await?;
    let (since, until) = when::range(&args.range, now)?;
    let mut workers = opened.store.workers(since, args.limit.min(READ_ROWS_MAX)).await?;
    workers.retain(|row| until.is_none_or(|until| row.worker.created_at < until));
    if args.output.json {
        render::json("workers", &workers)?;
        return Ok(Exit::Ok);
    }
    let rows = workers.iter().map(|row| {
        let worker = &row.worker;
        vec![
            worker.id.to_string(),
            worker.live.as_ref().map_or(worker.status.word(), |live| live.state.word()).to_owned(),
            worker.outcome().map_or("-", |outcome| outcome.word()).to_owned(),
            worker.tasks_claimed.map_or_else(|| "?".to_owned(), |count| count.to_string()),
            render::ago(now, Some(worker.created_at)),
            render::ago(now, worker.last_heartbeat_at),
            why(row),
        ]
    });
    let header = ["worker", "state", "outcome", "claimed", "created", "heartbeat", "why"];
    render::table(&header, rows.collect())?;
    Ok(Exit::Ok)
}

/// Why it ended or leaves; else what it has in hand.
fn why(row: &WorkerRow) -> String {
    let live = row.worker.live.as_ref();
    if let Some(reason) = &row.worker.reason {
        return reason.clone();
    }
    if let Some(leaving) = live.and_then(|live| live.leaving.as_ref()) {
        return format!("leaving: {}", leaving.reason);
    }
    live.map_or_else(String::new, |live| live.tasks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}
