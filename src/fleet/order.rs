//! What a human ordered: who, why, and until when.
//!
//! An order is a fact of the snapshot while it is in force, so that a decision that followed one can
//! be taken again and names who gave it. Orders end by themselves; an override must. Doing what an
//! order says twice does nothing the second time: a spawn order is a floor under the number of
//! workers, and a worker that is leaving is not asked to leave again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decision::GateName;
use super::ids::WorkerId;
use super::pool::DEFAULT_POOL;
use crate::clock::Time;

/// Longest life of an override.
pub const OVERRIDE_LASTS_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Most orders in force at once.
pub const ORDERS_MAX: usize = 1_000;
/// Most workers that one order asks for.
pub const SPAWN_COUNT_MAX: u32 = 1_000;

/// Number of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(pub i64);

/// What was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Ask for no workers of this pool.
    PausePool {
        /// The pool.
        pool: String,
    },
    /// Ask for workers in spite of this gate.
    Override {
        /// The gate.
        gate: GateName,
        /// Only for this cell, by its name; null = for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cell: Option<String>,
    },
    /// Have so many more workers than there were.
    Spawn {
        /// The pool; null = the only one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<String>,
        /// How many more.
        count: u32,
        /// Workers that were there and staying when it was given.
        beside: u32,
    },
    /// Let it finish and claim no more.
    Drain {
        /// The worker.
        worker: WorkerId,
    },
    /// End it.
    Terminate {
        /// The worker.
        worker: WorkerId,
    },
}

/// An order in force, or one that was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Its number.
    pub id: OrderId,
    /// What was ordered.
    pub command: Command,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Time,
    /// Until when; null = until somebody ends it.
    #[serde(default)]
    pub until: Option<Time>,
}

/// An order to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrder {
    /// What is ordered; `beside` of a spawn is counted by the database.
    pub command: Command,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// How long it lasts; None: until somebody ends it.
    pub lasts: Option<Duration>,
}

impl Order {
    /// Whether it is in force at `now`.
    pub fn holds(&self, now: Time) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// `ada until 12:30:00 (their reason)`.
    pub fn by(&self) -> String {
        let until = self.until.map(|until| format!(" until {until}")).unwrap_or_default();
        format!("{}{until}: {}", self.actor, self.reason)
    }
}

impl Command {
    /// The order's word, as the audit has it.
    pub fn word(&self) -> &'static str {
        match self {
            Command::PausePool { .. } => "pause a pool",
            Command::Override { .. } => "override",
            Command::Spawn { .. } => "spawn",
            Command::Drain { .. } => "drain",
            Command::Terminate { .. } => "terminate",
        }
    }

    /// What it is about, as the audit has it.
    pub fn target(&self) -> String {
        match self {
            Command::PausePool { pool } => pool.clone(),
            Command::Override { gate, cell: None } => gate.word().to_owned(),
            Command::Override { gate, cell: Some(cell) } => format!("{} {cell}", gate.word()),
            Command::Spawn { pool, count, .. } => {
                format!("{count} in {}", pool.as_deref().unwrap_or(DEFAULT_POOL))
            }
            Command::Drain { worker } | Command::Terminate { worker } => worker.to_string(),
        }
    }
}

impl NewOrder {
    /// What is wrong with it; each rule is a limit on what an order can do.
    ///
    /// # Errors
    /// In words, with the rule.
    pub fn check(&self) -> Result<(), String> {
        if self.reason.trim().is_empty() || self.actor.trim().is_empty() {
            return Err("an order says who gives it and why".into());
        }
        match (&self.command, self.lasts) {
            (Command::Override { gate, .. }, _) if !OVERRIDABLE.contains(gate) => {
                let words: Vec<_> = OVERRIDABLE.iter().map(|gate| gate.word()).collect();
                Err(format!("the gate {} cannot be overridden, only {}", gate.word(), words.join(", ")))
            }
            (Command::Override { .. }, None) => Err("an override must end by itself".into()),
            (Command::Override { .. }, Some(lasts)) if lasts > OVERRIDE_LASTS_MAX => {
                Err(format!("an override lasts at most {} h", OVERRIDE_LASTS_MAX.as_secs() / 3_600))
            }
            (Command::Spawn { count, .. }, _) if *count == 0 || *count > SPAWN_COUNT_MAX => {
                Err(format!("a spawn order is for 1 to {SPAWN_COUNT_MAX} workers"))
            }
            (Command::Spawn { .. }, None) => Err("a spawn order must end by itself".into()),
            _ => Ok(()),
        }
    }
}

/// Gates that a human may overrule: they guard money and patience. The others guard the truth of
/// what is known, who leads, and the ceilings; those are changed, not overruled.
pub const OVERRIDABLE: [GateName; 4] =
    [GateName::FailureBreaker, GateName::ProviderBackoff, GateName::Budget, GateName::RateLimit];
