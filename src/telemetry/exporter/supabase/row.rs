//! A row as `dw_insert_logs` takes it: an object whose keys are the table's columns; pure.

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::clock;
use crate::telemetry::row::Row;

/// See the module. Absent values are left out: the function makes them null.
#[derive(Serialize)]
pub(super) struct Insert<'a> {
    id: Uuid,
    timestamp: String,
    source_type: &'a str,
    source_id: &'a str,
    log_level: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cycle_number: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<&'a str>,
    metadata: &'a Value,
}

/// The row, borrowed.
pub(super) fn to_insert(row: &Row) -> Insert<'_> {
    Insert {
        id: row.id,
        timestamp: clock::from_micros(row.timestamp).to_string(),
        source_type: &row.source_type,
        source_id: &row.source_id,
        log_level: row.log_level.word(),
        message: &row.message,
        task_id: row.task_id,
        worker_id: row.worker_id.as_deref(),
        cycle_number: row.cycle_number,
        trace_id: row.trace_id.as_deref(),
        span_id: row.span_id.as_deref(),
        metadata: &row.metadata,
    }
}
