//! The standard `OTEL_*` variables, as a stranger sets them: real posts where an endpoint is set,
//! nothing where none is, and a clear refusal of what is not spoken.

use std::collections::BTreeSet;
use std::process::Stdio;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::rig::{Rig, Said, eventually};
use crate::receiver_rig::{Receiver, Reply};

/// `ship` of these lines with these settings.
fn ship(rig: &Rig, lines: &str, settings: &[(&str, &str)]) -> Said {
    let mut command = rig.command(&["ship", "--source", "t", "--wait-delivered"]);
    command.envs(settings.iter().copied()).stdin(Stdio::piped());
    let mut running = rig.start(command);
    let mut stdin = running.stdin();
    std::io::Write::write_all(&mut stdin, lines.as_bytes()).unwrap();
    drop(stdin);
    running.wait()
}

fn attribute(resource: &Resource, key: &str) -> Option<String> {
    let value = resource.attributes.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()?;
    if let Value::StringValue(text) = value { Some(text.clone()) } else { None }
}

/// The slots that the spools of the rig know.
fn slots(rig: &Rig) -> BTreeSet<String> {
    let lines = rig.json("lines", &["spool", "verify"]);
    let slot = |line: &serde_json::Value| line["exporter"].as_str().unwrap().to_owned();
    lines.as_array().unwrap().iter().map(slot).collect()
}

#[test]
fn an_endpoint_in_the_environment_means_real_posts() {
    let receiver = Receiver::start(|_| Reply::taken());
    let rig = Rig::new();
    let said = ship(
        &rig,
        "one\ntwo\n",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("{}/base/", receiver.base)),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=marked%2Dsecret,x-team=night"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=night,deployment.environment.name=prod"),
            ("OTEL_SERVICE_NAME", "shop"),
        ],
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    let seen = receiver.seen();
    assert!(seen.iter().all(|request| request.path == "/base/v1/logs"));
    assert!(seen.iter().all(|request| request.head.contains("api-key: marked-secret")));
    assert!(seen.iter().all(|request| request.head.contains("content-encoding: gzip")));
    let mut texts = Vec::new();
    for resource in seen.iter().flat_map(|request| request.logs().resource_logs) {
        let about = resource.resource.unwrap();
        if attribute(&about, "dogwatch.source_id").as_deref() == Some("ship:t") {
            // The recorder's own records say what the environment says of the resource.
            assert_eq!(attribute(&about, "service.name").as_deref(), Some("shop"));
            assert_eq!(attribute(&about, "team").as_deref(), Some("night"));
            assert_eq!(attribute(&about, "deployment.environment.name").as_deref(), Some("prod"));
        } else {
            let records = resource.scope_logs.into_iter().flat_map(|scope| scope.log_records);
            texts.extend(records.filter_map(|record| match record.body?.value? {
                Value::StringValue(text) => Some(text),
                _ => None,
            }));
        }
    }
    assert_eq!(texts, ["one", "two"]);
    assert_eq!(slots(&rig), ["database", "otlp"].map(str::to_owned).into());
    rig.spools_add_up();
}

#[test]
fn without_an_endpoint_or_switched_off_nothing_goes_out_or_waits() {
    let receiver = Receiver::start(|_| Reply::taken());
    let base = receiver.base.as_str();
    for settings in [
        vec![],
        vec![("OTEL_LOGS_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=b")],
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", base), ("OTEL_SDK_DISABLED", "true")],
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", base),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ],
    ] {
        let rig = Rig::new();
        let said = ship(&rig, "one\n", &settings);
        assert_eq!(said.code, Some(0), "{settings:?}: {said:?}");
        assert_eq!(slots(&rig), ["database".to_owned()].into(), "{settings:?}");
    }
    assert!(receiver.seen().is_empty());
}

#[test]
fn grpc_is_refused_with_what_to_set_instead_and_nothing_is_changed() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
    ] {
        let rig = Rig::new();
        let said = ship(&rig, "", &[endpoint, (name, value)]);
        assert_eq!(said.code, Some(2), "{said:?}");
        for part in [name, value, "http/protobuf", "4318"] {
            assert!(said.err.contains(part), "{part}: {}", said.err);
        }
        assert!(!rig.data().exists(), "nothing was made");
    }
}

#[test]
fn up_posts_logs_traces_and_metrics() {
    let receiver = Receiver::start(|_| Reply::taken());
    let rig = Rig::new();
    let settings =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.base.as_str()), ("OTEL_METRIC_EXPORT_INTERVAL", "200")];
    let up = rig.up_with(&[], &settings);
    let paths = eventually("posts of all three signals", || {
        let paths: BTreeSet<String> = receiver.seen().into_iter().map(|request| request.path).collect();
        (paths.len() == 3).then_some(paths)
    });
    assert_eq!(paths, ["/v1/logs", "/v1/metrics", "/v1/traces"].map(str::to_owned).into());
    let names: BTreeSet<String> = receiver
        .seen()
        .iter()
        .filter(|request| request.path == "/v1/traces")
        .flat_map(|request| request.traces().resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .map(|span| span.name)
        .collect();
    assert!(names.contains("cycle"), "{names:?}");
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.wait().code, Some(0));
    rig.spools_add_up();
    rig.is_left_alone();
}
