//! A batch as an export request: the stored bytes behind each other, under their resource; pure.
//!
//! `ExportLogsServiceRequest` and `ExportTraceServiceRequest` have the same field numbers on every
//! level, so that one writer serves both. No record is decoded here: a record that is no OTLP is
//! refused by the receiver, and found by halving.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use uuid::Uuid;

use super::config::Compression;
use crate::telemetry::exporter::ExportError;
use crate::telemetry::record::{Kind, Source, Stored};

/// Largest request, bytes, before and after compression: the limit of the OTLP specification.
pub(super) const REQUEST_BYTES_MAX: usize = 64 << 20;

/// `ExportLogsServiceRequest.resource_logs`, `ExportTraceServiceRequest.resource_spans`.
const RESOURCES: u32 = 1;
/// `ResourceLogs.resource`, `ResourceSpans.resource`.
const RESOURCE: u32 = 1;
/// `ResourceLogs.scope_logs`, `ResourceSpans.scope_spans`.
const SCOPES: u32 = 2;
/// `ScopeLogs.scope`, `ScopeSpans.scope`.
const SCOPE: u32 = 1;
/// `ScopeLogs.log_records`, `ScopeSpans.spans`.
const RECORDS: u32 = 2;

/// A request's body.
pub(super) struct Request {
    pub(super) records: u64,
    pub(super) body: Vec<u8>,
    pub(super) is_gzip: bool,
}

/// The records of one resource, in the order of the batch.
struct Group<'a> {
    source: &'a Source,
    boot: Uuid,
    records: Vec<&'a [u8]>,
}

/// The request of the batch's records of `kind`; None: it has none.
pub(super) fn encode(batch: &[Stored], kind: Kind) -> Option<Request> {
    let groups = groups(batch, kind);
    let scope = scope().encode_to_vec();
    let mut body = Vec::with_capacity(batch.iter().map(|stored| stored.payload.len() + 8).sum());
    for group in &groups {
        let resource = resource(group).encode_to_vec();
        let records: usize = group.records.iter().map(|record| field_len(record.len())).sum();
        let in_scope = field_len(scope.len()) + records;
        begin(&mut body, RESOURCES, field_len(resource.len()) + field_len(in_scope));
        field(&mut body, RESOURCE, &resource);
        begin(&mut body, SCOPES, in_scope);
        field(&mut body, SCOPE, &scope);
        for record in &group.records {
            field(&mut body, RECORDS, record);
        }
    }
    let records = groups.iter().map(|group| group.records.len() as u64).sum();
    (records > 0).then_some(Request { records, body, is_gzip: false })
}

/// The request, packed, within the limit before and after.
pub(super) fn compress(request: Request, compression: Compression) -> Result<Request, ExportError> {
    let plain = within_limit(request)?;
    if compression == Compression::None {
        return Ok(plain);
    }
    let refused = |error: std::io::Error| ExportError::Refused { detail: format!("no gzip: {error}") };
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.body.len() / 4), flate2::Compression::fast());
    encoder.write_all(&plain.body).map_err(refused)?;
    within_limit(Request { body: encoder.finish().map_err(refused)?, is_gzip: true, ..plain })
}

fn within_limit(request: Request) -> Result<Request, ExportError> {
    let bytes = request.body.len();
    if bytes > REQUEST_BYTES_MAX {
        let detail = format!("a request of {bytes} bytes is over OTLP's limit of {REQUEST_BYTES_MAX}");
        return Err(ExportError::Refused { detail });
    }
    Ok(request)
}

fn groups(batch: &[Stored], kind: Kind) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut places = HashMap::new();
    for stored in batch.iter().filter(|stored| stored.kind == kind) {
        // Sources are interned: the same one is the same address, and two equal ones may stand apart.
        let key = (Arc::as_ptr(&stored.source) as usize, stored.boot);
        let place = *places.entry(key).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Group { source: &stored.source, boot: stored.boot, records: Vec::new() });
        }
        groups[place].records.push(&stored.payload);
    }
    groups
}

/// The source's own attributes, and ours: which row of `system_logs` it would be.
fn resource(group: &Group<'_>) -> Resource {
    let boot = group.boot.to_string();
    let ours = [
        ("dogwatch.source_type", group.source.source_type.as_str()),
        ("dogwatch.source_id", group.source.source_id.as_str()),
        ("dogwatch.boot_id", boot.as_str()),
    ];
    let own = group.source.resource.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let attributes = own.chain(ours).map(|(key, value)| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    });
    Resource { attributes: attributes.collect(), ..Resource::default() }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "dogwatch".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// Length of a field with a number below 16 and `length` bytes of content.
fn field_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn begin(out: &mut Vec<u8>, number: u32, length: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    begin(out, number, bytes.len());
    out.extend_from_slice(bytes);
}
