//! The story, scene by scene. Each wait is for a value, with a limit.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use super::checks::{self, Evidence};
use super::lock::Lock;
use super::verdict::{Verdict, WorkerKilled};
use super::{Teller, work};
use crate::cli::node::{Node, Story as NodeStory};
use crate::clock::{self, Time};
use crate::config::Config;
use crate::fleet::ids::{TaskId, WorkerId};
use crate::fleet::task::{Task, TaskStatus};
use crate::store::{Store, TaskFilter};
use crate::watch::alerts;

/// Period at which a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time each scene has.
const SCENE_LIMIT: Duration = Duration::from_secs(45);
/// Tasks that are done before somebody is killed.
const DONE_BEFORE_KILL: usize = 4;

/// What is told, and where.
pub(super) struct Story {
    config: Config,
    folder: PathBuf,
}

impl Story {
    /// A story on `config`'s data folder, with files beside it in `folder`.
    pub(super) fn new(config: Config, folder: PathBuf) -> Story {
        Story { config, folder }
    }

    /// Tells it from start to verdict.
    pub(super) async fn tell(self, teller: &Teller) -> anyhow::Result<Verdict> {
        let files = self.folder.join("files");
        let jobs = tokio::task::spawn_blocking(move || work::jobs(&files)).await??;
        let node = Node::start(self.config, NodeStory::Demo).await?;
        let store = node.store.clone();
        let ids: Vec<TaskId> = jobs.iter().map(|job| job.task.id).collect();
        let tasks: Vec<_> = jobs.iter().map(|job| job.task.clone()).collect();
        store.submit(&tasks).await?;
        teller.say(format!("{} tasks queued: hash, transform and compress real files", tasks.len()));
        let long: Vec<TaskId> = jobs.iter().filter(|job| job.expected.is_long()).map(|job| job.task.id).collect();
        let victim = kill_in_mid_task(&*store, &ids, &long, teller).await?;
        let (silence, cut) = cut(&node, teller).await?;
        let done = until("the rest of the tasks", || async {
            let tasks = read(&*store, &ids).await.ok()?;
            tasks.iter().all(|task| task.status.is_final()).then_some(tasks)
        })
        .await?;
        let finished_by = done
            .iter()
            .find(|task| task.id == victim.1)
            .and_then(|task| task.worker.as_ref())
            .map_or_else(String::new, ToString::to_string);
        teller.say(format!("all tasks ended; the killed worker's task was finished by {finished_by}"));
        until("the workers to scale down", || async {
            let workers = store.workers(None, 1_000).await.ok()?;
            workers.iter().all(|row| row.worker.is_ended()).then_some(())
        })
        .await?;
        teller.say("no task is left: the workers were scaled down");
        let data_dir = node.config.data_dir.clone();
        until("the alarm to be over", || async { alerts::read(&data_dir).ok()?.firing().is_empty().then_some(()) })
            .await?;
        teller.say("the alarm is over; ending everything and checking");
        let config = node.config.clone();
        let shutdown = node.stop().await;
        let evidence = Evidence {
            config,
            jobs,
            store,
            killed: WorkerKilled { worker: victim.0.to_string(), task: victim.1.to_string(), finished_by },
            silence,
            cut,
            shutdown,
        };
        checks::verdict(evidence).await
    }
}

/// Waits for a worker in the middle of a long task and kills its agent with SIGKILL.
async fn kill_in_mid_task(
    store: &dyn Store,
    ids: &[TaskId],
    long: &[TaskId],
    teller: &Teller,
) -> anyhow::Result<(WorkerId, TaskId)> {
    let (worker, task, pid) = until("a worker in the middle of a long task", || async {
        let tasks = read(store, ids).await.ok()?;
        let done = tasks.iter().filter(|task| task.status == TaskStatus::Complete).count();
        let running = tasks.iter().find(|t| t.status == TaskStatus::InProgress && long.contains(&t.id))?;
        let worker = running.worker.clone()?;
        let row = store.workers(None, 1_000).await.ok()?.into_iter().find(|row| row.worker.id == worker)?;
        let pid = i32::try_from(row.info?.pid).ok()?;
        (done >= DONE_BEFORE_KILL).then_some((worker, running.id, pid))
    })
    .await?;
    teller.say(format!("{DONE_BEFORE_KILL} tasks are done; killing worker {worker} in the middle of task {task}"));
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| anyhow::anyhow!("worker {worker} has no pid"))?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    Ok((worker, task))
}

/// Locks the log rows from another process until the watch has noticed.
async fn cut(node: &Node, teller: &Teller) -> anyhow::Result<(super::verdict::Silence, (Time, Time))> {
    // Silence is measured against rows that have arrived: there must be some, and a file to lock.
    until("the first rows to arrive", || async {
        let newest = node.store.newest_rows().await.ok()?;
        ["orchestrator_gpu", "watch"]
            .iter()
            .all(|kind| newest.iter().any(|row| row.source_type == *kind))
            .then_some(())
    })
    .await?;
    let lock = Lock::take(&node.config).await?;
    let (from, start) = (clock::now(), clock::monotonic());
    let locked = if node.config.database.is_some() { "the table system_logs" } else { "logs.db" };
    teller.say(format!("cutting the exporter: another process holds an exclusive lock on {locked}"));
    let data_dir = node.config.data_dir.clone();
    let alert = until("the watch to notice the silence", || async {
        alerts::read(&data_dir).ok()?.firing().into_iter().find(|alert| alert.alarm == "log_silence")
    })
    .await?;
    let noticed = clock::monotonic().saturating_sub(start);
    teller.say(format!("the watch rings after {:.1} s: {}", noticed.as_secs_f64(), alert.summary));
    lock.release().await?;
    let (over, cut_for) = (clock::now(), clock::monotonic().saturating_sub(start));
    teller.say("the lock is released; what was spooled is being delivered");
    let silence = super::verdict::Silence {
        cut_for_seconds: cut_for.as_secs_f64(),
        noticed_after_seconds: noticed.as_secs_f64(),
    };
    Ok((silence, (from, over)))
}

async fn read(store: &dyn Store, ids: &[TaskId]) -> anyhow::Result<Vec<Task>> {
    let filter = TaskFilter { ids: ids.to_vec(), limit: ids.len(), ..TaskFilter::default() };
    Ok(store.tasks(&filter).await?)
}

/// Looks until there is a value.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> anyhow::Result<T> {
    let looked = async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(SCENE_LIMIT, looked)
        .await
        .map_err(|_| anyhow::anyhow!("waited {} s for {what} in vain", SCENE_LIMIT.as_secs()))
}
