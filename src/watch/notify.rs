//! Telling somebody: one line on stderr, and a generic webhook.
//!
//! The webhook gets `POST {schema_version, alarm, state, summary, since, at, labels}`, is tried
//! [`TRIES`] times and then given up with a line on stderr; the alarm log keeps the row in any
//! case. Deliveries run in a task of their own with a bounded waiting list, so that a webhook that
//! hangs never delays a round. Of its address only scheme, host and port are ever printed: path,
//! query and userinfo hold secrets in practice.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use super::alerts::AlertRow;
use crate::backoff::Backoff;
use crate::error::BadInput;
use crate::supervise::Intensity;
use crate::supervise::task::{Group, Stop};

/// How often one alarm is posted before it is given up.
pub const TRIES: u32 = 5;
/// Alarms that may wait for the webhook.
const WAITING_MAX: usize = 64;
/// Time one post may take.
const POST_LIMIT: Duration = Duration::from_secs(5);
/// Wait between tries.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(250), ceiling: Duration::from_secs(30), jitter: 0.0 };

/// A place that alarms are posted to.
#[derive(Clone)]
pub struct Webhook {
    client: reqwest::Client,
    url: Url,
    fleet: String,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Webhook({})", origin(&self.url))
    }
}

impl Webhook {
    /// Checks the address. `fleet` becomes a label.
    ///
    /// # Errors
    /// It is no http or https address, or there is no TLS to be had.
    pub fn new(url: &str, fleet: &str) -> Result<Webhook, BadInput> {
        let bad =
            |what: &str| BadInput::new(format!("the webhook's address {what}"), "give a whole http or https URL");
        let url = Url::parse(url).map_err(|error| bad(&format!("cannot be read ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(bad("is not http or https"));
        }
        let client = crate::http::client(POST_LIMIT)
            .map_err(|error| bad(&format!("cannot be used ({})", error.without_url())))?;
        Ok(Webhook { client, url, fleet: fleet.to_owned() })
    }

    /// Posts a row, [`TRIES`] times at most.
    ///
    /// # Errors
    /// What went wrong in the last try, without the address.
    pub async fn deliver(&self, row: &AlertRow) -> Result<(), String> {
        let mut attempt = 0;
        loop {
            let Err(error) = self.post(row).await else { return Ok(()) };
            attempt += 1;
            if attempt >= TRIES {
                return Err(error);
            }
            tokio::time::sleep(BACKOFF.delay(attempt - 1, 0.0)).await;
        }
    }

    async fn post(&self, row: &AlertRow) -> Result<(), String> {
        let sent = self.client.post(self.url.clone()).json(&self.body(row)).send().await;
        match sent {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("{} answered {}", origin(&self.url), answer.status())),
            Err(error) => Err(format!("{}: {}", origin(&self.url), crate::error::chain(&error.without_url()))),
        }
    }

    fn body(&self, row: &AlertRow) -> Value {
        json!({
            "schema_version": row.schema_version,
            "alarm": row.alarm,
            "state": row.state,
            "summary": row.summary,
            "since": row.since,
            "at": row.at,
            "labels": {
                "fleet": self.fleet,
                "source_type": row.source_type,
                "source_id": row.source_id,
            },
        })
    }
}

/// Scheme, host and port.
fn origin(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Tells of alarms without ever waiting for anybody.
#[derive(Debug)]
pub(super) struct Notifier {
    waiting: Option<mpsc::Sender<AlertRow>>,
}

impl Notifier {
    /// Starts the delivery task in `group`, where there is a webhook.
    pub(super) fn start(webhook: Option<Webhook>, group: &Group) -> Notifier {
        let Some(webhook) = webhook else { return Notifier { waiting: None } };
        let (sender, inbox) = mpsc::channel(WAITING_MAX);
        let inbox = Arc::new(Mutex::new(inbox));
        group.start("webhook", Intensity::default(), move |_, stop| {
            let (inbox, webhook) = (Arc::clone(&inbox), webhook.clone());
            async move { deliver_all(&inbox, &webhook, stop).await }
        });
        Notifier { waiting: Some(sender) }
    }

    /// Tells of one change.
    pub(super) fn tell(&self, row: &AlertRow) {
        let who = row.source_id.as_deref().map(|id| format!(" {id}")).unwrap_or_default();
        say(&format!("{} {} {}{who}: {}", row.at, row.state, row.alarm, row.summary));
        let Some(waiting) = &self.waiting else { return };
        if waiting.try_send(row.clone()).is_err() {
            say(&format!("{WAITING_MAX} alarms wait for the webhook: {} is not posted", row.alarm));
        }
    }
}

/// Delivers until there is nothing left after the stop.
async fn deliver_all(inbox: &Mutex<mpsc::Receiver<AlertRow>>, webhook: &Webhook, mut stop: Stop) {
    let mut inbox = inbox.lock().await;
    loop {
        let row = tokio::select! {
            biased;
            row = inbox.recv() => row,
            () = stop.raised() => None,
        };
        let Some(row) = row else { return };
        if let Err(error) = webhook.deliver(&row).await {
            say(&format!("webhook given up after {TRIES} tries, {} {} not posted: {error}", row.alarm, row.state));
        }
    }
}

/// One line on stderr. A closed stderr is no reason to stop watching.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "dogwatch watch: {text}");
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::http::StatusCode;
    use axum::routing::post;

    use super::*;
    use crate::clock;
    use crate::supervise::task::Group;

    fn row() -> AlertRow {
        AlertRow {
            schema_version: 1,
            alarm: "log_silence".to_owned(),
            state: "firing".to_owned(),
            source_type: Some("worker".to_owned()),
            source_id: Some("w1".to_owned()),
            since: clock::from_micros(1),
            at: clock::from_micros(2),
            summary: "silent".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_webhook_that_fails_twice_gets_the_alarm_in_the_end() {
        let (sender, mut received) = mpsc::channel::<Value>(8);
        let handler = move |Json(body): Json<Value>| async move {
            sender.send(body).await.unwrap();
            if sender.capacity() > 5 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Group::new();
        let listener = Arc::new(std::sync::Mutex::new(Some(listener)));
        server.start("server", Intensity::default(), move |_, _| {
            let (listener, app) = (listener.lock().unwrap().take().unwrap(), axum::Router::new());
            let app = app.route("/hook", post(handler.clone()));
            async move { axum::serve(listener, app).await.unwrap() }
        });
        let group = Group::new();
        let webhook = Webhook::new(&format!("http://user:secret@{address}/hook?token=secret"), "f").unwrap();
        Notifier::start(Some(webhook), &group).tell(&row());
        assert!(group.stop(Duration::from_secs(30)).await);
        let first = received.recv().await.unwrap();
        assert_eq!(first["labels"], json!({"fleet": "f", "source_type": "worker", "source_id": "w1"}));
        assert_eq!((&first["state"], &first["since"]), (&json!("firing"), &json!("1970-01-01T00:00:00.000001Z")));
        assert_eq!([received.recv().await.unwrap(), received.recv().await.unwrap()], [first.clone(), first]);
        assert!(received.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_address_is_never_printed_whole() {
        let secret = "http://user:secret@127.0.0.1:9/secret?token=secret";
        let webhook = Webhook::new(secret, "f").unwrap();
        let error = webhook.post(&row()).await.unwrap_err();
        assert!(error.contains("127.0.0.1:9") && !error.contains("secret"), "{error}");
        assert_eq!(format!("{webhook:?}"), "Webhook(http://127.0.0.1:9)");
        for bad in ["", "ftp://x/secret", "secret"] {
            let error = Webhook::new(bad, "f").unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
