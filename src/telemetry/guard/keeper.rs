//! The keeper: disk housekeeping on a thread of its own, so that neither the spooler nor the
//! watchdog waits for it.
//!
//! It takes over the folders of dead processes as they appear, hands them to the shippers, and
//! deletes what every exporter has. Each turn does a bounded amount.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};

use super::Slot;
use crate::clock;
use crate::supervise::thread::Child;
use crate::supervise::{Intensity, Pulse};
use crate::telemetry::DATABASE_SLOT;
use crate::telemetry::adopt;
use crate::telemetry::adopt::Adopted;
use crate::telemetry::config::Adopt;
use crate::telemetry::exporters_file::{self, Stood};
use crate::telemetry::feed::{self, FolderFeed};
use crate::telemetry::ledger;
use crate::telemetry::quiet::quiet;
use crate::telemetry::record::Level;
use crate::telemetry::recorder::{NewRecord, Recorder, SourceNo};
use crate::telemetry::ring::{self, Ring};
use crate::telemetry::shipper::Feed;
use crate::telemetry::spool::cursor::state::State;
use crate::telemetry::spool::disk::Disk;
use crate::telemetry::spool::{self, Folder, SpoolConfig, SpoolError};
use crate::telemetry::wiring::Fuse;

/// What it works on.
pub(in crate::telemetry) struct Ground {
    pub(in crate::telemetry) root: PathBuf,
    pub(in crate::telemetry) disk: Arc<dyn Disk>,
    pub(in crate::telemetry) config: SpoolConfig,
    pub(in crate::telemetry) adopt: Adopt,
    pub(in crate::telemetry) keep_every: Duration,
    pub(in crate::telemetry) fuse: Fuse,
    pub(in crate::telemetry) own: Folder,
    pub(in crate::telemetry) ring: Ring,
    pub(in crate::telemetry) recorder: Recorder,
    pub(in crate::telemetry) slots: Arc<Vec<Slot>>,
    /// Folders that were taken over and are not empty yet.
    pub(in crate::telemetry) adopted: Arc<Mutex<Vec<Folder>>>,
    /// What went wrong the last time, for status.
    pub(in crate::telemetry) trouble: Arc<Mutex<Vec<String>>>,
    /// Where the exporters stood when that was last written down.
    pub(in crate::telemetry) said: Mutex<Vec<Stood>>,
}

enum Order {
    /// One turn at once, then answer.
    Turn(Sender<()>),
    /// Count what is on disk, then answer.
    Account(Sender<Counted>),
    /// End; whether the own folder may be closed for good.
    Stop { clean: bool },
}

/// What the disk says of this boot.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    /// Records on disk.
    pub(super) durable: u64,
    /// Taken by the database exporter's destination.
    pub(super) delivered: u64,
    /// Where its cursor is, in records.
    pub(super) done: u64,
}

/// The running keeper.
pub(in crate::telemetry) struct Keeper {
    child: Arc<Child>,
    orders: Sender<Order>,
}

impl Keeper {
    /// Does a first turn on the caller's thread, so that dead processes' folders are taken over
    /// when this returns, and starts the thread.
    pub(in crate::telemetry) fn start(ground: Ground, intensity: Intensity) -> std::io::Result<Keeper> {
        // A panic over a dead process's folder must not fail the host; the thread meets it again.
        let first = std::panic::AssertUnwindSafe(|| quiet(|| ground.turn()));
        if let Err(panic) = std::panic::catch_unwind(first) {
            super::watchdog::tell_panic("keeper", &crate::supervise::panic_text(&*panic));
        }
        let (orders, inbox) = bounded(8);
        let child = Child::start("keeper", intensity, super::watchdog::tell_panic, move |pulse, generation| {
            quiet(|| ground.run(pulse, generation, &inbox));
        })?;
        Ok(Keeper { child: Arc::new(child), orders })
    }

    /// The thread, for the watchdog.
    pub(in crate::telemetry) fn child(&self) -> Arc<Child> {
        Arc::clone(&self.child)
    }

    /// The thread's vital signs.
    pub(super) fn pulse(&self) -> &Pulse {
        self.child.pulse()
    }

    /// What became of this boot's records, counted on the keeper's thread: a disk that hangs must
    /// not hold the caller. None: not within `limit`.
    pub(super) fn account(&self, limit: Duration) -> Option<Counted> {
        let (answer, answered) = bounded(1);
        self.orders.send_timeout(Order::Account(answer), limit).ok()?;
        answered.recv_timeout(limit).ok()
    }

    /// One turn at once: a process that has just died is taken over before we leave.
    pub(super) fn adopt_once(&self, limit: Duration) {
        let (answer, answered) = bounded(1);
        if self.orders.send_timeout(Order::Turn(answer), limit).is_ok() {
            let _ = answered.recv_timeout(limit);
        }
    }

    /// Ends the thread. `clean`: the spooler has everything on disk, so the ring is not needed.
    pub(super) fn stop(&self, clean: bool, limit: Duration) {
        if self.orders.send_timeout(Order::Stop { clean }, limit).is_ok() {
            self.child.wait(limit);
        }
    }
}

impl Ground {
    fn run(&self, pulse: &Pulse, generation: u64, inbox: &Receiver<Order>) {
        while pulse.generation() == generation {
            pulse.beat();
            match inbox.recv_timeout(self.keep_every) {
                Ok(Order::Turn(answer)) => {
                    self.turn();
                    let _ = answer.try_send(());
                }
                Ok(Order::Account(answer)) => {
                    let _ = answer.try_send(self.count());
                }
                Ok(Order::Stop { clean }) => return self.close(clean),
                Err(RecvTimeoutError::Timeout) => self.turn(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            pulse.progress();
        }
    }

    fn count(&self) -> Counted {
        let state = feed::state_of(&self.own, DATABASE_SLOT);
        let delivered = |state: &State| state.sources.values().map(|fates| fates.delivered).sum();
        Counted {
            durable: self.own.synced().map_or(0, |end| end.records),
            delivered: state.as_ref().map_or(0, delivered),
            done: state.map_or(0, |state| state.ordinal),
        }
    }

    fn turn(&self) {
        self.fuse.at("keeper");
        self.say_where_exporters_stand();
        let mut trouble = Vec::new();
        if self.adopt == Adopt::All {
            trouble.extend(self.adopt_dead());
        }
        // The spooler takes this lock, too: no disk is asked while it is held.
        let adopted = || self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        let folders = adopted().clone();
        for folder in folders {
            match self.finish(&folder) {
                Ok(true) => adopted().retain(|other| other.boot() != folder.boot()),
                Ok(false) => {}
                Err(error) => trouble.push(crate::error::chain(&error)),
            }
        }
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// A disk that does not take it has worse to tell.
    fn say_where_exporters_stand(&self) {
        let all: Vec<_> = self.slots.iter().map(|slot| (slot.name, slot.handle.standing().facts())).collect();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(Some(stood)) = exporters_file::write(&self.own, &all, &said) {
            *said = stood;
        }
    }

    fn adopt_dead(&self) -> Vec<String> {
        let (found, mut troubles) = adopt::adopt_all(&self.root, &self.disk, self.config, clock::now());
        for dead in found {
            self.tell(&dead);
            for slot in self.slots.iter() {
                match FolderFeed::open(&dead.folder, slot.name, true, self.fuse.clone()) {
                    Ok(feed) => {
                        let feed: Box<dyn Feed> = Box::new(feed);
                        if !slot.handle.adopt(feed) {
                            troubles.push(format!("the shipper of {} does not listen", slot.name));
                        }
                    }
                    Err(error) => troubles.push(crate::error::chain(&error)),
                }
            }
            self.adopted.lock().unwrap_or_else(PoisonError::into_inner).push(dead.folder);
        }
        troubles
    }

    /// Says in-band what was found; the records themselves keep their source and time.
    fn tell(&self, dead: &Adopted) {
        let pairs = [
            ("boot_id", json!(dead.folder.boot())),
            ("recovered", json!(dead.recovered)),
            ("half_written", json!(dead.half_written)),
            ("interrupted_spans", json!(dead.interrupted)),
        ];
        let attributes: Vec<(&str, &Value)> = pairs.iter().map(|(key, value)| (*key, value)).collect();
        let record = NewRecord {
            time: clock::now(),
            level: Level::Info,
            body: "took over the spool of a process that has ended",
            attributes: &attributes,
            event_name: Some("dogwatch.spool.adopted"),
        };
        let _ = self.recorder.emit(SourceNo::OWN, &record);
    }

    /// The last turn: what is delivered goes, and a folder with nothing left becomes a ledger.
    fn close(&self, clean: bool) {
        self.turn();
        if clean {
            // What cannot be closed is taken over by the next process of the folder.
            let _ = self.close_own();
        }
    }

    fn close_own(&self) -> Result<(), adopt::AdoptError> {
        ledger::fold_own(&self.own, &self.ring.counters(), self.recorder.sources_count())?;
        ring::remove(self.own.path())?;
        self.finish(&self.own)?;
        Ok(())
    }

    /// Turns a folder with nothing left into its ledger. False: something is left.
    fn finish(&self, folder: &Folder) -> Result<bool, SpoolError> {
        let slots: Vec<String> = self.slots.iter().map(|slot| slot.name.to_owned()).collect();
        spool::ledger::finish(folder, &slots, clock::now().as_microsecond(), self.config.ledgers_kept_max)
    }
}
