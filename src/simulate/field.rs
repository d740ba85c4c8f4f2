//! A day as the field knows it, by chance: bursts of 1 to 20 tasks of 20 users, short ones and long
//! ones, more by day than by night; boots of 3 to 7 minutes; and two hours without any machine.

use super::load::duration;
use super::rng::Rng;
use super::timeline::{HOUR, MINUTE, SECOND};
use super::trace::{Arrival, CapacityStep, TRACE_VERSION, Trace, TraceCell};
use crate::fleet::policy::Policy;

/// Hours of a trace.
const HOURS: i64 = 24;
/// Day lasts from here to there, hours.
const DAY_HOURS: std::ops::Range<i64> = 8..20;
/// Busy GPUs in the mean, by day and by night.
const BUSY: [f64; 2] = [4.0, 1.0];
/// Most tasks of a burst.
const BURST_MAX: u64 = 20;
/// Users.
const USERS: u64 = 20;
/// The outage of the cell, hours after the beginning; by day.
const REFUSES: [i64; 2] = [13, 15];
/// Boot times that are drawn.
const BOOTS: usize = 2_000;
/// Mean of a task, seconds: 80 % of 1 to 5 minutes, 20 % of 20 to 60.
const TASK_MEAN_SECONDS: f64 = (0.8 * 3.0 + 0.2 * 40.0) * 60.0;

/// The trace of that seed.
pub fn field(seed: u64) -> Trace {
    let mut rng = Rng::new(seed, 2);
    let mut arrivals = Vec::new();
    let mut at = 0.0;
    let hour = HOUR as f64 / SECOND as f64;
    loop {
        let is_day = DAY_HOURS.contains(&((at / hour) as i64));
        let busy = BUSY[usize::from(!is_day)];
        let tasks_a_second = busy / TASK_MEAN_SECONDS;
        let burst_mean = (1.0 + BURST_MAX as f64) / 2.0;
        at += rng.exponential(burst_mean / tasks_a_second);
        if at >= HOURS as f64 * hour {
            break;
        }
        let user = format!("user-{:02}", rng.below(USERS));
        let count = 1 + rng.below(BURST_MAX);
        let run_seconds = (0..count).map(|_| (duration(&mut rng) / SECOND) as f64).collect();
        arrivals.push(Arrival { at_seconds: (at * 1_000.0).round() / 1_000.0, user, run_seconds });
    }
    let boot = |_| (rng.between(3 * MINUTE, 7 * MINUTE) / SECOND) as f64;
    let boot_seconds = (0..BOOTS).map(boot).collect();
    let cell = "default".to_owned();
    let step = |hours: i64, pods| CapacityStep { at_seconds: hours as f64 * hour, cell: cell.clone(), pods };
    Trace {
        schema_version: TRACE_VERSION,
        name: format!("field-like, seed {seed}"),
        hours: HOURS as f64,
        policy: Policy { min_workers: 0, max_workers: 10, user_task_limit: 5, ..Policy::default() },
        cells: vec![TraceCell { name: cell.clone(), pods: 50, usd_per_hour: 0.6 }],
        capacity: vec![step(REFUSES[0], 0), step(REFUSES[1], 50)],
        boot_seconds,
        arrivals,
    }
}
