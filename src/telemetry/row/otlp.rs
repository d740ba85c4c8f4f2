//! OTLP values as JSON: types are kept, and what JSON lacks becomes text the way proto3's JSON
//! mapping writes it. Bytes become hex.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Status;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Map, Value, json};

use crate::clock;

/// Microseconds of OTLP nanoseconds.
pub(super) fn micros(nanos: u64) -> i64 {
    i64::try_from(nanos / 1_000).unwrap_or(i64::MAX)
}

/// The attributes as an object; of a repeated key the last value counts.
pub(super) fn object(attributes: Vec<KeyValue>) -> Map<String, Value> {
    attributes.into_iter().map(|pair| (pair.key, pair.value.map_or(Value::Null, value))).collect()
}

/// A body as a message: a string is itself, anything else its JSON text.
pub(super) fn text(body: AnyValue) -> String {
    match body.value {
        None => String::new(),
        Some(Any::StringValue(text)) => text,
        Some(_) => value(body).to_string(),
    }
}

/// The id in lower-case hex, or None where it is absent, all zero or of a wrong length.
pub(super) fn hex_id(bytes: &[u8], length: usize) -> Option<String> {
    (bytes.len() == length && bytes.iter().any(|byte| *byte != 0)).then(|| hex(bytes))
}

/// The status' code; an unknown number reads as unset.
pub(super) fn status_code(status: &Status) -> StatusCode {
    StatusCode::try_from(status.code).unwrap_or(StatusCode::Unset)
}

/// An event of a span.
pub(super) fn event(event: Event) -> Value {
    json!({
        "name": event.name,
        "time": clock::from_micros(micros(event.time_unix_nano)).to_string(),
        "attributes": object(event.attributes),
    })
}

fn value(any: AnyValue) -> Value {
    match any.value {
        None => Value::Null,
        Some(Any::StringValue(text)) => Value::String(text),
        Some(Any::BoolValue(flag)) => Value::Bool(flag),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::DoubleValue(number)) => double(number),
        Some(Any::ArrayValue(array)) => Value::Array(array.values.into_iter().map(value).collect()),
        Some(Any::KvlistValue(list)) => Value::Object(object(list.values)),
        Some(Any::BytesValue(bytes)) => Value::String(hex(&bytes)),
        Some(Any::StringValueStrindex(_)) => Value::Null,
    }
}

fn double(number: f64) -> Value {
    match serde_json::Number::from_f64(number) {
        Some(number) => Value::Number(number),
        None if number.is_nan() => json!("NaN"),
        None if number > 0.0 => json!("Infinity"),
        None => json!("-Infinity"),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0x0f)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}
