//! What to do after an export: the state machine of one exporter, pure.
//!
//! It is told what became of a batch, the time (monotonic) and a random number, and answers with a
//! [`Decision`] that leaves no choice to the caller. An outage is retried with a growing, jittered
//! wait; after several failures in a row the circuit is open, and each further try is one small
//! probe. A refusal that only a human can lift is held and probed. A refused batch is halved until
//! the poison record stands alone; that one is set aside. A long run of refused single records is
//! no poison but a fault of the destination: it is held, and one record a probe is set aside.
//!
//! It promises that nothing is ever given up for its age, that order is kept (the head of the feed
//! moves only by Commit and Quarantine), and that a batch is never asked for larger than
//! [`Limits::batch_max`]. It knows nothing of records, files or networks.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::backoff::Backoff;

/// Smallest batch that failures alone lead to, records; bisecting goes below.
pub const BATCH_RECORDS_MIN: usize = 16;
/// Size of a probe, records: what a destination gets that has failed several times or has blocked.
pub const PROBE_RECORDS: usize = 16;
/// Share of the probe interval that randomness may take away.
const PROBE_JITTER: f64 = 0.2;

/// The numbers of one exporter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Records of the first batch.
    pub batch_start: usize,
    /// Most records in a batch.
    pub batch_max: usize,
    /// Wait after a failure.
    pub backoff: Backoff,
    /// Longest wait that a destination can ask for (Retry-After).
    pub retry_after_max: Duration,
    /// How often a blocked destination is tried again.
    pub probe_every: Duration,
    /// Failures in a row that open the circuit.
    pub open_after: u32,
    /// Records refused one by one, without a success between, that are believed to be poison.
    pub quarantine_run_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_start: 512,
            batch_max: 4_096,
            backoff: Backoff { base: Duration::from_millis(100), ceiling: Duration::from_secs(30), jitter: 0.5 },
            retry_after_max: Duration::from_secs(15 * 60),
            probe_every: Duration::from_secs(30),
            open_after: 5,
            quarantine_run_max: 16,
        }
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Exported,
    /// Not now.
    Retry {
        /// The destination's own wish.
        after: Option<Duration>,
    },
    /// Not before somebody acts.
    Blocked,
    /// Not this batch.
    Refused,
}

/// What to do. Times are monotonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Move the cursor behind the batch.
    Commit,
    /// Ask again at that time.
    RetryAt(Duration),
    /// Hold and alert; probe at that time.
    Blocked {
        /// When to try again.
        probe_at: Duration,
    },
    /// Ask again at once with this many records from the same head.
    Split {
        /// Records in the next batch.
        records: usize,
    },
    /// Set the single refused record aside and move the cursor behind it; go on at that time.
    Quarantine {
        /// When to go on.
        next_at: Duration,
    },
}

/// Whether the destination is believed to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// It is.
    Closed,
    /// It is not, and is left alone.
    Open,
    /// The time for one probe has come.
    HalfOpen,
}

/// The state of one exporter's delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    limits: Limits,
    batch: usize,
    failures: u32,
    hold: Hold,
    /// Records from the head that are known to hold poison; 0: none known.
    suspect: usize,
    /// Single records refused since the last success.
    refused_singles: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hold {
    No,
    Retry(Duration),
    Blocked(Duration),
}

impl Delivery {
    /// A delivery that has seen nothing.
    pub fn new(limits: Limits) -> Delivery {
        let batch = limits.batch_start.clamp(1, limits.batch_max.max(1));
        Delivery { limits, batch, failures: 0, hold: Hold::No, suspect: 0, refused_singles: 0 }
    }

    /// When the next export may be made: None is at once.
    pub fn ready_at(&self) -> Option<Duration> {
        match self.hold {
            Hold::No => None,
            Hold::Retry(at) | Hold::Blocked(at) => Some(at),
        }
    }

    /// How many records the next batch is to hold at most.
    pub fn records(&self) -> usize {
        let healthy = if self.suspect > 0 { (self.suspect / 2).max(1) } else { self.batch };
        if self.failures >= self.limits.open_after || matches!(self.hold, Hold::Blocked(_)) {
            healthy.min(PROBE_RECORDS)
        } else {
            healthy
        }
    }

    /// Whether a refused batch is being halved: the next batch must come from the same feed.
    pub fn is_bisecting(&self) -> bool {
        self.suspect > 0
    }

    /// The circuit at `now`.
    pub fn circuit(&self, now: Duration) -> Circuit {
        match self.hold {
            _ if self.failures < self.limits.open_after => Circuit::Closed,
            Hold::Retry(at) | Hold::Blocked(at) if now < at => Circuit::Open,
            _ => Circuit::HalfOpen,
        }
    }

    /// Somebody waits: the next try is due at `now`, and waits grow from the shortest again.
    pub fn hurry(&mut self, now: Duration) {
        self.failures = 0;
        self.hold = match self.hold {
            Hold::No => Hold::No,
            Hold::Retry(at) => Hold::Retry(at.min(now)),
            Hold::Blocked(at) => Hold::Blocked(at.min(now)),
        };
    }

    /// Takes in what became of a batch of `records` records. `random` is uniform in 0..1.
    pub fn decide(&mut self, outcome: Outcome, records: usize, now: Duration, random: f64) -> Decision {
        match outcome {
            Outcome::Exported => self.exported(records),
            Outcome::Retry { after } => self.retry(after, now, random),
            Outcome::Blocked => Decision::Blocked { probe_at: self.block(now, random) },
            Outcome::Refused => self.refused(records, now, random),
        }
    }

    fn exported(&mut self, records: usize) -> Decision {
        if self.suspect > 0 {
            self.suspect = self.suspect.saturating_sub(records);
        } else if records >= self.batch {
            self.batch = self.batch.saturating_mul(2).min(self.limits.batch_max);
        }
        (self.failures, self.hold, self.refused_singles) = (0, Hold::No, 0);
        Decision::Commit
    }

    fn retry(&mut self, after: Option<Duration>, now: Duration, random: f64) -> Decision {
        let own = self.limits.backoff.delay(self.failures, random);
        let wait = own.max(after.unwrap_or_default().min(self.limits.retry_after_max));
        self.failures = self.failures.saturating_add(1);
        self.shrink();
        let at = now.saturating_add(wait);
        self.hold = Hold::Retry(at);
        Decision::RetryAt(at)
    }

    fn refused(&mut self, records: usize, now: Duration, random: f64) -> Decision {
        // An answer of any kind: the destination itself is up.
        (self.failures, self.hold) = (0, Hold::No);
        self.shrink();
        if records > 1 {
            self.suspect = records;
            return Decision::Split { records: self.records() };
        }
        self.suspect = 0;
        self.refused_singles = self.refused_singles.saturating_add(1);
        let run_is_poison = self.refused_singles <= self.limits.quarantine_run_max;
        Decision::Quarantine { next_at: if run_is_poison { now } else { self.block(now, random) } }
    }

    fn block(&mut self, now: Duration, random: f64) -> Duration {
        let kept = 1.0 - PROBE_JITTER * random.clamp(0.0, 1.0);
        let at = now.saturating_add(self.limits.probe_every.mul_f64(kept));
        self.hold = Hold::Blocked(at);
        at
    }

    fn shrink(&mut self) {
        self.batch = (self.batch / 2).max(BATCH_RECORDS_MIN).min(self.limits.batch_max.max(1));
    }
}
