//! Stands in for a spooler that was given up: it never opens the spool, it only keeps room in the
//! ring by the way to stdout.
//!
//! What made the spooler panic again and again lies in what the disk holds or in the code that
//! writes to it, so nothing of that is run here. What stays in the ring is for the next process of
//! the folder. It ends when the recorder does.

use super::fallback::{FALLBACK_FILL, Fallback};
use super::{FALLBACK_POLL, Spooler};
use crate::clock;
use crate::supervise::Pulse;
use crate::telemetry::quiet::quiet;

/// What status and stderr say meanwhile.
const TROUBLE: &str = "the spooler has panicked too often and stays down";

impl Spooler {
    /// The body of one generation of the stand-in. The spooler's own thread must be gone.
    pub(in crate::telemetry) fn stand_in(&self, pulse: &Pulse, generation: u64) {
        quiet(|| {
            self.standing.set_trouble(Some(TROUBLE.to_owned()));
            let mut fallback: Option<Fallback<'_>> = None;
            while pulse.generation() == generation && !self.standing.is_stopping() {
                pulse.beat();
                if self.fill() > FALLBACK_FILL {
                    fallback = fallback
                        .or_else(|| self.consumer(true).map(|consumer| Fallback { spooler: self, consumer }));
                    if fallback.as_mut().is_some_and(|fallback| !fallback.step(clock::monotonic())) {
                        fallback = None;
                    }
                    pulse.progress();
                }
                // Who waits for a flush hears at once that nobody will do it.
                self.pause(FALLBACK_POLL, &mut Vec::new());
            }
        });
    }
}
