//! How many workers to have, and how many there are.
//!
//! The formula is the operators' own: enough for what is running and what can be claimed, never
//! below the floor and the idle buffer, never above the ceiling. A worker that is on its way
//! covers a task already, so no task is covered twice. Which workers go is not said here.

use super::decision::Capacity;
use super::health::{self, Standing};
use super::policy::Policy;
use super::snapshot::{Snapshot, Worker};

/// What there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Workers that count.
    pub capacity: Capacity,
    /// Workers with a task in their hands, of those that count.
    pub busy: u32,
    /// Workers whose end is decided and whose machine may still run.
    pub leaving: u32,
}

impl Load {
    /// Workers that count: active and spawning.
    pub fn covered(&self) -> u32 {
        self.capacity.active.saturating_add(self.capacity.spawning)
    }

    /// Machines that may run, which is what the ceiling is about.
    pub fn machines(&self) -> u32 {
        self.covered().saturating_add(self.leaving)
    }
}

/// Counts the workers.
pub fn load(snapshot: &Snapshot) -> Load {
    load_of(snapshot, &|_| true)
}

/// Counts those of a pool.
pub fn load_of_pool(snapshot: &Snapshot, pool: &str) -> Load {
    load_of(snapshot, &|worker| worker.live.as_ref().is_some_and(|live| live.pool == pool))
}

fn load_of(snapshot: &Snapshot, concerned: &dyn Fn(&Worker) -> bool) -> Load {
    let mut load = Load::default();
    for worker in snapshot.workers.iter().filter(|worker| concerned(worker)) {
        let standing = health::standing(worker, snapshot);
        match standing {
            Standing::Spawning => load.capacity.spawning = load.capacity.spawning.saturating_add(1),
            Standing::Active => load.capacity.active = load.capacity.active.saturating_add(1),
            Standing::Leaving => load.leaving = load.leaving.saturating_add(1),
            Standing::Ended => {}
        }
        let counts = matches!(standing, Standing::Spawning | Standing::Active);
        let busy = if snapshot.live.is_some() { health::is_busy(worker) } else { worker.running_tasks > 0 };
        if counts && busy {
            load.busy = load.busy.saturating_add(1);
        }
    }
    load
}

/// min(max_workers, max(min_workers, busy + claimable, busy + idle_buffer)).
pub fn desired(policy: &Policy, busy: u32, claimable: u64) -> u32 {
    let for_tasks = u64::from(busy).saturating_add(claimable);
    let with_buffer = u64::from(busy) + u64::from(policy.idle_buffer);
    let wanted = for_tasks.max(with_buffer).max(u64::from(policy.min_workers));
    u32::try_from(wanted).unwrap_or(u32::MAX).min(policy.max_workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn desired_holds_floor_buffer_and_ceiling() {
        let check = |text: &str, busy, claimable, expected| {
            let policy: Policy = serde_json::from_str(text).unwrap();
            assert_eq!(desired(&policy, busy, claimable), expected, "{text} {busy} busy {claimable} claimable");
        };
        check("{}", 0, 0, 1);
        check("{}", 1, 14, 10);
        check("{}", 3, 2, 5);
        check(r#"{"idle_buffer": 2}"#, 3, 0, 5);
        check(r#"{"idle_buffer": 2}"#, 3, 4, 7);
        check(r#"{"max_workers": 0}"#, 3, 4, 0);
        check(r#"{"min_workers": 7, "max_workers": 4}"#, 0, 0, 4);
        check(r#"{"max_workers": 4294967295}"#, u32::MAX, u64::MAX, u32::MAX);
    }
}
