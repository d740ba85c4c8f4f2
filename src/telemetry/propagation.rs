//! W3C trace context in and out of spans, so that one trace crosses processes.
//!
//! A task's row carries the `traceparent` of its submit; whoever works on it joins its span to
//! that trace and hands its own context on. Without an OpenTelemetry layer both do nothing.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header and environment key of W3C trace context.
const TRACEPARENT: &str = "traceparent";

/// Makes `span` a child of the span that `traceparent` names. Call it before the span is entered.
pub fn join(span: &Span, traceparent: Option<&str>) {
    let Some(traceparent) = traceparent else { return };
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    // Fails only where no OpenTelemetry layer listens: then there is no trace to join.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
}

/// The `traceparent` of `span`, for whoever works on its behalf; None where it is in no trace.
pub fn traceparent(span: &Span) -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const SUBMIT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_joined_span_stays_in_the_trace_and_hands_its_own_id_on() {
        let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        crate::telemetry::quiet::beside_other_tests();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!("task");
            join(&span, Some(SUBMIT));
            let handed_on = span.in_scope(|| traceparent(&Span::current())).unwrap();
            assert_eq!(handed_on[..36], SUBMIT[..36], "another trace");
            assert_ne!(handed_on, SUBMIT, "the same span");
        });
    }

    #[test]
    fn without_a_layer_there_is_no_trace() {
        let span = tracing::info_span!("task");
        join(&span, Some(SUBMIT));
        assert_eq!(traceparent(&span), None);
    }
}
