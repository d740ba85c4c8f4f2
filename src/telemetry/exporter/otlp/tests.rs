//! The exporter against a receiver on loopback that answers, or fails to, as each test says.

mod grouping;
mod refusals;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Url;
use uuid::Uuid;

use super::*;
use crate::clock;
use crate::telemetry::exporter::receiver::{Receiver, Reply};
use crate::telemetry::exporter::samples::{START_MICROS, batch, stored};
use crate::telemetry::record::{Level, Source};

pub(super) const LIMIT: Duration = Duration::from_secs(20);
pub(super) const KEY: &str = "marked-secret-key";

pub(super) fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: Url::parse(url).unwrap(),
        headers: vec![("api-key".into(), KEY.into()), ("authorization".into(), format!("Bearer {KEY}"))],
        timeout: LIMIT,
        compression: Compression::Gzip,
        certificate: None,
        identity: None,
    }
}

pub(super) fn exporter(base: &str) -> OtlpExporter {
    let endpoint = |signal: &str| Some(endpoint(&format!("{base}/v1/{signal}")));
    let (logs, traces) = (endpoint("logs"), endpoint("traces"));
    OtlpExporter::new(OtlpConfig { logs, traces, batch_max: 512, linger: Duration::ZERO }).unwrap()
}

pub(super) fn now() -> Time {
    clock::from_micros(START_MICROS)
}

/// A span with the sequence `seq`.
pub(super) fn span(seq: u64) -> Stored {
    let span = Span {
        name: format!("span {seq}"),
        trace_id: vec![3; 16],
        span_id: seq.to_be_bytes().to_vec(),
        ..Span::default()
    };
    Stored { kind: Kind::Span, level: Level::Debug, payload: span.encode_to_vec(), ..stored(seq) }
}

fn attribute<'a>(resource: &'a Resource, key: &str) -> &'a str {
    let value = resource.attributes.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_ref());
    match value.and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn what_arrives_is_what_was_stored_grouped_by_source_and_in_order() {
    let receiver = Receiver::start(|_| Reply::taken());
    let source = |id: &str| {
        let resource = vec![("service.name".to_owned(), format!("svc-{id}"))];
        Arc::new(Source { source_type: "worker".into(), source_id: id.into(), resource })
    };
    let (one, two) = (source("one"), source("two"));
    let records: Vec<Stored> = (0..1_000)
        .map(|seq| {
            let record = if seq % 5 == 0 { span(seq) } else { stored(seq) };
            Stored { source: Arc::clone(if seq % 3 == 0 { &one } else { &two }), ..record }
        })
        .collect();
    let exported = exporter(&receiver.base).export(&records, now(), LIMIT).unwrap();
    assert_eq!(exported, Exported { delivered: 1_000, rejected: 0 });
    let seen = receiver.seen();
    assert_eq!(seen.iter().map(|request| request.path.as_str()).collect::<Vec<_>>(), ["/v1/logs", "/v1/traces"]);
    for request in &seen {
        for header in ["content-type: application/x-protobuf", "content-encoding: gzip", "user-agent: dogwatch/"] {
            assert!(request.head.contains(header), "{}", request.head);
        }
        assert!(request.head.contains(&format!("api-key: {KEY}")), "{}", request.head);
    }
    let sent = |kind: Kind, source: &Arc<Source>| -> Vec<Vec<u8>> {
        let mine = records.iter().filter(|record| record.kind == kind && Arc::ptr_eq(&record.source, source));
        mine.map(|record| record.payload.clone()).collect()
    };
    let logs = seen[0].logs();
    assert_eq!(logs.resource_logs.len(), 2);
    for (got, source) in logs.resource_logs.iter().zip([&two, &one].map(|source| source)) {
        // The first record of all is a span, so that the first log is of the second source.
        let resource = got.resource.as_ref().unwrap();
        assert_eq!(attribute(resource, "service.name"), format!("svc-{}", source.source_id));
        assert_eq!(attribute(resource, "dogwatch.source_type"), "worker");
        assert_eq!(attribute(resource, "dogwatch.source_id"), source.source_id);
        assert_eq!(attribute(resource, "dogwatch.boot_id"), Uuid::from_u128(7).to_string());
        assert_eq!(got.scope_logs[0].scope.as_ref().unwrap().name, "dogwatch");
        let records: Vec<_> = got.scope_logs[0].log_records.iter().map(LogRecord::encode_to_vec).collect();
        assert!(records == sent(Kind::Log, source));
    }
    let traces = seen[1].traces();
    for (got, source) in traces.resource_spans.iter().zip([&one, &two]) {
        assert_eq!(attribute(got.resource.as_ref().unwrap(), "dogwatch.source_id"), source.source_id);
        let spans: Vec<_> = got.scope_spans[0].spans.iter().map(Span::encode_to_vec).collect();
        assert!(spans == sent(Kind::Span, source));
    }
}

#[test]
fn without_compression_the_body_is_plain() {
    let receiver = Receiver::start(|_| Reply::taken());
    let mut logs = endpoint(&format!("{}/own/path?x=1", receiver.base));
    logs.compression = Compression::None;
    let config = OtlpConfig { logs: Some(logs), traces: None, batch_max: 512, linger: Duration::ZERO };
    let mut records = batch(0..10);
    records.push(span(10));
    // The span's signal is switched off: there is nothing to do for it.
    let exported = OtlpExporter::new(config).unwrap().export(&records, now(), LIMIT).unwrap();
    assert_eq!(exported, Exported { delivered: 11, rejected: 0 });
    let seen = receiver.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, "/own/path?x=1");
    assert!(!seen[0].head.contains("content-encoding"), "{}", seen[0].head);
    // The samples' sources are equal and not interned: each is a resource of its own.
    assert_eq!(seen[0].logs().resource_logs.len(), 10);
}

#[test]
fn both_signals_are_taken_or_the_batch_is_not_delivered() {
    let receiver = Receiver::start(|request| match (request.path.as_str(), request.number) {
        ("/v1/traces", 1) => Reply::status(503),
        _ => Reply::taken(),
    });
    let mut exporter = exporter(&receiver.base);
    let records = [stored(0), span(1)];
    let first = exporter.export(&records, now(), LIMIT);
    assert!(matches!(first, Err(ExportError::Retry { .. })), "{first:?}");
    assert_eq!(exporter.export(&records, now(), LIMIT).unwrap().delivered, 2);
    let paths: Vec<_> = receiver.seen().iter().map(|request| request.path.clone()).collect();
    assert_eq!(paths, ["/v1/logs", "/v1/traces", "/v1/logs", "/v1/traces"]);
}

#[test]
fn a_partial_success_is_rejected_and_never_delivered_or_sent_again() {
    let receiver = Receiver::start(|request| match request.path.as_str() {
        "/v1/logs" => Reply::partial(3, &format!("too old for {KEY}")),
        // In JSON, with more rejected than there were.
        _ => Reply::json(r#"{"partialSuccess":{"rejectedSpans":"9","errorMessage":"no"}}"#),
    });
    let mut exporter = exporter(&receiver.base);
    let mut records = batch(0..10);
    records.push(span(10));
    let exported = exporter.export(&records, now(), LIMIT).unwrap();
    assert_eq!(exported, Exported { delivered: 7, rejected: 4 });
    let said = exporter.maintain(now(), LIMIT).unwrap_err().to_string();
    assert_eq!(said, "the receiver rejected 3 of 10 records of logs: too old for ***");
    assert!(exporter.maintain(now(), LIMIT).is_ok());
    assert_eq!(receiver.seen().len(), 2);
}

#[test]
fn a_request_over_the_limit_is_not_sent() {
    let receiver = Receiver::start(|_| Reply::taken());
    let large = |seq| Stored { payload: vec![0; 1 << 20], ..stored(seq) };
    let records: Vec<_> = (0..64).map(large).collect();
    let refused = exporter(&receiver.base).export(&records, now(), LIMIT);
    assert!(matches!(&refused, Err(ExportError::Refused { detail }) if detail.contains("67108864")), "{refused:?}");
    assert!(receiver.seen().is_empty());
}
