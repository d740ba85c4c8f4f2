//! How many of the lately judged workers failed, and when that rate falls again.
//!
//! Three counts by one rule. `raw` is the old system's: whoever has ended, among those created in
//! the window. `classified` counts only outcomes that speak against the machine, among the same
//! workers; a file is judged by it. `resolved` is what a running fleet is judged by: outcomes at the
//! time at which they became known, because a failure that takes longer than the window to show
//! would otherwise never be seen. Planned stops, provider refusals and our own errors never count
//! as failures (I14).
//!
//! The end of a block is found by asking the same rule at each instant at which a worker leaves the
//! window; it is not estimated.

pub mod cell;

use super::outcome::Outcome;
use super::policy::Policy;
use super::snapshot::{Snapshot, Worker};
use crate::clock::{self, Time};

/// A failure rate, and whether it blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// Workers that count as failed.
    pub failures: u64,
    /// Workers that were judged.
    pub total: u64,
    /// failures / total, unrounded; 0 where nobody was judged.
    pub rate: f64,
    /// Whether it is above the policy's limit, on enough workers.
    pub blocks: bool,
    /// The first instant at which the same rule no longer blocks; null where it does not block, and
    /// where it never ends by itself.
    pub lifts_at: Option<Time>,
}

/// The old system's rate: ended workers among those created in the window.
pub fn raw(snapshot: &Snapshot, policy: &Policy, now: Time) -> Rate {
    by_creation(snapshot, policy, now, Worker::is_ended)
}

/// Workers that failed among those created in the window: what a file is judged by.
pub fn classified(snapshot: &Snapshot, policy: &Policy, now: Time) -> Rate {
    by_creation(snapshot, policy, now, has_failed)
}

/// Workers that failed among those whose quality became known in the window: what a running fleet is
/// judged by. Known are those that failed, those that were heard of and ended without blame, and
/// those at work. A worker that never spoke and was refused, stopped or lost says nothing.
pub fn resolved(snapshot: &Snapshot, policy: &Policy, now: Time) -> Rate {
    let mut marks = Vec::new();
    let mut at_work = 0;
    for worker in &snapshot.workers {
        if worker.is_ended() {
            let at = worker.ended_at.unwrap_or(worker.created_at);
            let failed = has_failed(worker);
            if at <= snapshot.as_of && (failed || heard_at(worker).is_some()) {
                marks.push(Mark { at: at.as_microsecond(), failed });
            }
        } else if heard_at(worker).is_some() {
            at_work += 1;
        }
    }
    judge(marks, at_work, policy, now)
}

/// Failures in a row, with nothing after them that worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streak {
    /// How many.
    pub failures: u32,
    /// When the newest became known.
    pub last: Time,
}

/// The failures of the window that no success has followed; None where the newest thing known is
/// good. A success is a first heartbeat, a promotion or progress of a worker that has not failed. It
/// is a fact of the snapshot and does not change with the instant of the question, so that the end of
/// a block that rests on it stays where it was said to be.
pub fn streak(snapshot: &Snapshot, policy: &Policy) -> Option<Streak> {
    streak_of(snapshot, policy.failure_window_seconds, &|_| true)
}

/// The same of some workers, within `window_seconds`.
fn streak_of(snapshot: &Snapshot, window_seconds: u64, concerned: &dyn Fn(&Worker) -> bool) -> Option<Streak> {
    let now = snapshot.as_of;
    let window = micros(window_seconds);
    let workers = || snapshot.workers.iter().filter(|worker| concerned(worker));
    let success = workers().filter(|worker| !has_failed(worker)).filter_map(success_at).max();
    let failures = workers()
        .filter(|worker| has_failed(worker))
        .map(|worker| worker.ended_at.unwrap_or(worker.created_at))
        .filter(|at| now.as_microsecond().saturating_sub(at.as_microsecond()) < window && *at <= now)
        .filter(|at| success.is_none_or(|success| *at >= success));
    failures.fold(None, |streak: Option<Streak>, at| {
        Some(streak.map_or(Streak { failures: 1, last: at }, |streak| Streak {
            failures: streak.failures.saturating_add(1),
            last: streak.last.max(at),
        }))
    })
}

/// Whether the worker's end speaks against the machine it ran on.
pub fn has_failed(worker: &Worker) -> bool {
    worker.outcome().is_some_and(Outcome::counts_for_breaker)
}

fn heard_at(worker: &Worker) -> Option<Time> {
    worker.first_heartbeat_at.max(worker.promoted_at)
}

fn success_at(worker: &Worker) -> Option<Time> {
    heard_at(worker).max(worker.live.as_ref().and_then(|live| live.progress_at))
}

/// A judged worker, at the instant from which it counts for one window.
struct Mark {
    at: i64,
    failed: bool,
}

fn by_creation(snapshot: &Snapshot, policy: &Policy, now: Time, failed: fn(&Worker) -> bool) -> Rate {
    let known = snapshot.workers.iter().filter(|worker| worker.created_at <= snapshot.as_of);
    let marks = known.map(|worker| Mark { at: worker.created_at.as_microsecond(), failed: failed(worker) });
    judge(marks.collect(), 0, policy, now)
}

fn judge(mut marks: Vec<Mark>, always_good: u64, policy: &Policy, now: Time) -> Rate {
    let window = micros(policy.failure_window_seconds);
    let now = now.as_microsecond();
    marks.retain(|mark| mark.at <= now && now.saturating_sub(mark.at) < window);
    marks.sort_unstable_by_key(|mark| mark.at);
    let mut failures = marks.iter().filter(|mark| mark.failed).count() as u64;
    let mut total = always_good + marks.len() as u64;
    let mut rate = Rate {
        failures,
        total,
        rate: share(failures, total),
        blocks: blocks(failures, total, policy),
        lifts_at: None,
    };
    let mut left = marks.iter().peekable();
    while let Some(mark) = left.next().filter(|_| rate.blocks && rate.lifts_at.is_none()) {
        failures -= u64::from(mark.failed);
        total -= 1;
        let last_of_its_instant = left.peek().is_none_or(|next| next.at != mark.at);
        if last_of_its_instant && !blocks(failures, total, policy) {
            rate.lifts_at = Time::from_microsecond(mark.at.saturating_add(window)).ok();
            break;
        }
    }
    rate
}

fn blocks(failures: u64, total: u64, policy: &Policy) -> bool {
    total >= u64::from(policy.failure_rate_min_workers) && share(failures, total) > policy.failure_rate_max
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn micros(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000)
}

/// How long what has failed is left alone, seconds: after the failures that were enough, after one more, and
/// after each further one. Cells, probes of a whole fleet and the provider's refusals wait alike.
pub const WAITS_SECONDS: [u64; 3] = [60, 300, 900];

/// When one worker may be tried although the breaker is open: a fleet without any worker would
/// otherwise wait for a window that nothing can change.
pub fn probe_at(snapshot: &Snapshot, policy: &Policy) -> Time {
    let Some(streak) = streak(snapshot, policy) else { return Time::MIN };
    let beyond = streak.failures.saturating_sub(policy.failure_rate_min_workers) as usize;
    let delay = WAITS_SECONDS[beyond.min(WAITS_SECONDS.len() - 1)];
    clock::plus(streak.last, std::time::Duration::from_secs(delay))
}
