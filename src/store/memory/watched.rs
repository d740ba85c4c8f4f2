//! The watch's read.

use super::state::State;
use crate::clock::{self, Time};
use crate::fleet::task::TaskStatus;
use crate::store::{TaskEnds, Watched, Windows};

impl State {
    pub(super) fn watched(&self, windows: Windows, now: Time) -> Watched {
        let read = self.observe(windows.workers_ended, windows.user_task_limit, now);
        let recent = clock::minus(now, windows.tasks_recent);
        let before = clock::minus(now, windows.tasks_recent + windows.tasks_before);
        Watched {
            now,
            workers: read.workers,
            demand: read.demand,
            tasks_recent: self.task_ends(recent, Time::MAX),
            tasks_before: self.task_ends(before, recent),
        }
    }

    fn task_ends(&self, since: Time, until: Time) -> TaskEnds {
        let within = |at: Time| since <= at && at < until;
        let mut ends = TaskEnds::default();
        for row in self.tasks.values().filter(|row| row.task.ended_at.is_some_and(within)) {
            ends.ended += u64::from(row.task.status != TaskStatus::Cancelled);
            ends.failed += u64::from(row.task.status == TaskStatus::Failed);
        }
        ends
    }
}
