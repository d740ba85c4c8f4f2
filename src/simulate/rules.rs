//! Rules to compare with ours: what the old system did, and what a simple autoscaler does.
//!
//! Each is a function like `decide`, and the same executor does what it says. They know neither
//! backoff nor probes, ask for all they want at once, and end idle workers by a time-out.

use std::str::FromStr;
use std::time::Duration;

use crate::clock::{self, Time};
use crate::fleet::decision::{Action, Decision, GateName, decide};
use crate::fleet::health;
use crate::fleet::ids::WorkerId;
use crate::fleet::order::Command;
use crate::fleet::outcome::Outcome;
use crate::fleet::policy::Policy;
use crate::fleet::pool::DEFAULT_POOL;
use crate::fleet::snapshot::{Snapshot, Worker};
use crate::fleet::state::WorkerState;
use crate::fleet::{breaker, demand, scaling};
use crate::orchestrator::Method;

/// The simple autoscaler asks for one more worker when a task has waited this long.
const QUEUE_DELAY: Duration = Duration::from_secs(4);
/// And ends workers that were idle for this long.
const QUEUE_DELAY_IDLE: Duration = Duration::from_secs(5);
/// Workers that the old system has on their way for each queued task.
const WORKERS_A_TASK: u32 = 2;
/// The old system ends a worker above the desired count after this long.
const OLD_OVERCAPACITY_IDLE: Duration = Duration::from_secs(30);

/// By which rules a trace is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// What production runs.
    Ours,
    /// The old system as it was run: its formula, two workers a task, tries each 30 s, its breaker over
    /// all that ended, which is switched off 40 minutes after it first stands in the way.
    Legacy,
    /// The same with operators who never touch the breaker.
    LegacyBreakerKept,
    /// One more worker when the oldest claimable task has waited 4 s; idle time-out 5 s.
    QueueDelay,
}

impl Rules {
    /// All of them.
    pub const ALL: [Rules; 4] = [Rules::Ours, Rules::Legacy, Rules::LegacyBreakerKept, Rules::QueueDelay];

    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Rules::Ours => "ours",
            Rules::Legacy => "legacy",
            Rules::LegacyBreakerKept => "legacy_breaker_kept",
            Rules::QueueDelay => "queue_delay",
        }
    }

    pub(super) fn method(self) -> Method {
        let decide = match self {
            Rules::Ours => return Method::OURS,
            Rules::Legacy | Rules::LegacyBreakerKept => legacy,
            Rules::QueueDelay => queue_delay,
        };
        Method { decide, one_first: false }
    }

    /// Period of a cycle under these rules, milliseconds.
    pub(super) fn cycle_ms(self) -> u64 {
        match self {
            Rules::Ours | Rules::Legacy | Rules::LegacyBreakerKept => 30_000,
            Rules::QueueDelay => 1_000,
        }
    }
}

impl FromStr for Rules {
    type Err = String;

    fn from_str(word: &str) -> Result<Rules, String> {
        let known = || Rules::ALL.map(Rules::word).join(", ");
        Rules::ALL.into_iter().find(|rules| rules.word() == word).ok_or_else(|| format!("one of {}", known()))
    }
}

/// desired = min(MAX, max(MIN, queued + active, busy + idle buffer)), blocked where too many of those
/// created in the window have ended, for whatever reason: a refused create is such a worker, too, and so
/// is one that was stopped because it was idle. A worker on its way covers half a task: the field's came
/// in pairs.
fn legacy(snapshot: &Snapshot, policy: &Policy, now: Time) -> Decision {
    let ours = decide(snapshot, policy, now);
    let load = scaling::load(snapshot);
    let claimable = snapshot.demand.as_ref().map_or(0, |seen| demand::tally(seen, policy).claimable());
    let queued = u32::try_from(claimable).unwrap_or(u32::MAX).saturating_mul(WORKERS_A_TASK);
    let orders = snapshot.live.iter().flat_map(|live| &live.orders);
    let off = orders
        .filter(|order| order.holds(now))
        .any(|order| matches!(order.command, Command::Override { gate: GateName::FailureBreaker, cell: None }));
    let blocks = !off && breaker::raw(snapshot, policy, now).blocks;
    let wanted = queued.saturating_add(load.capacity.active).max(load.busy.saturating_add(policy.idle_buffer));
    let wanted = if queued == 0 { load.busy.saturating_add(policy.idle_buffer) } else { wanted };
    let desired = wanted.max(policy.min_workers).min(policy.max_workers);
    let spawn = if blocks { 0 } else { desired.saturating_sub(load.covered()) };
    let limits = [Duration::from_secs(policy.idle_timeout_seconds), OLD_OVERCAPACITY_IDLE];
    instead(snapshot, ours, &Instead { desired, spawn, limits }, now)
}

fn queue_delay(snapshot: &Snapshot, policy: &Policy, now: Time) -> Decision {
    let ours = decide(snapshot, policy, now);
    let load = scaling::load(snapshot);
    let oldest = snapshot.demand.as_ref().and_then(|demand| demand.live.as_ref()?.oldest_claimable_at);
    let waits = oldest.is_some_and(|oldest| clock::age(now, oldest) >= QUEUE_DELAY);
    let room = policy.max_workers.saturating_sub(load.machines());
    let spawn = u32::from(waits).min(room);
    let desired = load.busy.saturating_add(spawn);
    instead(snapshot, ours, &Instead { desired, spawn, limits: [QUEUE_DELAY_IDLE; 2] }, now)
}

/// What replaces our own choice of numbers.
struct Instead {
    desired: u32,
    spawn: u32,
    /// Idle time-out of a worker, and of one above the desired count.
    limits: [Duration; 2],
}

/// Our decision with other numbers: ends, adoptions and time-outs of the dead stay.
fn instead(snapshot: &Snapshot, mut ours: Decision, instead: &Instead, now: Time) -> Decision {
    ours.desired = instead.desired;
    ours.spawn = instead.spawn;
    let (Some(live), Some(seen)) = (&mut ours.live, &snapshot.live) else { return ours };
    live.actions.retain(|action| !matches!(action, Action::Spawn { .. } | Action::Drain { .. }));
    if seen.term.is_none() {
        return ours;
    }
    let active = ours.capacity.active;
    let mut surplus = active.saturating_sub(instead.desired);
    for worker in snapshot.workers.iter().rev() {
        let Some(idle) = idle_for(worker, now) else { continue };
        if idle >= instead.limits[usize::from(surplus > 0)] {
            surplus = surplus.saturating_sub(1);
            let reason = format!("idle for {} s", idle.as_secs());
            live.actions.push(Action::Drain { worker: worker.id.clone(), outcome: Outcome::Planned, reason });
        }
    }
    for index in 0..instead.spawn {
        let worker = WorkerId::planned(snapshot.as_of, seen.boot_id, seen.cycle, index);
        live.actions.push(spawn(worker));
    }
    ours
}

fn spawn(worker: WorkerId) -> Action {
    Action::Spawn { worker, pool: DEFAULT_POOL.to_owned(), cell: None, usd_per_hour: None }
}

fn idle_for(worker: &Worker, now: Time) -> Option<Duration> {
    let live = worker.live.as_ref()?;
    let is_idle = live.state == WorkerState::Idle && live.leaving.is_none() && !health::is_busy(worker);
    is_idle.then(|| clock::age(now, live.idle_since.unwrap_or(live.state_since)))
}
