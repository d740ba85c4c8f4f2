//! Environments as data.

use expect_test::{Expect, expect};

use super::*;

fn env(pairs: &[(&str, &str)]) -> Result<OtelEnv, OtelEnvError> {
    read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

/// One line a signal, then the rest.
fn told(env: &OtelEnv) -> String {
    let mut lines = Vec::new();
    let otlp = env.otlp.as_ref();
    for (signal, endpoint) in [
        ("logs", otlp.and_then(|otlp| otlp.logs.as_ref())),
        ("traces", otlp.and_then(|otlp| otlp.traces.as_ref())),
        ("metrics", env.metrics.as_ref().map(|metrics| &metrics.endpoint)),
    ] {
        let Some(endpoint) = endpoint else {
            lines.push(format!("{signal} off"));
            continue;
        };
        let Endpoint { url, headers, timeout, compression, certificate, identity } = endpoint;
        lines.push(format!("{signal} {url} {headers:?} {timeout:?} {compression:?} {certificate:?} {identity:?}"));
    }
    if let Some(OtlpConfig { batch_max, linger, .. }) = otlp {
        lines.push(format!("at most {batch_max} every {linger:?}"));
    }
    if let Some(MetricsConfig { interval, delta, .. }) = &env.metrics {
        lines.push(format!("push every {interval:?}, delta {delta}"));
    }
    if env.console {
        lines.push("console".to_owned());
    }
    lines.extend(env.resource.iter().map(|(key, value)| format!("{key} = {value}")));
    lines.extend(env.warnings.iter().map(|warning| format!("! {warning}")));
    lines.join("\n") + "\n"
}

#[track_caller]
fn check(pairs: &[(&str, &str)], expected: Expect) {
    expected.assert_eq(&match env(pairs) {
        Ok(env) => told(&env),
        Err(error) => format!("{error}\n"),
    });
}

#[test]
fn nothing_goes_out_without_an_endpoint() {
    check(
        &[],
        expect![[r#"
        logs off
        traces off
        metrics off
    "#]],
    );
    check(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", " "),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ],
        expect![[r#"
            logs off
            traces off
            metrics off
        "#]],
    );
}

#[test]
fn a_base_is_appended_to_and_an_own_endpoint_is_used_as_it_is() {
    check(
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")],
        expect![[r#"
        logs http://localhost:4318/v1/logs [] 10s None None None
        traces http://localhost:4318/v1/traces [] 10s None None None
        metrics http://localhost:4318/v1/metrics [] 10s None None None
        at most 8192 every 1s
        push every 60s, delta false
    "#]],
    );
    check(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otlp.example/base/?key=1"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs.example"),
        ],
        expect![[r#"
            logs https://logs.example/ [] 10s Gzip None None
            traces https://otlp.example/base/v1/traces?key=1 [] 10s Gzip None None
            metrics https://otlp.example/base/v1/metrics?key=1 [] 10s Gzip None None
            at most 8192 every 1s
            push every 60s, delta false
        "#]],
    );
    check(
        &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")],
        expect![[r#"
        logs off
        traces http://127.0.0.1:4318/v1/traces [] 10s None None None
        metrics off
        at most 8192 every 1s
    "#]],
    );
}

#[test]
fn a_signal_can_be_switched_off() {
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
    check(
        &[base, ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "prometheus")],
        expect![[r#"
        logs http://localhost:4318/v1/logs [] 10s None None None
        traces off
        metrics off
        at most 8192 every 1s
    "#]],
    );
    check(
        &[base, ("OTEL_LOGS_EXPORTER", "console"), ("OTEL_TRACES_EXPORTER", "zipkin")],
        expect![[r#"
        logs off
        traces http://localhost:4318/v1/traces [] 10s None None None
        metrics http://localhost:4318/v1/metrics [] 10s None None None
        at most 8192 every 1s
        push every 60s, delta false
        console
        ! OTEL_TRACES_EXPORTER: "zipkin" is not known; known are otlp, console and none
    "#]],
    );
    check(
        &[base, ("OTEL_LOGS_EXPORTER", "otlp, console")],
        expect![[r#"
        logs http://localhost:4318/v1/logs [] 10s None None None
        traces http://localhost:4318/v1/traces [] 10s None None None
        metrics http://localhost:4318/v1/metrics [] 10s None None None
        at most 8192 every 1s
        push every 60s, delta false
        console
    "#]],
    );
    check(
        &[base, ("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_SERVICE_NAME", "n")],
        expect![[r#"
        logs off
        traces off
        metrics off
        service.name = n
    "#]],
    );
    check(
        &[base, ("OTEL_SDK_DISABLED", "1"), ("OTEL_METRICS_EXPORTER", "console")],
        expect![[r#"
        logs http://localhost:4318/v1/logs [] 10s None None None
        traces http://localhost:4318/v1/traces [] 10s None None None
        metrics off
        at most 8192 every 1s
        ! OTEL_SDK_DISABLED is neither true nor false and counts as false
        ! OTEL_METRICS_EXPORTER: console is not supported for metrics; see /metrics instead
    "#]],
    );
}

#[test]
fn what_is_set_for_a_signal_replaces_what_is_set_for_all() {
    check(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a.example"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "API-Key=se%20cret,x=1"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "y = 2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE", "/own.pem"),
            ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "/own.key"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "100"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
        ],
        expect![[r#"
            logs https://a.example/v1/logs [("y", "2")] 3s None Some("/ca.pem") Some(("/own.pem", "/own.key"))
            traces https://a.example/v1/traces [("api-key", "se cret"), ("x", "1")] 250ms None Some("/ca.pem") None
            metrics https://a.example/v1/metrics [("api-key", "se cret"), ("x", "1")] 3s Gzip Some("/ca.pem") None
            at most 100 every 50ms
            push every 5s, delta true
        "#]],
    );
}

#[test]
fn what_cannot_be_read_is_warned_of_and_ignored() {
    check(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "marked-secret,a=b%2,c=%zz,e=f,content-type=x"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "0"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "-1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b,=2,c=%41%2C,a=3"),
            ("OTEL_SERVICE_NAME", "watch"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
            ("OTEL_PROPAGATORS", "tracecontext,b3"),
            ("OTEL_CONFIG_FILE", "x.yaml"),
        ],
        expect![[r#"
            logs http://localhost:4317/v1/logs [("e", "f")] 10s None None None
            traces off
            metrics off
            at most 8192 every 1s
            c = A,
            a = 3
            service.name = watch
            ! OTEL_RESOURCE_ATTRIBUTES: entry 2 cannot be taken and is ignored
            ! OTEL_RESOURCE_ATTRIBUTES: entry 3 cannot be taken and is ignored
            ! OTEL_EXPORTER_OTLP_PROTOCOL: "carrier-pigeon" is not known; http/protobuf is used
            ! the endpoint of logs has port 4317, usually gRPC's: OTLP/HTTP is usually on 4318
            ! OTEL_EXPORTER_OTLP_HEADERS: entry 1 is no name=value and is ignored
            ! OTEL_EXPORTER_OTLP_HEADERS: entry 2 is no name=value and is ignored
            ! OTEL_EXPORTER_OTLP_HEADERS: entry 3 is no name=value and is ignored
            ! OTEL_EXPORTER_OTLP_HEADERS: content-type is ours to set and is ignored
            ! OTEL_EXPORTER_OTLP_TIMEOUT is no number of milliseconds within a day and is ignored
            ! OTEL_EXPORTER_OTLP_COMPRESSION: "zstd" is not known; known are gzip and none
            ! OTEL_BLRP_MAX_EXPORT_BATCH_SIZE is no number from 1 to 8192 and is ignored
            ! OTEL_BLRP_SCHEDULE_DELAY is no number of milliseconds within a day and is ignored
            ! OTEL_CONFIG_FILE is ignored: declarative configuration is not supported
            ! OTEL_TRACES_SAMPLER is ignored: every span is recorded
            ! OTEL_PROPAGATORS: "b3" is ignored: trace context travels as traceparent
        "#]],
    );
}

#[test]
fn what_cannot_work_is_an_error_that_says_what_to_set() {
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
    check(
        &[base, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
        expect![[r#"
        OTEL_EXPORTER_OTLP_PROTOCOL is grpc, which dogwatch does not speak; set it to http/protobuf and let the endpoint be the receiver's OTLP/HTTP port, usually 4318
    "#]],
    );
    check(
        &[base, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")],
        expect![[r#"
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is http/json, which dogwatch does not speak; set it to http/protobuf and let the endpoint be the receiver's OTLP/HTTP port, usually 4318
    "#]],
    );
    check(
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "user:marked-secret@collector:4318")],
        expect![[r#"
        OTEL_EXPORTER_OTLP_ENDPOINT is no http:// or https:// URL; set it to one, such as http://127.0.0.1:4318
    "#]],
    );
    check(
        &[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "localhost:4318")],
        expect![[r#"
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT is no http:// or https:// URL; set it to one, such as http://127.0.0.1:4318
    "#]],
    );
}

#[test]
fn every_variable_that_is_read_is_in_the_list() {
    let asked = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let lookup = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        name.ends_with("_ENDPOINT").then(|| "http://localhost:1".to_owned())
    };
    read(lookup).unwrap();
    let mut asked = asked.into_inner();
    asked.retain(|name| super::read::UNSUPPORTED.iter().all(|(other, _)| other != name));
    asked.retain(|name| name != "OTEL_PROPAGATORS");
    assert_eq!(asked.iter().map(String::as_str).collect::<Vec<_>>(), NAMES);
}

#[test]
fn debug_shows_no_key() {
    let env = env(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:marked-secret@a.example/?key=marked-secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer marked-secret"),
    ])
    .unwrap();
    let shown = format!("{env:?}");
    assert!(shown.contains("authorization") && shown.contains("https://a.example/v1/logs"), "{shown}");
    assert!(!shown.contains("marked-secret"), "{shown}");
}
