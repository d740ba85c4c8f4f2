//! `tracing` events become OTLP records in the ring, on the caller's own thread.
//!
//! An event is encoded into the thread's own buffer (user code such as `Display` runs only here,
//! and a panic in it is caught) and pushed. No allocation in the steady state, no lock, no wait.
//! Trace and span id come from OpenTelemetry's thread context, or from the event's explicit
//! parent. The fields `task_id`, `worker_id` and `cycle` of the enclosing spans are carried into
//! each event, so that `logs --cycle 638` finds everything that was said in that cycle.
//!
//! Events of telemetry's own threads are ignored (I2). Spans go another way: see `spans`.

mod carried;
mod fronts;
mod spans;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use opentelemetry::trace::TraceContextExt as _;
use serde_json::Value as Json;
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

pub use self::spans::SpanRecorder;

use self::carried::{Carried, Said};
use self::fronts::Fronts;
use super::encode::{BODY_BYTES_MAX, LogWriter, VALUE_BYTES_MAX, Value};
use super::quiet::is_quiet;
use super::record::{Kind, Level};
use super::recorder::{Recorder, attribute};
use crate::clock;

/// The layer. Give it a filter of your own with `.with_filter(..)`.
#[derive(Clone)]
pub struct RecorderLayer {
    recorder: Recorder,
    /// For explicit parents: inside an event tracing hides the thread's own dispatcher.
    dispatch: Arc<OnceLock<WeakDispatch>>,
}

impl RecorderLayer {
    /// A layer that records through `recorder`, as the recorder's own source.
    pub fn new(recorder: Recorder) -> Self {
        RecorderLayer { recorder, dispatch: Arc::default() }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for RecorderLayer {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut carried =
            span.parent().and_then(|parent| parent.extensions().get::<Carried>().cloned()).unwrap_or_default();
        attributes.record(&mut carried);
        if !carried.is_empty() {
            span.extensions_mut().replace(carried);
        }
    }

    fn on_record(&self, id: &Id, values: &tracing::span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let mut carried = extensions.remove::<Carried>().unwrap_or_default();
        values.record(&mut carried);
        if !carried.is_empty() {
            extensions.insert(carried);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if is_quiet() {
            return;
        }
        // A Display that logs, or a thread that is being torn down, finds the buffer taken.
        let done = SCRATCH.try_with(|scratch| {
            scratch.try_borrow_mut().is_ok_and(|mut scratch| {
                self.record(event, &context, &mut scratch);
                true
            })
        });
        if done != Ok(true) {
            self.record(event, &context, &mut Scratch::default());
        }
    }
}

/// Field whose text is a JSON object of further attributes.
const PROGRAM_ATTRIBUTES: &str = "attributes";

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    record: Vec<u8>,
    text: String,
    fronts: Fronts,
}

impl RecorderLayer {
    fn record<S>(&self, event: &Event<'_>, context: &Context<'_, S>, scratch: &mut Scratch)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let metadata = event.metadata();
        let (level, ..) = severity(*metadata.level());
        let now = clock::unix_micros() * 1_000;
        let front = scratch.fronts.of(metadata);
        let mut writer = LogWriter::begin_with(&mut scratch.record, now, now, front);
        event.record(&mut Visitor { writer: &mut writer, text: &mut scratch.text });
        if let Some(span) = context.event_span(event)
            && let Some(carried) = span.extensions().get::<Carried>()
        {
            let mut said = Said::default();
            event.record(&mut said);
            carried.write(said, &mut writer);
        }
        if let Some(found) = self.event_context(event) {
            found.write(&mut writer);
        }
        writer.end();
        // A refusal is counted by the ring and told in-band; the caller never feels it (I1).
        let _ = self.recorder.push(Kind::Log, level, &scratch.record);
    }
}

impl RecorderLayer {
    /// The span context that the event belongs to: its explicit parent's, else the thread's.
    fn event_context(&self, event: &Event<'_>) -> Option<Within> {
        if event.is_root() {
            return None;
        }
        if let Some(parent) = event.parent() {
            let dispatch = self.dispatch.get()?.upgrade()?;
            Within::of(&tracing_opentelemetry::get_otel_context(parent, &dispatch)?)
        } else {
            opentelemetry::Context::map_current(Within::of)
        }
    }
}

/// The span that an event is in.
struct Within {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    is_sampled: bool,
}

impl Within {
    fn of(context: &opentelemetry::Context) -> Option<Within> {
        if !context.has_active_span() {
            return None;
        }
        let span = context.span();
        let found = span.span_context();
        found.is_valid().then(|| Within {
            trace_id: found.trace_id().to_bytes(),
            span_id: found.span_id().to_bytes(),
            is_sampled: found.trace_flags().is_sampled(),
        })
    }

    fn write(&self, writer: &mut LogWriter<'_>) {
        writer.context(self.trace_id, self.span_id, self.is_sampled);
    }
}

fn severity(level: tracing::Level) -> (Level, i32, &'static str) {
    match level {
        tracing::Level::TRACE => (Level::Debug, 1, "TRACE"),
        tracing::Level::DEBUG => (Level::Debug, 5, "DEBUG"),
        tracing::Level::INFO => (Level::Info, 9, "INFO"),
        tracing::Level::WARN => (Level::Warning, 13, "WARN"),
        tracing::Level::ERROR => (Level::Error, 17, "ERROR"),
    }
}

struct Visitor<'a, 'b> {
    writer: &'a mut LogWriter<'b>,
    text: &'a mut String,
}

impl Visitor<'_, '_> {
    #[inline]
    fn put(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => self.writer.body(text),
            // A program's own attributes travel as the text of one JSON object.
            PROGRAM_ATTRIBUTES => self.unfold(field, text),
            name => self.writer.attribute(name, Value::Str(text)),
        }
    }

    fn unfold(&mut self, field: &Field, text: &str) {
        let Ok(Json::Object(pairs)) = serde_json::from_str(text) else {
            return self.writer.attribute(field.name(), Value::Str(text));
        };
        for (key, value) in &pairs {
            attribute(self.writer, key, value);
        }
    }

    /// Renders user code's text, bounded; a panic in it becomes part of the text.
    fn render(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let bytes_max = if field.name() == "message" { BODY_BYTES_MAX } else { VALUE_BYTES_MAX };
        let mut text = std::mem::take(self.text);
        text.clear();
        let mut bounded = Bounded { text: &mut text, bytes_max };
        if catch_unwind(AssertUnwindSafe(|| write!(bounded, "{value:?}"))).is_err() {
            text.push_str("<panicked while it was formatted>");
        }
        self.put(field, &text);
        *self.text = text;
    }
}

impl Visit for Visitor<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.render(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.writer.attribute(field.name(), Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.writer.attribute(field.name(), Value::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(number) => self.writer.attribute(field.name(), Value::Int(number)),
            Err(_) => self.render(field, &value),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.writer.attribute(field.name(), Value::Double(value));
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        self.writer.attribute(field.name(), Value::Bytes(value));
    }
}

/// Text that stops growing: a Display without an end must not take the memory.
struct Bounded<'a> {
    text: &'a mut String,
    bytes_max: usize,
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let room = self.bytes_max.saturating_sub(self.text.len());
        if piece.len() <= room {
            self.text.push_str(piece);
            return Ok(());
        }
        self.text.push_str(super::encode::clamp(piece, room));
        Err(fmt::Error)
    }
}
