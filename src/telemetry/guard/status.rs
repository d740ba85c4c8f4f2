//! Where the whole recorder stands, for `dogwatch status`, doctor and pages: read from memory, so
//! that it answers also while the disk hangs.

use std::sync::PoisonError;

use serde::Serialize;

use super::Guard;
use crate::supervise::Pulse;
use crate::supervise::thread::Child;
use crate::telemetry::shipper::Facts;

/// Where the recorder stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Where the ring lies: `data_folder`, `shared_memory` or `anonymous`.
    pub ring_backing: &'static str,
    /// What is promised there, in words.
    pub promise: String,
    /// Bytes waiting in the ring.
    pub ring_depth_bytes: u64,
    /// Size of the ring, bytes.
    pub ring_capacity_bytes: u64,
    /// Records that were refused.
    pub refused: u64,
    /// Entries that were lost half written.
    pub half_written: u64,
    /// Records that went to stdout, or nowhere, because the spool could not take them.
    pub lost_aside: u64,
    /// Why records do not reach the disk; None: they do.
    pub trouble: Option<String>,
    /// What went wrong with the folders of dead processes.
    pub keeping: Vec<String>,
    /// Records go to stdout because the spool cannot take them.
    pub fallback: bool,
    /// DEBUG and INFO are refused because the spool is nearly at its cap.
    pub spool_low: bool,
    /// The recorder's threads.
    pub threads: Vec<ThreadStatus>,
    /// The exporters, by slot.
    pub exporters: Vec<(&'static str, Facts)>,
}

/// Where one thread stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThreadStatus {
    /// Its name.
    pub thread: String,
    /// How often it was started again.
    pub restarts: u64,
    /// It was started again too often and stays down.
    pub given_up: bool,
    /// Milliseconds since its last beat.
    pub silent_for_ms: u64,
}

impl ThreadStatus {
    fn of(pulse: &Pulse) -> ThreadStatus {
        ThreadStatus {
            thread: pulse.name().to_owned(),
            restarts: pulse.restarts(),
            given_up: pulse.is_given_up(),
            silent_for_ms: u64::try_from(pulse.silent_for().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Guard {
    /// Where the recorder stands; asks no disk.
    pub fn status(&self) -> Status {
        let counters = self.ring.counters();
        let own = [self.spooler.pulse(), self.keeper.pulse(), self.watchdog.pulse()];
        let stand_in = self.stand_in.get().map(Child::pulse);
        let shippers = self.slots.iter().map(|slot| slot.handle.pulse());
        Status {
            ring_backing: self.ring.backing().word(),
            promise: self.ring.backing().to_string(),
            ring_depth_bytes: self.ring.depth_bytes(),
            ring_capacity_bytes: self.ring.capacity_bytes(),
            refused: counters.refused_total(),
            half_written: counters.half_written,
            lost_aside: counters.lost_aside(),
            trouble: self.standing.trouble(),
            keeping: self.keeping.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            fallback: self.standing.is_on_stdout(),
            spool_low: self.recorder.is_spool_low(),
            threads: own.into_iter().chain(stand_in).chain(shippers).map(ThreadStatus::of).collect(),
            exporters: self.slots.iter().map(|slot| (slot.name, slot.handle.standing().facts())).collect(),
        }
    }
}
