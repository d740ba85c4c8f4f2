//! A generic webhook: `POST {schema_version, alarm, rule, severity, state, summary, since, at, labels}`,
//! once per change, tried [`TRIES`] times.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use super::{Untold, target::Target};
use crate::backoff::Backoff;
use crate::supervise::Intensity;
use crate::supervise::task::{Group, Stop};
use crate::watch::alerts::AlertRow;

/// How often one alarm is posted before it is given up.
pub const TRIES: u32 = 5;
/// Alarms that may wait.
pub(super) const WAITING_MAX: usize = 64;
/// Wait between tries.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(250), ceiling: Duration::from_secs(30), jitter: 0.0 };

/// Where alarms are put.
pub(super) type Inbox = mpsc::Sender<AlertRow>;

/// Starts the delivery.
pub(super) fn start(target: Target, fleet: String, untold: Untold, group: &Group) -> Inbox {
    let (sender, inbox) = mpsc::channel(WAITING_MAX);
    let inbox = Arc::new(Mutex::new(inbox));
    group.start("webhook", Intensity::default(), move |_, stop| {
        let (inbox, target, fleet, untold) = (Arc::clone(&inbox), target.clone(), fleet.clone(), untold.clone());
        async move { deliver_all(&inbox, &target, &fleet, &untold, stop).await }
    });
    sender
}

/// Delivers until there is nothing left after the stop.
async fn deliver_all(
    inbox: &Mutex<mpsc::Receiver<AlertRow>>,
    target: &Target,
    fleet: &str,
    untold: &Untold,
    mut stop: Stop,
) {
    let mut inbox = inbox.lock().await;
    loop {
        let row = tokio::select! {
            biased;
            row = inbox.recv() => row,
            () = stop.raised() => None,
        };
        let Some(row) = row else { return };
        if let Err(error) = deliver(target, &body(&row, fleet)).await {
            let (alarm, state) = (&row.alarm, &row.state);
            let text = format!("webhook given up after {TRIES} tries, {alarm} {state} not posted: {error}");
            untold.count("webhook", &text);
        }
    }
}

async fn deliver(target: &Target, body: &Value) -> Result<(), String> {
    let mut attempt = 0;
    loop {
        let Err(error) = target.post_json("", body).await else { return Ok(()) };
        attempt += 1;
        if attempt >= TRIES {
            return Err(error);
        }
        tokio::time::sleep(BACKOFF.delay(attempt - 1, 0.0)).await;
    }
}

fn body(row: &AlertRow, fleet: &str) -> Value {
    json!({
        "schema_version": row.schema_version,
        "alarm": row.alarm,
        "rule": row.rule(),
        "severity": row.severity(),
        "state": row.state,
        "summary": row.summary,
        "since": row.since,
        "at": row.at,
        "labels": {
            "fleet": fleet,
            "source_type": row.source_type,
            "source_id": row.source_id,
        },
    })
}
