//! What the world knows of each cell: who truly failed there, and when it said no; and what may not be
//! asked of it then.

use std::collections::{HashMap, VecDeque};

use super::{FAILURES_KEPT, Sim};
use crate::clock::{self, Time};
use crate::fleet::breaker::cell::{self, State};
use crate::fleet::cell::{Cell, Offer};
use crate::fleet::decision::Action;
use crate::fleet::outcome::Outcome;
use crate::fleet::pool;
use crate::fleet::refusal::Refusal;
use crate::fleet::snapshot::Worker;
use crate::simulate::faults::Fault;
use crate::store::{CycleRecord, SpawnAnswer};

/// A cell that said no is left alone at least this long, seconds: the shortest patience of all reasons.
const REFUSED_WAIT_SECONDS: u64 = 60;

/// The cells of a world, by what a request calls them.
#[derive(Debug, Default)]
pub(in crate::simulate) struct Cells(HashMap<Option<Cell>, Known>);

#[derive(Debug, Default)]
struct Known {
    /// Instants of true failures.
    failures: VecDeque<i64>,
    is_open: bool,
    /// When the newest worker that got a pod was asked for, by the database's clock.
    made: Option<Time>,
    /// When the newest worker that was refused was asked for, and when the answer was written.
    refused: Option<(Time, Time)>,
}

impl Cells {
    fn of(&mut self, worker: &Worker) -> &mut Known {
        self.0.entry(worker.cell().cloned()).or_default()
    }

    /// A worker of it has truly failed.
    pub(super) fn failed(&mut self, worker: &Worker, now: i64) {
        self.of(worker).failures.push_back(now);
    }

    /// The answer to a request is written in the worker's row.
    pub(super) fn answered(&mut self, worker: &Worker, answer: &SpawnAnswer) {
        let known = self.of(worker);
        match answer {
            SpawnAnswer::Created { .. } => known.made = known.made.max(Some(worker.created_at)),
            // That nobody could be asked is true for all cells, and a pod anywhere is its end.
            SpawnAnswer::Rejected { refusal: Some(Refusal::Unreachable), .. } => {}
            // Nobody was asked.
            SpawnAnswer::Rejected { outcome: Outcome::Planned, .. } => {}
            SpawnAnswer::Rejected { .. } => {
                let refused = worker.ended_at.map(|at| (worker.created_at, at));
                known.refused = known.refused.max(refused);
            }
            SpawnAnswer::Ambiguous { .. } => {}
        }
    }
}

impl Sim {
    /// A breaker is open for true failures only (I14), and nobody is asked again at once.
    pub(super) fn check_cells(&mut self, record: &CycleRecord) {
        let now = self.now;
        let Some(pool) = pool::pools(&record.snapshot.policy).into_iter().next() else { return };
        for offer in pool.offers() {
            let open = matches!(
                cell::state(&record.snapshot, offer.cell.as_ref(), record.snapshot.as_of),
                State::Open { .. }
            );
            let known = self.facts.cells.0.entry(offer.cell.clone()).or_default();
            known.failures.retain(|at| now - at < FAILURES_KEPT);
            let (failures, opened) = (known.failures.len(), open && !known.is_open);
            known.is_open = open;
            if opened {
                self.struck(Fault::CellBreakerOpened);
            }
            if open && failures < cell::FAILURES_MIN as usize {
                let name = offer.name().unwrap_or_default();
                let detail = format!("the breaker of cell {name:?} is open after {failures} true failures");
                self.broke("I14 planned stops never move the breaker", detail);
            }
        }
        let actions = record.decision.live.iter().flat_map(|live| &live.actions);
        for action in actions {
            if let Action::Spawn { cell, .. } = action {
                self.check_spawn(cell.as_ref(), pool.offers(), record.snapshot.as_of);
            }
        }
    }

    fn check_spawn(&mut self, cell: Option<&Cell>, offers: &[Offer], as_of: Time) {
        if offers.first().is_some_and(|first| first.cell.as_ref() != cell) {
            self.struck(Fault::CellPassedOver);
        }
        let Some(known) = self.facts.cells.0.get(&cell.cloned()) else { return };
        let Some((asked_for, refused_at)) = known.refused else { return };
        // A pod that was asked for with it or later shows that there is room.
        if known.made.is_some_and(|made| made >= asked_for) {
            return;
        }
        let waited = clock::age(as_of, refused_at).as_secs();
        if waited < REFUSED_WAIT_SECONDS {
            let name = cell.map(ToString::to_string).unwrap_or_default();
            self.broke("a refusal is not repeated at once", format!("cell {name:?} said no {waited} s ago"));
        }
    }
}
