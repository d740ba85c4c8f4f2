//! Silence: something changes, and nobody writes about it.
//!
//! A fleet in which nothing happens may be quiet, so age alone is no finding. The rule takes the
//! instants of whatever counts as change, because a running fleet knows of more than a file does.

use super::Finding;
use crate::clock::{self, Time};

/// The source whose silence is judged.
pub const ORCHESTRATOR_SOURCE: &str = "orchestrator_gpu";

/// Silence of `source_type`, whose newest record was made at `last`: reported when that is more than
/// `limit_seconds` before `as_of` and something changed in between.
pub fn silence(
    source_type: &str,
    last: Time,
    changes: impl Iterator<Item = Time>,
    limit_seconds: u64,
    as_of: Time,
) -> Option<Finding> {
    let limit = std::time::Duration::from_secs(limit_seconds);
    let mut count = 0;
    let mut first: Option<Time> = None;
    for change in changes.filter(|change| last < *change && *change <= as_of) {
        count += 1;
        first = Some(first.map_or(change, |first| first.min(change)));
    }
    let silent = clock::age(as_of, last);
    let first = first.filter(|_| silent > limit)?;
    Some(Finding::LogSilence {
        source_type: source_type.to_owned(),
        last_record_at: last,
        silent_seconds: silent.as_secs(),
        worker_changes_since: count,
        detectable_at: first.max(clock::plus(last, limit)),
    })
}
