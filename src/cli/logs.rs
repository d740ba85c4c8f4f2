//! `dogwatch logs`: rows of system_logs, filtered, followed, or drawn as the tree of a trace.

mod tree;

use std::time::Duration;

use serde_json::Value;

use super::args::LogsArgs;
use super::{Outcome, open, render, when};
use crate::clock::{self, Time};
use crate::error::{BadInput, Exit};
use crate::fleet::ids::{TaskId, WorkerId};
use crate::store::{LogQuery, LogRow, READ_ROWS_MAX, Store};
use crate::telemetry::record::Level;

/// Period at which `--follow` looks for what has arrived.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn main(args: LogsArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    // Words that make no sense are refused before anything is opened.
    query(&args, clock::now())?;
    let opened = open::fleet(flags).await?;
    let query = query(&args, opened.store.now().await?)?;
    let rows = opened.store.logs(&query).await.map_err(|failed| open::unreadable(&opened.config, failed))?;
    if args.trace.is_some() && !args.output.json {
        render::line(tree::draw(&rows))?;
        return Ok(Exit::Ok);
    }
    if args.follow {
        return follow(&*opened.store, query, rows, args.output.json).await;
    }
    if args.output.json {
        render::json("logs", &rows)?;
    } else {
        for row in &rows {
            render::line(text(row))?;
        }
    }
    Ok(Exit::Ok)
}

fn query(args: &LogsArgs, now: Time) -> Result<LogQuery, BadInput> {
    let (mut since, until) = when::range(&args.range, now)?;
    if let Some(minutes) = args.minutes {
        since = Some(clock::minus(now, Duration::from_secs(u64::from(minutes) * 60)));
    }
    let level = match &args.level {
        Some(word) => Some(Level::from_word(word).ok_or_else(|| {
            BadInput::new(
                format!("--level {word:?} is not a level"),
                "write debug, info, warning, error or critical",
            )
        })?),
        None => None,
    };
    if let Some(trace) = &args.trace
        && (trace.len() != 32 || !trace.chars().all(|c| c.is_ascii_hexdigit()))
    {
        return Err(BadInput::new(format!("--trace {trace:?} is not a trace id"), "write its 32 hex digits"));
    }
    Ok(LogQuery {
        since,
        until,
        level: level.map(|level| level.word().to_owned()),
        source_id: args.source.clone(),
        source_type: args.source_type.clone(),
        worker: args.worker.clone().map(WorkerId),
        task: args.task.map(TaskId),
        cycle: args.cycle,
        trace: args.trace.as_ref().map(|trace| trace.to_lowercase()),
        grep: args.grep.clone(),
        after_arrival: None,
        limit: args.limit.clamp(1, READ_ROWS_MAX),
    })
}

/// Prints what there is and then what arrives, in the order of arrival: late rows of a spool that
/// was caught up are shown, too. Ends with the reader or the terminal.
async fn follow(store: &dyn Store, mut query: LogQuery, mut rows: Vec<LogRow>, json: bool) -> Outcome {
    let mut last = rows.iter().map(|row| row.arrival).max().unwrap_or(0);
    loop {
        for row in &rows {
            if json {
                render::line(serde_json::to_string(row)?)?;
            } else {
                render::line(text(row))?;
            }
        }
        last = rows.iter().map(|row| row.arrival).max().unwrap_or(last).max(last);
        tokio::time::sleep(FOLLOW_EVERY).await;
        query.after_arrival = Some(last);
        query.limit = READ_ROWS_MAX;
        rows = store.logs(&query).await.or_else(|error| {
            render::note(format!("dogwatch: {}; trying again", crate::error::chain(&error)));
            Ok::<_, anyhow::Error>(Vec::new())
        })?;
    }
}

/// `12:30:01.250 INFO  worker/gpu-…  message key=value`; a span as `▸ name 3.8 ms key=value`.
fn text(row: &LogRow) -> String {
    let (message, attributes) = match tree::span_ms(row) {
        Some(ms) => (format!("▸ {} {ms:.1} ms", row.message), row.metadata.get("attributes")),
        None => (row.message.clone(), Some(&row.metadata)),
    };
    let attributes = attributes.and_then(Value::as_object).map_or_else(String::new, |pairs| {
        pairs
            .iter()
            .filter(|(key, _)| *key != "target")
            .map(|(key, value)| match value {
                Value::String(text) => format!(" {key}={text}"),
                other => format!(" {key}={other}"),
            })
            .collect()
    });
    let task = row.task_id.as_deref().map_or_else(String::new, |task| format!(" task={task}"));
    let cycle = row.cycle_number.map_or_else(String::new, |cycle| format!(" cycle={cycle}"));
    render::printable(&format!(
        "{} {:8} {}/{}  {message}{task}{cycle}{attributes}",
        row.timestamp.strftime("%Y-%m-%d %H:%M:%S%.3fZ"),
        row.log_level,
        row.source_type,
        row.source_id,
    ))
}
