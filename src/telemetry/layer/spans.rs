//! Spans become OTLP spans in the same ring: a span processor for OpenTelemetry's tracer.
//!
//! tracing-opentelemetry makes the spans (filtered to spans: events never reach it) and this
//! processor encodes each one when it ends, on the thread that ends it.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::Status;
use opentelemetry_proto::tonic::trace::v1::Span as OtlpSpan;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prost::Message as _;

use crate::telemetry::quiet::is_quiet;
use crate::telemetry::record::{Kind, Level};
use crate::telemetry::recorder::Recorder;

/// Records closed spans.
#[derive(Clone)]
pub struct SpanRecorder {
    recorder: Arc<Recorder>,
}

impl SpanRecorder {
    /// A processor that records through `recorder`.
    pub fn new(recorder: Recorder) -> Self {
        SpanRecorder { recorder: Arc::new(recorder) }
    }
}

impl std::fmt::Debug for SpanRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpanRecorder")
    }
}

impl SpanProcessor for SpanRecorder {
    fn on_start(&self, span: &mut Span, _context: &Context) {
        self.recorder.span_opened(span);
    }

    fn on_end(&self, span: SpanData) {
        if is_quiet() {
            return;
        }
        let id = span.span_context.span_id();
        let level = match span.status {
            Status::Error { .. } => Level::Error,
            _ => Level::Debug,
        };
        let payload = OtlpSpan::from(span).encode_to_vec();
        let _ = self.recorder.push(Kind::Span, level, &payload);
        // After its record: a kill in between tells the span twice rather than not at all.
        self.recorder.span_closed(id);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}
