//! Rows that stay in the DEFAULT partition of the log table.

use std::time::Duration;

use crate::clock::{self, Time};
use crate::error;
use crate::store::{Store, StrayRows};

/// Period of looking: the question is about an hour.
const READ_EVERY: Duration = Duration::from_secs(60);

/// What was last seen of them.
#[derive(Debug, Default)]
pub(super) struct Strays {
    read_at: Option<Time>,
    seen: Option<StrayRows>,
}

impl Strays {
    /// Looks, where that is due. A database that does not show them (a role without the right) is no
    /// silence: the rest was read.
    pub(super) async fn read(&mut self, store: &dyn Store, now: Time) {
        if self.read_at.is_some_and(|at| clock::age(now, at) < READ_EVERY && at <= now) {
            return;
        }
        self.read_at = Some(now);
        self.seen = match store.stray_rows().await {
            Ok(rows) => Some(rows),
            Err(failure) => {
                tracing::warn!(error = error::chain(&failure), "the DEFAULT partition of the logs cannot be seen");
                None
            }
        };
    }

    /// None: they could not be seen.
    pub(super) fn seen(&self) -> Option<StrayRows> {
        self.seen
    }
}
