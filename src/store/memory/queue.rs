//! The queue as its owners write and read it, and its buckets.

use std::collections::BTreeMap;

use super::bounded;
use super::state::{State, TaskRow};
use crate::clock::{self, Time};
use crate::fleet::ids::TaskId;
use crate::fleet::snapshot::{Demand, DemandLive, User};
use crate::fleet::task::{ATTEMPTS_MAX, Bucket, NewTask, Task, TaskStatus};
use crate::store::{DEMAND_USERS_MAX, TaskFilter, UserTotals};

/// What is counted for one user; `buckets` holds what only a count can tell apart as claimable.
#[derive(Debug, Default)]
struct Count {
    queued: u64,
    in_progress: u64,
    waits: u64,
    buckets: BTreeMap<Bucket, u64>,
    ready_since: Option<Time>,
    /// Tasks that only the user's limit can hold back, by pool, where pools are declared.
    ready_by_pool: BTreeMap<String, u64>,
}

impl State {
    /// Tasks of one call are a microsecond apart, so that they are done in the order they were given.
    pub(super) fn submit(&mut self, tasks: &[NewTask], now: Time) {
        for (at, new) in (now.as_microsecond()..).zip(tasks) {
            if self.tasks.contains_key(&new.id) {
                continue;
            }
            let task = Task {
                id: new.id,
                user: new.user.clone(),
                task_type: new.task_type.clone(),
                params: new.params.clone(),
                run_type: new.run_type.clone(),
                status: TaskStatus::Queued,
                worker: None,
                attempts: 0,
                error: None,
                output: None,
                created_at: clock::from_micros(at),
                started_at: None,
                ended_at: None,
                traceparent: new.traceparent.clone(),
            };
            self.queued.insert((task.created_at, task.id));
            self.tasks.insert(new.id, TaskRow { task, dependant_on: new.dependant_on.clone() });
        }
    }

    pub(super) fn cancel(&mut self, id: TaskId, now: Time) -> bool {
        let open = self.tasks.get(&id).is_some_and(|row| !row.task.status.is_final());
        if open {
            crate::store::count_ended(&[TaskStatus::Cancelled]);
            self.change_task(id, |task| {
                task.status = TaskStatus::Cancelled;
                task.ended_at = Some(now);
            });
        }
        open
    }

    pub(super) fn read_tasks(&self, filter: &TaskFilter) -> Vec<Task> {
        let fits = |task: &&Task| {
            (filter.ids.is_empty() || filter.ids.contains(&task.id))
                && filter.status.is_none_or(|status| task.status == status)
                && filter.user.as_ref().is_none_or(|user| task.user == *user)
                && filter.since.is_none_or(|since| task.created_at >= since)
                && filter.until.is_none_or(|until| task.created_at < until)
        };
        let mut tasks: Vec<&Task> = self.tasks.values().map(|row| &row.task).filter(fits).collect();
        tasks.sort_by_key(|task| std::cmp::Reverse((task.created_at, task.id)));
        tasks.into_iter().take(bounded(filter.limit)).cloned().collect()
    }

    /// The first bucket that fits; claimable also where only the user's limit is in the way.
    fn bucket(&self, row: &TaskRow) -> Bucket {
        let hold = self.holds.get(&row.task.id);
        let held = |bucket: Bucket| hold == Some(&bucket);
        let (credits, cloud_enabled) = self.users.get(&row.task.user).copied().unwrap_or_default();
        if held(Bucket::Paused) {
            Bucket::Paused
        } else if held(Bucket::Poisoned) || row.task.attempts >= ATTEMPTS_MAX {
            Bucket::Poisoned
        } else if held(Bucket::TooOld) {
            Bucket::TooOld
        } else if credits.is_some_and(|credits| credits <= 0.0) {
            Bucket::NoCredits
        } else if cloud_enabled == Some(false) {
            Bucket::CloudDisabled
        } else if self.waits(row) {
            Bucket::Dependency
        } else if held(Bucket::WrongType) || self.pool_of(row).is_none() {
            Bucket::WrongType
        } else {
            Bucket::Claimable
        }
    }

    fn waits(&self, row: &TaskRow) -> bool {
        let complete =
            |id: &TaskId| self.tasks.get(id).is_some_and(|other| other.task.status == TaskStatus::Complete);
        !row.dependant_on.iter().all(complete)
    }

    /// The pool that takes the task: none where no pool does, "" where none is declared.
    fn pool_of(&self, row: &TaskRow) -> Option<&str> {
        if self.pools.is_empty() {
            return Some("");
        }
        let named = self.pools.get(&row.task.task_type).filter(|_| !row.task.task_type.is_empty());
        named.or_else(|| self.pools.get("")).map(String::as_str)
    }

    pub(super) fn oldest_claimable(
        &self,
        run_type: Option<&str>,
        pool: &str,
        user_task_limit: u32,
    ) -> Option<TaskId> {
        let counts = self.in_progress_by_user();
        let limit = u64::from(user_task_limit);
        let fits = |row: &TaskRow| {
            let typed = match (run_type, row.task.run_type.as_deref()) {
                (Some(worker), Some(task)) => worker == task,
                _ => true,
            };
            typed
                && self.pool_of(row).is_some_and(|of| of.is_empty() || of == pool)
                && counts.get(row.task.user.as_str()).copied().unwrap_or(0) < limit
                && self.bucket(row) == Bucket::Claimable
        };
        self.queued.iter().map(|(_, id)| *id).find(|id| fits(&self.tasks[id]))
    }

    fn in_progress_by_user(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for (_, id) in &self.in_progress {
            *counts.entry(self.tasks[id].task.user.as_str()).or_default() += 1;
        }
        counts
    }

    fn counts(&self, user_task_limit: u32) -> BTreeMap<&str, Count> {
        let mut users: BTreeMap<&str, Count> = BTreeMap::new();
        for (user, in_progress) in self.in_progress_by_user() {
            users.entry(user).or_default().in_progress = in_progress;
        }
        for (queued_at, id) in &self.queued {
            let row = &self.tasks[id];
            let count = users.entry(row.task.user.as_str()).or_default();
            let bucket = self.bucket(row);
            count.queued += 1;
            count.waits += u64::from(self.waits(row));
            *count.buckets.entry(bucket).or_default() += 1;
            if bucket == Bucket::Claimable {
                count.ready_since.get_or_insert(*queued_at);
                if let Some(pool) = self.pool_of(row).filter(|pool| !pool.is_empty()) {
                    *count.ready_by_pool.entry(pool.to_owned()).or_default() += 1;
                }
            }
        }
        for count in users.values_mut() {
            let ready = count.buckets.remove(&Bucket::Claimable).unwrap_or(0);
            let claimable = ready.min(u64::from(user_task_limit).saturating_sub(count.in_progress));
            count.buckets.insert(Bucket::Claimable, claimable);
            count.buckets.insert(Bucket::UserLimit, ready - claimable);
            count.buckets.retain(|_, tasks| *tasks > 0);
        }
        users
    }

    pub(super) fn demand(&self, user_task_limit: u32) -> Demand {
        let mut demand = Demand::default();
        let mut live = DemandLive::default();
        for (user, count) in self.counts(user_task_limit) {
            for (bucket, tasks) in &count.buckets {
                *live.buckets.entry(*bucket).or_default() += tasks;
            }
            let mut free = u64::from(user_task_limit).saturating_sub(count.in_progress);
            for (pool, ready) in &count.ready_by_pool {
                let claimable = free.min(*ready);
                free -= claimable;
                *live.pools.entry(pool.clone()).or_default() += claimable;
            }
            if count.buckets.contains_key(&Bucket::Claimable) {
                live.oldest_claimable_at =
                    [live.oldest_claimable_at, count.ready_since].into_iter().flatten().min();
            }
            if demand.users.len() < DEMAND_USERS_MAX {
                let (credits, cloud_enabled) = self.users.get(user).copied().unwrap_or_default();
                demand.users.push(User {
                    user: user.to_owned(),
                    queued: count.queued,
                    in_progress: count.in_progress,
                    credits,
                    cloud_enabled,
                    dependency_blocked: count.waits,
                });
            }
        }
        demand.live = Some(live);
        demand
    }

    pub(super) fn totals(&self, user_task_limit: u32) -> Vec<UserTotals> {
        let mut users: BTreeMap<&str, UserTotals> = BTreeMap::new();
        for TaskRow { task, .. } in self.tasks.values() {
            let totals = users.entry(&task.user).or_default();
            totals.user.clone_from(&task.user);
            *totals.by_status.entry(task.status.word().to_owned()).or_default() += 1;
        }
        for (user, count) in self.counts(user_task_limit) {
            if let Some(totals) = users.get_mut(user) {
                totals.by_bucket =
                    count.buckets.into_iter().map(|(bucket, tasks)| (bucket.word().to_owned(), tasks)).collect();
            }
        }
        users.into_values().take(bounded(0)).collect()
    }
}
