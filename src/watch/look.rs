//! Looking: one round's [`Observation`] from the store and this machine's disk.
//!
//! The fleet's database says who lives, `system_logs` says whose rows arrived. Both are asked with
//! a limit each, and apart: a log database that is locked or away leaves the newest rows as they
//! were last seen, so that they grow old, which is what they are. Database times are compared only
//! with database times; while there is no database, the watch's clock only with itself (I9).

mod disk;
mod fleet;
mod recorders;
pub(in crate::watch) mod skew;
mod strays;

use std::collections::BTreeMap;
use std::time::Duration;

use super::canary::{Canaries, Plant};
use super::observation::{Away, DiskSeen, FleetSeen, LiveSource, Observation, SourceId};
use crate::clock::{self, Time};
use crate::error;
use crate::fleet::snapshot::Worker;
use crate::fleet::state::WorkerState;
use crate::store::{DecisionRow, Process, SourceNewest, Store, StoreError, Watched, Windows};

pub(super) use self::disk::Ground;

/// Processes that are read; more do not run beside each other.
const PROCESSES_MAX: usize = 200;
/// Processes that write records for as long as they live.
const LONG_LIVED: [&str; 3] = [ORCHESTRATOR, "gateway", "watch"];
const ORCHESTRATOR: &str = "orchestrator";
const WORKER: &str = "worker";
/// A row that came so long after it was made waited somewhere, or its source's clock is behind.
const LATE: Duration = Duration::from_secs(25);

/// What is remembered from round to round.
#[derive(Debug, Default)]
pub(super) struct Memory {
    newest: BTreeMap<SourceId, SourceNewest>,
    watching_since: Option<Time>,
    away: Option<Away>,
    last_round: Option<Duration>,
    decisions: fleet::Decisions,
    recorders: recorders::Recorders,
    skews: skew::Skews,
    strays: strays::Strays,
    canaries: Canaries,
}

impl Memory {
    /// For a single look: nobody is spared because the watch has only just begun.
    pub(super) fn without_grace() -> Memory {
        let decisions = fleet::Decisions::single();
        Memory { watching_since: Some(Time::MIN), decisions, ..Memory::default() }
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

/// Where to look, and what with.
pub(super) struct Outlook<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) windows: Windows,
    pub(super) ground: &'a Ground,
    pub(super) patience: Patience,
    /// Writes a canary; none for a single look.
    pub(super) plant: Option<&'a Plant>,
    pub(super) canary_every: Duration,
    /// Who the watch is.
    pub(super) own: &'a SourceId,
}

struct Fleet {
    processes: Vec<Process>,
    read: Watched,
    decision: Option<DecisionRow>,
}

/// Looks once.
pub(super) async fn observe(outlook: &Outlook<'_>, memory: &mut Memory, instants: Instants) -> Observation {
    let Outlook { store, patience, .. } = *outlook;
    let slept = memory.last_round.is_some_and(|last| instants.monotonic.saturating_sub(last) > patience.gap);
    memory.last_round = Some(instants.monotonic);
    if slept {
        memory.watching_since = None;
    }
    let disk = outlook.ground.look();
    match within(patience.call, fleet(store, outlook.windows)).await {
        Ok(fleet) => {
            memory.away = None;
            let watching_since = *memory.watching_since.get_or_insert(fleet.read.now);
            let rows_unreadable = read_rows(outlook, memory, instants, fleet.read.now).await.err();
            observation(fleet, memory, watching_since, rows_unreadable, disk)
        }
        Err(error) => {
            memory.watching_since = None;
            let away = memory.away.get_or_insert(Away { since: instants.wall, error: String::new() });
            away.error = error;
            blind(away.clone(), instants.wall, disk)
        }
    }
}

/// What is known without a database.
fn blind(away: Away, now: Time, disk: DiskSeen) -> Observation {
    Observation {
        now,
        watching_since: now,
        database_away: Some(away),
        rows_unreadable: None,
        sources: Vec::new(),
        changed_at: None,
        fleet: FleetSeen::default(),
        recorders: Vec::new(),
        strays: None,
        disk,
        canary: super::observation::CanarySeen::default(),
    }
}

async fn fleet(store: &dyn Store, windows: Windows) -> Result<Fleet, StoreError> {
    let processes = store.processes(PROCESSES_MAX).await?;
    let decision = store.decisions(None, 1).await?.into_iter().next();
    Ok(Fleet { processes, read: store.watched(windows).await?, decision })
}

/// Everything that is read from `system_logs`; an error leaves what was seen before.
async fn read_rows(
    outlook: &Outlook<'_>,
    memory: &mut Memory,
    instants: Instants,
    now: Time,
) -> Result<(), String> {
    let limit = outlook.patience.call;
    if let Some(plant) = outlook.plant {
        memory.canaries.plant(plant, outlook.canary_every, instants.wall, now);
    }
    let rows = within(limit, outlook.store.newest_rows()).await?;
    let newest = rows.into_iter().map(|row| (SourceId::new(row.source_type.clone(), row.source_id.clone()), row));
    memory.newest = newest.collect();
    let is_late = |row: &SourceNewest| clock::age(row.ingested_at, row.timestamp) >= LATE;
    let late: Vec<(SourceId, Time)> =
        memory.newest.iter().filter(|(_, row)| is_late(row)).map(|(id, row)| (id.clone(), row.timestamp)).collect();
    within(limit, memory.recorders.read(outlook.store, now, &late)).await?;
    if outlook.plant.is_some() {
        within(limit, memory.canaries.read_back(outlook.store, outlook.own)).await?;
    }
    let read = memory.strays.read(outlook.store, now);
    tokio::time::timeout(limit, read).await.map_err(|_| unanswered(limit))
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|failure| error::chain(&failure)),
        Err(_) => Err(unanswered(limit)),
    }
}

fn unanswered(limit: Duration) -> String {
    format!("no answer within {:.1} s", limit.as_secs_f64())
}

fn observation(
    fleet: Fleet,
    memory: &mut Memory,
    watching_since: Time,
    rows_unreadable: Option<String>,
    disk: DiskSeen,
) -> Observation {
    let mut sources: BTreeMap<SourceId, LiveSource> = BTreeMap::new();
    let processes = fleet.processes.iter().filter_map(process_source);
    for source in processes.chain(fleet.read.workers.iter().filter_map(worker_source)) {
        let newest = memory.newest.get(&source.id);
        let (arrived, made) = (newest.map(|row| row.ingested_at), newest.map(|row| row.timestamp));
        sources.entry(source.id.clone()).or_insert(LiveSource { newest: arrived, newest_made: made, ..source });
    }
    let signs = fleet.read.workers.iter().flat_map(worker_signs);
    let cycle_at = fleet.decision.as_ref().map(|row| row.at);
    let changed_at = signs.chain(cycle_at).max();
    let now = fleet.read.now;
    let decision = memory.decisions.seen(fleet.decision.as_ref(), &fleet.read);
    let recorders = memory.recorders.seen(|id| sources.contains_key(id));
    let mut sources: Vec<LiveSource> = sources.into_values().collect();
    memory.skews.tell(now, &mut sources, &recorders);
    Observation {
        now,
        watching_since,
        database_away: None,
        rows_unreadable,
        recorders,
        strays: memory.strays.seen(),
        sources,
        changed_at,
        fleet: fleet::seen(&fleet.read, decision),
        disk,
        canary: memory.canaries.seen(),
    }
}

fn process_source(process: &Process) -> Option<LiveSource> {
    let lives = process.ended_at.is_none() && LONG_LIVED.contains(&process.kind.as_str());
    lives.then(|| LiveSource {
        id: SourceId::new(process.source_type.clone(), process.source_id.clone()),
        since: process.started_at,
        alive_at: process.seen_at,
        newest: None,
        newest_made: None,
        skew_micros: None,
        is_orchestrator: process.kind == ORCHESTRATOR,
    })
}

fn worker_source(worker: &Worker) -> Option<LiveSource> {
    let state = worker.live.as_ref()?.state;
    let speaks =
        matches!(state, WorkerState::Alive | WorkerState::Idle | WorkerState::Busy | WorkerState::Draining);
    let since = worker.first_heartbeat_at.filter(|_| speaks)?;
    Some(LiveSource {
        id: SourceId::new(WORKER, worker.id.0.clone()),
        since,
        alive_at: worker.last_heartbeat_at.unwrap_or(since),
        newest: None,
        newest_made: None,
        skew_micros: None,
        is_orchestrator: false,
    })
}

fn worker_signs(worker: &Worker) -> impl Iterator<Item = Time> {
    let state_since = worker.live.as_ref().map(|live| live.state_since);
    [Some(worker.created_at), state_since, worker.last_heartbeat_at].into_iter().flatten()
}
