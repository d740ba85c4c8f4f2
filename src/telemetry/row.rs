//! What a record is in `system_logs`: one row, made from stored OTLP bytes.
//!
//! The rules of the table are applied here, on the way out, so that a good record is never poison:
//! NUL characters removed (no database takes them), texts and metadata cut to a size, levels
//! mapped to the five known words, numbers that JSON lacks written as text. What was changed is
//! noted in metadata under [`NOTES`]. Attributes keep their types; `task_id`, `worker_id` and
//! `cycle` become columns where they fit, else stay attributes. Pure.

mod clamp;
pub mod ingest;
mod otlp;
#[cfg(test)]
mod tests;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::clamp::Notes;
use super::record::{self, Kind, Level, Stored};
use crate::clock;

/// Longest message, bytes of UTF-8.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Largest metadata, bytes of JSON text.
pub const METADATA_BYTES_MAX: usize = 256 << 10;
/// Longest source_type, source_id and worker_id, bytes: they stand in indexes.
pub const NAME_BYTES_MAX: usize = 256;
/// Most events of a span in its row, the first: OpenTelemetry's own limit. An empty one is two bytes of
/// payload and some hundred as JSON.
pub const SPAN_EVENTS_MAX: usize = 128;
/// The key in metadata under which it says what was changed to make the record fit.
pub const NOTES: &str = "row_notes";

/// The worker's source_type: its rows carry the source's name in `worker_id`, too.
pub const WORKER: &str = "worker";

/// One row of `system_logs`.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// [`record::id`]: the same however often the record is delivered.
    pub id: Uuid,
    /// When it was made (a span: when it ended), microseconds since 1970.
    pub timestamp: i64,
    /// What kind of program speaks.
    pub source_type: String,
    /// Which one of them.
    pub source_id: String,
    /// Its level.
    pub log_level: Level,
    /// The text (a span: its name).
    pub message: String,
    /// The task it is about.
    pub task_id: Option<Uuid>,
    /// The worker it is about.
    pub worker_id: Option<String>,
    /// The orchestrator's cycle it belongs to.
    pub cycle_number: Option<i64>,
    /// 32 hex digits.
    pub trace_id: Option<String>,
    /// 16 hex digits.
    pub span_id: Option<String>,
    /// All the rest: a JSON object.
    pub metadata: Value,
}

/// A record that is no OTLP message: nothing can be made of it.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The bytes do not decode.
    #[error("record {seq} of boot {boot} is not an OTLP {kind:?}")]
    NotOtlp {
        /// Its position.
        seq: u64,
        /// Its boot.
        boot: Uuid,
        /// What it was said to be.
        kind: Kind,
        /// The decoder's error.
        #[source]
        source: prost::DecodeError,
    },
    /// An entry that is not a record.
    #[error("entry {seq} of boot {boot} defines a source and is no record")]
    NotARecord {
        /// Its position.
        seq: u64,
        /// Its boot.
        boot: Uuid,
    },
}

impl Row {
    /// The row of a stored record.
    ///
    /// # Errors
    /// The payload is not what its kind says.
    pub fn from_stored(stored: &Stored) -> Result<Row, RowError> {
        let not_otlp = |source| RowError::NotOtlp { seq: stored.seq, boot: stored.boot, kind: stored.kind, source };
        match stored.kind {
            Kind::Log => Ok(from_log(stored, LogRecord::decode(&*stored.payload).map_err(not_otlp)?)),
            Kind::Span => Ok(from_span(stored, Span::decode(&*stored.payload).map_err(not_otlp)?)),
            Kind::Source => Err(RowError::NotARecord { seq: stored.seq, boot: stored.boot }),
        }
    }
}

fn from_log(stored: &Stored, log: LogRecord) -> Row {
    let nanos = if log.time_unix_nano == 0 { log.observed_time_unix_nano } else { log.time_unix_nano };
    let mut attributes = otlp::object(log.attributes);
    let message = log.body.map(otlp::text).unwrap_or_default();
    let log_level = match log.severity_number {
        0 => stored.level,
        number => Level::from_severity_number(number),
    };
    let columns = Columns::take(&mut attributes);
    if !log.event_name.is_empty() {
        attributes.insert("event_name".into(), Value::String(log.event_name));
    }
    let trace = (otlp::hex_id(&log.trace_id, 16), otlp::hex_id(&log.span_id, 8));
    finish(stored, otlp::micros(nanos), log_level, message, columns, trace, attributes)
}

fn from_span(stored: &Stored, span: Span) -> Row {
    let (start, end) = (otlp::micros(span.start_time_unix_nano), otlp::micros(span.end_time_unix_nano));
    let mut attributes = otlp::object(span.attributes);
    let columns = Columns::take(&mut attributes);
    let code = span.status.as_ref().map_or(StatusCode::Unset, otlp::status_code);
    let (log_level, status) = match (code, stored.level) {
        (StatusCode::Error, _) | (_, Level::Error | Level::Critical) => (Level::Error, "error"),
        (_, Level::Warning) => (Level::Warning, "interrupted"),
        (StatusCode::Ok, _) => (Level::Debug, "ok"),
        (StatusCode::Unset, _) => (Level::Debug, "unset"),
    };
    let mut metadata = Map::new();
    metadata.insert("kind".into(), json!("span"));
    metadata.insert("parent_span_id".into(), json!(otlp::hex_id(&span.parent_span_id, 8)));
    metadata.insert("start".into(), json!(clock::from_micros(start).to_string()));
    metadata.insert("duration_ms".into(), json!(end.saturating_sub(start).max(0) as f64 / 1_000.0));
    metadata.insert("status".into(), json!(status));
    if let Some(status) = span.status.filter(|status| !status.message.is_empty()) {
        metadata.insert("status_message".into(), Value::String(status.message));
    }
    if !span.events.is_empty() {
        let left_out = span.events.len().saturating_sub(SPAN_EVENTS_MAX);
        let events = span.events.into_iter().take(SPAN_EVENTS_MAX).map(otlp::event);
        metadata.insert("events".into(), Value::Array(events.collect()));
        if left_out > 0 {
            metadata.insert("events_left_out".into(), json!(left_out));
        }
    }
    metadata.insert("attributes".into(), Value::Object(attributes));
    let trace = (otlp::hex_id(&span.trace_id, 16), otlp::hex_id(&span.span_id, 8));
    finish(stored, end, log_level, span.name, columns, trace, metadata)
}

/// The attributes that have a column of their own.
#[derive(Debug, Default)]
struct Columns {
    task_id: Option<Uuid>,
    worker_id: Option<String>,
    cycle_number: Option<i64>,
}

impl Columns {
    /// Takes them out of the attributes; a value that does not fit its column stays where it is.
    fn take(attributes: &mut Map<String, Value>) -> Columns {
        let task_id = attributes.get("task_id").and_then(Value::as_str).and_then(|id| Uuid::try_parse(id).ok());
        if task_id.is_some() {
            attributes.remove("task_id");
        }
        let worker_id = attributes
            .get("worker_id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty() && id.len() <= NAME_BYTES_MAX)
            .map(str::to_owned);
        if worker_id.is_some() {
            attributes.remove("worker_id");
        }
        let cycle = ["cycle", "cycle_number"].into_iter().find_map(|key| {
            let value = attributes.get(key)?;
            let number = value.as_i64().or_else(|| value.as_str()?.parse().ok())?;
            Some((key, number))
        });
        if let Some((key, _)) = cycle {
            attributes.remove(key);
        }
        Columns { task_id, worker_id, cycle_number: cycle.map(|(_, number)| number) }
    }
}

fn finish(
    stored: &Stored,
    timestamp: i64,
    log_level: Level,
    message: String,
    columns: Columns,
    (trace_id, span_id): (Option<String>, Option<String>),
    metadata: Map<String, Value>,
) -> Row {
    let mut notes = Notes::default();
    let source_type = notes.text(stored.source.source_type.clone(), NAME_BYTES_MAX);
    let source_id = notes.text(stored.source.source_id.clone(), NAME_BYTES_MAX);
    let of_source = || (source_type == WORKER).then(|| source_id.clone());
    Row {
        id: record::id(timestamp, stored.boot, stored.seq),
        timestamp,
        log_level,
        message: notes.text(message, MESSAGE_BYTES_MAX),
        task_id: columns.task_id,
        worker_id: columns.worker_id.map(|id| notes.text(id, NAME_BYTES_MAX)).or_else(of_source),
        cycle_number: columns.cycle_number,
        trace_id,
        span_id,
        metadata: notes.metadata(metadata, stored.payload.len(), METADATA_BYTES_MAX),
        source_type,
        source_id,
    }
}
