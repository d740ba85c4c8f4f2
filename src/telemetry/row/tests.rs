//! Records in, rows out.

use std::sync::Arc;

use expect_test::{Expect, expect};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1::Status;

use super::ingest::{from_ingest, to_ingest};
use super::*;
use crate::rpc::IngestRow;
use crate::telemetry::record::Source;

const TASK: &str = "5e0c1a52-6f0b-4c7e-9d51-0c4f3a1f9a11";
const AT_NANOS: u64 = 1_760_636_131_123_456_000;

fn any(value: Any) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.into(), value: Some(any(value)), ..Default::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::StringValue(value.into()))
}

fn stored(kind: Kind, level: Level, source_type: &str, payload: Vec<u8>) -> Stored {
    let source = Source { source_type: source_type.into(), source_id: "unit".into(), resource: vec![] };
    Stored { seq: 64, kind, level, source: Arc::new(source), boot: Uuid::from_u128(7), payload }
}

fn log(body: &str, attributes: Vec<KeyValue>) -> LogRecord {
    LogRecord {
        time_unix_nano: AT_NANOS,
        severity_number: 13,
        body: Some(any(Any::StringValue(body.into()))),
        attributes,
        ..LogRecord::default()
    }
}

fn row_of(record: &LogRecord) -> Row {
    Row::from_stored(&stored(Kind::Log, Level::Info, "external", record.encode_to_vec())).unwrap()
}

fn check(row: &Row, expected: Expect) {
    let shown = format!(
        "{} {} {}/{} {:?}\ntask {:?} worker {:?} cycle {:?} trace {:?} span {:?}\n{}",
        clock::from_micros(row.timestamp),
        row.log_level.word(),
        row.source_type,
        row.source_id,
        row.message,
        row.task_id.map(|id| id.to_string()),
        row.worker_id,
        row.cycle_number,
        row.trace_id,
        row.span_id,
        row.metadata,
    );
    expected.assert_eq(&shown);
}

#[test]
fn a_log_record_with_every_type_of_value() {
    let list = KeyValueList { values: vec![text("inner", "x")] };
    let array = ArrayValue { values: vec![any(Any::IntValue(1)), any(Any::BoolValue(true)), AnyValue::default()] };
    let mut record = log(
        "spawned worker",
        vec![
            text("task_id", TASK),
            text("worker_id", "gpu-1"),
            pair("cycle", Any::IntValue(638)),
            text("target", "dogwatch::orchestrator"),
            pair("int", Any::IntValue(i64::MIN)),
            pair("double", Any::DoubleValue(0.25)),
            pair("nan", Any::DoubleValue(f64::NAN)),
            pair("inf", Any::DoubleValue(f64::NEG_INFINITY)),
            pair("bool", Any::BoolValue(false)),
            pair("bytes", Any::BytesValue(vec![0, 0xab])),
            pair("array", Any::ArrayValue(array)),
            pair("object", Any::KvlistValue(list)),
        ],
    );
    record.event_name = "worker.spawned".into();
    record.trace_id = vec![0xab; 16];
    record.span_id = vec![0x01; 8];
    check(
        &row_of(&record),
        expect![[r#"
        2025-10-16T17:35:31.123456Z WARNING external/unit "spawned worker"
        task Some("5e0c1a52-6f0b-4c7e-9d51-0c4f3a1f9a11") worker Some("gpu-1") cycle Some(638) trace Some("abababababababababababababababab") span Some("0101010101010101")
        {"array":[1,true,null],"bool":false,"bytes":"00ab","double":0.25,"event_name":"worker.spawned","inf":"-Infinity","int":-9223372036854775808,"nan":"NaN","object":{"inner":"x"},"target":"dogwatch::orchestrator"}"#]],
    );
}

#[test]
fn values_that_do_not_fit_their_column_stay_attributes() {
    let record = log(
        "x",
        vec![
            text("task_id", "not a uuid"),
            pair("worker_id", Any::IntValue(5)),
            text("cycle_number", "12"),
            text("cycle", "x"),
        ],
    );
    check(
        &row_of(&record),
        expect![[r#"
        2025-10-16T17:35:31.123456Z WARNING external/unit "x"
        task None worker None cycle Some(12) trace None span None
        {"cycle":"x","task_id":"not a uuid","worker_id":5}"#]],
    );
}

#[test]
fn a_worker_that_speaks_is_the_worker_of_its_rows() {
    let payload = log("hello", vec![]).encode_to_vec();
    let row = Row::from_stored(&stored(Kind::Log, Level::Info, WORKER, payload)).unwrap();
    assert_eq!(row.worker_id.as_deref(), Some("unit"));
}

#[test]
fn bodies_that_are_no_string_become_json_text() {
    let mut record = log("", vec![]);
    record.body = Some(any(Any::KvlistValue(KeyValueList { values: vec![pair("a", Any::IntValue(1))] })));
    assert_eq!(row_of(&record).message, r#"{"a":1}"#);
    record.body = None;
    assert_eq!(row_of(&record).message, "");
}

#[test]
fn time_and_level_have_a_fallback_and_bad_ids_are_none() {
    let mut record = log("x", vec![]);
    (record.time_unix_nano, record.observed_time_unix_nano, record.severity_number) = (0, 5_000, 0);
    (record.trace_id, record.span_id) = (vec![0; 16], vec![1; 7]);
    let row = row_of(&record);
    assert_eq!((row.timestamp, row.log_level, row.trace_id, row.span_id), (5, Level::Info, None, None));
}

#[test]
fn nul_is_removed_everywhere_and_noted() {
    let list = KeyValueList { values: vec![text("k\0", "\0v\0")] };
    let record = log("a\0b", vec![text("key\0", "\0"), pair("deep", Any::KvlistValue(list))]);
    check(
        &row_of(&record),
        expect![[r#"
        2025-10-16T17:35:31.123456Z WARNING external/unit "ab"
        task None worker None cycle None trace None span None
        {"deep":{"k":"v"},"key":"","row_notes":{"nul_removed":6}}"#]],
    );
}

#[test]
fn long_texts_are_cut_between_characters_and_noted() {
    let long = "\u{fc}".repeat(MESSAGE_BYTES_MAX);
    let row = row_of(&log(&format!("x{long}"), vec![]));
    assert!(row.message.len() <= MESSAGE_BYTES_MAX && row.message.len() >= MESSAGE_BYTES_MAX - 1);
    assert_eq!(row.metadata[NOTES]["text_cut_from_bytes"], json!(long.len() + 1));
}

#[test]
fn large_metadata_is_cut_to_fit_and_small_values_stay() {
    for (values, bytes) in [(1, 1 << 20), (3, 200 << 10), (100, 5 << 10), (20_000, 50)] {
        let mut attributes: Vec<_> =
            (0..values).map(|n| text(&format!("k{n:05}"), &"\u{1}".repeat(bytes))).collect();
        attributes.push(pair("a", Any::IntValue(1)));
        let row = row_of(&log("x", attributes));
        assert!(row.metadata.to_string().len() <= METADATA_BYTES_MAX, "{values} values of {bytes}");
        assert_eq!(row.metadata["a"], json!(1));
        assert!(row.metadata[NOTES]["metadata_cut_from_bytes"].as_u64().unwrap() > METADATA_BYTES_MAX as u64);
        assert!(row.metadata.to_string().len() > METADATA_BYTES_MAX / 100);
    }
}

fn span(code: StatusCode, level: Level) -> Row {
    let span = Span {
        trace_id: vec![0xcd; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![1; 8],
        name: "insert_logs".into(),
        start_time_unix_nano: AT_NANOS,
        end_time_unix_nano: AT_NANOS + 1_500_000,
        attributes: vec![pair("cycle", Any::IntValue(638)), pair("rows", Any::IntValue(12))],
        status: Some(Status { message: String::new(), code: code as i32 }),
        ..Span::default()
    };
    Row::from_stored(&stored(Kind::Span, level, "orchestrator_gpu", span.encode_to_vec())).unwrap()
}

#[test]
fn a_span_is_a_row_at_its_end() {
    check(
        &span(StatusCode::Ok, Level::Debug),
        expect![[r#"
        2025-10-16T17:35:31.124956Z DEBUG orchestrator_gpu/unit "insert_logs"
        task None worker None cycle Some(638) trace Some("cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd") span Some("0202020202020202")
        {"attributes":{"rows":12},"duration_ms":1.5,"kind":"span","parent_span_id":"0101010101010101","start":"2025-10-16T17:35:31.123456Z","status":"ok"}"#]],
    );
}

#[test]
fn a_spans_level_follows_its_status() {
    for (code, stored, level, status) in [
        (StatusCode::Unset, Level::Debug, Level::Debug, "unset"),
        (StatusCode::Error, Level::Debug, Level::Error, "error"),
        (StatusCode::Unset, Level::Warning, Level::Warning, "interrupted"),
        (StatusCode::Error, Level::Warning, Level::Error, "error"),
    ] {
        let row = span(code, stored);
        assert_eq!((row.log_level, &row.metadata["status"]), (level, &json!(status)));
    }
}

#[test]
fn rubbish_is_an_error_and_no_row() {
    for (kind, payload) in [(Kind::Log, vec![0xff; 9]), (Kind::Span, vec![0x0a]), (Kind::Source, vec![])] {
        assert!(Row::from_stored(&stored(kind, Level::Info, "x", payload)).is_err());
    }
}

#[test]
fn a_row_survives_the_way_through_the_call() {
    let mut record = log("hello", vec![text("task_id", TASK), pair("cycle", Any::IntValue(3)), text("k", "v")]);
    record.trace_id = vec![0xab; 16];
    let row = Row::from_stored(&stored(Kind::Log, Level::Info, WORKER, record.encode_to_vec())).unwrap();
    let sent = serde_json::to_value(to_ingest(row.clone())).unwrap();
    assert_eq!(from_ingest(serde_json::from_value(sent).unwrap(), "unit").unwrap(), row);
}

#[test]
fn the_key_of_a_bad_row_is_named() {
    let good = to_ingest(row_of(&log("x", vec![])));
    let refused = |change: &dyn Fn(&mut IngestRow)| {
        let mut bad = good.clone();
        change(&mut bad);
        from_ingest(bad, "w").unwrap_err().0
    };
    assert_eq!(refused(&|row| row.timestamp = "yesterday".into()), "timestamp");
    assert_eq!(refused(&|row| row.log_level = "LOUD".into()), "log_level");
    assert_eq!(refused(&|row| row.trace_id = Some("xyz".into())), "trace_id");
    assert_eq!(refused(&|row| row.span_id = Some("12".into())), "span_id");
    assert_eq!(refused(&|row| row.attributes = json!([1])), "attributes");
    assert!(from_ingest(good, "w").is_ok());
}
