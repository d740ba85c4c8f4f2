//! `dogwatch status`: one sentence that a tired operator understands, the facts, and what to do
//! next.

mod recorders;
mod verdict;

use std::time::Duration;

use serde::Serialize;

use super::args::StatusArgs;
use super::open::{self, Opened};
use super::{Outcome, render};
use crate::clock::{self, Time};
use crate::error::Exit;
use crate::fleet::decision::{Gate, Verdict};
use crate::fleet::ids::BootId;
use crate::fleet::task::TaskStatus;
use crate::store::Process;
use crate::watch::alerts;

/// Everything that the verdict is made of.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Facts {
    /// By the database's clock.
    now: Time,
    /// Whether an orchestrator has shown life lately.
    orchestrator_alive: bool,
    /// When one was last seen.
    orchestrator_seen_at: Option<Time>,
    /// Those that have shown life lately, the leader first.
    orchestrators: Vec<Orchestrator>,
    /// Workers by state.
    workers: std::collections::BTreeMap<String, u64>,
    /// Tasks by status.
    tasks: std::collections::BTreeMap<String, u64>,
    /// Queued tasks by bucket.
    queued: std::collections::BTreeMap<String, u64>,
    /// The newest decision in a sentence.
    decision: Option<String>,
    /// Gates that block.
    blocking: Vec<Gate>,
    /// Most workers that the newest decision could have.
    max_workers: Option<u32>,
    /// Alarms that ring.
    alarms: Vec<String>,
    /// When the newest row arrived in system_logs.
    newest_row_at: Option<Time>,
    /// What each live recorder says of itself, where it is less than the whole promise.
    recorders: Vec<String>,
    /// Where log rows go.
    logs_to: String,
    /// Each exporter in one line.
    exporters: Vec<String>,
}

/// One of the orchestrators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Orchestrator {
    /// Its name: source_id of its records.
    source_id: String,
    /// `leads` or `standby`: who leads has written the newest decision.
    standing: &'static str,
    /// Its program's version.
    version: String,
    /// Its machine.
    host: String,
    /// Since when it runs.
    started_at: Time,
}

/// An orchestrator that was not seen for this many cycles is away.
const CYCLES_MISSED: u32 = 5;

pub(super) async fn main(args: StatusArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let opened = open::fleet(flags).await?;
    let facts = gather(&opened).await?;
    let verdict = verdict::of(&facts);
    if args.output.json {
        let mut document = serde_json::to_value(&facts)?;
        document["sentence"] = verdict.sentence.clone().into();
        document["next"] = verdict.next.clone().into();
        document["ok"] = verdict.ok.into();
        render::json("status", &document)?;
    } else {
        render::line(verdict::page(&facts, &verdict))?;
    }
    Ok(if verdict.ok { Exit::Ok } else { Exit::Problem })
}

async fn gather(opened: &Opened) -> anyhow::Result<Facts> {
    let (store, config) = (&opened.store, &opened.config);
    let now = store.now().await?;
    let is_open = |process: &Process| process.kind == "orchestrator" && process.ended_at.is_none();
    let mut open: Vec<Process> = store.processes(100).await?.into_iter().filter(is_open).collect();
    let seen = open.iter().map(|process| process.seen_at).max();
    let cycle = config.policy.live.as_ref().map_or(30_000, |live| live.cycle_ms);
    let away_after = Duration::from_millis(cycle) * CYCLES_MISSED + Duration::from_secs(5);
    open.retain(|process| clock::age(now, process.seen_at) <= away_after);
    let mut workers = std::collections::BTreeMap::new();
    for row in store.workers(Some(now), crate::store::READ_ROWS_MAX).await? {
        if !row.worker.is_ended() {
            let state = row.worker.live.as_ref().map_or("?", |live| live.state.word());
            *workers.entry(state.to_owned()).or_insert(0) += 1;
        }
    }
    let (mut tasks, mut queued) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
    for total in store.task_totals(config.policy.user_task_limit).await? {
        for (word, count) in total.by_status {
            *tasks.entry(word).or_insert(0) += count;
        }
        for (word, count) in total.by_bucket {
            *queued.entry(word).or_insert(0) += count;
        }
    }
    let newest = store.decisions(None, 1).await?.into_iter().next();
    let (max_workers, leader) = newest.as_ref().map(|row| (row.snapshot.policy.max_workers, row.boot_id)).unzip();
    let decision = newest.map(|row| row.decision);
    let firing = alerts::read(&config.data_dir)?.firing();
    // Log rows that cannot be read are said; everything else is still worth knowing.
    let (newest_row_at, recorders) = match (store.newest_rows().await, recorders::lines(&**store, now).await) {
        (Ok(rows), Ok(lines)) => (rows.into_iter().map(|row| row.ingested_at).max(), lines),
        (Err(error), _) => (None, vec![format!("log rows cannot be read: {}", crate::error::chain(&error))]),
        (_, Err(error)) => (None, vec![format!("log rows cannot be read: {error:#}")]),
    };
    Ok(Facts {
        now,
        orchestrator_alive: !open.is_empty(),
        orchestrator_seen_at: seen,
        orchestrators: orchestrators(open, leader),
        workers,
        tasks,
        queued,
        blocking: decision.iter().flat_map(|d| &d.gates).filter(|g| g.verdict == Verdict::Block).cloned().collect(),
        max_workers,
        decision: decision.and_then(|decision| decision.live).map(|live| live.sentence),
        alarms: firing.into_iter().map(|alert| alert.summary).collect(),
        newest_row_at,
        recorders,
        logs_to: config.logs_to(),
        exporters: super::spool::exporter_lines(&config.spool_dir()),
    })
}

fn orchestrators(open: Vec<Process>, leader: Option<BootId>) -> Vec<Orchestrator> {
    let mut all: Vec<Orchestrator> = open
        .into_iter()
        .map(|process| Orchestrator {
            standing: if leader == Some(process.boot_id) { "leads" } else { "standby" },
            source_id: process.source_id,
            version: process.version,
            host: process.host,
            started_at: process.started_at,
        })
        .collect();
    all.sort_by(|a, b| (a.standing, &a.source_id).cmp(&(b.standing, &b.source_id)));
    all
}

impl Facts {
    fn tasks_in(&self, status: TaskStatus) -> u64 {
        self.tasks.get(status.word()).copied().unwrap_or(0)
    }

    fn workers_alive(&self) -> u64 {
        self.workers.values().sum()
    }
}
