//! Alertmanager, API v2: `POST /api/v2/alerts`.
//!
//! Alertmanager expects its clients to say again and again what rings; what is not said any more
//! ends by itself. So the whole state is sent every [`RESEND_EVERY`] and at each change, with an end
//! that lies a few periods ahead: a watch that dies does not leave an alert for ever. Names and
//! labels are those of `alerts/dogwatch.yml`, so that routes fit both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::{Untold, target::Target};
use crate::clock::{self, Time};
use crate::supervise::Intensity;
use crate::supervise::task::{Group, Stop};
use crate::watch::alarms::ALARMS_MAX;
use crate::watch::alerts::{AlertKey, AlertRow};

/// Period of telling what rings.
pub const RESEND_EVERY: Duration = Duration::from_secs(30);
/// Wait after a post that was not taken.
const RETRY_EVERY: Duration = Duration::from_secs(5);
/// So many periods ahead lies the end of what rings.
const ENDS_AFTER_PERIODS: u32 = 4;
/// Resolved alarms that wait to be told; the end of others comes by itself.
const RESOLVED_MAX: usize = 256;
/// Failed posts in a row after which that is said.
const FAILED_SAID: u32 = 5;

/// Labels of every alert.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    pub(super) fleet: String,
    pub(super) env: String,
}

/// What Alertmanager is to know.
#[derive(Debug, Default)]
struct State {
    firing: BTreeMap<AlertKey, AlertRow>,
    resolved: BTreeMap<AlertKey, (AlertRow, AlertRow)>,
}

/// Where changes are put.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Desk {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes one change.
    pub(super) fn tell(&self, row: &AlertRow) {
        self.with(|state| {
            if row.is_firing() {
                state.resolved.remove(&row.key());
                if state.firing.len() < ALARMS_MAX {
                    state.firing.insert(row.key(), row.clone());
                }
            } else if let Some(rang) = state.firing.remove(&row.key())
                && state.resolved.len() < RESOLVED_MAX
            {
                state.resolved.insert(row.key(), (rang, row.clone()));
            }
        });
        self.changed.notify_one();
    }

    /// The request, and the resolved ones in it.
    fn request(&self, labels: &Labels, now: Time) -> (Value, Vec<AlertRow>) {
        self.with(|state| {
            let until = clock::plus(now, RESEND_EVERY * ENDS_AFTER_PERIODS);
            let mut alerts: Vec<Value> = state.firing.values().map(|row| alert(row, labels, until)).collect();
            alerts.extend(state.resolved.values().map(|(rang, over)| alert(rang, labels, over.at.min(now))));
            (Value::Array(alerts), state.resolved.values().map(|(_, over)| over.clone()).collect())
        })
    }

    fn told(&self, resolved: &[AlertRow]) {
        self.with(|state| {
            for row in resolved {
                if state.resolved.get(&row.key()).is_some_and(|(_, over)| over == row) {
                    state.resolved.remove(&row.key());
                }
            }
        });
    }

    fn has_resolved(&self) -> bool {
        self.with(|state| !state.resolved.is_empty())
    }
}

fn alert(row: &AlertRow, labels: &Labels, until: Time) -> Value {
    let mut named = Map::new();
    let mut label = |name: &str, value: &str| {
        if !value.is_empty() {
            named.insert(name.to_owned(), json!(value));
        }
    };
    label("alertname", row.rule());
    label("severity", row.severity());
    label("fleet", &labels.fleet);
    label("env", &labels.env);
    label("source_type", row.source_type.as_deref().unwrap_or_default());
    label("source_id", row.source_id.as_deref().unwrap_or_default());
    label("noticed_by", "watch");
    json!({
        "labels": named,
        "annotations": {
            "summary": row.summary,
            "runbook_url": format!("alerts/runbooks/{}.md", row.rule()),
        },
        "startsAt": row.at,
        "endsAt": until,
    })
}

/// Starts the delivery; `firing` is what rings already.
pub(super) fn start(target: Target, labels: Labels, firing: Vec<AlertRow>, untold: Untold, group: &Group) -> Desk {
    let state = State {
        firing: firing.into_iter().take(ALARMS_MAX).map(|row| (row.key(), row)).collect(),
        resolved: BTreeMap::new(),
    };
    let desk = Desk { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) };
    let kept = desk.clone();
    group.start("alertmanager", Intensity::default(), move |_, stop| {
        let (desk, target, labels, untold) = (kept.clone(), target.clone(), labels.clone(), untold.clone());
        async move { deliver(&desk, &target, &labels, &untold, stop).await }
    });
    desk
}

async fn deliver(desk: &Desk, target: &Target, labels: &Labels, untold: &Untold, mut stop: Stop) {
    let mut failed = 0_u32;
    loop {
        let (body, resolved) = desk.request(labels, clock::now());
        let is_empty = body.as_array().is_none_or(Vec::is_empty);
        let taken = if is_empty { Ok(()) } else { target.post_json("api/v2/alerts", &body).await };
        match taken {
            Ok(()) => {
                failed = 0;
                desk.told(&resolved);
            }
            Err(error) => {
                failed += 1;
                if failed.is_multiple_of(FAILED_SAID) {
                    let text = format!("alertmanager has not taken {failed} posts in a row: {error}");
                    untold.count("alertmanager", &text);
                }
            }
        }
        if stop.is_raised() && (failed > 0 || !desk.has_resolved()) {
            return;
        }
        let wait = if failed > 0 { RETRY_EVERY } else { RESEND_EVERY };
        tokio::select! {
            () = desk.changed.notified() => {}
            _ = stop.raised_within(wait) => {}
        }
        if stop.is_raised() && !desk.has_resolved() {
            return;
        }
    }
}
