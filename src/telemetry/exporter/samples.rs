//! Records for the tests of delivery.

use std::ops::Range;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use uuid::Uuid;

use crate::telemetry::record::{Kind, Level, Source, Stored};

/// When record 0 was made, microseconds since 1970; record n was made n milliseconds later.
pub(crate) const START_MICROS: i64 = 1_760_636_131_000_000;

/// A log record with the message `record <seq>`.
pub(crate) fn stored(seq: u64) -> Stored {
    let any = |value| Some(AnyValue { value: Some(value) });
    let pair = |key: &str, value| KeyValue { key: key.into(), value: any(value), ..Default::default() };
    let record = LogRecord {
        time_unix_nano: (START_MICROS as u64 + seq * 1_000) * 1_000,
        severity_number: 9,
        body: any(Any::StringValue(format!("record {seq}"))),
        attributes: vec![
            pair("cycle", Any::IntValue(seq as i64 / 10)),
            pair("worker_id", Any::StringValue(format!("gpu-{}", seq % 7))),
            pair("target", Any::StringValue("dogwatch::orchestrator".into())),
            pair("count", Any::IntValue(seq as i64)),
        ],
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        ..LogRecord::default()
    };
    let source = Source { source_type: "external".into(), source_id: "sample".into(), resource: vec![] };
    Stored {
        seq,
        kind: Kind::Log,
        level: Level::Info,
        source: Arc::new(source),
        boot: Uuid::from_u128(7),
        payload: record.encode_to_vec(),
    }
}

/// The records of these sequence numbers.
pub(crate) fn batch(range: Range<u64>) -> Vec<Stored> {
    range.map(stored).collect()
}

/// A record that nobody can decode.
pub(crate) fn poison(seq: u64) -> Stored {
    Stored { payload: vec![0xff; 9], ..stored(seq) }
}
