//! Rows on their way through `dw_ingest_logs`: as an agent sends them, and as the gateway takes
//! them.
//!
//! The gateway trusts nothing in a row about who speaks: source_type, source_id and worker_id come
//! from the worker's token. A bad row refuses the whole call and names its index, so that the
//! sender can find it by halving. The same clamping rules apply as to stored records.

use serde_json::{Map, Value};

use super::clamp::Notes;
use super::{Columns, MESSAGE_BYTES_MAX, METADATA_BYTES_MAX, Row, WORKER};
use crate::clock;
use crate::rpc::IngestRow;
use crate::telemetry::record::Level;

/// The row as the call carries it. Who speaks is left out: the other side knows it from the token.
pub fn to_ingest(row: Row) -> IngestRow {
    let mut attributes = match row.metadata {
        Value::Object(attributes) => attributes,
        _ => Map::new(),
    };
    if let Some(cycle) = row.cycle_number {
        attributes.insert("cycle_number".into(), cycle.into());
    }
    IngestRow {
        id: row.id,
        timestamp: clock::from_micros(row.timestamp).to_string(),
        log_level: row.log_level.word().to_owned(),
        message: row.message,
        task_id: row.task_id,
        trace_id: row.trace_id,
        span_id: row.span_id,
        attributes: Value::Object(attributes),
    }
}

/// The row as `system_logs` keeps it, spoken by the worker `worker_id`.
///
/// # Errors
/// The first key that cannot be used, and what was expected there.
pub fn from_ingest(row: IngestRow, worker_id: &str) -> Result<Row, (&'static str, String)> {
    let bytes = row.attributes.to_string().len();
    let bad = |key, expected: &str| (key, expected.to_owned());
    let timestamp: clock::Time = row
        .timestamp
        .parse()
        .map_err(|_| bad("timestamp", "a time in RFC 3339, such as 2025-10-16T17:35:31.25Z"))?;
    let log_level = Level::from_word(&row.log_level)
        .ok_or_else(|| bad("log_level", "DEBUG, INFO, WARNING, ERROR or CRITICAL"))?;
    let mut attributes = match row.attributes {
        Value::Object(attributes) => attributes,
        Value::Null => Map::new(),
        _ => return Err(bad("attributes", "an object")),
    };
    let hex = |text: &Option<String>, length: usize| match text {
        Some(text) if text.len() != length || !text.bytes().all(|b| b.is_ascii_hexdigit()) => Err(length),
        text => Ok(text.as_deref().map(str::to_ascii_lowercase)),
    };
    let trace_id = hex(&row.trace_id, 32).map_err(|_| bad("trace_id", "32 hex digits or null"))?;
    let span_id = hex(&row.span_id, 16).map_err(|_| bad("span_id", "16 hex digits or null"))?;
    let columns = Columns::take(&mut attributes);
    let mut notes = Notes::default();
    Ok(Row {
        id: row.id,
        timestamp: timestamp.as_microsecond(),
        source_type: WORKER.to_owned(),
        source_id: worker_id.to_owned(),
        log_level,
        message: notes.text(row.message, MESSAGE_BYTES_MAX),
        task_id: row.task_id.or(columns.task_id),
        worker_id: Some(worker_id.to_owned()),
        cycle_number: columns.cycle_number,
        trace_id,
        span_id,
        metadata: notes.metadata(attributes, bytes, METADATA_BYTES_MAX),
    })
}
