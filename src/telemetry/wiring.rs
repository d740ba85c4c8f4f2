//! What the recorder is built from besides its settings: disk, limits, exporters, and a fuse for
//! each thread. Production uses [`Wiring::default`]; the fault matrix puts in disks that fail,
//! exporters that hang and threads that panic, and runs the same code.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::exporter::Exporter;
use super::shipper;
use super::spool::disk::{Disk, RealDisk};
use crate::supervise::Intensity;

/// A thread without a beat for so long is replaced; above the longest fsync that is normal.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(5);
/// Period of the watchdog's turns.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Period of the keeper's turns.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Least time between two records that tell of losses.
const TELL_LOST_EVERY: Duration = Duration::from_secs(5);

/// Where JSON lines go while the spool cannot be used.
pub(super) type Out = Arc<Mutex<dyn Write + Send>>;

/// What a fuse does when it is passed.
type Burn = dyn Fn(&str) + Send + Sync;

/// Called at each turn of a thread with its name; in production it does nothing.
#[derive(Clone, Default)]
pub(super) struct Fuse(Option<Arc<Burn>>);

impl Fuse {
    /// A fuse that may panic or wait, as the test that gives it wants.
    #[cfg(test)]
    pub(super) fn new(burn: impl Fn(&str) + Send + Sync + 'static) -> Fuse {
        Fuse(Some(Arc::new(burn)))
    }

    /// A turn of that thread.
    pub(super) fn at(&self, thread: &str) {
        if let Some(burn) = &self.0 {
            burn(thread);
        }
    }
}

/// Makes the exporter of a slot anew, where the settings do not know it.
pub(super) type MakeAgain = Option<Arc<dyn Fn(&str) -> Option<Box<dyn Exporter>> + Send + Sync>>;

/// See the module.
pub(super) struct Wiring {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) intensity: Intensity,
    pub(super) stall_limit: Duration,
    pub(super) watch_every: Duration,
    pub(super) keep_every: Duration,
    pub(super) tell_lost_every: Duration,
    pub(super) segment_bytes: Option<u64>,
    pub(super) out: Out,
    pub(super) exporters: Vec<(&'static str, Box<dyn Exporter>)>,
    pub(super) make_again: MakeAgain,
    pub(super) shipping: shipper::Config,
    pub(super) fuse: Fuse,
}

impl Default for Wiring {
    fn default() -> Self {
        Wiring {
            disk: Arc::new(RealDisk),
            intensity: Intensity::BOUNDED,
            stall_limit: STALL_LIMIT,
            watch_every: WATCH_EVERY,
            keep_every: KEEP_EVERY,
            tell_lost_every: TELL_LOST_EVERY,
            segment_bytes: None,
            out: Arc::new(Mutex::new(io::stdout())),
            exporters: Vec::new(),
            make_again: None,
            shipping: shipper::Config::default(),
            fuse: Fuse::default(),
        }
    }
}
