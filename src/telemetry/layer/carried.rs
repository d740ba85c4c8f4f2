//! The fields of a span that each event inside it inherits: task, worker, cycle.

use std::fmt;
use std::sync::Arc;

use tracing::field::{Field, Visit};

use crate::telemetry::encode::{LogWriter, Value};

/// What a span carries; kept in its extensions, inherited by its children.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Carried {
    task_id: Option<Arc<str>>,
    worker_id: Option<Arc<str>>,
    cycle: Option<i64>,
}

/// Which of the carried fields an event has said itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said {
    task_id: bool,
    worker_id: bool,
    cycle: bool,
}

/// Every value, of whatever type, is told here; a field that is declared and has none is not said.
impl Visit for Said {
    fn record_debug(&mut self, field: &Field, _: &dyn fmt::Debug) {
        match field.name() {
            "task_id" => self.task_id = true,
            "worker_id" => self.worker_id = true,
            "cycle" => self.cycle = true,
            _ => {}
        }
    }
}

impl Carried {
    pub(super) fn is_empty(&self) -> bool {
        *self == Carried::default()
    }

    /// Writes what the event has not said itself.
    pub(super) fn write(&self, said: Said, writer: &mut LogWriter<'_>) {
        if let (Some(task), false) = (&self.task_id, said.task_id) {
            writer.attribute("task_id", Value::Str(task));
        }
        if let (Some(worker), false) = (&self.worker_id, said.worker_id) {
            writer.attribute("worker_id", Value::Str(worker));
        }
        if let (Some(cycle), false) = (self.cycle, said.cycle) {
            writer.attribute("cycle", Value::Int(cycle));
        }
    }
}

impl Visit for Carried {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "task_id" => self.task_id = Some(format!("{value:?}").into()),
            "worker_id" => self.worker_id = Some(format!("{value:?}").into()),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "task_id" => self.task_id = Some(value.into()),
            "worker_id" => self.worker_id = Some(value.into()),
            _ => {}
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "cycle" {
            self.cycle = Some(value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_i64(field, i64::try_from(value).unwrap_or(i64::MAX));
    }
}
