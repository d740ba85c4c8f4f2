//! Where the spooler stands: what its generations share, and what status, watchdog and shutdown
//! read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::fallback::Spent;
use crate::catalogue;

/// Why the spooler does not look after the ring itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::telemetry) enum Absence {
    /// It waits for a disk that does not answer.
    Stalled,
    /// It has panicked too often and stays down.
    GivenUp,
}

/// Shared by the spooler's generations and whoever asks.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Standing {
    trouble: Mutex<Option<String>>,
    absence: Mutex<Option<Absence>>,
    ended: AtomicBool,
    /// Milliseconds of the monotonic clock by which to end; 0: nobody has asked.
    stop_by: AtomicU64,
    /// Switches to stdout and back: odd while records go there.
    switches: AtomicU64,
    spool_bytes: AtomicU64,
    /// Bytes that are free on the spool's disk; None: nobody has said.
    free_bytes: Mutex<Option<u64>>,
    longest_sync_micros: AtomicU64,
    /// What stdout has taken in this second.
    pub(super) spent: Mutex<Spent>,
}

impl Standing {
    /// Why records do not reach the disk; None: they do.
    pub(in crate::telemetry) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why something has to stand in for the spooler; None: nothing has to.
    pub(in crate::telemetry) fn absence(&self) -> Option<Absence> {
        *self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The watchdog says that the spooler is away, the spooler that it is back.
    pub(in crate::telemetry) fn set_absence(&self, absence: Option<Absence>) {
        *self.absence.lock().unwrap_or_else(PoisonError::into_inner) = absence;
    }

    /// Records reach the disk, or none waits for it.
    pub(super) fn is_well(&self) {
        self.set_trouble(None);
        self.set_absence(None);
    }

    /// Whether everything was made durable at a stop.
    pub(in crate::telemetry) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How often records were switched to stdout and back: odd while they go there.
    pub(in crate::telemetry) fn switches(&self) -> u64 {
        self.switches.load(Ordering::Acquire)
    }

    /// Bytes of segments on disk, when that was last looked at.
    pub(in crate::telemetry) fn spool_bytes(&self) -> u64 {
        self.spool_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that are free on the spool's disk, when that was last looked at; None: not known.
    pub(in crate::telemetry) fn free_bytes(&self) -> Option<u64> {
        *self.free_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest fdatasync that has ended since this was last asked.
    pub(in crate::telemetry) fn longest_sync(&self) -> Duration {
        Duration::from_micros(self.longest_sync_micros.swap(0, Ordering::Relaxed))
    }

    pub(super) fn has_spooled(&self, bytes: u64) {
        self.spool_bytes.store(bytes, Ordering::Relaxed);
        metrics::gauge!(catalogue::SPOOL_BYTES.name).set(bytes as f64);
    }

    pub(super) fn has_free(&self, bytes: Option<u64>) {
        *self.free_bytes.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    pub(super) fn has_synced(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.longest_sync_micros.fetch_max(micros, Ordering::Relaxed);
        metrics::histogram!(catalogue::FSYNC_DURATION.name).record(took.as_secs_f64());
    }

    /// Whether records go to stdout.
    pub(in crate::telemetry) fn is_on_stdout(&self) -> bool {
        self.switches() % 2 == 1
    }

    /// The spooler is to end: when all is durable, else at `deadline` (monotonic). It outlives a
    /// panic, unlike the order that brought it.
    pub(in crate::telemetry) fn stop_by(&self, deadline: Duration) {
        let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).max(1);
        self.stop_by.store(millis, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop_by.load(Ordering::Acquire) != 0
    }

    pub(super) fn is_over(&self, now: Duration) -> bool {
        let stop_by = self.stop_by.load(Ordering::Acquire);
        stop_by != 0 && now >= Duration::from_millis(stop_by)
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Notes where records go; a change is a switch.
    pub(super) fn to_stdout(&self, active: bool) {
        let turn = |switches: u64| ((switches % 2 == 1) != active).then_some(switches + 1);
        let _ = self.switches.fetch_update(Ordering::AcqRel, Ordering::Acquire, turn);
    }
}
