//! The breaker of one cell: machines of one kind at one place with one image.
//!
//! It opens after [`FAILURES_MIN`] counted failures in a row without a success between them, for 1,
//! 5, then 15 minutes, longer with each probe that failed. Then it is half-open: one worker is tried,
//! and nothing more is asked for until that one has come up or failed. Another image at the same
//! place is half-open at once: what failed may have been mended, and one worker shows it. Its state
//! is a function of the workers that a snapshot shows; nothing else is remembered.

use std::time::Duration;

use super::super::cell::Cell;
use super::super::health::{self, Standing};
use super::super::ids::WorkerId;
use super::super::snapshot::{Snapshot, Worker};
use super::{Streak, WAITS_SECONDS, has_failed, heard_at, streak_of};
use crate::clock::{self, Time};

/// Failures in a row that open it.
pub const FAILURES_MIN: u32 = 3;
/// Failures older than this are forgotten, seconds; a snapshot shows ended workers at least this long.
pub const MEMORY_SECONDS: u64 = 3_600;

/// Whether the cell may be asked for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It may.
    Closed,
    /// One may be tried.
    HalfOpen(Why),
    /// One is being tried; nothing more until it has come up or failed.
    Probing {
        /// The worker that is being tried.
        probe: WorkerId,
        /// Why only one.
        why: Why,
    },
    /// It may not.
    Open {
        /// Failures in a row.
        failures: u32,
        /// When one may be tried.
        until: Time,
    },
}

/// Why a cell is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// So many failures in a row.
    Failures(u32),
    /// Another image failed at the same place.
    NewImage,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Failures(count) => write!(f, "{count} failures in a row"),
            Why::NewImage => f.write_str("another image failed here"),
        }
    }
}

/// The breaker's state at `now`.
pub fn state(snapshot: &Snapshot, cell: Option<&Cell>, now: Time) -> State {
    let own = |worker: &Worker| worker.cell() == cell;
    let why = match streak_of(snapshot, MEMORY_SECONDS, &own) {
        Some(streak @ Streak { failures, last }) if failures >= FAILURES_MIN => {
            let until = clock::plus(last, open_for(failed_probes(snapshot, &own, streak)));
            if now < until {
                return State::Open { failures, until };
            }
            Why::Failures(failures)
        }
        Some(_) => return State::Closed,
        None if another_image_failed(snapshot, cell) => Why::NewImage,
        None => return State::Closed,
    };
    let probe = snapshot.workers.iter().find(|worker| {
        own(worker) && health::standing(worker, snapshot) == Standing::Spawning && heard_at(worker).is_none()
    });
    match probe {
        Some(probe) => State::Probing { probe: probe.id.clone(), why },
        None => State::HalfOpen(why),
    }
}

/// Workers of the streak that were asked for when it was open already. Others that failed with the
/// first three were on their way then, and say nothing new.
fn failed_probes(snapshot: &Snapshot, own: &dyn Fn(&Worker) -> bool, streak: Streak) -> usize {
    let mut failed: Vec<(Time, Time)> = snapshot
        .workers
        .iter()
        .filter(|worker| own(worker) && has_failed(worker))
        .map(|worker| (worker.ended_at.unwrap_or(worker.created_at), worker.created_at))
        .filter(|(at, _)| *at <= snapshot.as_of)
        .collect();
    failed.sort_unstable();
    let of_streak = &failed[failed.len().saturating_sub(streak.failures as usize)..];
    let Some((opened, _)) = of_streak.get(FAILURES_MIN as usize - 1) else { return 0 };
    of_streak.iter().filter(|(_, created)| created >= opened).count()
}

/// How long the breaker stays open after that many failed probes.
fn open_for(failed_probes: usize) -> Duration {
    Duration::from_secs(WAITS_SECONDS[failed_probes.min(WAITS_SECONDS.len() - 1)])
}

/// Whether this image has not been heard of at the place, and the newest thing known of the place is
/// that another image failed there often enough to open its breaker.
fn another_image_failed(snapshot: &Snapshot, cell: Option<&Cell>) -> bool {
    let Some(cell) = cell else { return false };
    let here = |worker: &Worker| worker.cell().is_some_and(|other| other.is_same_place(cell));
    let heard = snapshot.workers.iter().any(|worker| worker.cell() == Some(cell) && heard_at(worker).is_some());
    let streak = streak_of(snapshot, MEMORY_SECONDS, &here);
    !heard && streak.is_some_and(|streak| streak.failures >= FAILURES_MIN)
}
