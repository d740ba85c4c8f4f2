//! A real HTTP server on loopback that answers what it is told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::clock;
use crate::rpc::BODY_BYTES_MAX;
use crate::rpc::Refusal;
use crate::telemetry::exporter::samples::{START_MICROS, batch, poison, stored};
use crate::telemetry::row::Row;
use crate::telemetry::row::ingest::from_ingest;

const LIMIT: Duration = Duration::from_secs(20);
const TOKEN: &str = "marked-secret-token";
const KEY: &str = "marked-secret-key";

/// Answers each request with (status, extra headers, body) as `answer` says.
struct Server {
    base: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

type Reply = (u16, String, String);

impl Server {
    fn start(mut answer: impl FnMut(&Value) -> Reply + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        #[expect(clippy::disallowed_methods, reason = "a server of the test's own, gone with the process")]
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let head: Vec<String> =
                    reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                let head = head.join("\n");
                let length = head.to_ascii_lowercase();
                let length = length.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
                let mut body = vec![0; length.parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                assert!(body.len() <= BODY_BYTES_MAX);
                let body: Value = serde_json::from_slice(&body).unwrap();
                let (status, headers, reply) = answer(&body);
                requests.lock().unwrap().push((head, body));
                // The other side may have given up by now.
                let length = if headers.contains("Content-Length") {
                    String::new()
                } else {
                    format!("Content-Length: {}\r\n", reply.len())
                };
                let _ = write!(stream, "HTTP/1.1 {status} X\r\n{length}Connection: close\r\n{headers}\r\n{reply}");
            }
        });
        Server { base, seen }
    }

    fn exporter(&self) -> RpcExporter {
        exporter(&self.base)
    }
}

fn exporter(base: &str) -> RpcExporter {
    let caller = Caller { worker_id: "gpu-1".into(), worker_token: TOKEN.into(), incarnation: Uuid::from_u128(5) };
    let admission = Admission::default();
    admission.grant();
    RpcExporter::new(RpcConfig { base: base.into(), caller, admission, api_key: Some(KEY.into()) }).unwrap()
}

fn now() -> Time {
    clock::from_micros(START_MICROS)
}

fn receipt(body: &Value) -> Reply {
    let rows = body["rows"].as_array().unwrap().len();
    (200, String::new(), json!({"received": rows, "inserted": rows}).to_string())
}

#[test]
fn superseded_before_the_agent_is_registered_is_a_matter_of_time() {
    let admission = Admission::default();
    let registered = admission.clone();
    let server = Server::start(move |body| {
        let is_registered = registered.is_granted_within(Duration::ZERO);
        let refusal = Refusal::superseded("this start of the agent has not registered");
        if is_registered { receipt(body) } else { (409, String::new(), serde_json::to_string(&refusal).unwrap()) }
    });
    let mut exporter = server.exporter();
    exporter.config.admission = admission.clone();
    let waits = exporter.export(&batch(0..2), now(), Duration::from_secs(1)).unwrap_err();
    assert!(matches!(waits, ExportError::Retry { after: None, .. }), "{waits:?}");
    thread::scope(|scope| {
        scope.spawn(|| admission.grant());
        let waited_for_it = exporter.export(&batch(0..2), now(), LIMIT);
        assert_eq!(waited_for_it.unwrap().delivered, 2);
    });
}

#[test]
fn rows_arrive_in_calls_within_the_limits() {
    let server = Server::start(receipt);
    let exported = server.exporter().export(&batch(0..2_500), now(), LIMIT).unwrap();
    assert_eq!(exported, Exported { delivered: 2_500, rejected: 0 });
    let seen = server.seen.lock().unwrap();
    let sizes: Vec<_> = seen.iter().map(|(_, body)| body["rows"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
    let (head, body) = &seen[0];
    assert!(head.starts_with("POST /rest/v1/rpc/dw_ingest_logs HTTP/1.1"), "{head}");
    assert!(head.contains(&format!("apikey: {KEY}")) && head.contains("content-type: application/json"));
    assert_eq!((&body["worker_id"], &body["worker_token"]), (&json!("gpu-1"), &json!(TOKEN)));
    let row = from_ingest(serde_json::from_value(body["rows"][7].clone()).unwrap(), "gpu-1").unwrap();
    let sent = Row::from_stored(&stored(7)).unwrap();
    assert_eq!((row.id, &row.message, row.cycle_number), (sent.id, &sent.message, sent.cycle_number));
    assert_eq!(row.metadata, sent.metadata);
}

#[test]
fn large_rows_are_split_by_size() {
    let server = Server::start(receipt);
    let large = |seq| {
        let source = Arc::new(crate::telemetry::record::Source {
            source_type: "worker".into(),
            source_id: "\u{1}".repeat(200),
            resource: vec![],
        });
        let mut record = stored(seq);
        // Field 5 (body), AnyValue field 1: a text of control characters, six times as long in JSON.
        let text = vec![1_u8; 60_000];
        let string = [&[0x0a][..], &varint(text.len()), &text].concat();
        record.payload = [&[0x2a][..], &varint(string.len()), &string].concat();
        Stored { source, ..record }
    };
    let records: Vec<_> = (0..10).map(large).collect();
    assert_eq!(server.exporter().export(&records, now(), LIMIT).unwrap().delivered, 10);
    let sizes: Vec<_> =
        server.seen.lock().unwrap().iter().map(|(_, body)| body["rows"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [2, 2, 2, 2, 2]);
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn check(status: u16, headers: &str, body: &str, expected: Expect) {
    let (headers, body) = (headers.to_owned(), body.to_owned());
    let server = Server::start(move |_| (status, headers.clone(), body.clone()));
    let mut exporter = server.exporter();
    let error = exporter.export(&batch(0..3), now(), LIMIT).unwrap_err();
    let shown = match &error {
        ExportError::Retry { after, detail } => format!("retry {after:?}: {detail}"),
        ExportError::Blocked { detail, remedy } => format!("blocked: {detail} -> {remedy}"),
        ExportError::Refused { detail } => format!("refused: {detail}"),
    };
    expected.assert_eq(&shown);
    for text in [shown, format!("{error:?}"), format!("{:?}", exporter.config)] {
        assert!(!text.contains("marked-secret"), "{text}");
    }
}

#[test]
fn an_outage_or_too_much_is_a_retry_or_a_split() {
    check(503, "", "", expect!["retry None: dw_ingest_logs answered 503"]);
    check(500, "Retry-After: 7\r\n", "oops", expect!["retry Some(7s): dw_ingest_logs answered 500 oops"]);
    check(
        429,
        "Retry-After: Thu, 16 Oct 2025 17:36:31 GMT\r\n",
        "",
        expect!["retry Some(60s): dw_ingest_logs answered 429"],
    );
    check(
        429,
        "Retry-After: Fri, 16 Oct 2015 17:36:31 GMT\r\n",
        "",
        expect!["retry Some(0ns): dw_ingest_logs answered 429"],
    );
    check(408, "Retry-After: soon\r\n", "", expect!["retry None: dw_ingest_logs answered 408"]);
    check(413, "", "", expect!["refused: dw_ingest_logs answered 413"]);
}

#[test]
fn what_only_a_human_can_change_is_blocked_and_a_named_row_is_refused() {
    let refusal = |refusal: Refusal| serde_json::to_string(&refusal).unwrap();
    check(
        401,
        "",
        &refusal(Refusal::unknown_caller()),
        expect![
            "blocked: dw_ingest_logs answered 401 DW401: unknown worker or wrong token -> the worker's token or the API key is not accepted: spawn the worker anew"
        ],
    );
    check(
        409,
        "",
        &refusal(Refusal::superseded("worker ended")),
        expect![
            "blocked: dw_ingest_logs answered 409 DW409: worker ended -> this agent was superseded or its worker has ended: let it leave"
        ],
    );
    check(
        400,
        "",
        "bad \u{7} JSON",
        expect![
            "blocked: dw_ingest_logs answered 400 bad   JSON -> check the base URL, and that both sides run the same version of dogwatch"
        ],
    );
    check(
        404,
        "",
        &format!("no such function for {TOKEN} {KEY}"),
        expect![
            "blocked: dw_ingest_logs answered 404 no such function for *** *** -> check the base URL, and that both sides run the same version of dogwatch"
        ],
    );
}

#[test]
fn a_malformed_call_is_ours_and_a_named_row_is_poison() {
    let refusal = |refusal: Refusal| serde_json::to_string(&refusal).unwrap();
    check(
        422,
        "",
        &refusal(Refusal::malformed("incarnation", "a uuid")),
        expect![
            "blocked: dw_ingest_logs answered 422 DW422: key `incarnation` is missing or malformed: expected a uuid -> check the base URL, and that both sides run the same version of dogwatch"
        ],
    );
    check(
        422,
        "",
        &refusal(Refusal::malformed("rows[2].timestamp", "a time")),
        expect![
            "refused: dw_ingest_logs answered 422 DW422: key `rows[2].timestamp` is missing or malformed: expected a time"
        ],
    );
    check(
        301,
        "Location: http://example.com/\r\n",
        "",
        expect![
            "blocked: dw_ingest_logs answered 301 -> check the base URL, and that both sides run the same version of dogwatch"
        ],
    );
    check(
        200,
        "",
        "",
        expect![
            "blocked: dw_ingest_logs answered 200 -> something that is not dogwatch answers: check the base URL"
        ],
    );
    check(
        200,
        "",
        "<html>please log in</html>",
        expect![
            "blocked: dw_ingest_logs answered 200 <html>please log in</html> -> something that is not dogwatch answers: check the base URL"
        ],
    );
    check(
        200,
        "",
        r#"{"received": 2, "inserted": 2}"#,
        expect![[
            r#"blocked: dw_ingest_logs answered 200 {"received": 2, "inserted": 2} -> something that is not dogwatch answers: check the base URL"#
        ]],
    );
}

#[test]
fn an_outage_is_a_retry_and_names_no_secret() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://user:marked-secret@{}", listener.local_addr().unwrap());
    let hang = exporter(&base).export(&batch(0..1), now(), Duration::from_millis(50));
    assert!(matches!(&hang, Err(ExportError::Retry { detail, .. }) if detail.contains("no answer within")));
    drop(listener);
    let refused = exporter(&base).export(&batch(0..1), now(), LIMIT);
    let Err(ExportError::Retry { after: None, detail }) = refused else { panic!("{refused:?}") };
    assert!(detail.contains("no answer from the base") && !detail.contains("marked-secret"), "{detail}");
}

#[test]
fn a_connection_cut_in_the_answer_is_a_retry() {
    let server = Server::start(|_| (200, "Content-Length: 500\r\n".into(), "{".into()));
    let cut = server.exporter().export(&batch(0..1), now(), LIMIT);
    assert!(matches!(cut, Err(ExportError::Retry { .. })), "{cut:?}");
}

#[test]
fn a_record_that_cannot_be_decoded_refuses_its_batch_without_a_call() {
    let server = Server::start(receipt);
    let result = server.exporter().export(&[stored(0), poison(1)], now(), LIMIT);
    assert!(matches!(result, Err(ExportError::Refused { .. })));
    assert!(server.seen.lock().unwrap().is_empty());
}

#[test]
fn a_base_that_is_no_url_or_needs_https_does_not_panic() {
    let result = exporter("not a url").export(&batch(0..1), now(), LIMIT);
    assert!(matches!(result, Err(ExportError::Blocked { .. })), "{result:?}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let result = exporter(&base).export(&batch(0..1), now(), LIMIT);
    assert!(matches!(result, Err(ExportError::Retry { .. } | ExportError::Blocked { .. })), "{result:?}");
}
