//! A workload as a file: who submits what and when, which machines there are, how long they boot.
//!
//! `docs/traces.md` documents the format, so that anybody can write one.

use serde::{Deserialize, Serialize};

use super::timeline::SECOND;
use crate::fleet::policy::Policy;

/// The version of the format that is read.
pub(super) const TRACE_VERSION: u32 = 1;
/// Most tasks of a trace.
const TASKS_MAX: usize = 1_000_000;
/// Longest trace, hours.
const HOURS_MAX: f64 = 24.0 * 366.0;

/// A workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The version of the format: 1.
    pub schema_version: u32,
    /// What it is, for humans.
    pub name: String,
    /// How long it is, hours; afterwards nobody submits anything and all is finished.
    pub hours: f64,
    /// The numbers in force; absent: those of the defaults.
    #[serde(default)]
    pub policy: Policy,
    /// The machines there are at the beginning.
    pub cells: Vec<TraceCell>,
    /// What becomes of them, oldest first.
    #[serde(default)]
    pub capacity: Vec<CapacityStep>,
    /// How long pods boot, seconds, in the order in which they are made, and again from the first.
    pub boot_seconds: Vec<f64>,
    /// What is submitted, oldest first.
    pub arrivals: Vec<Arrival>,
}

/// Machines of a kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceCell {
    /// Its name.
    pub name: String,
    /// Pods that may run at the same time.
    pub pods: u32,
    /// Dollars an hour and pod.
    pub usd_per_hour: f64,
}

/// From then on a cell has another capacity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapacityStep {
    /// When, seconds since the beginning.
    pub at_seconds: f64,
    /// Which cell.
    pub cell: String,
    /// Pods that may run at the same time; 0 = every create is refused.
    pub pods: u32,
}

/// Tasks that one user submits at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrival {
    /// When, seconds since the beginning.
    pub at_seconds: f64,
    /// Who.
    pub user: String,
    /// How long each of the tasks runs, seconds.
    pub run_seconds: Vec<f64>,
}

/// Why a trace cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// It is no such document.
    #[error("{path}: {detail}")]
    Shape {
        /// JSON path.
        path: String,
        /// What was expected.
        detail: String,
    },
}

impl Arrival {
    /// When, microseconds since the beginning.
    pub(super) fn at_micros(&self) -> i64 {
        micros(self.at_seconds)
    }
}

impl Trace {
    /// Reads a trace and checks it.
    ///
    /// # Errors
    /// The JSON path of what is wrong, and what was expected there.
    pub fn parse(text: &str) -> Result<Trace, TraceError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let trace: Trace = serde_path_to_error::deserialize(&mut json).map_err(|error| TraceError::Shape {
            path: format!("$.{}", error.path()),
            detail: error.inner().to_string(),
        })?;
        trace.check()?;
        Ok(trace)
    }

    fn check(&self) -> Result<(), TraceError> {
        let expect = |is_so: bool, path: &str, detail: &str| {
            let error = || TraceError::Shape { path: path.to_owned(), detail: format!("expected {detail}") };
            if is_so { Ok(()) } else { Err(error()) }
        };
        let is_time = |seconds: f64| seconds >= 0.0 && seconds <= self.hours * 3_600.0;
        expect(self.schema_version == TRACE_VERSION, "$.schema_version", "1")?;
        expect(self.hours > 0.0 && self.hours <= HOURS_MAX, "$.hours", "more than 0 and at most a year")?;
        expect(!self.cells.is_empty(), "$.cells", "at least one cell")?;
        let boots_well = self.boot_seconds.iter().all(|boot| (0.0..=86_400.0).contains(boot));
        expect(!self.boot_seconds.is_empty() && boots_well, "$.boot_seconds", "one or more of 0 to 86400")?;
        for (index, step) in self.capacity.iter().enumerate() {
            let path = format!("$.capacity[{index}]");
            expect(is_time(step.at_seconds), &path, "at_seconds within the trace")?;
            expect(self.cells.iter().any(|cell| cell.name == step.cell), &path, "the name of one of the cells")?;
        }
        let mut last = 0.0;
        let mut tasks = 0;
        for (index, arrival) in self.arrivals.iter().enumerate() {
            let path = format!("$.arrivals[{index}]");
            expect(is_time(arrival.at_seconds), &path, "at_seconds within the trace")?;
            expect(arrival.at_seconds >= last, &path, "arrivals in the order of time")?;
            let runs_well = arrival.run_seconds.iter().all(|run| (0.0..=864_000.0).contains(run));
            expect(runs_well, &path, "run_seconds of 0 to 864000 each")?;
            last = arrival.at_seconds;
            tasks += arrival.run_seconds.len();
        }
        expect(tasks <= TASKS_MAX, "$.arrivals", "at most 1000000 tasks")
    }
}

/// Microseconds of so many seconds.
pub(super) fn micros(seconds: f64) -> i64 {
    (seconds * SECOND as f64).round() as i64
}
