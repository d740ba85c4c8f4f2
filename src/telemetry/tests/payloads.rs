//! Whatever bytes lie in the spool as a payload, every reader gives a value or an error that names the
//! record: none panics, and none needs more memory than a small multiple of the bytes.
//!
//! Random bytes, bytes with protobuf's shape, valid records, and valid records with changes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::Arc;

use nix::sys::resource::{Resource, setrlimit};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use proptest::prelude::*;
use prost::Message;
use uuid::Uuid;

use crate::telemetry::exporter::stdout::line;
use crate::telemetry::record::{Kind, Level, Source, Stored};
use crate::telemetry::ring::MAX_PAYLOAD_BYTES;
use crate::telemetry::row::ingest::{from_ingest, to_ingest};
use crate::telemetry::row::{MESSAGE_BYTES_MAX, METADATA_BYTES_MAX, Row, SPAN_EVENTS_MAX};
use crate::telemetry::spool::disk::memory::MemoryDisk;
use crate::telemetry::spool::{Folder, SpoolConfig, Writer, repair};

const BOOT: Uuid = Uuid::from_u128(7);

/// Bytes that may be anything.
pub(in crate::telemetry) fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..600),
        2 => shaped(),
        2 => valid().prop_map(|(_, bytes)| bytes),
        5 => (valid(), prop::collection::vec(change(), 1..6)).prop_map(|((_, bytes), changes)| changed(bytes, changes)),
    ]
}

/// A record that is what its kind says.
pub(in crate::telemetry) fn valid() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    let log = (any::<(u64, u64, i32)>(), any_value(), attributes(), ids(), ".{0,12}");
    let log =
        log.prop_map(|((time, observed, severity), body, attributes, (trace_id, span_id), event_name)| LogRecord {
            time_unix_nano: time,
            observed_time_unix_nano: observed,
            severity_number: severity,
            body: Some(body),
            attributes,
            trace_id,
            span_id,
            event_name,
            ..LogRecord::default()
        });
    let event = (any::<u64>(), ".{0,12}", attributes()).prop_map(|(time_unix_nano, name, attributes)| Event {
        time_unix_nano,
        name,
        attributes,
        ..Event::default()
    });
    let span = (
        any::<(u64, u64)>(),
        ".{0,12}",
        attributes(),
        ids(),
        prop::collection::vec(event, 0..4),
        any::<(i32, bool)>(),
    );
    let span =
        span.prop_map(|((start, end), name, attributes, (trace_id, span_id), events, (code, has_status))| Span {
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            name: name.clone(),
            attributes,
            parent_span_id: span_id.clone(),
            trace_id,
            span_id,
            events,
            status: has_status.then_some(Status { code, message: name }),
            ..Span::default()
        });
    prop_oneof![
        log.prop_map(|log| (Kind::Log, log.encode_to_vec())),
        span.prop_map(|span| (Kind::Span, span.encode_to_vec())),
    ]
}

fn ids() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let id = |length: usize| {
        prop_oneof![prop::collection::vec(any::<u8>(), length), prop::collection::vec(any::<u8>(), 0..20)]
    };
    (id(16), id(8))
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let key =
        prop_oneof![".{0,8}", Just("task_id".to_owned()), Just("cycle".to_owned()), Just("worker_id\0".to_owned())];
    prop::collection::vec((key, prop::option::of(any_value())), 0..5).prop_map(pairs)
}

fn pairs(pairs: Vec<(String, Option<AnyValue>)>) -> Vec<KeyValue> {
    pairs.into_iter().map(|(key, value)| KeyValue { key, value, ..KeyValue::default() }).collect()
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let of = |value: Any| AnyValue { value: Some(value) };
    let leaf = prop_oneof![
        Just(AnyValue::default()),
        ".{0,20}".prop_map(move |text| of(Any::StringValue(text))),
        any::<bool>().prop_map(move |flag| of(Any::BoolValue(flag))),
        any::<i64>().prop_map(move |number| of(Any::IntValue(number))),
        any::<f64>().prop_map(move |number| of(Any::DoubleValue(number))),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(move |bytes| of(Any::BytesValue(bytes))),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let array = prop::collection::vec(inner.clone(), 0..4);
        let list = prop::collection::vec((".{0,8}", prop::option::of(inner)), 0..4);
        prop_oneof![
            array.prop_map(move |values| of(Any::ArrayValue(ArrayValue { values }))),
            list.prop_map(move |values| of(Any::KvlistValue(KeyValueList { values: pairs(values) }))),
        ]
    })
}

/// Fields as protobuf has them, of any number and type, inside each other.
fn shaped() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop::collection::vec(any::<u8>(), 0..12);
    leaf.prop_recursive(6, 40, 5, |inner| {
        let field = (0_u8..24, 0_u8..8, inner, prop::option::of(any::<u8>()));
        prop::collection::vec(field, 0..5).prop_map(|fields| {
            let mut bytes = Vec::new();
            for (number, wire, content, wrong_length) in fields {
                prost::encoding::encode_varint(u64::from(number << 3 | wire), &mut bytes);
                if wire == 2 {
                    let length = wrong_length.map_or(content.len() as u64, u64::from);
                    prost::encoding::encode_varint(length, &mut bytes);
                }
                bytes.extend(content);
            }
            bytes
        })
    })
}

/// What happens to bytes: at a place, in parts of the whole.
#[derive(Debug, Clone)]
enum Change {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        4 => (place(), prop_oneof![any::<u8>(), Just(0xff), Just(0x80), Just(0)]).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => place().prop_map(Change::Cut),
        1 => (place(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (place(), place()).prop_map(|(from, to)| Change::Repeat(from, to)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for change in changes {
        let at = |index: prop::sample::Index, bytes: &[u8]| index.index(bytes.len() + 1);
        match change {
            Change::Set(index, byte) => {
                let place = at(index, &bytes);
                bytes.get_mut(place).into_iter().for_each(|old| *old = byte);
            }
            Change::Cut(index) => bytes.truncate(at(index, &bytes)),
            Change::Insert(index, more) => {
                let place = at(index, &bytes);
                drop(bytes.splice(place..place, more));
            }
            Change::Repeat(from, to) => {
                let (from, to) = (at(from, &bytes), at(to, &bytes));
                let again = bytes[from.min(to)..from.max(to)].to_vec();
                drop(bytes.splice(to..to, again));
            }
        }
    }
    bytes
}

pub(in crate::telemetry) fn stored(seq: u64, kind: Kind, payload: Vec<u8>) -> Stored {
    let source = Source { source_type: "external".into(), source_id: "fuzz".into(), resource: Vec::new() };
    Stored { seq, kind, level: Level::Info, source: Arc::new(source), boot: BOOT, payload }
}

/// All that is made of a row on its way out.
fn leaves(row: Row) {
    assert!(row.message.len() <= MESSAGE_BYTES_MAX && !row.message.contains('\0'));
    let metadata = row.metadata.to_string();
    assert!(metadata.len() <= METADATA_BYTES_MAX && !metadata.contains("\\u0000"), "{}", metadata.len());
    let text = line(row.clone()).to_string();
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let (timestamp, message) = (row.timestamp, row.message.clone());
    let arrived = from_ingest(to_ingest(row), "unit").unwrap();
    assert_eq!(arrived.message, message);
    // RFC 3339 ends with the year 9999, and so does our clock.
    assert_eq!(arrived.timestamp, crate::clock::from_micros(timestamp).as_microsecond());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_payload_gives_a_row_within_its_limits_or_an_error_that_names_it(payload in any_payload()) {
        for kind in [Kind::Log, Kind::Span, Kind::Source] {
            match Row::from_stored(&stored(4_711, kind, payload.clone())) {
                Ok(row) => leaves(row),
                Err(error) => prop_assert!(error.to_string().contains("4711"), "{}", error),
            }
        }
    }

    #[test]
    fn a_valid_record_gives_a_row((kind, payload) in valid()) {
        leaves(Row::from_stored(&stored(1, kind, payload)).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// As `spool cat` reads a folder, and with definitions of sources that are anything, too.
    #[test]
    fn a_folder_of_any_payloads_is_read_to_its_end(
        entries in prop::collection::vec((prop_oneof![1 => Just(Kind::Source), 4 => Just(Kind::Log), 4 => Just(Kind::Span)], 0_u16..3, any_payload()), 1..20)
    ) {
        let disk = MemoryDisk::default();
        let root = std::path::Path::new("/spool");
        let folder = Folder::create(root, BOOT, Arc::new(disk.clone())).unwrap();
        let config = SpoolConfig { segment_bytes: 2_000, ..SpoolConfig::default() };
        let mut writer = Writer::open(&folder, config).unwrap();
        let mut records = BTreeMap::new();
        for (seq, (kind, source, payload)) in (1..).zip(entries) {
            writer.append(seq, kind, Level::Info, source, &payload).unwrap();
            if kind != Kind::Source {
                records.insert(seq, payload);
            }
        }
        writer.sync().unwrap();
        let mut found = BTreeMap::new();
        repair::cat(&disk, root, BOOT, &mut |stored| {
            if let Ok(row) = Row::from_stored(&stored) {
                leaves(row);
            }
            found.insert(stored.seq, stored.payload);
            ControlFlow::Continue(())
        }).unwrap();
        prop_assert_eq!(found, records);
    }
}

/// Payloads of the largest size that cost the most: many small parts.
fn costly() -> Vec<(&'static str, Kind, Vec<u8>)> {
    let field = |number: u32, content: &[u8]| {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        bytes.extend(content);
        bytes
    };
    let many = |part: &[u8]| part.repeat(MAX_PAYLOAD_BYTES / part.len() - 4);
    let keys: Vec<u8> =
        (0..MAX_PAYLOAD_BYTES / 11).flat_map(|n| field(6, &field(1, format!("{n:05}").as_bytes()))).collect();
    let body = |inner: Vec<u8>| field(5, &field(5, &inner));
    let mut deep = Vec::new();
    while deep.len() < 40_000 {
        deep = field(5, &field(1, &deep));
    }
    vec![
        ("empty attributes", Kind::Log, many(&field(6, &[]))),
        ("attributes with keys", Kind::Log, keys),
        ("an array of nothing", Kind::Log, body(many(&field(1, &[])))),
        ("values inside each other", Kind::Log, field(5, &deep)),
        ("empty events", Kind::Span, many(&field(11, &[]))),
        ("events with an attribute", Kind::Span, many(&field(11, &field(3, &field(1, b"k"))))),
        ("empty links", Kind::Span, many(&field(13, &[]))),
    ]
}

const IN_LITTLE_MEMORY: &str = "DOGWATCH_TEST_IN_LITTLE_MEMORY";
const CHILD: &str = "telemetry::tests::payloads::rows_in_a_process_with_little_memory";
/// Private memory that a process may have that makes rows of payloads of 1 MiB.
const MEMORY_BYTES: u64 = 128 << 20;

/// Does nothing by itself: [`the_costliest_payloads_need_a_small_multiple_of_their_bytes`] starts it.
#[test]
fn rows_in_a_process_with_little_memory() {
    #[expect(clippy::disallowed_methods, reason = "how the parent tells its child what it is")]
    if std::env::var_os(IN_LITTLE_MEMORY).is_none() {
        return;
    }
    let costly = costly();
    setrlimit(Resource::RLIMIT_DATA, MEMORY_BYTES, MEMORY_BYTES).unwrap();
    for (name, kind, payload) in costly {
        println!("{name}");
        if let Ok(row) = Row::from_stored(&stored(1, kind, payload)) {
            leaves(row);
        }
    }
    println!("all");
}

#[test]
fn the_costliest_payloads_need_a_small_multiple_of_their_bytes() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let command = command.args([CHILD, "--exact", "--nocapture", "--test-threads=1"]).env(IN_LITTLE_MEMORY, "1");
    let output = command.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && out.contains("all\n"), "{out}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_row_holds_so_many_events_of_a_span_and_says_how_many_it_does_not() {
    let span = Span {
        events: vec![Event::default(); SPAN_EVENTS_MAX + 3],
        links: vec![Link::default()],
        ..Span::default()
    };
    let row = Row::from_stored(&stored(1, Kind::Span, span.encode_to_vec())).unwrap();
    assert_eq!(row.metadata["events"].as_array().unwrap().len(), SPAN_EVENTS_MAX);
    assert_eq!(row.metadata["events_left_out"], 3);
}
