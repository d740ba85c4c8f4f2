//! Where an exporter stands, for status: shared with the shipper's thread, which only writes.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Serialize, Serializer};

use super::{Moment, Pending, Tally};
use crate::clock::{self, Time};
use crate::telemetry::counters;
use crate::telemetry::delivery::Decision;
use crate::telemetry::exporter::ExportError;
use crate::telemetry::record::Stored;

/// Longest error text that is kept, bytes.
const ERROR_BYTES_MAX: usize = 500;

/// What the shipper is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    /// All that was there is delivered.
    Idle,
    /// A batch is on its way.
    Delivering,
    /// The destination does not take records at the moment.
    Retrying {
        /// When it is tried again.
        until: Time,
    },
    /// Somebody has to act.
    Blocked {
        /// What to do.
        remedy: String,
        /// When it is tried again.
        until: Time,
    },
}

/// All that is known of one exporter's delivery since this process started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The exporter's name.
    pub exporter: &'static str,
    /// What it is doing.
    #[serde(flatten)]
    pub state: State,
    /// The last error and when it was seen.
    #[serde(serialize_with = "last_error")]
    pub last_error: Option<(Time, String)>,
    /// Records that arrived.
    pub delivered: u64,
    /// Records that the other side refused for good within a batch it took.
    pub rejected: u64,
    /// Records set aside.
    pub quarantined: u64,
    /// Records that were not there any more when their turn came.
    pub dropped: u64,
    /// Exports that were not taken and are tried again.
    pub retries: u64,
    /// When a batch last arrived.
    pub delivered_at: Option<Time>,
    /// Sequence number of the newest record that arrived.
    pub newest_seq: Option<u64>,
    /// What is still to be delivered.
    pub pending: Pending,
}

fn last_error<S: Serializer>(error: &Option<(Time, String)>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(|(at, text)| format!("{at} {text}")).serialize(serializer)
}

/// Shared [`Facts`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Standing(Arc<Mutex<Facts>>);

impl Standing {
    pub(super) fn new(exporter: &'static str) -> Standing {
        Standing(Arc::new(Mutex::new(Facts {
            exporter,
            state: State::Idle,
            last_error: None,
            delivered: 0,
            rejected: 0,
            quarantined: 0,
            dropped: 0,
            retries: 0,
            delivered_at: None,
            newest_seq: None,
            pending: Pending::default(),
        })))
    }

    /// A copy of what is known.
    pub fn facts(&self) -> Facts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The shipper cannot be made anew.
    pub(super) fn broken(&self, error: &std::io::Error) {
        self.change(|facts| facts.last_error = Some((clock::now(), crate::error::chain(error))));
    }

    pub(super) fn delivered(&self, tally: Tally, batch: &[Stored], moment: Moment) {
        self.change(|facts| {
            facts.delivered += tally.delivered;
            facts.rejected += tally.dropped;
            facts.delivered_at = Some(moment.wall);
            facts.newest_seq = batch.last().map(|stored| stored.seq);
            counters::exported(facts.exporter, tally.delivered);
            counters::rejected(facts.exporter, tally.dropped);
        });
    }

    pub(super) fn failed(&self, error: &ExportError, decision: Decision, moment: Moment) {
        let wall = |at| clock::plus(moment.wall, std::time::Duration::saturating_sub(at, moment.now));
        let mut text = error.to_string();
        text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
        let remedy = match error {
            ExportError::Blocked { remedy, .. } => remedy.clone(),
            _ => "every record is refused: look at the last error and at the quarantine".to_owned(),
        };
        self.change(|facts| {
            facts.last_error = Some((moment.wall, text));
            match decision {
                Decision::RetryAt(at) => {
                    facts.retries += 1;
                    facts.state = State::Retrying { until: wall(at) };
                }
                Decision::Blocked { probe_at: at } => facts.state = State::Blocked { remedy, until: wall(at) },
                Decision::Quarantine { next_at: at } if at > moment.now => {
                    facts.state = State::Blocked { remedy, until: wall(at) };
                }
                Decision::Commit | Decision::Split { .. } | Decision::Quarantine { .. } => {}
            }
        });
    }
}
