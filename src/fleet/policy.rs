//! The numbers a fleet is run by. Part of the snapshot, so that a stored decision can be taken
//! again with the very numbers it was taken with.
//!
//! The outer fields are version 1 of the snapshot format and their defaults are those of files;
//! `live` carries what only a running orchestrator needs. All durations are whole seconds unless
//! the name says otherwise.

use serde::{Deserialize, Serialize};

use super::cell::Offer;
use super::pool::Pool;

/// The numbers that every snapshot has, also one written by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "RawPolicy")]
pub struct Policy {
    /// Workers to have, demand or not.
    pub min_workers: u32,
    /// Workers never to exceed; 0 is the emergency stop.
    pub max_workers: u32,
    /// Idle workers to keep, so that a start of minutes is not felt.
    pub idle_buffer: u32,
    /// Tasks in progress that one user may have.
    pub user_task_limit: u32,
    /// The fleet breaker blocks above this share, 0 to 1.
    pub failure_rate_max: f64,
    /// Time over which failures are counted.
    pub failure_window_seconds: u64,
    /// Fewer workers than this never block.
    pub failure_rate_min_workers: u32,
    /// Age of a heartbeat at which a worker is stale.
    pub heartbeat_timeout_seconds: u64,
    /// Idle time after which a worker that is not needed ends.
    pub idle_timeout_seconds: u64,
    /// Age of the newest record at which logging is silent.
    pub log_silence_seconds: u64,
    /// What only a running orchestrator needs; null in files written by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<PolicyLive>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            min_workers: 1,
            max_workers: 10,
            idle_buffer: 0,
            user_task_limit: 5,
            failure_rate_max: 0.8,
            failure_window_seconds: 1_800,
            failure_rate_min_workers: 5,
            heartbeat_timeout_seconds: 300,
            idle_timeout_seconds: 300,
            log_silence_seconds: 300,
            live: None,
        }
    }
}

/// The numbers as written: absent and null are the default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    min_workers: Option<u32>,
    max_workers: Option<u32>,
    idle_buffer: Option<u32>,
    user_task_limit: Option<u32>,
    failure_rate_max: Option<f64>,
    failure_window_seconds: Option<u64>,
    failure_rate_min_workers: Option<u32>,
    heartbeat_timeout_seconds: Option<u64>,
    idle_timeout_seconds: Option<u64>,
    log_silence_seconds: Option<u64>,
    live: Option<PolicyLive>,
}

impl From<RawPolicy> for Policy {
    fn from(raw: RawPolicy) -> Policy {
        let or = Policy::default();
        Policy {
            min_workers: raw.min_workers.unwrap_or(or.min_workers),
            max_workers: raw.max_workers.unwrap_or(or.max_workers),
            idle_buffer: raw.idle_buffer.unwrap_or(or.idle_buffer),
            user_task_limit: raw.user_task_limit.unwrap_or(or.user_task_limit),
            failure_rate_max: raw.failure_rate_max.unwrap_or(or.failure_rate_max),
            failure_window_seconds: raw.failure_window_seconds.unwrap_or(or.failure_window_seconds),
            failure_rate_min_workers: raw.failure_rate_min_workers.unwrap_or(or.failure_rate_min_workers),
            heartbeat_timeout_seconds: raw.heartbeat_timeout_seconds.unwrap_or(or.heartbeat_timeout_seconds),
            idle_timeout_seconds: raw.idle_timeout_seconds.unwrap_or(or.idle_timeout_seconds),
            log_silence_seconds: raw.log_silence_seconds.unwrap_or(or.log_silence_seconds),
            live: raw.live,
        }
    }
}

/// Silence limit of a running fleet, seconds: two heartbeat records of 15 s and some slack.
pub const LOG_SILENCE_SECONDS_LIVE: u64 = 40;

/// The numbers of a running orchestrator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyLive {
    /// Period of a cycle, milliseconds.
    pub cycle_ms: u64,
    /// Period of an agent's heartbeat, milliseconds.
    pub beat_ms: u64,
    /// Mean period of an idle agent's claims, milliseconds.
    pub claim_poll_ms: u64,
    /// An agent that cannot reach its base stops between tasks after this long.
    pub dead_man_seconds: u64,
    /// From intent to the provider's running pod.
    pub spawning_timeout_seconds: u64,
    /// From running pod to the agent's first heartbeat.
    pub startup_timeout_seconds: u64,
    /// Idle time after which a worker above the desired count ends.
    pub overcapacity_idle_timeout_seconds: u64,
    /// A busy worker without progress for this long has stalled.
    pub progress_timeout_seconds: u64,
    /// A draining worker is terminated after this long.
    pub drain_timeout_seconds: u64,
    /// Workers that may be asked for in one cycle.
    pub spawns_per_cycle_max: u32,
    /// Absent this long after the request, in complete lists, an ambiguous pod does not exist.
    pub ambiguous_seconds: u64,
    /// Workers that may be asked for in one hour.
    pub spawns_per_hour_max: u32,
    /// Dollars an hour that all machines together may cost; null = no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_usd_per_hour: Option<f64>,
    /// Dollars that may be spent in one UTC day; null = no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_usd_per_day: Option<f64>,
    /// Nothing is asked for where the provider's account holds less than this, dollars.
    pub balance_min_usd: f64,
    /// Queued tasks older than this are set aside until somebody looks; 0 = never.
    pub task_too_old_seconds: u64,
    /// So many workers dead soon after they claimed the same task: the task is to blame; 0 = never.
    pub poison_workers: u32,
    /// What "soon after the claim" means.
    pub poison_seconds: u64,
    /// The cells that a fleet without declared pools may use, best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<Offer>,
    /// The declared pools; empty = one, `default`, with the fleet's own numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
}

impl Default for PolicyLive {
    fn default() -> Self {
        PolicyLive {
            cycle_ms: 30_000,
            beat_ms: 20_000,
            claim_poll_ms: 1_000,
            dead_man_seconds: 1_800,
            spawning_timeout_seconds: 600,
            startup_timeout_seconds: 1_200,
            overcapacity_idle_timeout_seconds: 30,
            progress_timeout_seconds: 1_200,
            drain_timeout_seconds: 3_600,
            spawns_per_cycle_max: 3,
            ambiguous_seconds: 120,
            spawns_per_hour_max: 120,
            budget_usd_per_hour: None,
            budget_usd_per_day: None,
            balance_min_usd: 1.0,
            task_too_old_seconds: 0,
            poison_workers: 2,
            poison_seconds: 60,
            cells: Vec::new(),
            pools: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_policy_is_all_defaults_and_an_unknown_key_is_refused() {
        assert_eq!(serde_json::from_str::<Policy>("{}").unwrap(), Policy::default());
        assert!(serde_json::from_str::<Policy>(r#"{"max_worker": 3}"#).is_err());
    }
}
