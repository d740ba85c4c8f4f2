//! What a file expects of its report: a subset, compared by value.
//!
//! Objects are compared by the keys given, lists element by element at the same length, numbers to
//! within 1e-4, times as instants. Each difference is told with its path and both values.

use serde_json::{Map, Value};

use super::report::Report;
use crate::fleet::snapshot::{IncidentFile, parse_time};

/// Numbers closer than this are equal.
const NUMBER_TOLERANCE: f64 = 1e-4;
/// Room for the last bit of a decimal fraction, so that a difference of exactly 1e-4 is still equal.
const ROUNDING: f64 = 1e-12;

/// The keys of a report that hold an instant.
const TIMES: [&str; 4] = ["as_of", "lifts_at", "last_record_at", "detectable_at"];

/// One expectation that is not met.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{path}: expected {expected}, found {}", found.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string))]
pub struct Mismatch {
    /// Where, such as `$.failure_rate.raw.ended`.
    pub path: String,
    /// What the file expects.
    pub expected: Value,
    /// What the report says; null where it has no such key.
    pub found: Option<Value>,
}

/// What the file expects and the report does not say.
pub fn unmet(file: &IncidentFile, report: &Report) -> Vec<Mismatch> {
    let mut unmet = Vec::new();
    if let Some(expect) = &file.expect {
        let found = serde_json::to_value(report).unwrap_or(Value::Null);
        compare_keys("$", expect, &found, &mut unmet);
    }
    unmet
}

fn compare_keys(path: &str, expected: &Map<String, Value>, found: &Value, unmet: &mut Vec<Mismatch>) {
    for (key, expected) in expected {
        compare(&format!("{path}.{key}"), key, expected, found.get(key), unmet);
    }
}

fn compare(path: &str, key: &str, expected: &Value, found: Option<&Value>, unmet: &mut Vec<Mismatch>) {
    match (expected, found) {
        (Value::Object(expected), Some(found @ Value::Object(_))) => compare_keys(path, expected, found, unmet),
        (Value::Array(expected), Some(Value::Array(found))) if expected.len() == found.len() => {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                compare(&format!("{path}[{index}]"), key, expected, Some(found), unmet);
            }
        }
        (expected, Some(found)) if equal(key, expected, found) => {}
        (expected, found) => {
            unmet.push(Mismatch { path: path.to_owned(), expected: expected.clone(), found: found.cloned() });
        }
    }
}

fn equal(key: &str, expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Number(expected), Value::Number(found)) => {
            expected == found
                || matches!((expected.as_f64(), found.as_f64()),
                    (Some(expected), Some(found)) if (expected - found).abs() <= NUMBER_TOLERANCE + ROUNDING)
        }
        (Value::String(expected), Value::String(found)) if TIMES.contains(&key) => {
            expected == found || parse_time(expected).is_some_and(|expected| Some(expected) == parse_time(found))
        }
        (expected, found) => expected == found,
    }
}
