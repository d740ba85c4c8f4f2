//! No key in anything that is written (I17): every place where a secret goes in, also while
//! everything fails and the other side sends it back, and every place where something comes out.
//!
//! Secrets are marked. Searched are stdout and stderr of every process, the whole data folder
//! (spool, quarantine, logs.db, fleet.db with its decision snapshots unpacked, alarms), what read
//! commands print, the pages, and the arguments of every process of ours. A test that a planted
//! secret is found keeps the search honest.

pub(crate) mod search;

use std::process::{Command, Stdio};

use crate::flows::rig::{Rig, Running, eventually};
use crate::postgres_rig::{Cluster, PASSWORD};
use crate::receiver_rig::{Receiver, Reply};
use search::{MARK, search};

/// Every secret, by its variable.
fn secrets(receiver: &Receiver) -> Vec<(&'static str, String)> {
    let with_key = receiver.base.replace("http://", "http://user:marked-secret-of-url@");
    let headers = "api-key=marked-secret-otlp,authorization=Bearer%20marked-secret-bearer";
    [
        ("SUPABASE_URL", receiver.base.clone()),
        ("SUPABASE_SECRET_KEY", "sb_secret_marked-secret-supabase".to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{with_key}/?key=marked-secret-query")),
        ("OTEL_EXPORTER_OTLP_HEADERS", headers.to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500".to_owned()),
        ("DOGWATCH_TOKEN", "marked-secret-page".to_owned()),
        ("DOGWATCH_WEBHOOK_URL", format!("{}/hook/marked-secret-hook?token=marked-secret-hook", receiver.base)),
        ("DOGWATCH_WORKER_TOKEN", "marked-secret-worker".to_owned()),
        ("DOGWATCH_API_KEY", "marked-secret-publishable".to_owned()),
    ]
    .to_vec()
}

/// A far side that fails like that and sends back all that it was sent.
fn echoing(status: u16) -> Receiver {
    Receiver::start(move |request| {
        let body = format!("{}\n{}", request.head, String::from_utf8_lossy(&request.body));
        Reply::text(status, "", &body)
    })
}

/// What goes in through the far side did go in: the matrix has run.
fn was_sent(receiver: &Receiver, secret: &str) -> bool {
    receiver.seen().iter().any(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        [&request.head, &request.path, &body].iter().any(|text| text.contains(secret))
    })
}

fn start(rig: &Rig, words: &[&str], settings: &[(&'static str, String)]) -> Running {
    let mut command: Command = rig.command(words);
    command.envs(settings.iter().map(|(name, value)| (*name, value.as_str()))).stdin(Stdio::piped());
    rig.start(command)
}

#[test]
fn shipping_to_destinations_that_fail_and_echo_shows_no_key() {
    for status in [200, 401, 413, 503] {
        let (rig, receiver) = (Rig::new(), echoing(status));
        let settings = secrets(&receiver);
        let mut ship = start(&rig, &["ship", "--source", "t"], &settings);
        std::io::Write::write_all(&mut ship.stdin(), b"one\ntwo\n").unwrap();
        let said = ship.wait();
        assert_eq!(said.code, Some(0), "{status}: {said:?}");
        for secret in ["marked-secret-supabase", "marked-secret-otlp", "marked-secret-bearer"] {
            assert!(was_sent(&receiver, secret), "{status}: {secret} was not sent: {:?}", said.err);
        }
        for words in [
            &["spool", "ls", "--json"][..],
            &["spool", "cat"],
            &["spool", "verify"],
            &["status", "--json"],
            // Rows are read from where everything is sent back.
            &["logs", "--json"],
            &["watch", "--once"],
        ] {
            start(&rig, words, &settings).wait();
        }
        search(&rig);
    }
}

#[test]
fn postgres_shows_no_password_while_it_takes_rows_refuses_or_is_away() {
    let (database, receiver) = (Cluster::shared().database(), echoing(503));
    let wrong = database.url().replace(PASSWORD, "marked-secret-wrong");
    let away = format!("postgres://me:marked-secret-of-url@127.0.0.1:9/none?application_name={MARK}");
    for url in [database.url(), wrong, away] {
        let rig = Rig::new();
        let mut settings = secrets(&receiver);
        settings.push(("DATABASE_URL", url));
        for words in [&["migrate", "--json"][..], &["migrate", "--dry-run"]] {
            start(&rig, words, &settings).wait();
        }
        let mut ship = start(&rig, &["ship", "--source", "t"], &settings);
        std::io::Write::write_all(&mut ship.stdin(), b"one\ntwo\n").unwrap();
        let said = ship.wait();
        assert_eq!(said.code, Some(0), "{said:?}");
        for words in [&["status", "--json"][..], &["logs", "--json"], &["spool", "ls"], &["watch", "--once"]] {
            start(&rig, words, &settings).wait();
        }
        search(&rig);
    }
    assert_eq!(database.count("system_logs where source_id = 't'"), 2);
    let rows = database.ask("select string_agg(system_logs::text, ' ') from system_logs");
    assert!(!rows.contains(MARK), "{rows}");
}

#[test]
fn an_agent_with_a_token_that_is_refused_shows_none() {
    let (rig, receiver) = (Rig::new(), echoing(401));
    let mut settings = secrets(&receiver);
    settings.push(("DOGWATCH_BASE_URL", receiver.base.clone()));
    settings.push(("DOGWATCH_WORKER_ID", "gpu-20261101_100000-0123abcd".to_owned()));
    let agent = start(&rig, &["agent", "--allow-commands"], &settings);
    search::arguments(&rig);
    agent.wait();
    assert!(was_sent(&receiver, "marked-secret-worker") && was_sent(&receiver, "marked-secret-publishable"));
    search(&rig);
}

#[test]
fn up_with_every_secret_set_while_all_fails_shows_none() {
    let (rig, receiver) = (Rig::new(), echoing(503));
    let settings = secrets(&receiver);
    let pairs: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut pairs = pairs;
    pairs.push(("DOGWATCH_LOG_SILENCE_SECONDS", "1"));
    pairs.push(("DOGWATCH_WATCH_SECONDS", "0.3"));
    let up = rig.up_with(&[], &pairs);
    // A program that prints its environment has nothing of ours to print.
    let tasks = rig.submit(&["--", "env"]);
    rig.ended(&tasks);
    for secret in ["marked-secret-supabase", "marked-secret-otlp"] {
        eventually(secret, || was_sent(&receiver, secret).then_some(()));
    }
    search::arguments(&rig);
    for words in [
        &["status", "--json"][..],
        &["logs", "--json"],
        &["alerts", "--json"],
        &["tasks", "--json"],
        &["workers", "--json"],
        &["snapshot"],
        &["watch", "--once", "--json"],
        &["spool", "ls", "--json"],
        &["spool", "cat"],
        &["migrate", "--dry-run", "--json"],
    ] {
        start(&rig, words, &settings).wait();
    }
    for (port, path) in [(rig.gateway, "/metrics"), (rig.gateway, "/readyz"), (rig.watch, "/metrics")] {
        let page = search::page(port, path, "marked-secret-page");
        assert!(!page.contains(MARK), "{path}: {page}");
    }
    up.signal(rustix::process::Signal::TERM);
    up.wait();
    search(&rig);
}

#[test]
fn settings_that_cannot_be_used_are_named_and_not_shown() {
    let (rig, receiver) = (Rig::new(), echoing(503));
    let project = [("SUPABASE_URL", receiver.base.clone())];
    let bad: [(&'static str, &str, bool); 8] = [
        ("SUPABASE_SECRET_KEY", "sb_publishable_marked-secret", true),
        ("SUPABASE_SERVICE_ROLE_KEY", "marked-secret", true),
        ("SUPABASE_URL", "ftp://marked-secret.example", true),
        ("DOGWATCH_WEBHOOK_URL", "htp://example/marked-secret", true),
        ("DOGWATCH_BASE_URL", "marked-secret", true),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "marked-secret", true),
        ("OTEL_EXPORTER_OTLP_HEADERS", "marked-secret", false),
        ("OTEL_RESOURCE_ATTRIBUTES", "marked-secret", false),
    ];
    for (name, value, is_refused) in bad {
        let mut settings = project.to_vec();
        settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.base.clone()));
        settings.retain(|(other, _)| *other != name);
        settings.push((name, value.to_owned()));
        let mut ship = start(&rig, &["ship", "--source", "t"], &settings);
        drop(ship.stdin());
        let said = ship.wait();
        assert_eq!(said.code, Some(if is_refused { 2 } else { 0 }), "{name}: {said:?}");
        assert!(said.err.contains(name), "{name} is named: {}", said.err);
    }
    search(&rig);
}
