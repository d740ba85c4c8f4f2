//! Keys, calls, and every way to answer; against an HTTP server on loopback.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::clock;
use crate::rpc::{BODY_BYTES_MAX, INGEST_ROWS_MAX};
use crate::telemetry::exporter::receiver::{Receiver, Reply};
use crate::telemetry::exporter::samples::{START_MICROS, batch, poison, stored};

const LIMIT: Duration = Duration::from_secs(20);
const SECRET: &str = "sb_secret_marked-secret-key";

/// A JWT that says it has this role.
fn jwt(role: &str) -> String {
    use base64::Engine as _;
    let part = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(json!({"alg": "HS256"})), part(json!({"iss": "supabase", "role": role})))
}

fn config(url: &str, key: &str) -> Result<SupabaseConfig, SupabaseConfigError> {
    SupabaseConfig::new(url, "SUPABASE_SECRET_KEY", key)
}

fn exporter(base: &str) -> SupabaseExporter {
    SupabaseExporter::new(config(base, SECRET).unwrap()).unwrap()
}

fn now() -> Time {
    clock::from_micros(START_MICROS)
}

/// A project that takes everything.
fn taking() -> Receiver {
    Receiver::start(|request| {
        let rows = rows(&request.body).len();
        Reply::json(&json!({"received": rows, "inserted": rows}).to_string())
    })
}

fn rows(body: &[u8]) -> Vec<Value> {
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "only rows");
    body["rows"].as_array().unwrap().clone()
}

#[test]
fn a_batch_goes_out_as_rows_with_the_key_of_either_kind() {
    for (key, bearer) in [(SECRET.to_owned(), None), (jwt("service_role"), Some(jwt("service_role")))] {
        let receiver = taking();
        let config = config(&receiver.base, &key).unwrap();
        let exported = SupabaseExporter::new(config).unwrap().export(&batch(0..3), now(), LIMIT).unwrap();
        assert_eq!(exported, Exported { delivered: 3, rejected: 0 });
        let seen = receiver.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].path, "/rest/v1/rpc/dw_insert_logs");
        for header in ["content-type: application/json", "content-profile: public", &format!("apikey: {key}")] {
            assert!(seen[0].head.contains(header), "{header}: {}", seen[0].head);
        }
        let authorization = bearer.map(|token| format!("authorization: Bearer {token}"));
        let shown = seen[0].head.lines().find(|line| line.starts_with("authorization"));
        assert_eq!(shown.map(str::to_owned), authorization, "a secret key is never a bearer");
        let rows = rows(&seen[0].body);
        expect![[r#"
            {
              "cycle_number": 0,
              "id": "0199ee17-56b9-7000-863b-a42d9cf1becf",
              "log_level": "INFO",
              "message": "record 1",
              "metadata": {
                "count": 1,
                "target": "dogwatch::orchestrator"
              },
              "source_id": "sample",
              "source_type": "external",
              "span_id": "0202020202020202",
              "timestamp": "2025-10-16T17:35:31.001Z",
              "trace_id": "01010101010101010101010101010101",
              "worker_id": "gpu-1"
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&rows[1]).unwrap());
    }
}

#[test]
fn a_large_batch_is_several_calls_within_both_limits() {
    let receiver = taking();
    let large = |seq| {
        let mut record = stored(seq);
        // A body of 20 KiB, as one more field of the same number: the last one wins.
        let text = "x".repeat(20 << 10);
        let mut body = Vec::new();
        prost::encoding::string::encode(1, &text, &mut body);
        prost::encoding::bytes::encode(5, &body, &mut record.payload);
        record
    };
    let records: Vec<_> = batch(0..2_500).into_iter().chain((2_500..2_600).map(large)).collect();
    assert_eq!(exporter(&receiver.base).export(&records, now(), LIMIT).unwrap().delivered, 2_600);
    let seen = receiver.seen();
    assert!(seen.iter().all(|request| request.body.len() <= BODY_BYTES_MAX));
    let sizes: Vec<usize> = seen.iter().map(|request| rows(&request.body).len()).collect();
    assert_eq!(sizes[..2], [INGEST_ROWS_MAX; 2]);
    assert!(sizes.len() > 4 && sizes.iter().sum::<usize>() == 2_600, "{sizes:?}");
    let ids = seen.iter().flat_map(|request| rows(&request.body)).map(|row| row["id"].clone());
    assert!(ids.map(|id| id.as_str().unwrap().to_owned()).collect::<Vec<_>>().is_sorted(), "in order");
}

#[test]
fn a_record_that_is_none_is_refused_before_anything_is_sent() {
    let receiver = taking();
    let refused = exporter(&receiver.base).export(&[stored(0), poison(1)], now(), LIMIT);
    assert!(matches!(refused, Err(ExportError::Refused { .. })), "{refused:?}");
    assert!(receiver.seen().is_empty());
}

#[test]
fn a_key_for_browsers_or_a_url_that_is_none_is_refused_at_once() {
    let refused = |url: &str, key: &str, expected: Expect| {
        let error = config(url, key).unwrap_err().to_string();
        assert!(!error.contains(key), "{error}");
        expected.assert_eq(&error);
    };
    let good = "https://abc.supabase.co";
    refused(
        good,
        "sb_publishable_abc",
        expect![
            "SUPABASE_SECRET_KEY is a publishable key, which may not write logs; set it to a secret key (sb_secret_...) or the service_role key, in the project's settings under API keys"
        ],
    );
    refused(
        good,
        &jwt("anon"),
        expect![
            "SUPABASE_SECRET_KEY is the anon key, which may not write logs; set it to a secret key (sb_secret_...) or the service_role key, in the project's settings under API keys"
        ],
    );
    refused(
        good,
        &jwt("authenticated"),
        expect![
            "SUPABASE_SECRET_KEY is a user's token, which may not write logs; set it to a secret key (sb_secret_...) or the service_role key, in the project's settings under API keys"
        ],
    );
    refused(
        good,
        &jwt("marked"),
        expect![
            "SUPABASE_SECRET_KEY is a JWT of another role than service_role, which may not write logs; set it to a secret key (sb_secret_...) or the service_role key, in the project's settings under API keys"
        ],
    );
    refused(
        good,
        "eyJhbGciOiJ9",
        expect![
            "SUPABASE_SECRET_KEY is neither a secret key nor a JWT with a role, which may not write logs; set it to a secret key (sb_secret_...) or the service_role key, in the project's settings under API keys"
        ],
    );
    refused(
        "abc.supabase.co",
        SECRET,
        expect![
            "SUPABASE_URL is no project's URL (it is no URL); set it to one, such as https://<project>.supabase.co"
        ],
    );
    refused(
        "https://supabase.com/dashboard/project/abc",
        SECRET,
        expect![
            "SUPABASE_URL is no project's URL (it is the dashboard's); set it to one, such as https://<project>.supabase.co"
        ],
    );
    refused(
        "https://me:word@abc.supabase.co",
        SECRET,
        expect![
            "SUPABASE_URL is no project's URL (it holds more than a host and a path); set it to one, such as https://<project>.supabase.co"
        ],
    );
    for url in ["https://abc.supabase.co/", "https://abc.supabase.co/rest/v1/", " https://abc.supabase.co"] {
        assert_eq!(config(url, SECRET).unwrap().url(), good);
    }
    let shown = format!("{:?} {:?}", config(good, SECRET), config(good, &jwt("service_role")));
    assert!(!shown.contains("marked") && !shown.contains("eyJ"), "{shown}");
}

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

/// PostgREST's error.
fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({"code": code, "details": null, "hint": null, "message": message});
    Reply::text(status, "Content-Type: application/json; charset=utf-8\r\n", &body.to_string())
}

#[test]
fn only_the_functions_own_answer_is_a_receipt() {
    check(Reply::json(r#"{"received":2,"inserted":0}"#), expect!["delivered 2, rejected 0"]);
    check(
        Reply::json(r#"{"received":1,"inserted":1}"#),
        expect![[
            r#"blocked: Supabase answered 200 {"received":1,"inserted":1} -> check SUPABASE_URL: something that is not a project's Data API answers"#
        ]],
    );
    check(
        Reply::status(204),
        expect![
            "blocked: Supabase answered 204 -> check SUPABASE_URL: something that is not a project's Data API answers"
        ],
    );
    check(
        Reply::text(200, "Content-Type: text/html\r\n", "<html><title>Sign in</title>"),
        expect![
            "blocked: Supabase answered 200 Sign in -> check SUPABASE_URL: something that is not a project's Data API answers"
        ],
    );
    check(
        Reply::text(302, "Location: http://127.0.0.1:9/\r\n", ""),
        expect![
            "blocked: Supabase answered 302 -> check SUPABASE_URL, and that the function is this version's (`dogwatch migrate`)"
        ],
    );
}

#[test]
fn an_outage_is_tried_again() {
    let date =
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_micros(START_MICROS as u64 + 90_000_000));
    check(Reply::text(429, "Retry-After: 7\r\n", ""), expect!["retry after Some(7s): Supabase answered 429"]);
    check(
        Reply::text(503, &format!("Retry-After: {date}\r\n"), ""),
        expect!["retry after Some(90s): Supabase answered 503"],
    );
    check(
        error(503, "PGRST002", "Could not query the database for the schema cache. Retrying."),
        expect![
            "retry after None: Supabase answered 503 PGRST002: Could not query the database for the schema cache. Retrying."
        ],
    );
    check(
        error(504, "PGRST003", "Timed out acquiring connection from connection pool."),
        expect![
            "retry after None: Supabase answered 504 PGRST003: Timed out acquiring connection from connection pool."
        ],
    );
    check(
        error(500, "57014", "canceling statement due to statement timeout"),
        expect!["retry after None: Supabase answered 500 57014: canceling statement due to statement timeout"],
    );
    check(
        error(405, "25006", "cannot execute INSERT in a read-only transaction"),
        expect!["retry after None: Supabase answered 405 25006: cannot execute INSERT in a read-only transaction"],
    );
    check(
        error(503, "53100", "could not extend file: No space left on device"),
        expect!["retry after None: Supabase answered 503 53100: could not extend file: No space left on device"],
    );
    let edge =
        "<!DOCTYPE html>\n<html><head>\n<title>abc.supabase.co | 522: Connection timed out</title></head><body>x";
    check(
        Reply::text(522, "Content-Type: text/html\r\n", edge),
        expect!["retry after None: Supabase answered 522 abc.supabase.co | 522: Connection timed out"],
    );
    check(
        Reply::text(520, "Content-Type: text/html\r\n", "<html>"),
        expect!["retry after None: Supabase answered 520 <html>"],
    );
    check(Reply::text(524, "", ""), expect!["retry after None: Supabase answered 524"]);
    check(Reply::status(408), expect!["retry after None: Supabase answered 408"]);
    check(
        Reply::Close,
        expect![
            "retry after None: no answer from http://127.0.0.1:PORT: error sending request: client error (SendRequest): connection closed before message completed"
        ],
    );
    check(
        Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"received\":2"),
        expect![
            "retry after None: no answer from http://127.0.0.1:PORT: error decoding response body: error reading a body from connection: end of file before message length reached"
        ],
    );
}

#[test]
fn a_bad_row_and_a_large_body_are_refused_so_that_they_are_halved() {
    check(
        error(400, "22P05", "unsupported Unicode escape sequence"),
        expect!["refused: Supabase answered 400 22P05: unsupported Unicode escape sequence"],
    );
    check(
        error(400, "23514", "new row for relation \"system_logs\" violates check constraint"),
        expect![[
            r#"refused: Supabase answered 400 23514: new row for relation "system_logs" violates check constraint"#
        ]],
    );
    check(
        error(409, "23505", "duplicate key value violates unique constraint"),
        expect!["refused: Supabase answered 409 23505: duplicate key value violates unique constraint"],
    );
    check(
        error(400, "P0001", "no debug rows here"),
        expect!["refused: Supabase answered 400 P0001: no debug rows here"],
    );
    check(
        error(400, "PGRST102", "Empty or invalid json"),
        expect!["refused: Supabase answered 400 PGRST102: Empty or invalid json"],
    );
    check(Reply::text(413, "", "Payload Too Large"), expect!["refused: Supabase answered 413 Payload Too Large"]);
}

#[test]
fn what_a_human_must_lift_blocks_with_what_to_do() {
    check(
        Reply::text(401, "", &format!("Invalid API key {SECRET}")),
        expect![
            "blocked: Supabase answered 401 Invalid API key *** -> check SUPABASE_SECRET_KEY: it must be a secret or service_role key of this project"
        ],
    );
    check(
        error(401, "PGRST301", "JWT expired"),
        expect![
            "blocked: Supabase answered 401 PGRST301: JWT expired -> check SUPABASE_SECRET_KEY: it must be a secret or service_role key of this project"
        ],
    );
    check(
        error(403, "42501", "permission denied for table system_logs"),
        expect![
            "blocked: Supabase answered 403 42501: permission denied for table system_logs -> give the service role its rights again: run `dogwatch migrate` on the project's database"
        ],
    );
    check(
        error(404, "PGRST202", "Could not find the function public.dw_insert_logs in the schema cache"),
        expect![
            "blocked: Supabase answered 404 PGRST202: Could not find the function public.dw_insert_logs in the schema cache -> run `dogwatch migrate` on the project's database; if that is done, let PostgREST read the schema anew: notify pgrst, 'reload schema'"
        ],
    );
    check(
        error(404, "42P01", "relation \"public.system_logs\" does not exist"),
        expect![[
            r#"blocked: Supabase answered 404 42P01: relation "public.system_logs" does not exist -> run `dogwatch migrate` on the project's database; if that is done, let PostgREST read the schema anew: notify pgrst, 'reload schema'"#
        ]],
    );
    check(
        error(400, "23514", "no partition of relation \"system_logs\" found for row"),
        expect![[
            r#"blocked: Supabase answered 400 23514: no partition of relation "system_logs" found for row -> run `dogwatch migrate` on the project's database; if that is done, let PostgREST read the schema anew: notify pgrst, 'reload schema'"#
        ]],
    );
    check(
        Reply::text(404, "", "requested path is invalid"),
        expect![
            "blocked: Supabase answered 404 requested path is invalid -> check SUPABASE_URL: something that is not a project's Data API answers"
        ],
    );
    check(
        Reply::text(540, "", "Project paused"),
        expect![
            "blocked: Supabase answered 540 Project paused -> the project is paused or over its quota: see its dashboard"
        ],
    );
}

#[test]
fn a_hang_and_a_half_open_connection_end_with_the_deadline() {
    let patience = Duration::from_millis(100);
    for reply in [Reply::Hang, Reply::HalfOpen(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"re")] {
        let receiver = Receiver::start(move |_| reply.clone());
        let late = exporter(&receiver.base).export(&batch(0..2), now(), patience);
        assert!(matches!(&late, Err(ExportError::Retry { .. })), "{late:?}");
    }
}
