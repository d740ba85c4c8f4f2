//! The page and the push say the same of one moment: every metric of the catalogue, with its labels.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use prost::Message as _;

use super::*;
use crate::catalogue::{ALL, Kind};
use crate::telemetry::exporter::otlp::{Compression, Endpoint};
use crate::telemetry::exporter::receiver::{Receiver, Reply};
use crate::telemetry::otel_env::MetricsConfig;

/// Series and values, as Prometheus writes them.
type Series = BTreeMap<String, f64>;

fn on_the_page(page: &str) -> Series {
    let lines = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let series = lines.filter_map(|line| line.rsplit_once(' '));
    series.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

fn in_the_push(body: &[u8]) -> Series {
    let mut series = Series::new();
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    let metrics =
        request.resource_metrics.iter().flat_map(|each| &each.scope_metrics).flat_map(|each| &each.metrics);
    for metric in metrics {
        let known = ALL.iter().find(|known| known.name == metric.name).unwrap();
        assert_eq!(metric.unit, known.unit, "{}", metric.name);
        let name = known.prometheus();
        let mut add = |suffix: &str, labels: &[KeyValue], le: Option<String>, value: f64| {
            series.insert(format!("{name}{suffix}{}", braces(labels, le)), value);
        };
        match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic, "{name}");
                sum.data_points.iter().for_each(|point| add("", &point.attributes, None, number(&point.value)));
            }
            Data::Gauge(gauge) => {
                gauge.data_points.iter().for_each(|point| add("", &point.attributes, None, number(&point.value)));
            }
            Data::Histogram(histogram) => {
                for point in &histogram.data_points {
                    let bounds = point.explicit_bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
                    let mut below = 0;
                    for (bound, count) in bounds.zip(&point.bucket_counts) {
                        below += count;
                        add("_bucket", &point.attributes, Some(bound), below as f64);
                    }
                    add("_sum", &point.attributes, None, point.sum.unwrap());
                    add("_count", &point.attributes, None, point.count as f64);
                }
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    series
}

fn number(value: &Option<Value>) -> f64 {
    match value.as_ref().unwrap() {
        Value::AsDouble(number) => *number,
        Value::AsInt(number) => *number as f64,
    }
}

fn braces(labels: &[KeyValue], le: Option<String>) -> String {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => format!("{}=\"{text}\"", pair.key),
        other => panic!("{other:?}"),
    };
    let all: Vec<String> = labels.iter().map(text).chain(le.map(|le| format!("le=\"{le}\""))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

#[test]
fn the_page_and_the_push_agree_on_every_metric() {
    let receiver = Receiver::start(|_| Reply::taken());
    let endpoint = Endpoint {
        url: reqwest::Url::parse(&format!("{}/v1/metrics", receiver.base)).unwrap(),
        headers: Vec::new(),
        timeout: Duration::from_secs(20),
        compression: Compression::Gzip,
        certificate: None,
        identity: None,
    };
    let config = MetricsConfig { endpoint, interval: Duration::from_secs(3_600), delta: false };
    let page = prometheus().unwrap();
    let shown = page.handle();
    let (both, push) = beside(page, Push { config, resource: Vec::new() }).unwrap();
    metrics::with_local_recorder(&both, || {
        catalogue::describe();
        for (number, metric) in (1..).zip(ALL) {
            for exporter in ["otlp", "database"] {
                let value = f64::from(number) / 8.0;
                match metric.kind {
                    Kind::Counter => {
                        metrics::counter!(metric.name, "exporter" => exporter).absolute(u64::from(number as u32));
                        metrics::counter!(metric.name, "exporter" => exporter).increment(2);
                        metrics::counter!(metric.name).increment(1);
                    }
                    Kind::Gauge => {
                        metrics::gauge!(metric.name, "exporter" => exporter).set(value);
                        metrics::gauge!(metric.name, "exporter" => exporter).decrement(0.25);
                    }
                    Kind::Histogram => {
                        for seconds in [0.0, 0.000_5, 0.003, value, 31.0] {
                            metrics::histogram!(metric.name, "exporter" => exporter).record(seconds);
                        }
                    }
                }
            }
        }
    });
    let page = on_the_page(&shown.render());
    // Dropping it pushes once more.
    drop(push);
    let seen = receiver.seen();
    assert_eq!(seen.len(), 1);
    let pushed = in_the_push(&seen[0].body);
    for (name, value) in &page {
        assert_eq!(pushed.get(name), Some(value), "{name}");
    }
    assert_eq!(page.len(), pushed.len(), "and nothing else is pushed");
    assert!(page.len() > 2 * ALL.len(), "{}", page.len());
}
