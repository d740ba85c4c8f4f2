//! The running recorder: its threads, its status, its end.
//!
//! Four kinds of threads, all supervised: the spooler, one shipper per exporter, the keeper (disk
//! housekeeping: adoption, deletion of what is delivered), and the watchdog (heartbeat record, own
//! metrics, fencing of what stalls), which does no disk I/O. Dropping the guard shuts down with
//! [`DROP_LIMIT`].

pub(super) mod keeper;
mod losses;
mod low;
mod overdue;
mod stall;
mod status;
mod voice;
pub(super) mod watchdog;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::record::Kind;
use super::recorder::Recorder;
use super::ring::{Backing, Ring};
use super::shipper::{self, Handle};
use super::spool::Folder;
use super::spooler::{self, Order};
use crate::clock;
use crate::supervise::thread::Child;

pub(super) use self::keeper::Keeper;
#[cfg(test)]
pub(super) use self::losses::{FALLBACK_EVENT, LOST_EVENT, RESTARTED_EVENT};
pub use self::status::{Status, ThreadStatus};
pub(super) use self::voice::Voice;
#[cfg(test)]
pub(super) use self::watchdog::DISK_EVENT;
pub(super) use self::watchdog::Watchdog;

/// Time a dropped guard gives to what is left.
pub const DROP_LIMIT: Duration = Duration::from_secs(5);
/// Period at which a wait for delivery looks.
const LOOK: Duration = Duration::from_millis(50);
/// Longest a shutdown waits for spans that are open. Others hold a span a moment longer than who made
/// it: a database's thread, for one, lets go of it after it has answered.
pub(super) const SPANS_LIMIT: Duration = Duration::from_millis(250);
/// Period at which that wait looks.
const SPANS_LOOK: Duration = Duration::from_millis(1);
/// One part in so many of a shutdown's time is kept from the spooler, for those after it.
const SPOOL_SHARE: u32 = 4;
/// One part in so many of a shutdown's time is for the account, at least.
const ACCOUNT_SHARE: u32 = 10;
/// Period at which a wait for delivery says where it stands.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// A shipper and the slot that its cursors have.
pub(super) struct Slot {
    pub(super) name: &'static str,
    pub(super) handle: Handle,
}

/// What became of this boot's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Shutdown {
    /// Records on disk.
    pub durable: u64,
    /// Of these, delivered by the database exporter.
    pub delivered: u64,
    /// Still to be delivered, on disk or in the ring's file: the next process of the folder does
    /// it.
    pub pending: u64,
    /// Records that were refused, are half written, or went to stdout only; where the ring is plain
    /// memory, those in it, too.
    pub lost: u64,
}

impl fmt::Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shutdown { durable, delivered, pending, lost } = self;
        write!(f, "{durable} records on disk, {delivered} delivered, {pending} pending, {lost} lost")
    }
}

/// Where one exporter stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ExporterStatus {
    /// Its slot, such as `database`.
    pub slot: &'static str,
    /// Where it stands.
    pub facts: shipper::Facts,
}

/// The running recorder.
#[must_use = "dropping the guard ends the recorder"]
pub struct Guard {
    pub(super) recorder: Recorder,
    pub(super) ring: Ring,
    pub(super) folder: Folder,
    pub(super) orders: Sender<Order>,
    pub(super) spooler: Arc<Child>,
    /// What keeps room in the ring while the spooler is away.
    pub(super) stand_in: Arc<OnceLock<Child>>,
    pub(super) standing: Arc<spooler::Standing>,
    pub(super) slots: Arc<Vec<Slot>>,
    pub(super) keeper: Keeper,
    pub(super) watchdog: Watchdog,
    pub(super) voice: Voice,
    /// What went wrong in the keeper's last turn.
    pub(super) keeping: Arc<Mutex<Vec<String>>>,
    /// Longest a shutdown waits for open spans.
    pub(super) spans_limit: Duration,
    pub(super) ended: bool,
}

impl Guard {
    /// The hand that producers hold.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Waits until everything that was published before is on disk. False: not within `limit`, or
    /// nobody is left who would do it.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = clock::monotonic().saturating_add(limit);
        let left = || deadline.saturating_sub(clock::monotonic());
        let pulse = self.spooler.pulse();
        loop {
            let (generation, (answer, answered)) = (pulse.generation(), bounded(1));
            if self.orders.send_timeout(Order::Flush(answer), left()).is_err() {
                return false;
            }
            // Who has the order may panic or be replaced; whoever comes after it is asked again.
            loop {
                match answered.recv_timeout(left().min(LOOK)) {
                    Ok(()) => return true,
                    Err(_) if left().is_zero() || pulse.is_given_up() => return false,
                    Err(RecvTimeoutError::Timeout) if pulse.generation() == generation => {}
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
        }
    }

    /// Where each exporter stands.
    pub fn exporters(&self) -> Vec<ExporterStatus> {
        let status = |slot: &Slot| ExporterStatus { slot: slot.name, facts: slot.handle.standing().facts() };
        self.slots.iter().map(status).collect()
    }

    /// Why records do not reach the disk; None: they do.
    pub fn trouble(&self) -> Option<String> {
        self.standing.trouble()
    }

    /// Tries hard to deliver everything that was published before, for at most `limit`. False:
    /// something is left.
    pub fn deliver(&self, limit: Duration) -> bool {
        let deadline = clock::monotonic().saturating_add(limit);
        let left = || deadline.saturating_sub(clock::monotonic()).max(LOOK);
        if !self.flush(limit) {
            return false;
        }
        let mut all = true;
        for slot in self.slots.iter() {
            all &= slot.handle.flush(left()).is_ok();
        }
        all
    }

    /// Waits until every exporter has everything, as long as that may still happen; `say` hears
    /// from time to time why it takes so long. False: an exporter is blocked until somebody acts.
    pub fn wait_delivered(&self, say: impl Fn(&str)) -> bool {
        let mut said_at = clock::monotonic();
        loop {
            let left = |slot: &Slot| slot.handle.flush(LOOK).is_err();
            let late: Vec<&Slot> = self.slots.iter().filter(|slot| left(slot)).collect();
            if late.is_empty() {
                return true;
            }
            for slot in &late {
                let facts = slot.handle.standing().facts();
                if let shipper::State::Blocked { .. } = facts.state {
                    say(&format!("{} is blocked: {}", slot.name, last_error(&facts)));
                    return false;
                }
                if clock::monotonic().saturating_sub(said_at) >= SAY_EVERY {
                    said_at = clock::monotonic();
                    let pending = facts.pending.records;
                    say(&format!("{} has {pending} records to deliver: {}", slot.name, last_error(&facts)));
                }
            }
        }
    }

    /// Writes and delivers what is left, for at most `limit`, and ends the threads. What is not
    /// delivered stays on disk.
    pub fn shutdown(mut self, limit: Duration) -> Shutdown {
        self.end(limit)
    }

    fn end(&mut self, limit: Duration) -> Shutdown {
        self.ended = true;
        let deadline = clock::monotonic().saturating_add(limit);
        let left = || deadline.saturating_sub(clock::monotonic()).max(LOOK);
        self.watchdog.stop(left() / 4);
        self.keeper.adopt_once(left() / 2);
        self.wait_for_spans(self.spans_limit.min(limit / SPOOL_SHARE));
        // One that is late with its last word keeps it: refused by a closed ring it would be a loss.
        self.voice.fall_silent();
        self.ring.close();
        // Some of the time is for the exporters, and for the account.
        let spool_by = deadline.saturating_sub(limit / SPOOL_SHARE);
        self.standing.stop_by(spool_by);
        let _ = self.orders.try_send(Order::Stop);
        let stopped = self.spooler.wait(spool_by.saturating_sub(clock::monotonic()).max(LOOK));
        for slot in self.slots.iter() {
            let _ = slot.handle.flush(left());
        }
        let clean = stopped && self.standing.has_ended();
        let shutdown = self.account(clean, left().max(limit / ACCOUNT_SHARE));
        for slot in self.slots.iter() {
            slot.handle.stop(left());
        }
        self.keeper.stop(clean, left());
        shutdown
    }

    /// Waits until no span is open: one that ends after the ring is closed is refused.
    fn wait_for_spans(&self, limit: Duration) {
        let deadline = clock::monotonic().saturating_add(limit);
        while self.ring.has_open_spans() && clock::monotonic() < deadline {
            let _ = crossbeam_channel::after(SPANS_LOOK).recv();
        }
    }

    fn account(&self, clean: bool, limit: Duration) -> Shutdown {
        let in_ring = if clean { 0 } else { self.left_in_ring() };
        let counters = self.ring.counters();
        // Where the disk does not answer, what is known in memory stands.
        let counted = self.keeper.account(limit).unwrap_or_else(|| keeper::Counted {
            durable: self.folder.synced().map_or(0, |end| end.records),
            ..keeper::Counted::default()
        });
        let outlives = !matches!(self.ring.backing(), Backing::Anonymous { .. });
        let lost = counters.refused_total() + counters.half_written + counters.lost_aside();
        Shutdown {
            durable: counted.durable,
            delivered: counted.delivered,
            pending: counted.durable.saturating_sub(counted.done) + if outlives { in_ring } else { 0 },
            lost: lost + if outlives { 0 } else { in_ring },
        }
    }

    /// Records that are only in the ring. Whoever is still at work on it is fenced.
    fn left_in_ring(&self) -> u64 {
        let spooled = self.folder.synced().map_or(0, |end| end.next);
        let deadline = clock::monotonic().saturating_add(LOOK);
        let mut consumer = self.ring.take_over();
        while consumer.is_none() && clock::monotonic() < deadline {
            // It is inside a release, which takes microseconds.
            std::thread::yield_now();
            consumer = self.ring.take_over();
        }
        let mut records = 0;
        if let Some(mut consumer) = consumer {
            consumer.read(usize::MAX, |entry| {
                records += u64::from(entry.kind != Kind::Source && entry.seq >= spooled);
            });
        }
        records
    }
}

fn last_error(facts: &shipper::Facts) -> String {
    facts.last_error.as_ref().map_or_else(|| "no error so far".to_owned(), |(_, text)| text.clone())
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.end(DROP_LIMIT);
        }
    }
}
