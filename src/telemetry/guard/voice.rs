//! What the recorder itself says in-band: heartbeats, losses, switches, take-overs.
//!
//! It falls silent before the ring is closed: a record of the recorder's own that came too late
//! would be refused, and a shutdown that lost nothing would tell of a loss. Falling silent waits
//! for whoever is speaking, which takes as long as one push.

use std::sync::{Arc, Mutex, PoisonError};

use crate::telemetry::recorder::{NewRecord, Recorder};

/// The recorder's own voice; clones are the same one.
#[derive(Clone)]
pub(in crate::telemetry) struct Voice {
    recorder: Recorder,
    is_silent: Arc<Mutex<bool>>,
}

impl Voice {
    pub(in crate::telemetry) fn new(recorder: Recorder) -> Voice {
        Voice { recorder, is_silent: Arc::default() }
    }

    /// Says it. False: the ring refuses it, which is counted, or the voice is silent, and then
    /// nothing was offered.
    pub(super) fn say(&self, record: &NewRecord<'_>) -> bool {
        let is_silent = self.is_silent.lock().unwrap_or_else(PoisonError::into_inner);
        !*is_silent && self.recorder.emit_vital(record).is_ok()
    }

    /// When this returns nothing more is said.
    pub(in crate::telemetry) fn fall_silent(&self) {
        *self.is_silent.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    pub(in crate::telemetry) fn is_silent(&self) -> bool {
        *self.is_silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hand that it speaks through.
    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }
}
