//! A snapshot written as a file, with what is expected of it beside.
//!
//! Bad input is answered with the place and what belongs there, never with a guess: an unknown key,
//! a wrong type, a time that is none, an end before its beginning.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::policy::Policy;
use super::{Demand, Live, Record, SCHEMA_VERSION, Snapshot, Worker, format};
use crate::clock::Time;

/// A file: the snapshot, and the part of the report that it expects.
#[derive(Debug, Clone, PartialEq)]
pub struct IncidentFile {
    /// The fleet.
    pub snapshot: Snapshot,
    /// Any part of the report; null where nothing is expected.
    pub expect: Option<Map<String, Value>>,
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {expected}")]
pub struct ParseError {
    /// The JSON path, such as `$.workers[0].created_at`.
    pub path: String,
    /// What was found and what is expected there.
    pub expected: String,
}

/// Reads a file's text.
pub fn parse(text: &str) -> Result<IncidentFile, ParseError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let raw: RawFile = serde_path_to_error::deserialize(&mut json).map_err(located)?;
    json.end().map_err(|error| ParseError {
        path: "$".into(),
        expected: format!("expected the end of the file: {error}"),
    })?;
    let snapshot = Snapshot {
        schema_version: raw.schema_version,
        name: raw.name,
        as_of: raw.as_of,
        policy: raw.policy,
        workers: raw.workers,
        demand: raw.demand,
        records: raw.records,
        live: raw.live,
    };
    check(&snapshot)?;
    Ok(IncidentFile { snapshot, expect: raw.expect })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    schema_version: u32,
    name: String,
    #[serde(deserialize_with = "format::time")]
    as_of: Time,
    #[serde(default, deserialize_with = "format::nullable")]
    policy: Policy,
    workers: Vec<Worker>,
    demand: Option<Demand>,
    #[serde(default, deserialize_with = "format::nullable")]
    records: Vec<Record>,
    #[serde(default, deserialize_with = "format::filled")]
    live: Option<Live>,
    expect: Option<Map<String, Value>>,
}

/// serde names the place of a missing key by the object around it; here it is the key's own.
fn located(error: serde_path_to_error::Error<serde_json::Error>) -> ParseError {
    let path = error.path().to_string();
    let mut path = if path == "." { "$".to_owned() } else { format!("$.{path}") };
    let message = error.inner().to_string();
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split_once('`'));
    let expected = match missing {
        Some((key, rest)) => {
            path = format!("{path}.{key}");
            format!("expected this key, it is missing{rest}")
        }
        None if message.starts_with("duplicate field") => format!("expected each key once: {message}"),
        None => message,
    };
    ParseError { path, expected }
}

/// What the types cannot say.
fn check(snapshot: &Snapshot) -> Result<(), ParseError> {
    let wrong = |path: String, expected: String| Err(ParseError { path, expected });
    if snapshot.schema_version != SCHEMA_VERSION {
        let expected = format!("version {} is not known, expected {SCHEMA_VERSION}", snapshot.schema_version);
        return wrong("$.schema_version".into(), expected);
    }
    for (index, worker) in snapshot.workers.iter().enumerate() {
        if let Some(ended_at) = worker.ended_at.filter(|ended_at| *ended_at < worker.created_at) {
            let expected = format!("{ended_at} is before its beginning, expected {} or later", worker.created_at);
            return wrong(format!("$.workers[{index}].ended_at"), expected);
        }
    }
    if let Some(pause) = snapshot.live.as_ref().and_then(|live| live.pause.as_ref())
        && let Some(until) = pause.until.filter(|until| *until < pause.since)
    {
        let expected = format!("{until} is before its beginning, expected {} or later", pause.since);
        return wrong("$.live.pause.until".into(), expected);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
