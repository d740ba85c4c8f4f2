//! A worker's life as a table: which state may follow which, and the old word for each.
//!
//! An illegal transition is refused by name; whoever asked for it quarantines that one row and
//! goes on. The outcome is a separate fact (see `outcome`).

use serde::{Deserialize, Serialize};

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Intent written, provider not asked yet.
    Planned,
    /// The provider is being asked.
    Requesting,
    /// The provider gave a pod id.
    Created,
    /// The provider's answer was lost: a pod may exist.
    Ambiguous,
    /// The provider refused.
    Rejected,
    /// The machine is being found.
    Provisioning,
    /// The machine runs, the agent has not spoken.
    Starting,
    /// The agent has spoken.
    Alive,
    /// Able to work, no task.
    Idle,
    /// Running a task.
    Busy,
    /// Finishing, claims no more.
    Draining,
    /// The provider is being asked to end it.
    Terminating,
    /// Ended.
    Gone,
}

use WorkerState::{
    Alive, Ambiguous, Busy, Created, Draining, Gone, Idle, Planned, Provisioning, Rejected, Requesting, Starting,
    Terminating,
};

impl WorkerState {
    /// All states, in the order of a worker's life.
    pub const ALL: [WorkerState; 13] = [
        Planned,
        Requesting,
        Created,
        Ambiguous,
        Rejected,
        Provisioning,
        Starting,
        Alive,
        Idle,
        Busy,
        Draining,
        Terminating,
        Gone,
    ];

    /// The states that may follow this one. Seen late or twice is normal: a state may be skipped
    /// forwards (an agent's first words may come before the provider's answer).
    pub fn next(self) -> &'static [WorkerState] {
        match self {
            Planned => &[Requesting, Terminating, Gone],
            Requesting => &[Created, Ambiguous, Rejected, Provisioning, Starting, Alive, Terminating, Gone],
            Created => &[Provisioning, Starting, Alive, Draining, Terminating, Gone],
            Ambiguous => &[Created, Provisioning, Starting, Alive, Terminating, Gone],
            Rejected => &[Gone],
            Provisioning => &[Starting, Alive, Draining, Terminating, Gone],
            Starting => &[Alive, Draining, Terminating, Gone],
            Alive => &[Idle, Busy, Draining, Terminating, Gone],
            Idle => &[Busy, Draining, Terminating, Gone],
            Busy => &[Idle, Draining, Terminating, Gone],
            Draining => &[Terminating, Gone],
            Terminating => &[Gone],
            Gone => &[],
        }
    }

    /// Whether `next` may follow. Staying is always allowed.
    pub fn may_become(self, next: WorkerState) -> bool {
        self == next || self.next().contains(&next)
    }

    /// The word of this state.
    pub fn word(self) -> &'static str {
        match self {
            Planned => "planned",
            Requesting => "requesting",
            Created => "created",
            Ambiguous => "ambiguous",
            Rejected => "rejected",
            Provisioning => "provisioning",
            Starting => "starting",
            Alive => "alive",
            Idle => "idle",
            Busy => "busy",
            Draining => "draining",
            Terminating => "terminating",
            Gone => "gone",
        }
    }

    /// The state of that word.
    pub fn from_word(word: &str) -> Option<WorkerState> {
        WorkerState::ALL.into_iter().find(|state| state.word() == word)
    }

    /// The old word that old tools read in `workers.status`.
    pub fn status(self) -> Status {
        match self {
            Planned | Requesting | Created | Ambiguous | Provisioning | Starting => Status::Spawning,
            Alive | Idle | Busy | Draining => Status::Active,
            Terminating => Status::Terminating,
            Rejected | Gone => Status::Terminated,
        }
    }

    /// Whether it has ended: neither capacity nor cost.
    pub fn is_ended(self) -> bool {
        self.status() == Status::Terminated
    }
}

/// The old words of `workers.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not yet heard of.
    Spawning,
    /// Heard of.
    Active,
    /// Neither ended nor alive: no capacity.
    Terminating,
    /// Old word for an ended worker.
    Error,
    /// Ended.
    Terminated,
    /// Old word for an ended worker.
    Crashed,
}

impl Status {
    /// All words.
    pub const ALL: [Status; 6] =
        [Status::Spawning, Status::Active, Status::Terminating, Status::Error, Status::Terminated, Status::Crashed];

    /// The status of that word.
    pub fn from_word(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.word() == word)
    }

    /// The word in the database.
    pub fn word(self) -> &'static str {
        match self {
            Status::Spawning => "spawning",
            Status::Active => "active",
            Status::Terminating => "terminating",
            Status::Error => "error",
            Status::Terminated => "terminated",
            Status::Crashed => "crashed",
        }
    }

    /// error, terminated and crashed all say "ended", and never why.
    pub fn is_ended(self) -> bool {
        matches!(self, Status::Error | Status::Terminated | Status::Crashed)
    }

    /// Spawning or active.
    pub fn is_alive(self) -> bool {
        matches!(self, Status::Spawning | Status::Active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_leads_to_gone_and_nothing_leads_back() {
        for state in WorkerState::ALL {
            assert_eq!(WorkerState::from_word(state.word()), Some(state));
            assert!(state == Gone || state.may_become(Gone), "{state:?} can never end");
            assert!(state == Gone || !Gone.may_become(state), "{state:?} follows Gone");
            for next in state.next() {
                let back = next.may_become(state);
                let both_work = matches!((state, next), (Idle, Busy) | (Busy, Idle));
                assert!(!back || both_work, "{state:?} and {next:?} follow each other");
            }
        }
    }
}
