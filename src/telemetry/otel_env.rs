//! What the standard `OTEL_*` variables say, those included that the SDK does not read.
//!
//! A lookup function stands for the environment, so that only `config` reads it. Rules of the
//! OpenTelemetry specification: empty is unset; a number or word that cannot be read is warned of
//! and ignored; `OTEL_EXPORTER_OTLP_ENDPOINT` is a base to which `v1/logs` and its like are
//! appended, a signal's own endpoint is used as it is; what is set for a signal replaces what is set
//! for all. One rule is ours: a signal goes out only where an endpoint is set for it, since the
//! default one would fill every spool where nobody listens. Warnings are data, and show no key.
//!
//! Only http/protobuf is spoken; gRPC is an error that says what to set instead.

mod read;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::read::Reader;
use super::exporter::otlp::{Endpoint, OtlpConfig};

/// Everything that the environment says about OpenTelemetry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OtelEnv {
    /// Logs and traces through the spool.
    pub otlp: Option<OtlpConfig>,
    /// Metrics, pushed.
    pub metrics: Option<MetricsConfig>,
    /// `console` was asked for logs or traces: records go to stdout, too.
    pub console: bool,
    /// Attributes of the resource: OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME.
    pub resource: Vec<(String, String)>,
    /// What was ignored, and why; one sentence each.
    pub warnings: Vec<String>,
}

/// The push of metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where to.
    pub endpoint: Endpoint,
    /// Time between two pushes.
    pub interval: Duration,
    /// Whether sums are sent as what was added since the last push.
    pub delta: bool,
}

/// Settings that cannot be followed: nothing would arrive, so that a warning is not enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OtelEnvError {
    /// A protocol that is not spoken.
    #[error(
        "{variable} is {protocol}, which dogwatch does not speak; set it to http/protobuf and let the endpoint be \
         the receiver's OTLP/HTTP port, usually 4318"
    )]
    Protocol {
        /// The variable that says so.
        variable: String,
        /// What it says.
        protocol: &'static str,
    },
    /// An endpoint that is no URL. Its text may hold a key and is not shown.
    #[error("{variable} is no http:// or https:// URL; set it to one, such as http://127.0.0.1:4318")]
    Endpoint {
        /// The variable.
        variable: String,
    },
}

/// Reads the variables through `lookup`.
///
/// # Errors
/// See [`OtelEnvError`].
pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<OtelEnv, OtelEnvError> {
    let mut reader = Reader::new(&lookup);
    let resource = reader.resource();
    if reader.flag("OTEL_SDK_DISABLED") {
        return Ok(OtelEnv { resource, warnings: reader.warnings, ..OtelEnv::default() });
    }
    let [(logs, logs_console), (traces, traces_console)] = [reader.signal("LOGS")?, reader.signal("TRACES")?];
    let (metrics, metrics_console) = reader.signal("METRICS")?;
    if metrics_console {
        reader.warn("OTEL_METRICS_EXPORTER: console is not supported for metrics; see /metrics instead");
    }
    let otlp = (logs.is_some() || traces.is_some()).then(|| reader.batches(logs, traces));
    let metrics = metrics.map(|endpoint| reader.pushes(endpoint));
    reader.warn_of_the_unsupported();
    let console = logs_console || traces_console;
    Ok(OtelEnv { otlp, metrics, console, resource, warnings: reader.warnings })
}

/// Every variable that is read: what a child process must see to send where this one sends.
pub const NAMES: &[&str] = &[
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
    "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
    "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_LOGS_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_EXPORTER",
];
