//! Tells in-band what was lost since it was last told, once there is room again; each switch to
//! stdout and back; and each thread of the recorder that was started again.
//!
//! A count that was told is remembered only when its record is in the ring, so nothing is told
//! into the void and nothing twice.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::voice::Voice;
use crate::clock;
use crate::supervise::Pulse;
use crate::telemetry::record::Level;
use crate::telemetry::recorder::NewRecord;
use crate::telemetry::ring::{Aside, Counters, Refused};

/// Class of event of a record that tells of losses.
pub(in crate::telemetry) const LOST_EVENT: &str = "dogwatch.records.lost";
/// Class of event of a switch to stdout or back.
pub(in crate::telemetry) const FALLBACK_EVENT: &str = "dogwatch.telemetry.fallback";
/// Class of event of a thread that was started again.
pub(in crate::telemetry) const RESTARTED_EVENT: &str = "dogwatch.telemetry.restarted";
/// Share of the ring in use below which there is room again.
const ROOM_AGAIN: f64 = 0.75;

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    counters: Counters,
    lost_at: Option<Duration>,
    switches: u64,
    /// Restarts, and of these those of stalled generations, by thread.
    restarts: BTreeMap<String, (u64, u64)>,
}

impl Told {
    /// Tells what is new, at most every `every`; `last`: the recorder ends, so at once.
    pub(super) fn losses(&mut self, voice: &Voice, now: Duration, every: Duration, last: bool) {
        let is_early = self.lost_at.is_some_and(|at| now.saturating_sub(at) < every);
        let recorder = voice.recorder();
        if recorder.ring_fill() > ROOM_AGAIN || (is_early && !last) {
            return;
        }
        let counters = recorder.ring().counters();
        let since = since(&counters, &self.counters);
        let total: u64 = since.values().sum();
        if total == 0 {
            return;
        }
        let body = format!("{total} records were lost");
        let counts: Vec<(&str, Value)> = since.iter().map(|(name, count)| (name.as_str(), json!(count))).collect();
        let attributes: Vec<(&str, &Value)> = counts.iter().map(|(name, count)| (*name, count)).collect();
        if emit(voice, LOST_EVENT, &body, &attributes) {
            self.counters = counters;
            self.lost_at = Some(now);
        }
    }

    /// Tells each switch to stdout and back that happened meanwhile.
    pub(super) fn switches(&mut self, voice: &Voice, switches: u64, trouble: Option<&str>) {
        while self.switches < switches {
            let active = self.switches.is_multiple_of(2);
            let body = if active {
                "records go to stdout: the spool cannot be used"
            } else {
                "records go to the spool again"
            };
            let (active, why) = (json!(active), json!(trouble));
            if !emit(voice, FALLBACK_EVENT, body, &[("active", &active), ("trouble", &why)]) {
                return;
            }
            self.switches += 1;
        }
    }

    /// Tells of a thread that has panicked or stalled and was started again.
    pub(super) fn restarts(&mut self, voice: &Voice, pulse: &Pulse) {
        let (now, before) =
            ((pulse.restarts(), pulse.generation()), self.restarts.get(pulse.name()).copied().unwrap_or_default());
        // A generation is fenced a moment before its restart is counted.
        let (restarts, stalls) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
        if restarts == 0 || stalls > restarts {
            return;
        }
        let body = match (restarts - stalls, stalls) {
            (panics, 0) => format!("thread {} panicked {panics} times and was started again", pulse.name()),
            (0, stalls) => format!("thread {} stalled {stalls} times and was replaced", pulse.name()),
            (panics, stalls) => {
                format!("thread {} panicked {panics} and stalled {stalls} times; another runs", pulse.name())
            }
        };
        let (thread, restarts, stalled) = (json!(pulse.name()), json!(restarts), json!(stalls));
        let attributes = [("thread", &thread), ("restarts", &restarts), ("stalled", &stalled)];
        if emit(voice, RESTARTED_EVENT, &body, &attributes) {
            self.restarts.insert(pulse.name().to_owned(), now);
        }
    }
}

fn emit(voice: &Voice, event: &str, body: &str, attributes: &[(&str, &Value)]) -> bool {
    let record = NewRecord { time: clock::now(), level: Level::Warning, body, attributes, event_name: Some(event) };
    voice.say(&record)
}

/// Losses between two readings, by `reason.LEVEL` or cause.
fn since(now: &Counters, before: &Counters) -> BTreeMap<String, u64> {
    let mut since = BTreeMap::new();
    for (row, reason) in Refused::COUNTED.iter().enumerate() {
        for (column, level) in Level::ALL.iter().enumerate() {
            let count = now.refused[row][column].saturating_sub(before.refused[row][column]);
            since.insert(format!("{}.{}", reason.word(), level.word()), count);
        }
    }
    for aside in Aside::LOST {
        let count = now.aside[aside as usize].saturating_sub(before.aside[aside as usize]);
        since.insert(aside.word().to_owned(), count);
    }
    since.insert("half_written".to_owned(), now.half_written.saturating_sub(before.half_written));
    since.retain(|_, count| *count > 0);
    since
}
