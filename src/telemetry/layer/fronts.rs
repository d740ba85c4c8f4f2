//! What all events of one place in the code have in common, encoded once: severity and target.
//!
//! Kept by each thread for the places that it has last seen, as many as [`PLACES`]; a place that
//! takes another's room reuses its memory. Metadata is static, so its address names the place.

use tracing::Metadata;

use super::severity;
use crate::telemetry::encode::{LogWriter, Value};

/// Places that a thread remembers; a power of two.
const PLACES: usize = 128;

/// What a thread remembers.
#[derive(Default)]
pub(super) struct Fronts(Vec<Front>);

#[derive(Default, Clone)]
struct Front {
    /// Address of the place's metadata; 0: none yet.
    place: usize,
    bytes: Vec<u8>,
}

impl Fronts {
    /// Encoded severity and target of that place's events.
    #[inline]
    pub(super) fn of(&mut self, metadata: &'static Metadata<'static>) -> &[u8] {
        let place = std::ptr::from_ref(metadata).addr();
        if self.0.is_empty() {
            self.0.resize(PLACES, Front::default());
        }
        let at = (place >> 4 ^ place >> 11) % PLACES;
        let front = &mut self.0[at];
        if front.place != place {
            front.fill(place, metadata);
        }
        &front.bytes
    }
}

impl Front {
    #[cold]
    fn fill(&mut self, place: usize, metadata: &Metadata<'_>) {
        let (_, number, text) = severity(*metadata.level());
        let mut writer = LogWriter::part(&mut self.bytes);
        writer.severity(number, text);
        writer.attribute("target", Value::Str(metadata.target()));
        writer.end();
        self.place = place;
    }
}
