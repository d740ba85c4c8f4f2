//! Every way out over TLS with an authority that only the settings know: what it has signed is taken,
//! and what it has not is held with the remedy. No key is in what is said about it.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::flows::rig::{Rig, Running, Said, eventually};
use crate::postgres_rig::{Cluster, Durability, PASSWORD, Stop};
use crate::postgrest_rig::{Project, SECRET_KEY};
use crate::receiver_rig::{Receiver, Reply};
use crate::secrets::search::search;
use crate::tls_rig::Authority;

type Settings<'a> = &'a [(&'a str, &'a str)];

fn run(rig: &Rig, words: &[&str], settings: Settings<'_>, input: &str) -> Said {
    let mut command = rig.command(words);
    command.envs(settings.iter().copied()).stdin(Stdio::piped());
    let mut running = rig.start(command);
    let mut stdin = running.stdin();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    running.wait()
}

/// Ships two lines that must arrive.
fn arrives(rig: &Rig, settings: Settings<'_>) {
    let said = run(rig, &["ship", "--source", "t", "--wait-delivered"], settings, "one\ntwo\n");
    assert_eq!(said.code, Some(0), "{said:?}");
    rig.spools_add_up();
}

/// Ships two lines that must be held: nothing is lost, and what is said names all of `words`. In a folder
/// of its own, which it gives: no earlier error is in it.
fn held(settings: Settings<'_>, words: &[&str]) -> Rig {
    let rig = Rig::new();
    let said = run(&rig, &["ship", "--source", "t", "--wait-delivered"], settings, "one\ntwo\n");
    assert_eq!(said.code, Some(1), "{said:?}");
    let ls = run(&rig, &["spool", "ls"], settings, "");
    assert!(ls.out.contains("is blocked"), "{ls:?}");
    for word in words {
        assert!(ls.out.contains(word), "{word}: {ls:?}");
    }
    rig.spools_add_up();
    search(&rig);
    rig
}

fn port(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn otlp_over_https_trusts_the_authority_that_is_named_and_no_other() {
    let receiver = Receiver::start(|_| Reply::taken());
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let endpoint = format!("https://localhost:{}", ours.serve(port(&receiver.base)));
    let settings = |authority: Option<&Authority>, endpoint: &str| {
        let mut all = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=marked-secret-otlp".to_owned()),
            ("OTEL_METRICS_EXPORTER", "none".to_owned()),
        ];
        let file = authority.map(|authority| authority.certificate().display().to_string());
        all.extend(file.map(|file| ("OTEL_EXPORTER_OTLP_CERTIFICATE", file)));
        all
    };
    fn pairs<'a>(all: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
        all.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
    let words = ["certificate", "OTEL_EXPORTER_OTLP_CERTIFICATE", &endpoint];
    // The system's authorities do not know it, and another one has not signed it.
    held(&pairs(&settings(None, &endpoint)), &words);
    let rig = held(&pairs(&settings(Some(&another), &endpoint)), &words);
    // One that is right about the signature, and whose certificate is for somebody else.
    let wrong_name = format!("https://localhost:{}", ours.serve_as_another(port(&receiver.base)));
    held(&pairs(&settings(Some(&ours), &wrong_name)), &["certificate", "elsewhere.example"]);
    assert!(receiver.seen().is_empty(), "nothing was said to a server that is not trusted");

    // What was held goes out once the right one is named.
    arrives(&rig, &pairs(&settings(Some(&ours), &endpoint)));
    let records = receiver.seen().into_iter().filter(|request| request.path == "/v1/logs").map(|request| {
        let logs = request.logs();
        assert!(request.head.contains("api-key: marked-secret-otlp"), "{}", request.head);
        let scopes = logs.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
        scopes.map(|scope| scope.log_records.len()).sum::<usize>()
    });
    assert!(records.sum::<usize>() >= 4, "two runs of two lines");
}

#[test]
fn a_database_that_must_be_verified_is_and_another_authority_is_refused() {
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let mut cluster = Cluster::start(Durability::Relaxed);
    let database = cluster.database();
    let with = |authority: &Authority, mode: &str| {
        format!("{}?sslmode={mode}&sslrootcert={}", database.url(), authority.certificate().display())
    };
    // A server that speaks no TLS.
    let plain = with(&ours, "verify-full");
    let rig = held(&[("DATABASE_URL", &plain)], &["TLS", "sslmode"]);
    let said = run(&rig, &["migrate"], &[("DATABASE_URL", &plain)], "");
    assert!(said.code == Some(2) && said.err.contains("TLS"), "{said:?}");

    cluster.enable_tls(&ours.issue());
    cluster.stop(Stop::Fast);
    cluster.resume();
    let verified = with(&ours, "verify-full");
    let said = run(&rig, &["migrate"], &[("DATABASE_URL", &verified)], "");
    assert_eq!(said.code, Some(0), "{said:?}");
    for (url, words) in [
        (with(&another, "verify-full"), ["certificate", "sslrootcert"]),
        (with(&another, "verify-ca"), ["certificate", "sslrootcert"]),
        // Without the authority's file the system's are asked, which do not know it.
        (format!("{}?sslmode=verify-full", database.url()), ["certificate", "sslrootcert"]),
    ] {
        let rig = held(&[("DATABASE_URL", &url)], &words);
        let said = run(&rig, &["migrate", "--dry-run"], &[("DATABASE_URL", &url)], "");
        assert!(said.code == Some(2) && said.err.contains("certificate"), "{said:?}");
        assert!(!said.err.contains(PASSWORD), "{said:?}");
    }
    arrives(&rig, &[("DATABASE_URL", &verified)]);
    assert_eq!(database.count("system_logs where source_id = 't'"), 4, "what was held, and the last two");
    let rows = run(&rig, &["logs", "--source", "t", "--json"], &[("DATABASE_URL", &verified)], "");
    let rows: Value = serde_json::from_str(&rows.out).unwrap();
    assert_eq!(rows["logs"].as_array().unwrap().len(), 4);
    search(&rig);
}

#[test]
fn supabase_over_https_trusts_the_systems_authorities_and_reads_back_over_it() {
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let database = crate::supabase::migrated(Cluster::shared().database());
    let project = Project::start(&database);
    let url = format!("https://localhost:{}", ours.serve(port(&project.url)));
    let settings = |authority: &Authority| {
        let file = authority.certificate().display().to_string();
        [("SUPABASE_URL", url.clone()), ("SUPABASE_SECRET_KEY", SECRET_KEY.to_owned()), ("SSL_CERT_FILE", file)]
    };
    let (right, wrong) = (settings(&ours), settings(&another));
    let right: Vec<(&str, &str)> = right.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let wrong: Vec<(&str, &str)> = wrong.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let rig = held(&wrong, &["certificate", "SSL_CERT_FILE", &url]);
    let said = run(&rig, &["logs"], &wrong, "");
    assert!(said.code == Some(69) && said.err.contains("certificate"), "{said:?}");
    assert!(project.seen().is_empty(), "the key went to nobody who is not trusted");
    arrives(&rig, &right);
    let rows = run(&rig, &["logs", "--source", "t", "--json"], &right, "");
    let rows: Value = serde_json::from_str(&rows.out).unwrap();
    assert_eq!(rows["logs"].as_array().unwrap().len(), 4);
    search(&rig);
}

#[test]
fn an_agents_records_go_over_https_to_a_base_that_is_trusted_and_to_no_other() {
    // It takes records, and the agent never gets further than asking for its place.
    let receiver = Receiver::start(|request| {
        if !request.path.ends_with("/dw_ingest_logs") {
            return Reply::status(503);
        }
        let rows = serde_json::from_slice::<Value>(&request.body).unwrap()["rows"].as_array().unwrap().len();
        Reply::json(&json!({"received": rows, "inserted": rows}).to_string())
    });
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let agent = |rig: &Rig, authority: &Authority, port: u16| -> Running {
        let mut command = rig.command(&["agent"]);
        command
            .env("DOGWATCH_BASE_URL", format!("https://localhost:{port}"))
            .env("DOGWATCH_WORKER_ID", "gpu-20261101_100000-0123abcd");
        command.env("DOGWATCH_WORKER_TOKEN", "marked-secret-worker").env("SSL_CERT_FILE", authority.certificate());
        rig.start(command)
    };
    let right = ours.serve(port(&receiver.base));
    for (authority, port) in [(&another, right), (&ours, ours.serve_as_another(port(&receiver.base)))] {
        let rig = Rig::new();
        let agent = agent(&rig, authority, port);
        let ls = eventually("the agent's records to be held", || {
            Some(rig.ok(&["spool", "ls"])).filter(|out| out.contains("is blocked"))
        });
        for word in ["certificate", "SSL_CERT_FILE"] {
            assert!(ls.contains(word), "{word}: {ls}");
        }
        agent.kill();
        rig.spools_add_up();
        search(&rig);
    }
    assert!(receiver.seen().is_empty(), "the token went to nobody who is not trusted");

    let rig = Rig::new();
    let agent = agent(&rig, &ours, right);
    let body = eventually("the agent's records", || {
        receiver
            .seen()
            .into_iter()
            .find(|request| request.path.ends_with("/dw_ingest_logs"))
            .map(|request| request.body)
    });
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["worker_token"], "marked-secret-worker");
    assert!(body["rows"].as_array().is_some_and(|rows| !rows.is_empty()), "{body}");
    agent.kill();
    search(&rig);
}
