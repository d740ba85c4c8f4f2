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
    let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(START_MICROS as u64 / 1_000_000 + 90));
    check(Reply::text(429, "Retry-After: 7\r\n", "slow down"), expect![""]);
    check(Reply::text(503, &format!("Retry-After: {date}\r\n"), ""), expect![""]);
    check(Reply::text(429, "Retry-After: soon\r\n", ""), expect![""]);
    check(Reply::status(502), expect![""]);
    check(Reply::status(504), expect![""]);
    check(Reply::text(500, "", "oops"), expect![""]);
    check(Reply::text(501, "Retry-After: 7\r\n", ""), expect![""]);
    check(Reply::status(408), expect![""]);
    check(Reply::status(400), expect![""]);
    check(Reply::text(413, "", "too large"), expect![""]);
}

#[test]
fn what_a_human_must_lift_blocks() {
    check(Reply::text(401, "", &format!("no such key {KEY}\r\nBearer {KEY}")), expect![""]);
    check(Reply::status(403), expect![""]);
    check(Reply::text(404, "", "page not found"), expect![""]);
    check(Reply::text(301, "Location: http://127.0.0.1:9/\r\n", ""), expect![""]);
}

#[test]
fn a_status_of_google_rpc_is_read() {
    // google.rpc.Status has the same shape.
    let status = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: format!("bad {KEY}\u{7}") };
    check(Reply::protobuf(400, status.encode_to_vec()), expect![""]);
}

#[test]
fn only_an_answer_of_otlp_is_a_receipt() {
    check(Reply::status(200), expect![""]);
    check(Reply::status(204), expect![""]);
    check(Reply::json("{}"), expect![""]);
    check(Reply::text(200, "Content-Type: text/html\r\n", "<html>please log in</html>"), expect![""]);
    check(Reply::json("[]"), expect![""]);
    check(Reply::protobuf(200, vec![0xff; 20]), expect![""]);
    check(Reply::Http { status: 200, headers: String::new(), body: vec![0; (4 << 20) + 1] }, expect![""]);
}

#[test]
fn no_answer_is_tried_again() {
    check(Reply::Close, expect![""]);
    check(Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), expect![""]);
    check(Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf"), expect![""]);
    check(Reply::Raw(b"HTTP/1.1 401 X\r\nContent-Length: 500\r\n\r\nhalf"), expect![""]);
}

#[test]
fn a_hang_and_a_half_open_connection_end_with_the_deadline() {
    let patience = Duration::from_millis(100);
    for reply in [Reply::Hang, Reply::HalfOpen(b"HTTP/1.1 200 OK\r\nContent-Le"), Reply::HalfOpen(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")] {
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
    expect![""].assert_eq(&with(|logs| logs.headers = vec![("x".into(), format!("{KEY}\n"))]));
    expect![""].assert_eq(&with(|logs| logs.certificate = Some("/nowhere/ca.pem".into())));
    expect![""].assert_eq(&with(|logs| logs.certificate = Some("/dev/null".into())));
    expect![""].assert_eq(&with(|logs| logs.identity = Some(("/dev/null".into(), "/dev/null".into()))));
}
