//! The independent watchdog: notices from outside that logs have stopped arriving.
//!
//! A process of its own with its own connection, its own log of alarms and its own way to tell.
//! Each round reads back what arrived ([`silence`]), judges it with pure rules ([`rules`]), lets
//! an alarm ring only once it has stood for a while ([`alarms`]), writes each change to
//! `watch/alerts.jsonl` ([`alerts`]) and tells of it ([`notify`]).
//!
//! It works with the orchestrator dead, and needs no answer from anything but the store; a store
//! that does not answer is itself a finding. It is not the heartbeat limit of workers: ending
//! machines is the orchestrator's business.

pub mod alarms;
pub mod alerts;
pub mod http;
pub mod notify;
pub mod rules;
mod silence;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::alarms::{Alarms, Change, Hysteresis};
use self::alerts::{AlertLog, AlertRow};
use self::notify::{Notifier, Webhook};
use self::rules::{Alarm, Limits, Observation, SourceId};
use self::silence::{Instants, Memory, Patience};
use crate::catalogue;
use crate::clock;
use crate::store::{Process, Store};
use crate::supervise::Pulse;
use crate::supervise::task::{Group, Stop};

/// How long undelivered alarms may hold up the end of the process.
const GOODBYE_LIMIT: Duration = Duration::from_secs(5);
/// A pause between rounds that is longer than this, and than three rounds, is a gap.
const GAP_MIN: Duration = Duration::from_secs(15);

/// What the watch judges by.
#[derive(Debug, Clone)]
pub struct WatchConfig {
    /// The folder that gets `watch/alerts.jsonl`.
    pub data_dir: PathBuf,
    /// Period of the rounds.
    pub round: Duration,
    /// Most time for one question to the store.
    pub call_limit: Duration,
    /// What is too old.
    pub limits: Limits,
    /// How long before a change is believed.
    pub hysteresis: Hysteresis,
    /// Who is told beside stderr.
    pub webhook: Option<Webhook>,
    /// This process, for its row in the store.
    pub process: Process,
}

impl WatchConfig {
    /// Limits that follow from the silence limit and the period of cycles: notices within
    /// `silence` and three rounds.
    pub fn limits_for(silence: Duration, cycle: Duration) -> Limits {
        Limits { silence, database_away: silence / 2, orchestrator_dead: silence.max(cycle * 3) }
    }
}

/// What one round did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// What was seen.
    pub seen: Observation,
    /// Alarms that changed.
    pub changes: Vec<Change>,
}

/// The watchdog.
pub struct Watch {
    store: Arc<dyn Store>,
    config: WatchConfig,
    memory: Memory,
    alarms: Alarms,
    log: AlertLog,
    notifier: Notifier,
    deliveries: Group,
    gauged: BTreeSet<SourceId>,
    pulse: Pulse,
}

/// One look, without grace and without a memory: everything that is wrong at this instant.
pub async fn look(store: &dyn Store, config: &WatchConfig) -> Vec<rules::Finding> {
    let instants = Instants { wall: clock::now(), monotonic: clock::monotonic() };
    let patience = Patience { call: config.call_limit, gap: GAP_MIN };
    let seen = silence::observe(store, &mut Memory::without_grace(), instants, patience).await;
    let limits = Limits { database_away: Duration::ZERO, ..config.limits };
    rules::findings(&seen, &limits)
}

impl Watch {
    /// Opens the alarm log and takes up what rang before.
    ///
    /// # Errors
    /// The log cannot be read or written.
    pub fn open(store: Arc<dyn Store>, config: WatchConfig) -> io::Result<Watch> {
        let log = AlertLog::open(&config.data_dir, alerts::FILE_BYTES_MAX)?;
        let mut alarms = Alarms::default();
        alarms.restore(alerts::read(&config.data_dir)?.findings(), clock::now());
        let deliveries = Group::new();
        let notifier = Notifier::start(config.webhook.clone(), &deliveries);
        let (memory, gauged, pulse) = (Memory::default(), BTreeSet::new(), Pulse::new("watch"));
        Ok(Watch { store, config, memory, alarms, log, notifier, deliveries, gauged, pulse })
    }

    /// The vital signs of the rounds, for [`http::router`].
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Rounds until the stop.
    pub async fn run(mut self, mut stop: Stop) {
        let registered = self.limited(self.store.process_started(&self.config.process)).await;
        let mut registered = registered.is_some();
        loop {
            self.step().await;
            // The row may be refused while the database is away; it is written once it is back.
            if !registered {
                registered = self.limited(self.store.process_started(&self.config.process)).await.is_some();
            }
            if stop.raised_within(self.config.round).await {
                break;
            }
        }
        self.limited(self.store.process_ended(self.config.process.boot_id)).await;
        self.deliveries.stop(GOODBYE_LIMIT).await;
    }

    /// One round.
    pub async fn step(&mut self) -> Round {
        let instants = Instants { wall: clock::now(), monotonic: clock::monotonic() };
        let gap = GAP_MIN.max(self.config.round * 3) + self.config.call_limit * 2;
        let patience = Patience { call: self.config.call_limit, gap };
        let seen = silence::observe(&*self.store, &mut self.memory, instants, patience).await;
        let found = rules::findings(&seen, &self.config.limits);
        let unjudged = rules::unjudged(&seen, &self.config.limits);
        let changes = self.alarms.step(found, &unjudged, instants.wall, &self.config.hysteresis);
        for change in &changes {
            self.tell(change);
        }
        self.gauge(&seen);
        if seen.database_away.is_none() {
            self.limited(self.store.process_seen(self.config.process.boot_id)).await;
        }
        self.pulse.beat();
        self.pulse.progress();
        Round { seen, changes }
    }

    fn tell(&self, change: &Change) {
        let row = AlertRow::from(change);
        if let Err(error) = self.log.append(&row) {
            notify::say(&format!("the alarm log cannot be written: {error}"));
        }
        self.notifier.tell(&row);
        tracing::warn!(
            alarm = row.alarm,
            state = row.state,
            about_type = row.source_type,
            about_id = row.source_id,
            "{}",
            row.summary
        );
    }

    fn gauge(&mut self, seen: &Observation) {
        let age = |id: &SourceId, seconds: f64| {
            let (source_type, source_id) = (id.source_type.clone(), id.source_id.clone());
            let labels = [("source_type", source_type), ("source_id", source_id)];
            metrics::gauge!(catalogue::NEWEST_ROW_AGE.name, &labels).set(seconds);
        };
        let live: BTreeSet<_> = seen.sources.iter().map(|source| source.id.clone()).collect();
        if seen.database_away.is_none() {
            // A source that has ended would otherwise keep its last age for ever.
            self.gauged.difference(&live).for_each(|id| age(id, 0.0));
            self.gauged = live;
        }
        seen.sources.iter().for_each(|source| age(&source.id, rules::row_age(seen, source).as_secs_f64()));
        for alarm in Alarm::ALL {
            let rings = self.alarms.firing().any(|finding| finding.alarm == alarm);
            metrics::gauge!(catalogue::ALARM.name, "alarm" => alarm.word()).set(f64::from(u8::from(rings)));
        }
        metrics::counter!(catalogue::WATCH_ROUNDS.name).increment(1);
    }

    /// A write that may fail: the watch goes on without its row.
    async fn limited<T>(&self, call: impl Future<Output = crate::store::Result<T>>) -> Option<T> {
        tokio::time::timeout(self.config.call_limit, call).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests;
