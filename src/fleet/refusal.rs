//! The provider's refusals: why it said no, and how long to leave it alone for that.
//!
//! Each reason has its own patience: a sold-out machine is asked for again soon and elsewhere at
//! once, a request that the provider will never grant is not repeated every minute. A refusal of one
//! cell says nothing about another; an empty account or a closed door is true for all. The delay
//! grows with each refusal in a row, as a breaker's does, and is never shorter than a minute: the
//! field's old system repeated each refused request every 30 s, 55 times in two hours. A snapshot shows
//! ended workers for an hour, so that it always shows the three refusals that the longest delay takes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::breaker::WAITS_SECONDS;
use super::cell::Cell;
use super::outcome::Outcome;
use super::snapshot::{Snapshot, Worker};
use super::state::WorkerState;
use crate::clock::{self, Time};

/// Why the provider refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No machine of that kind just now.
    Capacity,
    /// It will not do this, however often it is asked.
    Request,
    /// Asked too often.
    Throttled,
    /// The account is empty.
    Balance,
    /// It could not be asked.
    Unreachable,
    /// It failed, or its answer was lost and no pod came of it.
    Fault,
}

impl Refusal {
    /// All refusals.
    pub const ALL: [Refusal; 6] = [
        Refusal::Capacity,
        Refusal::Request,
        Refusal::Throttled,
        Refusal::Balance,
        Refusal::Unreachable,
        Refusal::Fault,
    ];

    /// The word in the database.
    pub fn word(self) -> &'static str {
        match self {
            Refusal::Capacity => "capacity",
            Refusal::Request => "request",
            Refusal::Throttled => "throttled",
            Refusal::Balance => "balance",
            Refusal::Unreachable => "unreachable",
            Refusal::Fault => "fault",
        }
    }

    /// The refusal of that word.
    pub fn from_word(word: &str) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|refusal| refusal.word() == word)
    }

    /// Whether it says something about one cell only.
    fn is_of_cell(self) -> bool {
        matches!(self, Refusal::Capacity | Refusal::Request | Refusal::Fault)
    }

    /// The wait after the first, the second and each further refusal in a row, seconds.
    fn waits(self) -> [u64; 3] {
        let [short, middle, long] = WAITS_SECONDS;
        match self {
            Refusal::Capacity | Refusal::Throttled | Refusal::Fault => [short, middle, long],
            Refusal::Request | Refusal::Balance => [middle, long, long],
            Refusal::Unreachable => [short, middle, middle],
        }
    }

    fn delay(self, in_a_row: u32) -> Duration {
        let [first, second, further] = self.waits();
        Duration::from_secs(match in_a_row {
            0 | 1 => first,
            2 => second,
            _ => further,
        })
    }
}

/// Refusals in a row for one reason, with no pod after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streak {
    /// The reason.
    pub refusal: Refusal,
    /// How many.
    pub count: u32,
    /// When the newest came.
    pub last: Time,
    /// When the provider may be asked again.
    pub opens: Time,
}

impl std::fmt::Display for Streak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wait = self.refusal.delay(self.count).as_secs();
        let Streak { refusal, count, last, .. } = self;
        write!(f, "{count} refused in a row ({}), the last at {last}; next try after {wait} s", refusal.word())
    }
}

/// The refusals that stand in the way of `cell`, a reason at a time, the longest wait first.
pub fn streaks(snapshot: &Snapshot, cell: Option<&Cell>) -> Vec<Streak> {
    let refusals = snapshot.workers.iter().filter_map(|worker| Some((worker, of(worker)?)));
    let refusals: Vec<(&Worker, Refusal)> = refusals.collect();
    if refusals.is_empty() {
        return Vec::new();
    }
    let newest_pod = |concerned: &dyn Fn(&Worker) -> bool| {
        let pods = snapshot.workers.iter().filter(|worker| has_pod(worker) && concerned(worker));
        pods.map(|worker| worker.created_at).max()
    };
    let (in_cell, anywhere) = (newest_pod(&|worker| worker.cell() == cell), newest_pod(&|_| true));
    let streak = |refusal: Refusal| {
        let success = if refusal.is_of_cell() { in_cell } else { anywhere };
        let refused = refusals
            .iter()
            .filter(|(worker, why)| *why == refusal && (!refusal.is_of_cell() || worker.cell() == cell))
            .filter(|(worker, _)| success.is_none_or(|success| worker.created_at > success));
        let (mut count, mut last) = (0_u32, None);
        for (worker, _) in refused {
            count = count.saturating_add(1);
            last = last.max(Some(worker.ended_at.unwrap_or(worker.created_at)));
        }
        last.map(|last| Streak { refusal, count, last, opens: clock::plus(last, refusal.delay(count)) })
    };
    let mut streaks: Vec<Streak> = Refusal::ALL.into_iter().filter_map(streak).collect();
    streaks.sort_by_key(|streak| std::cmp::Reverse(streak.opens));
    streaks
}

/// Why the provider refused this worker; none where it did not.
fn of(worker: &Worker) -> Option<Refusal> {
    if has_pod(worker) {
        return None;
    }
    let by_outcome = match worker.outcome() {
        Some(Outcome::ProviderCapacity) => Refusal::Capacity,
        Some(Outcome::ProviderFault) => Refusal::Fault,
        _ => return None,
    };
    Some(worker.live.as_ref().and_then(|live| live.refusal).unwrap_or(by_outcome))
}

/// Whether the provider was asked for this worker at all: where the request before it in its cell was not
/// granted, it was not.
pub fn was_asked_for(worker: &Worker) -> bool {
    let is_rejected = worker.live.as_ref().is_some_and(|live| live.state == WorkerState::Rejected);
    !(is_rejected && worker.outcome() == Some(Outcome::Planned))
}

fn has_pod(worker: &Worker) -> bool {
    worker.live.as_ref().is_some_and(|live| live.pod_id.is_some())
}
