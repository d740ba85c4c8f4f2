//! Every way to answer that is not a receipt, and what it means; no error shows a key.

use std::net::TcpListener;

use expect_test::{Expect, expect};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

use super::*;

fn told(result: Result<Exported, ExportError>) -> String {
    match result {
        Ok(Exported { delivered, rejected }) => format!("delivered {delivered}, rejected {rejected}"),
        Err(ExportError::Retry { after, detail }) => format!("retry after {after:?}: {detail}"),
        Err(ExportError::Blocked { detail, remedy }) => format!("blocked: {detail} -> {remedy}"),
        Err(ExportError::Refused { detail }) => format!("refused: {detail}"),
    }
}

#[track_caller]
fn check(reply: Reply, expected: Expect) {
    let receiver = Receiver::start(move |_| reply.clone());
    let port = receiver.base.rsplit_once(':').unwrap().1.to_owned();
    let result = exporter(&receiver.base).export(&batch(0..2), now(), LIMIT);
    assert!(!format!("{result:?}").contains("marked-secret"), "{result:?}");
    expected.assert_eq(&told(result).replace(&port, "PORT"));
}

#[test]
fn only_what_the_specification_names_is_tried_again() {
    let date =
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(START_MICROS as u64 / 1_000_000 + 90));
    check(
        Reply::text(429, "Retry-After: 7\r\n", "slow down"),
        expect!["retry after Some(7s): the receiver answered 429 to logs: slow down"],
    );
    check(
        Reply::text(503, &format!("Retry-After: {date}\r\n"), ""),
        expect!["retry after Some(90s): the receiver answered 503 to logs"],
    );
    check(
        Reply::text(429, "Retry-After: soon\r\n", ""),
        expect!["retry after None: the receiver answered 429 to logs"],
    );
    check(Reply::status(502), expect!["retry after None: the receiver answered 502 to logs"]);
    check(Reply::status(504), expect!["retry after None: the receiver answered 504 to logs"]);
    check(Reply::text(500, "", "oops"), expect!["refused: the receiver answered 500 to logs: oops"]);
    check(Reply::text(501, "Retry-After: 7\r\n", ""), expect!["refused: the receiver answered 501 to logs"]);
    check(Reply::status(408), expect!["refused: the receiver answered 408 to logs"]);
    check(Reply::status(400), expect!["refused: the receiver answered 400 to logs"]);
    check(Reply::text(413, "", "too large"), expect!["refused: the receiver answered 413 to logs: too large"]);
}

#[test]
fn what_a_human_must_lift_blocks() {
    check(
        Reply::text(401, "", &format!("no such key {KEY}\r\nBearer {KEY}")),
        expect![
            "blocked: the receiver answered 401 to logs: no such key ***  *** -> check the key in OTEL_EXPORTER_OTLP_HEADERS"
        ],
    );
    check(
        Reply::status(403),
        expect!["blocked: the receiver answered 403 to logs -> check the key in OTEL_EXPORTER_OTLP_HEADERS"],
    );
    check(
        Reply::text(404, "", "page not found"),
        expect![
            "blocked: the receiver answered 404 to logs: page not found -> check OTEL_EXPORTER_OTLP_ENDPOINT (/v1/logs is appended to it), or switch logs off with OTEL_LOGS_EXPORTER=none"
        ],
    );
    check(
        Reply::text(301, "Location: http://127.0.0.1:9/\r\n", ""),
        expect!["blocked: the receiver answered 301 to logs -> check the endpoint: it answers what OTLP does not"],
    );
}

#[test]
fn a_status_of_google_rpc_is_read() {
    // google.rpc.Status has the same shape.
    let status = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: format!("bad {KEY}\u{7}") };
    check(
        Reply::protobuf(400, status.encode_to_vec()),
        expect!["refused: the receiver answered 400 to logs: bad ***"],
    );
}

#[test]
fn only_an_answer_of_otlp_is_a_receipt() {
    check(Reply::status(200), expect!["delivered 2, rejected 0"]);
    check(Reply::status(204), expect!["delivered 2, rejected 0"]);
    check(Reply::json("{}"), expect!["delivered 2, rejected 0"]);
    check(
        Reply::text(200, "Content-Type: text/html\r\n", "<html>please log in</html>"),
        expect![
            "blocked: the receiver answered 200 to logs: <html>please log in</html> -> something that is not OTLP answers: check the endpoint"
        ],
    );
    check(
        Reply::json("[]"),
        expect![
            "blocked: the receiver answered 200 to logs: [] -> something that is not OTLP answers: check the endpoint"
        ],
    );
    check(
        Reply::protobuf(200, vec![0xff; 20]),
        expect![
            "blocked: the receiver answered 200 to logs: �������������������� -> something that is not OTLP answers: check the endpoint"
        ],
    );
    check(
        Reply::Http { status: 200, headers: String::new(), body: vec![0; (4 << 20) + 1] },
        expect![
            "blocked: the receiver answered 200 to logs -> something that is not OTLP answers: check the endpoint"
        ],
    );
}

#[test]
fn no_answer_is_tried_again() {
    check(
        Reply::Close,
        expect![
            "retry after None: no answer from http://127.0.0.1:PORT/v1/logs: error sending request: client error (SendRequest): connection closed before message completed"
        ],
    );
    check(
        Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
        expect![
            "retry after None: no answer from http://127.0.0.1:PORT/v1/logs: error sending request: client error (SendRequest): invalid HTTP version parsed"
        ],
    );
    check(
        Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf"),
        expect![
            "retry after None: no answer from http://127.0.0.1:PORT/v1/logs: error decoding response body: request or response body error: error reading a body from connection: end of file before message length reached"
        ],
    );
    check(
        Reply::Raw(b"HTTP/1.1 401 X\r\nContent-Length: 500\r\n\r\nhalf"),
        expect!["blocked: the receiver answered 401 to logs: half -> check the key in OTEL_EXPORTER_OTLP_HEADERS"],
    );
}

#[test]
fn a_hang_and_a_half_open_connection_end_with_the_deadline() {
    let patience = Duration::from_millis(100);
    for reply in [
        Reply::Hang,
        Reply::HalfOpen(b"HTTP/1.1 200 OK\r\nContent-Le"),
        Reply::HalfOpen(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
    ] {
        let receiver = Receiver::start(move |_| reply.clone());
        let late = exporter(&receiver.base).export(&batch(0..2), now(), patience);
        assert!(matches!(&late, Err(ExportError::Retry { .. })), "{late:?}");
        // A signal's own time limit counts, too.
        let mut logs = endpoint(&receiver.base);
        logs.timeout = patience;
        let config = OtlpConfig { logs: Some(logs), traces: None, batch_max: 9, linger: Duration::ZERO };
        let late = OtlpExporter::new(config).unwrap().export(&batch(0..2), now(), LIMIT);
        assert!(matches!(&late, Err(ExportError::Retry { .. })), "{late:?}");
    }
}

#[test]
fn a_connection_that_is_not_accepted_or_refused_is_a_retry_that_names_no_secret() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://user:marked-secret@{}", listener.local_addr().unwrap());
    let hang = exporter(&base).export(&batch(0..2), now(), Duration::from_millis(100));
    assert!(matches!(&hang, Err(ExportError::Retry { .. })), "{hang:?}");
    drop(listener);
    let refused = exporter(&base).export(&batch(0..2), now(), LIMIT);
    let Err(ExportError::Retry { after: None, detail }) = refused else { panic!("{refused:?}") };
    assert!(detail.starts_with("no answer from http://127.0.0.1:") && !detail.contains("marked"), "{detail}");
}

#[test]
fn a_key_or_a_certificate_that_cannot_be_used_blocks() {
    let with = |change: fn(&mut Endpoint)| {
        let mut logs = endpoint("https://127.0.0.1:9/v1/logs");
        change(&mut logs);
        let config = OtlpConfig { logs: Some(logs), traces: None, batch_max: 9, linger: Duration::ZERO };
        let result = OtlpExporter::new(config).unwrap().export(&batch(0..2), now(), LIMIT);
        assert!(!format!("{result:?}").contains("marked-secret"), "{result:?}");
        told(result)
    };
    expect![[
        r#"blocked: header "x" has characters that a request cannot carry -> correct OTEL_EXPORTER_OTLP_HEADERS"#
    ]]
    .assert_eq(&with(|logs| logs.headers = vec![("x".into(), format!("{KEY}\n"))]));
    expect!["blocked: /nowhere/ca.pem cannot be read: No such file or directory (os error 2) -> correct OTEL_EXPORTER_OTLP_CERTIFICATE and its relatives"].assert_eq(&with(|logs| logs.certificate = Some("/nowhere/ca.pem".into())));
    expect!["blocked: /dev/null is not the PEM that is needed: it holds no certificate -> correct OTEL_EXPORTER_OTLP_CERTIFICATE and its relatives"].assert_eq(&with(|logs| logs.certificate = Some("/dev/null".into())));
    expect!["blocked: /dev/null is not the PEM that is needed: builder error: unexpected error: private key or certificate not found -> correct OTEL_EXPORTER_OTLP_CERTIFICATE and its relatives"].assert_eq(&with(|logs| logs.identity = Some(("/dev/null".into(), "/dev/null".into()))));
}
