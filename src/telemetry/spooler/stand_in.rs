//! Stands in for a spooler that is away: it never opens the spool, it only keeps room in the ring by
//! the way to stdout. So a disk that takes for ever costs it nothing.
//!
//! A spooler that was given up stays away: what made it panic again and again lies in what the disk
//! holds or in the code that writes to it, and nothing of that is run here. One that waits for a
//! disk which does not answer comes back when it does, and is the ring's consumer again from then
//! on; whatever it had written and not made durable before is not believed any more
//! (`Fallback::open`), so that no record counts both here and there. What stays in the ring is for
//! the spooler, or for the next process of the folder.

use std::time::Duration;

use super::fallback::{FALLBACK_FILL, Fallback};
use super::{Absence, FALLBACK_POLL, Spooler};
use crate::clock;
use crate::supervise::Pulse;
use crate::telemetry::quiet::quiet;

/// Period of looking whether the spooler is away.
const LOOK: Duration = Duration::from_millis(100);

impl Absence {
    /// What status and stderr say meanwhile.
    fn text(self) -> &'static str {
        match self {
            Absence::Stalled => "the disk does not answer the spooler",
            Absence::GivenUp => "the spooler has panicked too often and stays down",
        }
    }
}

impl Spooler {
    /// The body of one generation of the stand-in. It ends when the recorder does.
    pub(in crate::telemetry) fn stand_in(&self, pulse: &Pulse, generation: u64) {
        quiet(|| {
            let mut fallback: Option<Fallback<'_>> = None;
            while pulse.generation() == generation && !self.standing.is_stopping() {
                pulse.beat();
                self.fuse.at("stand-in");
                match self.standing.absence() {
                    None => {
                        fallback = None;
                        rest(LOOK);
                    }
                    Some(absence) => {
                        self.standing.set_trouble(Some(absence.text().to_owned()));
                        fallback = self.keep_open(fallback);
                        pulse.progress();
                        match absence {
                            Absence::Stalled => rest(FALLBACK_POLL),
                            // Who waits for a flush hears at once that nobody will do it.
                            Absence::GivenUp => self.pause(FALLBACK_POLL, &mut Vec::new()),
                        }
                    }
                }
            }
        });
    }

    /// One step on the way to stdout, where the ring is too full.
    fn keep_open<'a>(&'a self, mut fallback: Option<Fallback<'a>>) -> Option<Fallback<'a>> {
        if self.fill() > FALLBACK_FILL {
            fallback = fallback.or_else(|| Fallback::open(self, true));
            fallback.take_if(|fallback| !fallback.step(clock::monotonic()));
        }
        fallback
    }
}

/// Waits without touching the orders, which are for the spooler when it is back.
fn rest(time: Duration) {
    let _ = crossbeam_channel::after(time).recv();
}
