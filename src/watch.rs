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

pub mod alarm;
pub mod alarms;
pub mod alerts;
pub mod canary;
mod gauges;
pub mod http;
pub mod limits;
mod look;
pub mod notify;
pub mod observation;
pub mod rules;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::alarms::{Alarms, Change, Hysteresis};
use self::alerts::{AlertLog, AlertRow};
use self::canary::Plant;
use self::gauges::Gauged;
use self::limits::Limits;
use self::look::{Ground, Instants, Memory, Outlook, Patience};
use self::notify::{Channels, Notifier};
use self::observation::{Observation, SourceId};
use crate::clock;
use crate::store::{Process, Store, Windows};
use crate::supervise::Pulse;
use crate::supervise::task::{Group, Stop};

/// How long undelivered alarms may hold up the end of the process.
const GOODBYE_LIMIT: Duration = Duration::from_secs(5);
/// A pause between rounds that is longer than this, and than three rounds, is a gap.
const GAP_MIN: Duration = Duration::from_secs(15);
/// Rounds without an end after which the watch does not say that it lives.
pub const ROUNDS_MISSED: u32 = 10;

/// What the watch judges by.
#[derive(Clone)]
pub struct WatchConfig {
    /// The folder that gets `watch/alerts.jsonl`, and whose disk is looked at.
    pub data_dir: PathBuf,
    /// The spools of all processes of the folder.
    pub spool_dir: PathBuf,
    /// Most bytes that they may have.
    pub spool_cap_bytes: u64,
    /// Period of the rounds.
    pub round: Duration,
    /// Most time for one question to the store.
    pub call_limit: Duration,
    /// What is too old or too much.
    pub limits: Limits,
    /// How long before a change is believed.
    pub hysteresis: Hysteresis,
    /// Tasks in progress that one user may have, which claimable is counted by.
    pub user_task_limit: u32,
    /// Period of the canaries.
    pub canary_every: Duration,
    /// Writes a canary; none where no way leads back.
    pub plant: Option<Plant>,
    /// Who is told beside stderr.
    pub channels: Channels,
    /// This process, for its row in the store.
    pub process: Process,
}

impl WatchConfig {
    /// How long a round may take before something is wrong with the watch itself.
    pub fn silent_max(&self) -> Duration {
        (self.round + self.call_limit) * ROUNDS_MISSED
    }

    fn ground(&self) -> Ground {
        Ground {
            data_dir: self.data_dir.clone(),
            spool_dir: self.spool_dir.clone(),
            spool_cap_bytes: self.spool_cap_bytes,
        }
    }

    fn windows(&self) -> Windows {
        Limits::windows(self.user_task_limit)
    }
}

/// What one round did.
#[derive(Debug, Clone, PartialEq)]
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
    ground: Ground,
    own: SourceId,
    memory: Memory,
    alarms: Alarms,
    log: AlertLog,
    notifier: Notifier,
    deliveries: Group,
    gauged: Gauged,
    pulse: Pulse,
}

/// One look, without grace and without a memory: everything that is wrong at this instant.
pub async fn look(store: &dyn Store, config: &WatchConfig) -> Vec<rules::Finding> {
    let (ground, own) = (config.ground(), SourceId::default());
    let outlook = Outlook {
        store,
        windows: config.windows(),
        ground: &ground,
        patience: Patience { call: config.call_limit, gap: GAP_MIN },
        plant: None,
        canary_every: config.canary_every,
        own: &own,
    };
    let instants = Instants { wall: clock::now(), monotonic: clock::monotonic() };
    let seen = look::observe(&outlook, &mut Memory::without_grace(), instants).await;
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
        let kept = alerts::read(&config.data_dir)?;
        alarms.restore(kept.findings(), clock::now());
        let (deliveries, pulse) = (Group::new(), Pulse::new("watch"));
        let vital = (pulse.clone(), config.silent_max());
        let notifier = Notifier::start(config.channels.clone(), kept.firing(), vital, &deliveries);
        Ok(Watch {
            ground: config.ground(),
            own: SourceId::new(config.process.source_type.clone(), config.process.source_id.clone()),
            store,
            config,
            memory: Memory::default(),
            alarms,
            log,
            notifier,
            deliveries,
            gauged: Gauged::default(),
            pulse,
        })
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
        self.step_at(instants).await
    }

    async fn step_at(&mut self, instants: Instants) -> Round {
        let gap = GAP_MIN.max(self.config.round * 3) + self.config.call_limit * 4;
        let outlook = Outlook {
            store: &*self.store,
            windows: self.config.windows(),
            ground: &self.ground,
            patience: Patience { call: self.config.call_limit, gap },
            plant: self.config.plant.as_ref(),
            canary_every: self.config.canary_every,
            own: &self.own,
        };
        let seen = look::observe(&outlook, &mut self.memory, instants).await;
        let found = rules::findings(&seen, &self.config.limits);
        let unjudged = rules::unjudged(&seen, &self.config.limits);
        let changes = self.alarms.step(found, &unjudged, instants.wall, &self.config.hysteresis);
        for change in &changes {
            self.tell(change);
        }
        self.gauged.set(&seen, &self.alarms, &self.config.limits);
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

    /// A write that may fail: the watch goes on without its row.
    async fn limited<T>(&self, call: impl Future<Output = crate::store::Result<T>>) -> Option<T> {
        tokio::time::timeout(self.config.call_limit, call).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests;
