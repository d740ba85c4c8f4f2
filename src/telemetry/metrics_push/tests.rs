//! A push as a receiver sees it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;

use crossbeam_channel::unbounded;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use prost::Message as _;
use reqwest::Url;

use super::*;
use crate::telemetry::exporter::otlp::Endpoint;

const LIMIT: Duration = Duration::from_secs(20);
const KEY: &str = "marked-secret-key";

/// Answers every request with `status`; its head and body go into the channel.
fn receiver(status: u16) -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/metrics", listener.local_addr().unwrap());
    let (requests, seen) = unbounded();
    #[expect(clippy::disallowed_methods, reason = "a server of the test's own, gone with the process")]
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let lines = reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty());
            let head = lines.collect::<Vec<_>>().join("\n").to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = requests.send((head, body));
        }
    });
    (url, seen)
}

fn config(url: &str, interval: Duration) -> MetricsConfig {
    let endpoint = Endpoint {
        url: Url::parse(url).unwrap(),
        headers: vec![("api-key".into(), KEY.into())],
        timeout: LIMIT,
        compression: Compression::None,
        certificate: None,
        identity: None,
    };
    MetricsConfig { endpoint, interval, delta: false }
}

fn resource() -> Vec<(String, String)> {
    vec![("service.name".to_owned(), "dogwatch".to_owned())]
}

/// Each metric's name, unit and points, in one line each, sorted.
fn told(body: &[u8]) -> Vec<String> {
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    let resource = request.resource_metrics[0].resource.as_ref().unwrap();
    assert_eq!(resource.attributes[0].key, "service.name");
    let number = |value: &Option<Value>| match value {
        Some(Value::AsDouble(number)) => number.to_string(),
        Some(Value::AsInt(number)) => number.to_string(),
        None => "none".to_owned(),
    };
    let mut lines = Vec::new();
    for metric in
        request.resource_metrics.iter().flat_map(|each| &each.scope_metrics).flat_map(|each| &each.metrics)
    {
        let start = format!("{} {}", metric.name, metric.unit);
        match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => lines.extend(sum.data_points.iter().map(|point| {
                let labels = point.attributes.iter().map(|pair| pair.key.as_str()).collect::<Vec<_>>().join(",");
                format!("{start} sum {} {labels}", number(&point.value))
            })),
            Data::Gauge(gauge) => lines
                .extend(gauge.data_points.iter().map(|point| format!("{start} gauge {}", number(&point.value)))),
            Data::Histogram(histogram) => lines.extend(
                histogram
                    .data_points
                    .iter()
                    .map(|point| format!("{start} histogram {:?} {:?}", point.sum, point.bucket_counts)),
            ),
            other => panic!("{other:?}"),
        }
    }
    lines.sort();
    lines
}

#[test]
fn current_values_are_pushed_once_more_at_the_end() {
    let (url, seen) = receiver(200);
    let (recorder, push) = start(config(&url, LIMIT), resource(), &[0.1, 1.0]).unwrap();
    metrics::with_local_recorder(&recorder, || {
        // A handle of its own each time, as the macros give it.
        for total in [5, 9] {
            metrics::counter!(catalogue::RECORDS_ACCEPTED.name).absolute(total);
            metrics::counter!(catalogue::EXPORT_RETRIES.name, "exporter" => "otlp").increment(1);
            metrics::counter!(catalogue::EXPORT_RETRIES.name, "exporter" => "sqlite").increment(2);
            metrics::gauge!(catalogue::SPOOL_BYTES.name).set(total as f64 + 0.5);
            metrics::histogram!(catalogue::EXPORT_DURATION.name).record(0.25);
        }
        metrics::gauge!(catalogue::SPOOL_BYTES.name).increment(1.0);
    });
    drop(push);
    let (head, body) = seen.recv_timeout(LIMIT).unwrap();
    assert!(head.starts_with("post /v1/metrics ") && head.contains(&format!("api-key: {KEY}")), "{head}");
    assert!(
        head.contains("content-type: application/x-protobuf") && head.contains("user-agent: dogwatch/"),
        "{head}"
    );
    assert_eq!(
        told(&body),
        [
            "dogwatch.exporter.retries {export} sum 2 exporter",
            "dogwatch.exporter.retries {export} sum 4 exporter",
            "dogwatch.spool.size By gauge 10.5",
            "otel.sdk.exporter.operation.duration s histogram Some(0.5) [0, 2, 0]",
            "otel.sdk.log.created {record} sum 9 ",
        ]
    );
}

#[test]
fn a_push_that_fails_is_told_without_a_key_and_the_next_one_is_made() {
    let (url, seen) = receiver(503);
    let (recorder, push) = start(config(&url, Duration::from_millis(20)), resource(), &[1.0]).unwrap();
    metrics::with_local_recorder(&recorder, || metrics::gauge!(catalogue::LEADER.name).set(1.0));
    for _ in 0..3 {
        let (_, body) = seen.recv_timeout(LIMIT).unwrap();
        if body.is_empty() {
            continue;
        }
        assert!(ExportMetricsServiceRequest::decode(body.as_slice()).is_ok());
    }
    let error = push.last_error().unwrap();
    assert!(error.contains("503") && !error.contains("marked-secret"), "{error}");
}

#[test]
fn with_many_series_the_rest_is_not_counted() {
    let (url, seen) = receiver(200);
    let (recorder, push) = start(config(&url, LIMIT), resource(), &[1.0]).unwrap();
    metrics::with_local_recorder(&recorder, || {
        for n in 0..5_000 {
            metrics::counter!(catalogue::EXPORT_RETRIES.name, "exporter" => n.to_string()).increment(1);
        }
    });
    drop(push);
    let (_, body) = seen.recv_timeout(LIMIT).unwrap();
    // The SDK has a limit of its own for one instrument, whose overflow it says as one more point.
    assert!(told(&body).len() <= 4_096);
}
