//! The canary: a record that the watch writes like any other, reads back where rows arrive, and
//! compares.
//!
//! It goes the whole way - layer, ring, spool, shipper, exporter, database - and its content is
//! what pipelines get wrong: large and negative numbers, fractions, quotes, letters beyond ASCII,
//! several lines. Arriving is not enough: what came back must be what was written. One exporter
//! delivers in order, so one that is missing while a later one is there is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::observation::{CanarySeen, SourceId};
use crate::clock::{self, Time};
use crate::store::{LogQuery, LogRow, Result, Store};

/// Canaries under way; no more are written before one is back.
const UNDER_WAY_MAX: usize = 8;
/// A record's own time may be so much before the watch's reading of the clock.
const TIME_SLACK: Duration = Duration::from_secs(5);

/// Text that is easily damaged.
const TEXT: &str = "\"quoted\" \\ back\u{2011}slash, Grüße, 犬 🐕\nsecond line\ttab";
const LARGE: i64 = i64::MAX;
const NEGATIVE: i64 = -9_007_199_254_740_993;
const FRACTION: f64 = 0.1;

/// Writes one canary.
pub type Plant = Arc<dyn Fn(&Canary) + Send + Sync>;

/// One canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Which.
    pub number: i64,
    /// What it is found by.
    pub mark: Uuid,
}

impl Canary {
    /// Its text.
    pub fn message(&self) -> String {
        format!("watch canary {}", self.mark)
    }

    /// Its attributes, as they must come back.
    pub fn attributes(&self) -> Value {
        json!({
            "canary": self.number,
            "text": TEXT,
            "large": LARGE,
            "negative": NEGATIVE,
            "fraction": FRACTION,
            "yes": true,
        })
    }
}

/// Writes a canary by an event of this process.
pub fn emit(canary: &Canary) {
    tracing::info!(
        target: "dogwatch::canary",
        canary = canary.number,
        text = TEXT,
        large = LARGE,
        negative = NEGATIVE,
        fraction = FRACTION,
        yes = true,
        "{}",
        canary.message()
    );
}

/// Those that are under way, and what became of the others.
#[derive(Debug, Default)]
pub(super) struct Canaries {
    under_way: VecDeque<UnderWay>,
    written: i64,
    written_at: Option<Time>,
    changed: Option<String>,
    /// Those up to this number do not end the trouble by coming back whole.
    trouble: i64,
    took: Option<Duration>,
}

#[derive(Debug)]
struct UnderWay {
    canary: Canary,
    /// By the watch's clock, as the record has it.
    made: Time,
    /// By the database's clock, before it was written.
    since: Time,
}

impl Canaries {
    /// Writes one where it is due.
    pub(super) fn plant(&mut self, plant: &Plant, every: Duration, wall: Time, now: Time) {
        let is_early = self.written_at.is_some_and(|at| at <= now && clock::age(now, at) < every);
        if is_early || self.under_way.len() >= UNDER_WAY_MAX {
            return;
        }
        self.written += 1;
        self.written_at = Some(now);
        let canary = Canary { number: self.written, mark: Uuid::new_v4() };
        plant(&canary);
        self.under_way.push_back(UnderWay { canary, made: clock::minus(wall, TIME_SLACK), since: now });
    }

    /// Looks for the oldest that is under way, and where it is missing for the newest.
    pub(super) async fn read_back(&mut self, store: &dyn Store, own: &SourceId) -> Result<()> {
        while let Some(oldest) = self.under_way.front() {
            if let Some(row) = find(store, own, oldest).await? {
                self.arrived(&row);
                continue;
            }
            let newest = self.under_way.back().filter(|newest| newest.canary != oldest.canary);
            let Some(newest) = newest else { return Ok(()) };
            if find(store, own, newest).await?.is_none() {
                return Ok(());
            }
            let (lost, later) = (oldest.canary.number, newest.canary.number);
            self.under_way.pop_front();
            self.changed = Some(format!("number {lost} is missing, while number {later} has arrived"));
            // Told until one that is written from here on has come back whole.
            self.trouble = self.written;
        }
        Ok(())
    }

    fn arrived(&mut self, row: &LogRow) {
        let Some(back) = self.under_way.pop_front() else { return };
        if let Some(different) = difference(&back.canary, row) {
            (self.changed, self.trouble) = (Some(different), back.canary.number);
        } else if back.canary.number > self.trouble {
            self.changed = None;
        }
        self.took = Some(clock::age(row.ingested_at, back.since));
    }

    /// What there is to judge.
    pub(super) fn seen(&self) -> CanarySeen {
        CanarySeen {
            under_way_since: self.under_way.front().map(|canary| canary.since),
            changed: self.changed.clone(),
            took: self.took,
        }
    }
}

async fn find(store: &dyn Store, own: &SourceId, wanted: &UnderWay) -> Result<Option<LogRow>> {
    let query = LogQuery {
        since: Some(wanted.made),
        source_type: Some(own.source_type.clone()),
        source_id: Some(own.source_id.clone()),
        grep: Some(wanted.canary.mark.to_string()),
        limit: 1,
        ..LogQuery::default()
    };
    Ok(store.logs(&query).await?.into_iter().next())
}

/// What is not as it was written.
fn difference(canary: &Canary, row: &LogRow) -> Option<String> {
    if row.message != canary.message() {
        return Some(format!("message {:?} became {:?}", canary.message(), row.message));
    }
    if row.log_level != "INFO" {
        return Some(format!("level INFO became {}", row.log_level));
    }
    let written = canary.attributes();
    let attributes = written.as_object().into_iter().flatten();
    let mut different = attributes.filter(|(key, value)| row.metadata.get(key.as_str()) != Some(*value));
    different.next().map(|(key, value)| {
        let back = row.metadata.get(key.as_str()).unwrap_or(&Value::Null);
        format!("{key} {value} became {back}")
    })
}

#[cfg(test)]
mod tests;
