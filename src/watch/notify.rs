//! Telling somebody: one line on stderr, a generic webhook, Alertmanager; and a ping to a dead-man's
//! switch, which hears of the watch's own death.
//!
//! Deliveries run in tasks of their own with bounded waiting lists, so that a place that hangs never
//! delays a round. An alarm that could not be told anywhere is kept in the alarm log, counted, and
//! said to the dead-man's switch. Of an address only scheme, host and port are ever printed: path,
//! query and userinfo hold secrets in practice.

mod alertmanager;
mod deadman;
mod target;
mod webhook;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::alerts::AlertRow;
use crate::catalogue;
use crate::error::BadInput;
use crate::supervise::Pulse;
use crate::supervise::task::Group;

pub use self::alertmanager::RESEND_EVERY;
use self::target::Target;
pub use self::webhook::TRIES;

/// Where alarms go, as it was set.
#[derive(Debug, Clone, Default)]
pub struct Addresses<'a> {
    /// The generic webhook.
    pub webhook: Option<&'a str>,
    /// Alertmanager's base address.
    pub alertmanager: Option<&'a str>,
    /// The dead-man's switch.
    pub deadman: Option<&'a str>,
}

/// Where alarms go.
#[derive(Debug, Clone, Default)]
pub struct Channels {
    fleet: String,
    env: String,
    webhook: Option<Target>,
    alertmanager: Option<Target>,
    deadman: Option<(Target, Duration)>,
}

impl Channels {
    /// Checks the addresses; `fleet` and `env` become labels. The dead-man's switch is pinged every
    /// `ping_every`.
    ///
    /// # Errors
    /// One of them is no http or https address, or there is no TLS to be had.
    pub fn new(
        addresses: &Addresses<'_>,
        fleet: &str,
        env: &str,
        ping_every: Duration,
    ) -> Result<Channels, BadInput> {
        let target = |name, url: Option<&str>| url.map(|url| Target::new(name, url)).transpose();
        Ok(Channels {
            fleet: fleet.to_owned(),
            env: env.to_owned(),
            webhook: target("webhook", addresses.webhook)?,
            alertmanager: target("alertmanager", addresses.alertmanager)?,
            deadman: target("deadman", addresses.deadman)?.map(|target| (target, ping_every)),
        })
    }
}

/// Alarms that somebody was not told of.
#[derive(Debug, Clone, Default)]
struct Untold(Arc<AtomicU64>);

impl Untold {
    fn count(&self, to: &'static str, what: &str) {
        self.0.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(catalogue::ALARMS_UNTOLD.name, "to" => to).increment(1);
        say(what);
    }

    fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tells of alarms without ever waiting for anybody.
#[derive(Debug)]
pub(super) struct Notifier {
    webhook: Option<webhook::Inbox>,
    alertmanager: Option<alertmanager::Desk>,
    untold: Untold,
}

impl Notifier {
    /// Starts the delivery tasks in `group`. `firing` is what rang before this start; the dead-man's
    /// switch is pinged while `rounds` beats at least every `silent_max`.
    pub(super) fn start(
        channels: Channels,
        firing: Vec<AlertRow>,
        (rounds, silent_max): (Pulse, Duration),
        group: &Group,
    ) -> Notifier {
        let untold = Untold::default();
        let labels = alertmanager::Labels { fleet: channels.fleet.clone(), env: channels.env };
        if let Some((target, every)) = channels.deadman {
            let vital = deadman::Vital { rounds, silent_max, untold: untold.clone() };
            deadman::start(target, every, vital, group);
        }
        Notifier {
            webhook: channels.webhook.map(|to| webhook::start(to, channels.fleet.clone(), untold.clone(), group)),
            alertmanager: channels
                .alertmanager
                .map(|to| alertmanager::start(to, labels, firing, untold.clone(), group)),
            untold,
        }
    }

    /// Tells of one change.
    pub(super) fn tell(&self, row: &AlertRow) {
        let who = row.source_id.as_deref().map(|id| format!(" {id}")).unwrap_or_default();
        say(&format!("{} {} {}{who}: {}", row.at, row.state, row.alarm, row.summary));
        if let Some(desk) = &self.alertmanager {
            desk.tell(row);
        }
        let Some(waiting) = &self.webhook else { return };
        if waiting.try_send(row.clone()).is_err() {
            let most = webhook::WAITING_MAX;
            self.untold
                .count("webhook", &format!("{most} alarms wait for the webhook: {} is not posted", row.alarm));
        }
    }
}

/// One line on stderr. A closed stderr is no reason to stop watching.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "dogwatch watch: {text}");
}

#[cfg(test)]
mod tests;
