//! Deliveries to real HTTP servers that fail first.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::clock;
use crate::supervise::Intensity;

fn row(state: &str, at: i64) -> AlertRow {
    AlertRow {
        schema_version: 1,
        alarm: "log_silence".to_owned(),
        state: state.to_owned(),
        source_type: Some("worker".to_owned()),
        source_id: Some("w1".to_owned()),
        since: clock::from_micros(1),
        at: clock::from_micros(at),
        summary: "silent".to_owned(),
    }
}

/// A server that refuses the first `refused` calls; what it is sent as (path, body).
struct Server {
    group: Group,
    address: String,
    received: mpsc::Receiver<(String, Value)>,
}

async fn server(refused: usize) -> Server {
    let (sender, received) = mpsc::channel::<(String, Value)>(64);
    let handler = move |uri: Uri, body: Bytes| async move {
        let value = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
        let calls = sender.max_capacity() - sender.capacity();
        let _ = sender.try_send((uri.path().to_owned(), value));
        if calls < refused {
            (StatusCode::SERVICE_UNAVAILABLE, Json(0)).into_response()
        } else {
            ().into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let listener = Arc::new(std::sync::Mutex::new(Some(listener)));
    let group = Group::new();
    group.start("server", Intensity::default(), move |_, _| {
        let (listener, app) = (listener.lock().unwrap().take().unwrap(), axum::Router::new());
        let app = app.fallback(handler.clone());
        async move { axum::serve(listener, app).await.unwrap() }
    });
    Server { group, address, received }
}

fn notifier(channels: Channels, firing: Vec<AlertRow>, group: &Group) -> Notifier {
    let rounds = Pulse::new("watch");
    rounds.progress();
    Notifier::start(channels, firing, (rounds, Duration::from_secs(60)), group)
}

const PING: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_webhook_that_fails_twice_gets_the_alarm_in_the_end() {
    let mut server = server(2).await;
    let url = format!("http://user:secret@{}/hook?token=secret", server.address);
    let addresses = Addresses { webhook: Some(&url), ..Addresses::default() };
    let group = Group::new();
    notifier(Channels::new(&addresses, "f", "e", PING).unwrap(), vec![], &group).tell(&row("firing", 2));
    assert!(group.stop(Duration::from_secs(30)).await);
    let (path, first) = server.received.recv().await.unwrap();
    assert_eq!(path, "/hook");
    assert_eq!(first["labels"], json!({"fleet": "f", "source_type": "worker", "source_id": "w1"}));
    assert_eq!((&first["state"], &first["since"]), (&json!("firing"), &json!("1970-01-01T00:00:00.000001Z")));
    assert_eq!((&first["rule"], &first["severity"]), (&json!("DogwatchLogSilence"), &json!("critical")));
    for _ in 0..2 {
        assert_eq!(server.received.recv().await.unwrap().1, first);
    }
    assert!(server.received.try_recv().is_err());
    server.group.stop(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn alertmanager_hears_what_rings_and_that_it_is_over() {
    let mut server = server(0).await;
    let url = format!("http://{}/prefix/", server.address);
    let addresses = Addresses { alertmanager: Some(&url), ..Addresses::default() };
    let group = Group::new();
    let now = clock::now();
    let rang = row("firing", now.as_microsecond());
    let notifier = notifier(Channels::new(&addresses, "f", "e", PING).unwrap(), vec![rang.clone()], &group);
    let (path, body) = server.received.recv().await.unwrap();
    assert_eq!(path, "/prefix/api/v2/alerts");
    assert_eq!(
        body[0]["labels"],
        json!({"alertname": "DogwatchLogSilence", "severity": "critical", "fleet": "f", "env": "e",
            "source_type": "worker", "source_id": "w1", "noticed_by": "watch"})
    );
    assert_eq!(body[0]["startsAt"], json!(now));
    let ends = |body: &Value| body[0]["endsAt"].as_str().unwrap().parse::<clock::Time>().unwrap();
    assert!(ends(&body) > clock::plus(now, RESEND_EVERY * 3), "it is said again before it ends");
    let over = row("resolved", clock::plus(now, Duration::from_millis(1)).as_microsecond());
    notifier.tell(&over);
    let (_, body) = server.received.recv().await.unwrap();
    assert_eq!((body.as_array().unwrap().len(), ends(&body)), (1, over.at));
    assert_eq!(body[0]["startsAt"], json!(rang.at), "the same alert");
    assert!(group.stop(Duration::from_secs(30)).await);
    assert!(server.received.try_recv().is_err(), "nothing rings: nothing is said");
    server.group.stop(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn a_resolved_alarm_is_told_again_until_it_is_taken() {
    let mut server = server(1).await;
    let url = format!("http://{}", server.address);
    let addresses = Addresses { alertmanager: Some(&url), ..Addresses::default() };
    let group = Group::new();
    let notifier = notifier(Channels::new(&addresses, "f", "", PING).unwrap(), vec![], &group);
    notifier.tell(&row("firing", 2));
    notifier.tell(&row("resolved", 3));
    let first = server.received.recv().await.unwrap();
    notifier.tell(&row("resolved", 3));
    assert_eq!(server.received.recv().await.unwrap(), first);
    assert!(group.stop(Duration::from_secs(30)).await);
    server.group.stop(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn the_deadmans_switch_hears_start_life_and_untold_alarms() {
    let mut server = server(0).await;
    let url = format!("http://{}/ping/uuid", server.address);
    let addresses = Addresses { deadman: Some(&url), webhook: Some("http://127.0.0.1:9/"), ..Addresses::default() };
    let group = Group::new();
    let notifier = notifier(Channels::new(&addresses, "f", "e", PING).unwrap(), vec![], &group);
    assert_eq!(server.received.recv().await.unwrap().0, "/ping/uuid/start");
    assert_eq!(server.received.recv().await.unwrap().0, "/ping/uuid");
    notifier.tell(&row("firing", 2));
    let told = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let (path, text) = server.received.recv().await.unwrap();
            if path == "/ping/uuid/fail" {
                return text;
            }
        }
    });
    assert!(told.await.unwrap().as_str().unwrap().starts_with("1 alarms could not be told"));
    assert!(group.stop(Duration::from_secs(30)).await);
    server.group.stop(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn an_address_is_never_printed_whole() {
    let secret = "http://user:secret@127.0.0.1:9/secret?token=secret";
    let target = Target::new("webhook", secret).unwrap();
    let error = target.post_text("secret", String::new()).await.unwrap_err();
    assert!(error.contains("127.0.0.1:9") && !error.contains("secret"), "{error}");
    assert_eq!(format!("{target:?}"), "Target(http://127.0.0.1:9)");
    for bad in ["", "ftp://x/secret", "secret"] {
        let error = Target::new("webhook", bad).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
