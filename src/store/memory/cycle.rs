//! What an orchestrator reads and writes.

use std::time::Duration;

use super::state::{LeaseRow, State};
use super::{bounded, no_such_worker};
use crate::clock::{self, Time};
use crate::fleet::ids::{BootId, TaskId, Term, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::task::Bucket;
use crate::store::task_rules::released;
use crate::store::worker_row::WorkerData;
use crate::store::{
    ActionResult, CycleRecord, DecisionId, DecisionRow, FleetRead, Intent, Lease, LeaseAnswer, PROCESS_AWAY,
    PROCESSES_ROWS_MAX, Process, Result, StoreError, WorkerEnd, WorkerRow,
};

/// Most decision rows that are kept.
pub(super) const DECISIONS_ROWS_MAX: usize = 10_000;

impl State {
    // --- leadership ---

    pub(super) fn guard(&self, held: &Lease) -> Result<()> {
        let row = self.leases.get(&held.name);
        let ours = row.is_some_and(|row| row.term == held.term && row.holder == Some(held.holder));
        if ours { Ok(()) } else { Err(StoreError::StaleTerm) }
    }

    pub(super) fn take_lease(&mut self, name: &str, holder: BootId, ttl: Duration, now: Time) -> LeaseAnswer {
        let until = clock::plus(now, ttl);
        let mut term = Term(1);
        if let Some(row) = self.leases.get(name) {
            term = row.term;
            match row.holder.filter(|_| row.until > now) {
                Some(other) if other != holder => {
                    return LeaseAnswer::Other { holder: other, term, until: row.until };
                }
                Some(_) => {}
                None => term = Term(term.0 + 1),
            }
        }
        self.leases.insert(name.to_owned(), LeaseRow { holder: Some(holder), term, until });
        LeaseAnswer::Held(Lease { name: name.to_owned(), holder, term, until })
    }

    pub(super) fn release_lease(&mut self, held: &Lease, now: Time) {
        if self.guard(held).is_ok()
            && let Some(row) = self.leases.get_mut(&held.name)
        {
            (row.holder, row.until) = (None, now);
        }
    }

    pub(super) fn touch(&mut self, gap: Duration, now: Time) -> Time {
        let (since, last) = self.writes.unwrap_or((now, now));
        let since = if last < clock::minus(now, gap) { now } else { since };
        self.writes = Some((since, last.max(now)));
        since
    }

    // --- a cycle ---

    pub(super) fn observe(&self, ended_within: Duration, user_task_limit: u32, now: Time) -> FleetRead {
        let oldest = clock::minus(now, ended_within);
        let ended = self.ended.iter().rev().take_while(|(ended_at, _)| *ended_at >= oldest);
        let mut rows: Vec<&WorkerData> =
            self.not_ended.iter().chain(ended).map(|(_, id)| &self.workers[id]).collect();
        rows.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        let mut hands = self.all_hands();
        let workers =
            rows.into_iter().map(|row| self.seen(row, hands.remove(&row.id).unwrap_or_default())).collect();
        FleetRead {
            now,
            workers,
            demand: self.demand(user_task_limit),
            records: self.newest_records(),
            writes_since: self.writes.map_or(now, |(since, _)| since),
            pause: self.pause.clone().filter(|pause| pause.until.is_none_or(|until| until > now)),
            orders: self.orders_in_force(now),
            ended_today_usd: self.ended_today_usd(now),
        }
    }

    /// All or nothing: an intent about a worker that nobody knows is found before the first write.
    pub(super) fn commit_cycle(
        &mut self,
        held: &Lease,
        record: &CycleRecord,
        intents: &[Intent],
        now: Time,
    ) -> Result<DecisionId> {
        let mut spawned = Vec::new();
        for intent in intents {
            match intent {
                Intent::HoldOld { .. } => {}
                Intent::Spawn { worker, .. } => spawned.push(worker),
                Intent::Leave { worker, .. } if spawned.contains(&worker) || self.workers.contains_key(worker) => {}
                Intent::Leave { worker, .. } => return Err(no_such_worker(worker)),
            }
        }
        for intent in intents {
            match intent {
                Intent::HoldOld { older_than } => self.hold_old(*older_than, now),
                Intent::Spawn { worker, pool, token_sha256, offer } => {
                    let row = match self.workers.get(worker).cloned() {
                        None => {
                            WorkerData::requesting(worker.clone(), pool.clone(), *token_sha256, offer.clone(), now)
                        }
                        Some(mut row) => {
                            row.requested_again(*token_sha256);
                            row
                        }
                    };
                    self.save_worker(row);
                }
                Intent::Leave { worker, state, outcome, reason } => {
                    self.change_worker(worker, |row| {
                        row.leave(*state, *outcome, reason, now);
                        Ok(())
                    })?;
                }
            }
        }
        Ok(self.write_decision(held, record, now))
    }

    fn write_decision(&mut self, held: &Lease, record: &CycleRecord, now: Time) -> DecisionId {
        self.decisions_ever += 1;
        let id = DecisionId(self.decisions_ever);
        let actions = record.decision.live.as_ref().map_or(0, |live| live.actions.len());
        self.decisions.push_back(DecisionRow {
            id,
            boot_id: record.boot_id,
            cycle: record.cycle,
            term: held.term,
            at: now,
            trace_id: record.trace_id.clone(),
            snapshot: record.snapshot.clone(),
            decision: record.decision.clone(),
            results: vec![None; actions],
            imported: None,
        });
        if self.decisions.len() > self.decisions_kept {
            self.decisions.pop_front();
        }
        id
    }

    pub(super) fn action_result(
        &mut self,
        decision: DecisionId,
        index: usize,
        result: &ActionResult,
    ) -> Result<()> {
        let row = self.decisions.iter_mut().rev().find(|row| row.id == decision);
        let slot = row.and_then(|row| row.results.get_mut(index));
        *slot.ok_or_else(|| StoreError::BadRow {
            what: format!("decision {}", decision.0),
            detail: format!("it has no action {index}"),
        })? = Some(result.clone());
        Ok(())
    }

    /// Lets something happen to a worker's row; what is wrong with it is written down, too.
    pub(super) fn change_worker(
        &mut self,
        worker: &WorkerId,
        change: impl FnOnce(&mut WorkerData) -> std::result::Result<(), String>,
    ) -> Result<()> {
        let mut row = self.workers.get(worker).cloned().ok_or_else(|| no_such_worker(worker))?;
        let noted = change(&mut row);
        self.save_worker(row);
        noted.map_err(|detail| StoreError::BadRow { what: format!("worker {worker}"), detail })
    }

    pub(super) fn end_worker(&mut self, worker: &WorkerId, end: &WorkerEnd, now: Time) -> Result<Vec<TaskId>> {
        let mut row = self.workers.get(worker).cloned().ok_or_else(|| no_such_worker(worker))?;
        if !row.end(end, now) {
            return Ok(Vec::new());
        }
        let why = row.end_in_words();
        let blamed = row.outcome == Some(Outcome::PoisonTask);
        self.save_worker(row);
        let tasks = self.hands(worker);
        for id in &tasks {
            let (status, error) = released(self.tasks[id].task.attempts, &why);
            self.release(*id, status, error, now);
            if blamed {
                self.hold(*id, Bucket::Poisoned, ("orchestrator", &why), now);
            }
        }
        Ok(tasks)
    }

    pub(super) fn read_workers(&self, since: Option<Time>, limit: usize) -> Vec<WorkerRow> {
        let wanted =
            |row: &&WorkerData| row.ended_at.is_none() || since.is_none_or(|since| row.created_at >= since);
        let mut rows: Vec<&WorkerData> = self.workers.values().filter(wanted).collect();
        rows.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        let mut hands = self.all_hands();
        let detail = |row: &WorkerData| row.detail(hands.remove(&row.id).unwrap_or_default());
        rows.into_iter().take(bounded(limit)).map(detail).collect()
    }

    // --- processes ---

    pub(super) fn process_started(&mut self, process: &Process, now: Time) {
        for row in &mut self.processes {
            let same = row.kind == process.kind
                && row.source_type == process.source_type
                && row.source_id == process.source_id;
            let is_away = clock::age(now, row.seen_at) >= PROCESS_AWAY;
            if same && is_away && row.ended_at.is_none() && row.boot_id != process.boot_id {
                row.ended_at = Some(now);
            }
        }
        if let Some(row) = self.processes.iter_mut().find(|row| row.boot_id == process.boot_id) {
            row.seen_at = now;
            return;
        }
        self.processes.push(Process { started_at: now, seen_at: now, ended_at: None, ..process.clone() });
        let most = usize::try_from(PROCESSES_ROWS_MAX).unwrap_or(usize::MAX);
        if self.processes.len() > most
            && let Some(oldest) = self.processes.iter().position(|row| row.ended_at.is_some())
        {
            self.processes.remove(oldest);
        }
    }

    /// The row of a process that has not ended.
    pub(super) fn running(&mut self, boot: BootId) -> Option<&mut Process> {
        self.processes.iter_mut().rev().find(|row| row.boot_id == boot && row.ended_at.is_none())
    }
}
