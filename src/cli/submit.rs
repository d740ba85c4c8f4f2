//! `dogwatch submit`: queues tasks, and with `--wait` prints what they print.

use std::collections::HashMap;
use std::io::Write as _;
use std::time::Duration;

use serde_json::json;
use tracing::Instrument as _;

use super::args::SubmitArgs;
use super::node;
use super::open::{self, Opened};
use super::{Outcome, render};
use crate::error::{BadInput, Exit};
use crate::fleet::ids::TaskId;
use crate::fleet::task::{NewTask, Task, TaskStatus};
use crate::store::TaskFilter;
use crate::telemetry::propagation;

/// Most tasks of one submit.
const TASKS_MAX: usize = 10_000;
/// Period at which `--wait` looks at its tasks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Tasks that one look asks for.
const LOOK_TASKS: usize = 500;

pub(super) async fn main(args: SubmitArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let commands = commands(&args)?;
    let opened = open::fleet(flags).await?;
    let recorder = node::client_recorder(&opened.config, "submit");
    let span = tracing::info_span!(
        "submit",
        otel.kind = "PRODUCER",
        otel.name = "submit tasks",
        tasks = commands.len(),
        user = args.user
    );
    let traceparent = propagation::traceparent(&span);
    let directory = std::env::current_dir().ok().map(|path| path.display().to_string());
    let tasks: Vec<NewTask> = commands
        .into_iter()
        .map(|argv| NewTask {
            id: TaskId(uuid::Uuid::new_v4()),
            user: args.user.clone(),
            task_type: args.task_type.clone(),
            params: json!({"argv": argv, "stdin": null, "cwd": directory}),
            run_type: None,
            dependant_on: Vec::new(),
            traceparent: traceparent.clone(),
        })
        .collect();
    let queued = async {
        opened.store.submit(&tasks).await?;
        tracing::info!(tasks = tasks.len(), user = args.user, "tasks queued");
        anyhow::Ok(())
    };
    let result = queued.instrument(span).await;
    if let Some(recorder) = recorder {
        tokio::task::spawn_blocking(move || recorder.finish()).await?;
    }
    result?;
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
    if args.wait {
        return wait(&opened, &ids, args.output.json).await;
    }
    if args.output.json {
        render::json("tasks", &ids)?;
    } else {
        for id in ids {
            render::line(id.to_string())?;
        }
    }
    Ok(Exit::Ok)
}

/// One argument vector a task.
fn commands(args: &SubmitArgs) -> Result<Vec<Vec<String>>, BadInput> {
    if args.each.is_empty() {
        return Ok(vec![args.command.clone()]);
    }
    if !args.command.iter().any(|word| word.contains("{}")) {
        return Err(BadInput::new("--each is given and the command has no {}", "put {} where the path belongs"));
    }
    if args.each.len() > TASKS_MAX {
        return Err(BadInput::new(
            format!("--each names {} paths, more than {TASKS_MAX}", args.each.len()),
            "submit them in parts",
        ));
    }
    let fill = |path: &String| args.command.iter().map(|word| word.replace("{}", path)).collect();
    Ok(args.each.iter().map(fill).collect())
}

/// Waits until all have ended and prints their output in the order of submission. Exit 1 if one
/// did not complete.
async fn wait(opened: &Opened, ids: &[TaskId], as_json: bool) -> Outcome {
    let mut ended: HashMap<TaskId, Task> = HashMap::new();
    let mut printed = 0;
    let mut all_complete = true;
    while printed < ids.len() {
        let open: Vec<TaskId> = ids.iter().filter(|id| !ended.contains_key(id)).copied().take(LOOK_TASKS).collect();
        let filter = TaskFilter { limit: open.len(), ids: open, ..TaskFilter::default() };
        for task in opened.store.tasks(&filter).await? {
            if task.status.is_final() {
                ended.insert(task.id, task);
            }
        }
        while let Some(task) = ids.get(printed).and_then(|id| ended.get(id)) {
            all_complete &= task.status == TaskStatus::Complete;
            if !as_json {
                show(task)?;
            }
            printed += 1;
        }
        if printed < ids.len() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    if as_json {
        let tasks: Vec<_> = ids.iter().filter_map(|id| ended.get(id)).collect();
        render::json("tasks", &tasks)?;
    }
    Ok(if all_complete { Exit::Ok } else { Exit::Problem })
}

/// A task's own stdout on ours; what went wrong on stderr.
fn show(task: &Task) -> anyhow::Result<()> {
    let output = task.output.as_ref().and_then(|output| output.get("stdout_tail")).and_then(|text| text.as_str());
    if let Some(text) = output {
        write!(std::io::stdout().lock(), "{text}")?;
    }
    if task.status != TaskStatus::Complete {
        let why = task.error.as_deref().unwrap_or("no reason was given");
        render::note(format!("task {} {}: {why}", task.id, task.status.word()));
    }
    Ok(())
}
