//! The host's metrics as OTLP: what the `metrics` facade counts, pushed at an interval.
//!
//! [`start`] gives a recorder for the facade, to be fanned out to beside a Prometheus recorder, and
//! the running push. The OpenTelemetry SDK aggregates, opentelemetry-otlp encodes; the request goes
//! out through the exporter's own client, so that keys, certificates and limits are the same.
//!
//! Current values are pushed and nothing is spooled: after an outage the newest values say
//! everything that the older ones would have (a backend refuses old points anyway). A push that
//! fails is counted and not repeated. The thread is supervised and quiet (I2). No metric goes out
//! without an endpoint; nothing here reads the environment but the SDK's exporter, whose reading
//! changes nothing that is set here.

mod bridge;
mod client;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_otlp::{MetricExporter, Protocol, RetryPolicy, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter as _;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality};

pub use self::bridge::PushRecorder;
use self::client::Client;
use super::exporter::otlp::Compression;
use super::exporter::otlp::post::Poster;
use super::exporter::{ExportError, Timed};
use super::otel_env::MetricsConfig;
use super::quiet::quiet;
use crate::catalogue;
use crate::supervise::thread::Child;
use crate::supervise::{Intensity, Pulse};

/// Time that the last push may take when the process ends.
const LAST_PUSH_LIMIT: Duration = Duration::from_secs(2);

/// The running push; dropping it pushes once more and ends it.
#[must_use = "dropping it ends the push"]
pub struct MetricsPush {
    child: Child,
    stop: Option<Sender<()>>,
    last_error: Arc<Mutex<Option<String>>>,
}

/// Starts the push. Histograms get the upper bounds `bounds`.
///
/// # Errors
/// The operating system gives no thread or runtime, or the SDK's exporter cannot be made.
pub fn start(
    config: MetricsConfig,
    resource: Vec<(String, String)>,
    bounds: &[f64],
) -> io::Result<(PushRecorder, MetricsPush)> {
    let temporality = if config.delta { Temporality::Delta } else { Temporality::Cumulative };
    let reader = Shared(Arc::new(ManualReader::builder().with_temporality(temporality).build()));
    let attributes = resource.into_iter().map(|(key, value)| KeyValue::new(key, value));
    let provider = SdkMeterProvider::builder()
        .with_reader(reader.clone())
        .with_resource(Resource::builder_empty().with_attributes(attributes).build())
        .build();
    let recorder = PushRecorder::new(provider.meter("dogwatch"), bounds.to_vec());
    let last_error = Arc::default();
    let (stop, stopped) = bounded(0);
    let pusher = Pusher {
        exporter: exporter(&config, temporality)?,
        runtime: Timed::new()?,
        reader,
        // The reader sees the provider weakly.
        provider,
        limit: config.endpoint.timeout,
        last_error: Arc::clone(&last_error),
    };
    let (pusher, interval) = (Mutex::new(pusher), config.interval);
    let body = move |pulse: &Pulse, generation| {
        let mut pusher = pusher.lock().unwrap_or_else(PoisonError::into_inner);
        quiet(|| pusher.run(pulse, generation, interval, &stopped));
    };
    let child = Child::start("metrics-push", Intensity::default(), super::guard::watchdog::tell_panic, body)?;
    Ok((recorder, MetricsPush { child, stop: Some(stop), last_error }))
}

fn exporter(config: &MetricsConfig, temporality: Temporality) -> io::Result<MetricExporter> {
    let poster = Poster::new("metrics", config.endpoint.clone());
    let builder = MetricExporter::builder()
        .with_temporality(temporality)
        .with_http()
        .with_http_client(Client::new(poster))
        // The client posts to its own endpoint, whose URL may hold what nobody should see.
        .with_endpoint("http://localhost/v1/metrics")
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(config.endpoint.timeout)
        .with_retry_policy(RetryPolicy::disabled());
    let builder = match config.endpoint.compression {
        Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        Compression::None => builder,
    };
    builder.build().map_err(io::Error::other)
}

impl MetricsPush {
    /// Why the last push failed; None: it did not.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for MetricsPush {
    fn drop(&mut self) {
        // The channel's end is the order to stop.
        drop(self.stop.take());
        self.child.wait(LAST_PUSH_LIMIT);
    }
}

/// What the thread works with.
struct Pusher {
    // Dropped before the runtime that drives its connections.
    exporter: MetricExporter,
    runtime: Timed,
    reader: Shared,
    #[expect(dead_code, reason = "kept alive for the reader")]
    provider: SdkMeterProvider,
    limit: Duration,
    last_error: Arc<Mutex<Option<String>>>,
}

impl Pusher {
    fn run(&mut self, pulse: &Pulse, generation: u64, interval: Duration, stopped: &Receiver<()>) {
        while pulse.generation() == generation {
            pulse.beat();
            let order = stopped.recv_timeout(interval);
            let is_last = order != Err(RecvTimeoutError::Timeout);
            self.push(if is_last { self.limit.min(LAST_PUSH_LIMIT) } else { self.limit });
            if is_last {
                return;
            }
            pulse.progress();
        }
    }

    fn push(&mut self, limit: Duration) {
        let failed = |error: &dyn std::fmt::Display| ExportError::retry(error.to_string());
        let mut current = ResourceMetrics::default();
        let result = self.reader.collect(&mut current).map_err(|error| failed(&error)).and_then(|()| {
            let export = async { self.exporter.export(&current).await.map_err(|error| failed(&error)) };
            self.runtime.run(limit, export)
        });
        let word = if result.is_ok() { "ok" } else { "failed" };
        metrics::counter!(catalogue::METRICS_PUSHES.name, "result" => word).increment(1);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) =
            result.err().map(|error| error.to_string());
    }
}

/// The SDK takes its reader for itself; this one is ours, too.
#[derive(Debug, Clone)]
struct Shared(Arc<ManualReader>);

impl MetricReader for Shared {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}
