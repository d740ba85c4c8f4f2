//! The hand that every producer holds: encodes, pushes, and knows how far the disk is.
//!
//! Cheap to clone, usable from any thread. [`Recorder::emit`] is for records that do not come from
//! `tracing` (lines of a program, of `ship`, heartbeats); the layer encodes its own. Nothing here
//! blocks; who wants to wait until a record is on disk asks [`Recorder::durable_through`].

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use opentelemetry::trace::{Span as _, SpanId};
use serde_json::Value as Json;

use super::encode::{LogWriter, Value};
use super::record::{Kind, Level, Source};
use super::ring::{OpenSpan, Refused, Ring, SpanSlot};
use super::spooler::Order;
use crate::clock::Time;

/// Most sources that one process may intern.
pub const SOURCES_MAX: usize = 1_024;

/// Number of an interned source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceNo(pub(super) u16);

impl SourceNo {
    /// The recorder's own source.
    pub const OWN: SourceNo = SourceNo(0);
}

/// A record that does not come from `tracing`.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// When it was made.
    pub time: Time,
    /// Its level.
    pub level: Level,
    /// Its text.
    pub body: &'a str,
    /// Everything else.
    pub attributes: &'a [(&'a str, &'a Json)],
    /// Its class of event, where it has one.
    pub event_name: Option<&'a str>,
}

/// The hand that every producer holds.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    ring: Ring,
    durable: Arc<AtomicU64>,
    /// The spool is nearly at its cap: DEBUG and INFO are refused.
    low: Arc<AtomicBool>,
    wake: Sender<Order>,
    sources: Mutex<Vec<Source>>,
    next_source: AtomicU16,
    open_spans: Mutex<Vec<(SpanId, SpanSlot)>>,
}

impl Recorder {
    /// A recorder on `ring`, whose own source gets number 0. `wake` tells the spooler that
    /// something urgent is there; `durable` is where it says how far the disk is, and `low` that
    /// little of its share is left.
    pub(super) fn new(
        ring: Ring,
        own: Source,
        wake: Sender<Order>,
        durable: Arc<AtomicU64>,
        low: Arc<AtomicBool>,
    ) -> Result<Recorder, Refused> {
        let recorder = Recorder(Arc::new(Shared {
            ring,
            durable,
            low,
            wake,
            sources: Mutex::default(),
            next_source: AtomicU16::new(0),
            open_spans: Mutex::default(),
        }));
        recorder.intern(&own)?;
        Ok(recorder)
    }

    /// The number of a source; the same source gets the same number.
    ///
    /// # Errors
    /// The ring refuses the definition, or there are [`SOURCES_MAX`] sources already.
    pub fn intern(&self, source: &Source) -> Result<SourceNo, Refused> {
        let mut sources = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = sources.iter().position(|known| known == source) {
            return Ok(SourceNo(u16::try_from(number).unwrap_or(u16::MAX)));
        }
        if sources.len() >= SOURCES_MAX {
            return Err(Refused::Full);
        }
        let number = self.0.next_source.load(Ordering::Relaxed);
        let definition = serde_json::to_vec(source).unwrap_or_default();
        self.0.ring.push(Kind::Source, Level::Critical, number, &definition)?;
        self.0.next_source.store(number + 1, Ordering::Relaxed);
        sources.push(source.clone());
        Ok(SourceNo(number))
    }

    /// Records one record; its position, once it is in the ring.
    ///
    /// # Errors
    /// The ring refuses it; that is counted.
    pub fn emit(&self, source: SourceNo, record: &NewRecord<'_>) -> Result<u64, Refused> {
        self.push_as(Kind::Log, record.level, source, &encode(record))
    }

    /// Records one of the recorder's own records that must be heard while the spool is nearly full:
    /// there are few of them, and their silence means that something is broken.
    pub(super) fn emit_vital(&self, record: &NewRecord<'_>) -> Result<u64, Refused> {
        self.0.ring.push(Kind::Log, record.level, SourceNo::OWN.0, &encode(record))
    }

    /// Pushes bytes that are encoded already, as the recorder's own source.
    pub(super) fn push(&self, kind: Kind, level: Level, payload: &[u8]) -> Result<u64, Refused> {
        self.push_as(kind, level, SourceNo::OWN, payload)
    }

    fn push_as(&self, kind: Kind, level: Level, source: SourceNo, payload: &[u8]) -> Result<u64, Refused> {
        if level <= Level::Info && self.is_spool_low() {
            return Err(self.0.ring.refuse(Refused::SpoolLow, level));
        }
        let position = self.0.ring.push(kind, level, source.0, payload)?;
        if level >= Level::Error {
            // A full channel holds orders that wake it already.
            let _ = self.0.wake.try_send(Order::Wake);
        }
        Ok(position)
    }

    /// Entries that defined a source; they are no records.
    pub(super) fn sources_count(&self) -> u64 {
        self.0.next_source.load(Ordering::Relaxed).into()
    }

    /// Every record with a position up to here is on disk, but for those that went to stdout
    /// because the spool could not take them and the ring was nearly full.
    pub fn durable_through(&self) -> u64 {
        self.0.durable.load(Ordering::Acquire)
    }

    /// Share of the ring in use, 0 to 1: who can wait does so before it is full.
    pub fn ring_fill(&self) -> f64 {
        self.0.ring.depth_bytes() as f64 / self.0.ring.capacity_bytes() as f64
    }

    /// Whether DEBUG and INFO are refused because the spool is nearly at its cap: who can wait does
    /// so until it is not.
    pub fn is_spool_low(&self) -> bool {
        self.0.low.load(Ordering::Relaxed)
    }

    /// The ring.
    pub(super) fn ring(&self) -> &Ring {
        &self.0.ring
    }

    /// A span has begun: it is shipped as interrupted if the process dies inside it.
    pub(super) fn span_opened(&self, span: &opentelemetry_sdk::trace::Span) {
        let Some(data) = span.exported_data() else { return };
        let start = data.start_time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let info = OpenSpan {
            trace_id: u128::from_be_bytes(data.span_context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(data.span_context.span_id().to_bytes()),
            parent_span_id: u64::from_be_bytes(data.parent_span_id.to_bytes()),
            start_unix_micros: i64::try_from(start.as_micros()).unwrap_or(0),
            cycle: cycle_of(&data.attributes),
            source: 0,
            name: data.name,
        };
        if let Some(slot) = self.0.ring.open_span(&info) {
            let id = span.span_context().span_id();
            self.0.open_spans.lock().unwrap_or_else(PoisonError::into_inner).push((id, slot));
        }
    }

    /// A span has ended.
    pub(super) fn span_closed(&self, id: SpanId) {
        let mut open = self.0.open_spans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = open.iter().position(|(known, _)| *known == id) {
            let (_, slot) = open.swap_remove(place);
            self.0.ring.close_span(slot);
        }
    }
}

/// OTLP bytes of a record that does not come from `tracing`.
fn encode(record: &NewRecord<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + record.body.len());
    let nanos = |time: Time| u64::try_from(time.as_microsecond()).unwrap_or(0) * 1_000;
    let level = record.level;
    let observed = nanos(crate::clock::now());
    let mut writer =
        LogWriter::begin(&mut bytes, nanos(record.time), observed, level.severity_number(), level.word());
    writer.body(record.body);
    for (key, value) in record.attributes {
        attribute(&mut writer, key, value);
    }
    if let Some(name) = record.event_name {
        writer.event_name(name);
    }
    writer.end();
    bytes
}

/// The cycle that a span says it belongs to; 0: none.
fn cycle_of(attributes: &[opentelemetry::KeyValue]) -> u64 {
    let cycle = attributes.iter().find(|pair| pair.key.as_str() == "cycle").map(|pair| &pair.value);
    match cycle {
        Some(opentelemetry::Value::I64(cycle)) => u64::try_from(*cycle).unwrap_or(0),
        _ => 0,
    }
}

/// A JSON value as an attribute; null is none.
pub(super) fn attribute(writer: &mut LogWriter<'_>, key: &str, value: &Json) {
    match value {
        Json::Null => {}
        Json::Bool(truth) => writer.attribute(key, Value::Bool(*truth)),
        Json::String(text) => writer.attribute(key, Value::Str(text)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => writer.attribute(key, Value::Int(whole)),
            (None, Some(real)) => writer.attribute(key, Value::Double(real)),
            (None, None) => writer.attribute(key, Value::Str(&number.to_string())),
        },
        Json::Array(_) | Json::Object(_) => writer.attribute(key, Value::Str(&value.to_string())),
    }
}
