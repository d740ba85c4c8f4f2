//! One variable after the other.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use super::{MetricsConfig, OtelEnvError};
use crate::telemetry::exporter::otlp::{Compression, Endpoint, OtlpConfig};

/// How long a request may take where nothing is set.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two pushes of metrics where nothing is set.
const INTERVAL: Duration = Duration::from_mins(1);
/// Least time between two pushes of metrics.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Most records in a request where nothing is set; more than the SDK's 512, since a spool has
/// backlogs.
const BATCH_RECORDS: usize = 8_192;
/// Least time between two requests where nothing is set.
const LINGER: Duration = Duration::from_secs(1);
/// Longest time that a variable can set.
const TIME_MAX: Duration = Duration::from_hours(24);
/// Most attributes of a resource.
const RESOURCE_ATTRIBUTES_MAX: usize = 64;
/// Longest key or value of a resource's attribute, bytes.
const RESOURCE_TEXT_BYTES_MAX: usize = 1_024;
/// Port of OTLP/gRPC.
const GRPC_PORT: u16 = 4_317;
/// What can be set and changes nothing here.
pub(super) const UNSUPPORTED: &[(&str, &str)] = &[
    ("OTEL_CONFIG_FILE", "declarative configuration is not supported"),
    ("OTEL_EXPERIMENTAL_CONFIG_FILE", "declarative configuration is not supported"),
    ("OTEL_TRACES_SAMPLER", "every span is recorded"),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "the recorder has its own limits"),
    ("OTEL_ATTRIBUTE_COUNT_LIMIT", "the recorder has its own limits"),
];

/// Reads variables and gathers what it had to ignore.
pub(super) struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Reader { lookup, warnings: Vec::new() }
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// True only by "true", in any case.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let Some(text) = self.text(name) else { return false };
        let is_true = text.eq_ignore_ascii_case("true");
        if !is_true && !text.eq_ignore_ascii_case("false") {
            self.warn(format!("{name} is neither true nor false and counts as false"));
        }
        is_true
    }

    /// A signal's endpoint, None where it is off; and whether the console was asked for.
    pub(super) fn signal(&mut self, signal: &str) -> Result<(Option<Endpoint>, bool), OtelEnvError> {
        let (otlp, console) = self.exporters(signal);
        let endpoint = if otlp { self.endpoint(signal)? } else { None };
        Ok((endpoint, console))
    }

    /// OTEL_*_EXPORTER: (otlp, console).
    fn exporters(&mut self, signal: &str) -> (bool, bool) {
        let name = format!("OTEL_{signal}_EXPORTER");
        let Some(text) = self.text(&name) else { return (true, false) };
        let (mut otlp, mut console, mut known) = (false, false, false);
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "otlp" => (otlp, known) = (true, true),
                "console" | "logging" => (console, known) = (true, true),
                // The page is there in any case.
                "prometheus" if signal == "METRICS" => known = true,
                "none" => known = true,
                _ => self.warn(format!("{name}: {word:?} is not known; known are otlp, console and none")),
            }
        }
        (otlp || !known, console)
    }

    fn endpoint(&mut self, signal: &str) -> Result<Option<Endpoint>, OtelEnvError> {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        let base = "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned();
        let url = match (self.text(&own), self.text(&base)) {
            (Some(text), _) => url_of(&text, own)?,
            (None, Some(text)) => appended(url_of(&text, base)?, &signal.to_ascii_lowercase()),
            (None, None) => return Ok(None),
        };
        self.protocol(signal)?;
        if url.port() == Some(GRPC_PORT) {
            self.warn(format!(
                "the endpoint of {} has port {GRPC_PORT}, usually gRPC's: OTLP/HTTP is usually on 4318",
                signal.to_ascii_lowercase()
            ));
        }
        let identity = self.path(signal, "CLIENT_CERTIFICATE").zip(self.path(signal, "CLIENT_KEY"));
        let mut endpoint = Endpoint {
            url,
            headers: self.headers(signal),
            timeout: self
                .of(signal, "TIMEOUT")
                .and_then(|(name, text)| self.millis(&name, &text))
                .unwrap_or(TIMEOUT),
            compression: Compression::Gzip,
            certificate: self.path(signal, "CERTIFICATE"),
            identity,
        };
        endpoint.compression = self.compression(signal, &endpoint);
        Ok(Some(endpoint))
    }

    fn protocol(&mut self, signal: &str) -> Result<(), OtelEnvError> {
        let Some((variable, text)) = self.of(signal, "PROTOCOL") else { return Ok(()) };
        match text.as_str() {
            "http/protobuf" => Ok(()),
            "grpc" => Err(OtelEnvError::Protocol { variable, protocol: "grpc" }),
            "http/json" => Err(OtelEnvError::Protocol { variable, protocol: "http/json" }),
            _ => {
                self.warn(format!("{variable}: {text:?} is not known; http/protobuf is used"));
                Ok(())
            }
        }
    }

    /// gzip where nothing is set, but not on this machine, where it costs more than it saves.
    fn compression(&mut self, signal: &str, endpoint: &Endpoint) -> Compression {
        let usual = if endpoint.is_loopback() { Compression::None } else { Compression::Gzip };
        let Some((name, text)) = self.of(signal, "COMPRESSION") else { return usual };
        match text.as_str() {
            "gzip" => Compression::Gzip,
            "none" => Compression::None,
            _ => {
                self.warn(format!("{name}: {text:?} is not known; known are gzip and none"));
                usual
            }
        }
    }

    /// `k=v,k2=v2`, values percent-decoded. A pair that cannot be read is named by its place: its
    /// text may be a key.
    fn headers(&mut self, signal: &str) -> Vec<(String, String)> {
        let Some((variable, text)) = self.of(signal, "HEADERS") else { return Vec::new() };
        let mut headers = Vec::new();
        for (place, pair) in (1..).zip(text.split(',')).filter(|(_, pair)| !pair.trim().is_empty()) {
            let parsed = pair.split_once('=').and_then(|(name, value)| {
                let (name, value) = (name.trim().to_ascii_lowercase(), percent_decoded(value.trim())?);
                let fits = HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(&value).is_ok();
                fits.then_some((name, value))
            });
            match parsed {
                Some((name, _)) if ["content-type", "content-encoding", "content-length"].contains(&&*name) => {
                    self.warn(format!("{variable}: {name} is ours to set and is ignored"));
                }
                Some(pair) => headers.push(pair),
                None => self.warn(format!("{variable}: entry {place} is no name=value and is ignored")),
            }
        }
        headers
    }

    /// The shipper's numbers of logs and traces.
    pub(super) fn batches(&mut self, logs: Option<Endpoint>, traces: Option<Endpoint>) -> OtlpConfig {
        const SIZE: &str = "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE";
        const DELAY: &str = "OTEL_BLRP_SCHEDULE_DELAY";
        let size = self.text(SIZE).and_then(|text| {
            let size = text.parse().ok().filter(|size| (1..=BATCH_RECORDS).contains(size));
            if size.is_none() {
                self.warn(format!("{SIZE} is no number from 1 to {BATCH_RECORDS} and is ignored"));
            }
            size
        });
        let linger = self.text(DELAY).and_then(|text| self.millis(DELAY, &text));
        OtlpConfig { logs, traces, batch_max: size.unwrap_or(BATCH_RECORDS), linger: linger.unwrap_or(LINGER) }
    }

    /// The push of metrics to `endpoint`.
    pub(super) fn pushes(&mut self, endpoint: Endpoint) -> MetricsConfig {
        const EVERY: &str = "OTEL_METRIC_EXPORT_INTERVAL";
        const SHAPE: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let interval = self.text(EVERY).and_then(|text| self.millis(EVERY, &text));
        let shape = self.text(SHAPE).unwrap_or_default().to_ascii_lowercase();
        if !["", "cumulative", "delta", "lowmemory"].contains(&shape.as_str()) {
            self.warn(format!("{SHAPE}: {shape:?} is not known; known are cumulative, delta and lowmemory"));
        }
        MetricsConfig {
            endpoint,
            interval: interval.unwrap_or(INTERVAL).max(INTERVAL_MIN),
            delta: ["delta", "lowmemory"].contains(&shape.as_str()),
        }
    }

    /// OTEL_RESOURCE_ATTRIBUTES, and OTEL_SERVICE_NAME, which wins.
    pub(super) fn resource(&mut self) -> Vec<(String, String)> {
        const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let fits = |text: &String| text.len() <= RESOURCE_TEXT_BYTES_MAX;
        let mut resource: Vec<(String, String)> = Vec::new();
        let text = self.text(ATTRIBUTES).unwrap_or_default();
        for (place, pair) in (1..).zip(text.split(',')).filter(|(_, pair)| !pair.trim().is_empty()) {
            let pair = pair.split_once('=').and_then(|(key, value)| {
                percent_decoded(key.trim()).filter(fits).zip(percent_decoded(value.trim()).filter(fits))
            });
            match pair.filter(|(key, _)| !key.is_empty() && resource.len() < RESOURCE_ATTRIBUTES_MAX) {
                Some((key, value)) => put(&mut resource, key, value),
                None => self.warn(format!("{ATTRIBUTES}: entry {place} cannot be taken and is ignored")),
            }
        }
        if let Some(name) = self.text("OTEL_SERVICE_NAME").filter(fits) {
            put(&mut resource, "service.name".to_owned(), name);
        }
        resource
    }

    /// Says what is set and changes nothing.
    pub(super) fn warn_of_the_unsupported(&mut self) {
        for (name, why) in UNSUPPORTED {
            if self.text(name).is_some_and(|text| !["always_on", "parentbased_always_on"].contains(&&*text)) {
                self.warn(format!("{name} is ignored: {why}"));
            }
        }
        let propagators = self.text("OTEL_PROPAGATORS").unwrap_or_default();
        let unknown = |word: &&str| !["", "tracecontext", "baggage", "none"].contains(word);
        if let Some(word) = propagators.split(',').map(str::trim).find(unknown) {
            self.warn(format!("OTEL_PROPAGATORS: {word:?} is ignored: trace context travels as traceparent"));
        }
    }

    fn path(&mut self, signal: &str, what: &str) -> Option<PathBuf> {
        self.of(signal, what).map(|(_, text)| PathBuf::from(text))
    }

    fn millis(&mut self, name: &str, text: &str) -> Option<Duration> {
        let time = text.parse().ok().map(Duration::from_millis);
        let time = time.filter(|time| (Duration::from_millis(1)..=TIME_MAX).contains(time));
        if time.is_none() {
            self.warn(format!("{name} is no number of milliseconds within a day and is ignored"));
        }
        time
    }

    /// The signal's own OTEL_EXPORTER_OTLP_*, else the one for all; with the name that said so.
    fn of(&self, signal: &str, what: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_{signal}_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")];
        names.into_iter().find_map(|name| self.text(&name).map(|text| (name, text)))
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

fn url_of(text: &str, variable: String) -> Result<Url, OtelEnvError> {
    let is_http = |url: &Url| ["http", "https"].contains(&url.scheme()) && url.has_host();
    Url::parse(text).ok().filter(is_http).ok_or(OtelEnvError::Endpoint { variable })
}

/// The base with `/v1/<signal>` behind its own path; a query stays.
fn appended(mut base: Url, signal: &str) -> Url {
    let path = format!("{}/v1/{signal}", base.path().trim_end_matches('/'));
    base.set_path(&path);
    base
}

fn put(resource: &mut Vec<(String, String)>, key: String, value: String) {
    resource.retain(|(other, _)| *other != key);
    resource.push((key, value));
}

/// None: a percent sign without two hex digits, or no UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}
