//! What to do about a snapshot, with every gate that was asked and its answer.
//!
//! A decision carries its reasons: each gate gives a verdict, the inputs in words, and when it
//! lifts: at a time, at a condition, or never by itself. The executor makes no choices.

mod blame;
mod decide;
mod ends;
mod eta;
mod scale_down;
mod sentence;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use decide::decide;
pub use ends::{AMBIGUOUS_LISTS_MIN, NOT_LISTED_GRACE_SECONDS};
pub use eta::{Eta, eta};

use super::cell::Cell;
use super::ids::{PodId, WorkerId};
use super::outcome::Outcome;
use crate::clock::Time;

/// What to do, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Workers to have.
    pub desired: u32,
    /// Workers there are.
    pub capacity: Capacity,
    /// Workers to ask for in this cycle.
    pub spawn: u32,
    /// Workers to end in this cycle.
    pub terminate: Vec<WorkerId>,
    /// Every gate, also the passing ones.
    pub gates: Vec<Gate>,
    /// What a running fleet does about it; null for a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<DecisionLive>,
}

/// Workers that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Heard of and not leaving.
    pub active: u32,
    /// Asked for and not yet heard of.
    pub spawning: u32,
}

/// What a running fleet does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionLive {
    /// In the order in which they are done.
    pub actions: Vec<Action>,
    /// Workers that would be asked for if every gate were open.
    pub wanted: u32,
    /// The whole in one sentence.
    pub sentence: String,
    /// Its parts, where pools are declared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolPart>,
}

/// What was decided for one declared pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPart {
    /// The pool.
    pub pool: String,
    /// Tasks that its workers may take at once; null where the queue was not seen.
    pub claimable: Option<u64>,
    /// Workers to have.
    pub desired: u32,
    /// Workers there are.
    pub capacity: Capacity,
    /// Workers that would be asked for if every gate were open.
    pub wanted: u32,
    /// Workers to ask for in this cycle.
    pub spawn: u32,
}

/// A question that must be answered with yes before anything is spawned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Which.
    pub gate: GateName,
    /// Its answer.
    pub verdict: Verdict,
    /// The inputs and the rule, in words.
    pub reason: String,
    /// The instant at which it opens, where that can be computed.
    pub lifts_at: Option<Time>,
    /// The condition on which it opens.
    pub lifts_when: Option<String>,
    /// What exactly it is about, such as the cells whose breakers are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The pool it was asked for, where pools are declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// The gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateName {
    /// The floor; it never blocks.
    Min,
    /// The ceiling.
    Max,
    /// Too many of the lately ended workers failed.
    FailureBreaker,
    /// The inputs are good enough to spend money on.
    Observation,
    /// No operator holds spawning.
    Pause,
    /// An operator's order to spawn in spite of the breaker.
    Override,
    /// This process leads.
    Leader,
    /// Workers a cycle.
    RateLimit,
    /// The provider refused lately.
    ProviderBackoff,
    /// The account has money.
    Balance,
    /// The fleet's spend is below its limit.
    Budget,
}

/// A gate's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Go on.
    Pass,
    /// Do not spawn.
    Block,
}

/// One thing to do about one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Ask the provider for a worker.
    Spawn {
        /// The worker's id.
        worker: WorkerId,
        /// The pool it is for.
        pool: String,
        /// The cell to ask for; null where the fleet names none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cell: Option<Cell>,
        /// What a machine of it costs, dollars an hour; null = not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usd_per_hour: Option<f64>,
    },
    /// Take a pod that a lost answer left behind as this worker's.
    Adopt {
        /// The worker.
        worker: WorkerId,
        /// Its pod.
        pod_id: PodId,
    },
    /// Let it finish and claim no more.
    Drain {
        /// The worker.
        worker: WorkerId,
        /// Its outcome once it has ended.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
    /// Ask the provider to end it.
    Terminate {
        /// The worker.
        worker: WorkerId,
        /// Its outcome once it has ended.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
    /// Its pod is known to be over: close its row and queue its tasks again.
    End {
        /// The worker.
        worker: WorkerId,
        /// Its outcome.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
    /// End a pod of our name that belongs to nobody.
    Reap {
        /// The worker that its name says it is.
        worker: WorkerId,
        /// The pod.
        pod_id: PodId,
        /// Why.
        reason: String,
    },
}

impl GateName {
    /// All gates, in the order in which they are asked.
    pub const ALL: [GateName; 11] = [
        GateName::Min,
        GateName::Max,
        GateName::FailureBreaker,
        GateName::Observation,
        GateName::Pause,
        GateName::Override,
        GateName::Leader,
        GateName::RateLimit,
        GateName::ProviderBackoff,
        GateName::Balance,
        GateName::Budget,
    ];

    /// The gate of that word.
    pub fn from_word(word: &str) -> Option<GateName> {
        GateName::ALL.into_iter().find(|gate| gate.word() == word)
    }

    /// The word of this gate.
    pub fn word(self) -> &'static str {
        match self {
            GateName::Min => "min",
            GateName::Max => "max",
            GateName::FailureBreaker => "failure_breaker",
            GateName::Observation => "observation",
            GateName::Pause => "pause",
            GateName::Override => "override",
            GateName::Leader => "leader",
            GateName::RateLimit => "rate_limit",
            GateName::ProviderBackoff => "provider_backoff",
            GateName::Balance => "balance",
            GateName::Budget => "budget",
        }
    }
}

impl Action {
    /// The worker that it is about.
    pub fn worker(&self) -> &WorkerId {
        match self {
            Action::Spawn { worker, .. }
            | Action::Adopt { worker, .. }
            | Action::Drain { worker, .. }
            | Action::Terminate { worker, .. }
            | Action::End { worker, .. }
            | Action::Reap { worker, .. } => worker,
        }
    }

    /// The action's word.
    pub fn word(&self) -> &'static str {
        match self {
            Action::Spawn { .. } => "spawn",
            Action::Adopt { .. } => "adopt",
            Action::Drain { .. } => "drain",
            Action::Terminate { .. } => "terminate",
            Action::End { .. } => "end",
            Action::Reap { .. } => "reap",
        }
    }
}
