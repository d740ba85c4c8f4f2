//! Every claim of the demo, checked against the databases and the spools on disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::verdict::{Records, Silence, Tasks, Verdict, WorkerKilled};
use super::work::Job;
use crate::clock::{self, Time};
use crate::config::Config;
use crate::fleet::ids::TaskId;
use crate::fleet::outcome::Outcome;
use crate::fleet::task::{Task, TaskStatus};
use crate::store::{LogQuery, READ_ROWS_MAX, Store, TaskFilter};
use crate::telemetry::{self, spool};
use crate::watch::alerts::{self, AlertRow};

/// What the checks are made on.
pub(super) struct Evidence {
    pub(super) config: Config,
    pub(super) jobs: Vec<Job>,
    pub(super) store: Arc<dyn Store>,
    pub(super) killed: WorkerKilled,
    pub(super) silence: Silence,
    /// When the exporter was cut, and when the cut was over.
    pub(super) cut: (Time, Time),
    pub(super) shutdown: telemetry::Shutdown,
}

/// Checks everything.
pub(super) async fn verdict(evidence: Evidence) -> anyhow::Result<Verdict> {
    let ids: Vec<TaskId> = evidence.jobs.iter().map(|job| job.task.id).collect();
    let filter = TaskFilter { limit: ids.len(), ids, ..TaskFilter::default() };
    let tasks = evidence.store.tasks(&filter).await?;
    let tasks: HashMap<TaskId, Task> = tasks.into_iter().map(|task| (task.id, task)).collect();
    let mut verdict = Verdict {
        tasks: Tasks {
            total: evidence.jobs.len() as u64,
            done: tasks.values().filter(|task| task.status == TaskStatus::Complete).count() as u64,
        },
        worker_killed: evidence.killed.clone(),
        silence: evidence.silence.clone(),
        ..Verdict::default()
    };
    work(&evidence, &tasks, &mut verdict);
    workers(&evidence, &mut verdict).await?;
    decisions(&evidence, &mut verdict).await?;
    silence(&evidence, &mut verdict)?;
    records(&evidence, &mut verdict).await?;
    Ok(verdict)
}

fn work(evidence: &Evidence, tasks: &HashMap<TaskId, Task>, verdict: &mut Verdict) {
    let done = verdict.tasks.clone();
    verdict.check("all_tasks_done", done.done == done.total, format!("{} of {}", done.done, done.total));
    let faults: Vec<String> = evidence
        .jobs
        .iter()
        .filter_map(|job| match tasks.get(&job.task.id) {
            Some(task) => job.expected.fault(task),
            None => Some(format!("task {} is not in the store", job.task.id)),
        })
        .collect();
    verdict.check(
        "results_are_right",
        faults.is_empty(),
        match faults.first() {
            None => format!("{} digests, files and CRCs compared", evidence.jobs.len()),
            Some(fault) => fault.clone(),
        },
    );
    let killed = tasks.values().find(|task| task.id.to_string() == evidence.killed.task);
    let attempts = killed.map_or(0, |task| task.attempts);
    let again = attempts == 2 && evidence.killed.finished_by != evidence.killed.worker;
    verdict.check(
        "killed_workers_task_finished_by_another",
        again,
        format!("attempt {attempts} by {}", evidence.killed.finished_by),
    );
    let others = tasks.values().filter(|task| task.id.to_string() != evidence.killed.task);
    let repeated = others.filter(|task| task.attempts != 1).count();
    verdict.check("no_other_task_ran_twice", repeated == 0, format!("{repeated} did"));
}

async fn workers(evidence: &Evidence, verdict: &mut Verdict) -> anyhow::Result<()> {
    let workers = evidence.store.workers(None, READ_ROWS_MAX).await?;
    let nameless = workers.iter().filter(|row| row.worker.outcome().is_none()).count();
    verdict.check(
        "every_worker_has_an_outcome",
        nameless == 0,
        format!("{} workers, {nameless} without", workers.len()),
    );
    let victim = workers.iter().find(|row| row.worker.id.0 == evidence.killed.worker);
    let outcome = victim.and_then(|row| row.worker.outcome());
    verdict.check(
        "the_kill_is_a_crash_not_a_plan",
        outcome == Some(Outcome::WorkerCrash),
        format!("outcome {}", outcome.map_or("none", Outcome::word)),
    );
    Ok(())
}

async fn decisions(evidence: &Evidence, verdict: &mut Verdict) -> anyhow::Result<()> {
    let rows = evidence.store.decisions(None, READ_ROWS_MAX).await?;
    let taken_again = rows.iter().filter(|row| row.is_reproduced()).count();
    let traced = rows.iter().filter(|row| row.trace_id.is_some()).count();
    verdict.check(
        "every_decision_can_be_taken_again",
        !rows.is_empty() && taken_again == rows.len() && traced == rows.len(),
        format!("{taken_again} of {} equal, {traced} with a trace", rows.len()),
    );
    Ok(())
}

fn silence(evidence: &Evidence, verdict: &mut Verdict) -> anyhow::Result<()> {
    let history = alerts::read(&evidence.config.data_dir)?.history;
    let limit = evidence.config.policy.log_silence_seconds as f64 * 3.0;
    // The cut silences everybody: once it has lasted long enough for each source, it has for all. What
    // waited meanwhile is still on its way when it is over.
    let (from, over) = (evidence.cut.0, clock::plus(evidence.cut.1, Duration::from_secs_f64(limit)));
    let of_the_cut = |row: &&AlertRow| {
        matches!(row.alarm.as_str(), "log_silence" | "all_silent" | "canary")
            && row.at >= from
            && (!row.is_firing() || row.at <= over)
    };
    let other: Vec<_> = history.iter().filter(|row| !of_the_cut(row)).map(|row| row.summary.clone()).collect();
    let silence = &evidence.silence;
    verdict.check(
        "the_cut_was_noticed",
        silence.noticed_after_seconds <= limit && silence.cut_for_seconds >= silence.noticed_after_seconds,
        format!("after {:.1} s", silence.noticed_after_seconds),
    );
    verdict.check(
        "no_other_alarm_rang",
        other.is_empty(),
        match other.first() {
            None => "only the silence that was made".to_owned(),
            Some(summary) => summary.clone(),
        },
    );
    Ok(())
}

async fn records(evidence: &Evidence, verdict: &mut Verdict) -> anyhow::Result<()> {
    let root = evidence.config.spool_dir();
    let lines = tokio::task::spawn_blocking(move || spool::verify::verify(&spool::disk::RealDisk, &root)).await??;
    let exporter = if evidence.config.database.is_some() { "postgres" } else { "sqlite" };
    let mut sum = Records { exporter: exporter.to_owned(), ..Records::default() };
    for line in lines.iter().filter(|line| line.exporter == telemetry::DATABASE_SLOT) {
        sum.accepted += line.accepted;
        sum.delivered += line.delivered;
        sum.dropped += line.dropped.values().sum::<u64>();
        sum.quarantined += line.quarantined;
        sum.pending += line.pending;
    }
    let holds = lines.iter().all(|line| line.ok);
    verdict.check(
        "the_conservation_law_holds",
        holds && !lines.is_empty(),
        format!("in {} lines of {} processes' spools", lines.len(), lines.len()),
    );
    let rows = count_rows(&evidence.config).await?;
    verdict.check(
        "every_record_is_in_system_logs",
        sum.pending == 0
            && sum.dropped == 0
            && sum.quarantined == 0
            && sum.accepted == sum.delivered
            && rows == sum.delivered,
        format!("{} accepted, {} delivered, {rows} rows ({})", sum.accepted, sum.delivered, evidence.shutdown),
    );
    let query = LogQuery {
        worker: Some(crate::fleet::ids::WorkerId(evidence.killed.worker.clone())),
        ..LogQuery::default()
    };
    let spoken = evidence.store.logs(&query).await?.len();
    verdict.check("the_killed_workers_records_are_there", spoken > 0, format!("{spoken} rows"));
    verdict.records = sum;
    Ok(())
}

async fn count_rows(config: &Config) -> anyhow::Result<u64> {
    use sqlx::Connection as _;
    const COUNT: &str = "select count(*) from system_logs";
    let count: i64 = if let Some(address) = &config.database {
        let mut connection = address.connect().await?;
        let count = sqlx::query_scalar(COUNT).fetch_one(&mut connection).await?;
        connection.close().await?;
        count
    } else {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(config.logs_db()).read_only(true);
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
        let count = sqlx::query_scalar(COUNT).fetch_one(&mut connection).await?;
        connection.close().await?;
        count
    };
    Ok(u64::try_from(count).unwrap_or(0))
}
