//! One line as a record: a JSON object gives message, level, timestamp and attributes; any other
//! line is the message. Pure.

use serde_json::{Map, Value};

use crate::clock::Time;
use crate::telemetry::record::Level;
use crate::telemetry::ring::Refused;
use crate::telemetry::{NewRecord, Recorder, SourceNo};

/// A line, understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    time: Time,
    level: Level,
    message: String,
    attributes: Map<String, Value>,
}

/// Understands one line. `cut`: bytes that were dropped from its end; `now`: its time where it
/// says none.
pub(super) fn parse(bytes: &[u8], cut: usize, now: Time) -> Line {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\n', '\r']);
    let mut line = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) => from_object(object, now),
        _ => Line { time: now, level: Level::Info, message: text.to_owned(), attributes: Map::new() },
    };
    if cut > 0 {
        line.attributes.insert("dogwatch.cut_bytes".to_owned(), cut.into());
    }
    line
}

/// The known keys are taken where they have a form that can be used; else they stay attributes, so
/// that nothing is lost.
fn from_object(mut object: Map<String, Value>, now: Time) -> Line {
    let mut take = |key: &str, usable: &dyn Fn(&Value) -> bool| {
        if object.get(key).is_some_and(usable) { object.remove(key) } else { None }
    };
    let message = take("message", &Value::is_string);
    let level = take("level", &|value| value.as_str().and_then(Level::from_word).is_some());
    let time = take("timestamp", &|value| value.as_str().and_then(parse_time).is_some());
    Line {
        time: time.as_ref().and_then(Value::as_str).and_then(parse_time).unwrap_or(now),
        level: level.as_ref().and_then(Value::as_str).and_then(Level::from_word).unwrap_or(Level::Info),
        message: message.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
        attributes: object,
    }
}

/// RFC 3339, cut to whole microseconds.
fn parse_time(text: &str) -> Option<Time> {
    let time: Time = text.parse().ok()?;
    Some(crate::clock::from_micros(time.as_microsecond()))
}

impl Line {
    /// Records it.
    pub(super) fn emit(&self, recorder: &Recorder, source: SourceNo) -> Result<u64, Refused> {
        let attributes: Vec<(&str, &Value)> =
            self.attributes.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let record = NewRecord {
            time: self.time,
            level: self.level,
            body: &self.message,
            attributes: &attributes,
            event_name: None,
        };
        recorder.emit(source, &record)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock;

    fn check(text: &str, level: Level, message: &str, attributes: Value) {
        let line = parse(text.as_bytes(), 0, clock::from_micros(5));
        assert_eq!((line.level, line.message.as_str()), (level, message), "{text}");
        assert_eq!(Value::Object(line.attributes), attributes, "{text}");
    }

    #[test]
    fn objects_give_their_parts_and_other_lines_are_the_message() {
        check("plain text\r\n", Level::Info, "plain text", json!({}));
        check(r#"{"message":"m","level":"Fatal","n":1}"#, Level::Critical, "m", json!({"n": 1}));
        check(r#"{"level":"warn","a":{"b":2}}"#, Level::Warning, "", json!({"a": {"b": 2}}));
        check(r#"{"message":7,"level":"loud"}"#, Level::Info, "", json!({"message": 7, "level": "loud"}));
        check("[1,2]", Level::Info, "[1,2]", json!({}));
        check(r#"{"broken":"#, Level::Info, r#"{"broken":"#, json!({}));
    }

    #[test]
    fn times_are_taken_with_any_offset_and_cut_to_microseconds() {
        let line = parse(br#"{"timestamp":"2026-01-31T13:00:00.1234567+01:00"}"#, 0, clock::from_micros(5));
        assert_eq!(line.time.to_string(), "2026-01-31T12:00:00.123456Z");
        let line = parse(br#"{"timestamp":"soon"}"#, 3, clock::from_micros(5));
        assert_eq!(line.time, clock::from_micros(5));
        assert_eq!(line.attributes["timestamp"], "soon");
        assert_eq!(line.attributes["dogwatch.cut_bytes"], 3);
    }
}
