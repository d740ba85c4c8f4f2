//! Reading back: one round's [`Observation`] from the store.
//!
//! The fleet's database says who lives, `system_logs` says whose rows arrived. Both are asked with
//! a limit each, and apart: a log database that is locked or away leaves the newest rows as they
//! were last seen, so that they grow old, which is what they are. Database times are compared only
//! with database times; while there is no database, the watch's clock only with itself (I9).

use std::collections::BTreeMap;
use std::time::Duration;

use super::rules::{Away, LiveSource, Observation, SourceId};
use crate::clock::Time;
use crate::error;
use crate::fleet::state::WorkerState;
use crate::store::{Process, Store, StoreError, WorkerRow};

/// Processes that are read; more do not run beside each other.
const PROCESSES_MAX: usize = 200;
/// Workers that are read.
const WORKERS_MAX: usize = 2_000;
/// Processes that write records for as long as they live.
const LONG_LIVED: [&str; 3] = [ORCHESTRATOR, "gateway", "watch"];
const ORCHESTRATOR: &str = "orchestrator";
const WORKER: &str = "worker";

/// What is remembered from round to round.
#[derive(Debug, Default)]
pub(super) struct Memory {
    newest: BTreeMap<SourceId, Time>,
    watching_since: Option<Time>,
    away: Option<Away>,
    last_round: Option<Duration>,
}

impl Memory {
    /// For a single look: nobody is spared because the watch has only just begun.
    pub(super) fn without_grace() -> Memory {
        Memory { watching_since: Some(Time::MIN), ..Memory::default() }
    }
}

/// The instants at which a round begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instants {
    /// The watch's wall clock.
    pub(super) wall: Time,
    /// The watch's monotonic clock.
    pub(super) monotonic: Duration,
}

/// How long a round may wait, and when it was away itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For each question to the store.
    pub(super) call: Duration,
    /// A pause between rounds that is longer makes everything before it worthless.
    pub(super) gap: Duration,
}

struct Fleet {
    now: Time,
    processes: Vec<Process>,
    workers: Vec<WorkerRow>,
    cycle_at: Option<Time>,
}

/// Looks once.
pub(super) async fn observe(
    store: &dyn Store,
    memory: &mut Memory,
    instants: Instants,
    patience: Patience,
) -> Observation {
    let slept = memory.last_round.is_some_and(|last| instants.monotonic.saturating_sub(last) > patience.gap);
    memory.last_round = Some(instants.monotonic);
    if slept {
        memory.watching_since = None;
    }
    match within(patience.call, fleet(store)).await {
        Ok(fleet) => {
            memory.away = None;
            let watching_since = *memory.watching_since.get_or_insert(fleet.now);
            let rows_unreadable = read_rows(store, memory, patience.call).await.err();
            observation(&fleet, memory, watching_since, rows_unreadable)
        }
        Err(error) => {
            memory.watching_since = None;
            let away = memory.away.get_or_insert(Away { since: instants.wall, error: String::new() });
            away.error = error;
            Observation {
                now: instants.wall,
                watching_since: instants.wall,
                database_away: Some(away.clone()),
                rows_unreadable: None,
                sources: Vec::new(),
                changed_at: None,
            }
        }
    }
}

async fn fleet(store: &dyn Store) -> Result<Fleet, StoreError> {
    let processes = store.processes(PROCESSES_MAX).await?;
    let workers = store.workers(None, WORKERS_MAX).await?;
    let cycle_at = store.decisions(None, 1).await?.first().map(|row| row.at);
    Ok(Fleet { now: store.now().await?, processes, workers, cycle_at })
}

async fn read_rows(store: &dyn Store, memory: &mut Memory, limit: Duration) -> Result<(), String> {
    let rows = within(limit, store.newest_rows()).await?;
    let newest = rows
        .into_iter()
        .map(|row| (SourceId { source_type: row.source_type, source_id: row.source_id }, row.ingested_at));
    memory.newest = newest.collect();
    Ok(())
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|failure| error::chain(&failure)),
        Err(_) => Err(format!("no answer within {:.1} s", limit.as_secs_f64())),
    }
}

fn observation(
    fleet: &Fleet,
    memory: &Memory,
    watching_since: Time,
    rows_unreadable: Option<String>,
) -> Observation {
    let mut sources: BTreeMap<SourceId, LiveSource> = BTreeMap::new();
    let processes = fleet.processes.iter().filter_map(process_source);
    for source in processes.chain(fleet.workers.iter().filter_map(worker_source)) {
        let newest = memory.newest.get(&source.id).copied();
        sources.entry(source.id.clone()).or_insert(LiveSource { newest, ..source });
    }
    let signs = fleet.workers.iter().flat_map(worker_signs);
    Observation {
        now: fleet.now,
        watching_since,
        database_away: None,
        rows_unreadable,
        sources: sources.into_values().collect(),
        changed_at: signs.chain(fleet.cycle_at).max(),
    }
}

fn process_source(process: &Process) -> Option<LiveSource> {
    let lives = process.ended_at.is_none() && LONG_LIVED.contains(&process.kind.as_str());
    lives.then(|| LiveSource {
        id: SourceId { source_type: process.source_type.clone(), source_id: process.source_id.clone() },
        since: process.started_at,
        alive_at: process.seen_at,
        newest: None,
        is_orchestrator: process.kind == ORCHESTRATOR,
    })
}

fn worker_source(row: &WorkerRow) -> Option<LiveSource> {
    let worker = &row.worker;
    let state = worker.live.as_ref()?.state;
    let speaks =
        matches!(state, WorkerState::Alive | WorkerState::Idle | WorkerState::Busy | WorkerState::Draining);
    let since = worker.first_heartbeat_at.filter(|_| speaks)?;
    Some(LiveSource {
        id: SourceId { source_type: WORKER.to_owned(), source_id: worker.id.0.clone() },
        since,
        alive_at: worker.last_heartbeat_at.unwrap_or(since),
        newest: None,
        is_orchestrator: false,
    })
}

fn worker_signs(row: &WorkerRow) -> impl Iterator<Item = Time> {
    let state_since = row.worker.live.as_ref().map(|live| live.state_since);
    [Some(row.worker.created_at), state_since, row.worker.last_heartbeat_at].into_iter().flatten()
}
