//! The numbers that the rules judge by: each a named setting, with the unit in its name or type.

use std::time::Duration;

use crate::store::Windows;

/// Longest time in which silence is noticed from outside; the defaults stay below it.
pub const NOTICED_WITHIN: Duration = Duration::from_secs(60);
/// How long ended workers are judged by.
pub const FAILURE_WINDOW: Duration = Duration::from_secs(30 * 60);
/// Fewer ended workers are too few to judge by.
pub const FAILURE_ENDED_MIN: usize = 5;
/// Tasks that ended within this are recent.
pub const TASKS_WINDOW: Duration = Duration::from_secs(3_600);
/// What they are compared with: the span before.
pub const TASKS_BEFORE: Duration = Duration::from_secs(24 * 3_600);
/// Fewer recent tasks are too few to judge by.
pub const TASKS_ENDED_MIN: u64 = 10;
/// Recent tasks fail unusually often above so many times the share before.
pub const TASKS_TIMES_BEFORE: f64 = 3.0;
/// An exporter with so few records waiting is not behind: what comes late was made late.
pub const PENDING_FEW: u64 = 1_000;
/// A single worker that falls silent is the orchestrator's business; from so many on it is ours.
pub const WORKERS_UNHEARD_MIN: usize = 2;

/// The limits that rules judge by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Age of the newest row at which a source is silent.
    pub silence: Duration,
    /// How long the database may be away.
    pub database_away: Duration,
    /// Age of an orchestrator's last sign of life at which it is dead.
    pub orchestrator_dead: Duration,
    /// Time without a cycle at which an orchestrator that still writes records has stopped.
    pub cycles_stopped: Duration,
    /// Time without any live worker while some are wanted.
    pub no_worker: Duration,
    /// Age of the freshest heartbeat of all workers.
    pub workers_unheard: Duration,
    /// Age of a worker that has not spoken.
    pub first_heartbeat: Duration,
    /// Time without progress of a worker that has a task.
    pub worker_hung: Duration,
    /// Share of ended workers that had failed.
    pub failure_share: f64,
    /// Share of recent tasks that failed.
    pub task_failure_share: f64,
    /// Time for which a gate blocks spawning that is wanted.
    pub spawn_blocked: Duration,
    /// Time for which the oldest claimable task has waited.
    pub oldest_task: Duration,
    /// Age of an unknown pod, or of a lost answer.
    pub pod_unaccounted: Duration,
    /// How long a loss of records is told.
    pub loss_told: Duration,
    /// Share of the spool's cap.
    pub spool_full_share: f64,
    /// Free bytes on the disk of the data folder.
    pub disk_free_min_bytes: u64,
    /// Time for which a canary may be under way.
    pub canary: Duration,
    /// Difference between a source's clock and the database's.
    pub clock_skew: Duration,
    /// How long a row may stay in the DEFAULT partition of the log table.
    pub default_partition: Duration,
}

/// The fleet's own numbers, which limits follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Age of the newest row at which a source is silent.
    pub silence: Duration,
    /// Period of the cycles.
    pub cycle: Duration,
    /// Period of an agent's heartbeat.
    pub beat: Duration,
    /// A busy worker without progress for this long is ended by the orchestrator.
    pub progress: Duration,
}

impl Limits {
    /// The defaults for a fleet of that rhythm. Whatever is dead or silent is noticed within
    /// `silence` and three rounds.
    pub fn of(rhythm: Rhythm) -> Limits {
        let Rhythm { silence, cycle, beat, progress } = rhythm;
        Limits {
            silence,
            database_away: silence / 2,
            orchestrator_dead: silence,
            cycles_stopped: silence.max(cycle * 3),
            no_worker: Duration::from_secs(300),
            workers_unheard: silence.max(beat * 4),
            first_heartbeat: Duration::from_secs(180),
            worker_hung: progress,
            failure_share: 0.5,
            task_failure_share: 0.2,
            spawn_blocked: Duration::from_secs(300),
            oldest_task: Duration::from_secs(900),
            pod_unaccounted: Duration::from_secs(600),
            loss_told: Duration::from_secs(600),
            spool_full_share: 0.8,
            disk_free_min_bytes: 64 << 20,
            canary: silence * 5 / 4,
            clock_skew: Duration::from_secs(30),
            default_partition: Duration::from_secs(3_600),
        }
    }

    /// How far back a round looks.
    pub fn windows(user_task_limit: u32) -> Windows {
        Windows {
            workers_ended: FAILURE_WINDOW,
            tasks_recent: TASKS_WINDOW,
            tasks_before: TASKS_BEFORE,
            user_task_limit,
        }
    }
}
