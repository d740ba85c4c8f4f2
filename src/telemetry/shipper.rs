//! Spool -> exporter: one supervised thread for each exporter, so that one exporter's outage
//! never delays another (I5).
//!
//! A [`Shipper`] takes batches from its feeds (its own folder of the spool and adopted ones, in
//! turn, each in its order), hands them to its exporter and does what [`delivery`] decides; a
//! [`Handle`] runs it, wakes it, flushes and stops it. It promises that a cursor moves only behind
//! what was delivered, quarantined or counted as dropped (I4), that an export is given a deadline,
//! and that the thread is quiet (I2). It owns no files: a feed does.
//!
//! [`delivery`]: super::delivery

mod feed;
mod handle;
mod origin;
mod standing;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use self::feed::{Feed, FeedError, Pending, Tally};
pub use self::handle::{FlushError, Handle};
pub use self::origin::Origin;
pub use self::standing::{Facts, Standing, State};
use super::counters;
use super::delivery::{Decision, Delivery, Limits, Outcome};
use super::exporter::{ExportError, Exported, Exporter};
use super::record::Stored;
use crate::clock::{self, Time};
use crate::rpc::INGEST_ROWS_MAX;
use crate::{error, supervise};

/// A feed that failed is left alone this long.
const FEED_PAUSE: Duration = Duration::from_secs(1);
/// How often the numbers of what is pending are published while nothing else happens.
const PENDING_EVERY: Duration = Duration::from_secs(1);

/// The numbers of one shipper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Batch sizes, waits, probes.
    pub limits: Limits,
    /// Most payload bytes in a batch.
    pub batch_bytes_max: usize,
    /// An export that takes longer is abandoned and is a Retry.
    pub export_deadline: Duration,
    /// Least time between two exports while less than a full batch waits.
    pub linger: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            limits: Limits::default(),
            batch_bytes_max: 4 << 20,
            export_deadline: Duration::from_secs(10),
            linger: Duration::from_millis(100),
        }
    }
}

impl Config {
    /// For a destination behind HTTP that takes [`INGEST_ROWS_MAX`] rows a call: fewer and larger
    /// calls, and more patience.
    pub fn remote() -> Config {
        Config {
            limits: Limits { batch_start: 256, batch_max: INGEST_ROWS_MAX, ..Limits::default() },
            batch_bytes_max: 1 << 20,
            export_deadline: Duration::from_secs(20),
            linger: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// For a Postgres database: one statement a batch, whose cost is mostly that of its rows.
    pub fn postgres() -> Config {
        Config {
            limits: Limits { batch_max: 5_000, ..Limits::default() },
            batch_bytes_max: 8 << 20,
            ..Config::default()
        }
    }

    /// For an OTLP receiver: `records_max` a request, at most one request every `linger` while
    /// less waits, `deadline` for the requests of a batch.
    pub fn otlp(records_max: usize, linger: Duration, deadline: Duration) -> Config {
        let limits = Limits { batch_start: 512.min(records_max), batch_max: records_max, ..Limits::default() };
        Config { limits, linger, export_deadline: deadline, ..Config::default() }
    }
}

/// The times and the chance of one step: the caller owns the clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Monotonic.
    pub now: Duration,
    /// Wall clock.
    pub wall: Time,
    /// Uniform in 0..1.
    pub random: f64,
}

/// What a step leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something moved: step again at once.
    Worked,
    /// Nothing to do before this (monotonic), unless more records come.
    Wait(Duration),
    /// Nothing to do before more records come.
    Idle,
}

/// One exporter and what it is fed from.
pub struct Shipper {
    config: Config,
    exporter: Box<dyn Exporter>,
    feeds: Vec<Slot>,
    turn: usize,
    delivery: Delivery,
    standing: Standing,
    not_before: Duration,
    publish_at: Duration,
    in_a_hurry: bool,
    /// Whether this is still the one that serves the exporter.
    is_current: Box<dyn Fn() -> bool + Send>,
}

/// A feed and what is to be done to it first.
struct Slot {
    feed: Box<dyn Feed>,
    /// Delivered, but the cursor could not be moved: it is, before anything else is asked for.
    uncommitted: Option<(u64, Tally)>,
    paused_until: Duration,
}

impl Shipper {
    /// A shipper that has done nothing.
    pub fn new(exporter: Box<dyn Exporter>, feeds: Vec<Box<dyn Feed>>, config: Config) -> Shipper {
        let standing = Standing::new(exporter.name());
        let delivery = Delivery::new(config.limits);
        let mut shipper = Shipper {
            config,
            exporter,
            feeds: Vec::new(),
            turn: 0,
            delivery,
            standing,
            not_before: Duration::ZERO,
            publish_at: Duration::ZERO,
            in_a_hurry: false,
            is_current: Box::new(|| true),
        };
        feeds.into_iter().for_each(|feed| shipper.adopt(feed));
        shipper
    }

    /// Takes the place of one that hangs: it goes on with its standing.
    fn in_place(mut self, standing: Standing) -> Shipper {
        self.standing = standing;
        self
    }

    /// Serves as long as `is_current` says so: an answer that comes later has no effect.
    fn serve_while(&mut self, is_current: impl Fn() -> bool + Send + 'static) {
        self.is_current = Box::new(is_current);
    }

    /// Where it stands; shared, for status.
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// Serves one more feed.
    pub fn adopt(&mut self, feed: Box<dyn Feed>) {
        self.feeds.push(Slot { feed, uncommitted: None, paused_until: Duration::ZERO });
    }

    /// Somebody waits for everything to be delivered: no lingering, and the next try at once.
    pub fn hurry(&mut self, now: Duration) {
        self.in_a_hurry = true;
        self.delivery.hurry(now);
        self.feeds.iter_mut().for_each(|slot| slot.paused_until = Duration::ZERO);
    }

    /// Nobody waits any more.
    pub fn calm(&mut self) {
        self.in_a_hurry = false;
    }

    /// All that is still to be delivered or committed.
    pub fn pending(&mut self) -> Pending {
        self.feeds.iter_mut().fold(Pending::default(), |sum, slot| sum.and(slot.feed.pending()))
    }

    /// One batch at most.
    pub fn step(&mut self, moment: Moment) -> Step {
        let step = self.work(moment);
        if !(self.is_current)() {
            return Step::Idle;
        }
        if step != Step::Worked || moment.now >= self.publish_at {
            self.publish(moment);
        }
        step
    }

    fn work(&mut self, moment: Moment) -> Step {
        if let Some(at) = self.delivery.ready_at().filter(|at| *at > moment.now) {
            return Step::Wait(at);
        }
        let mut wait = None;
        for _ in 0..self.feeds.len() {
            self.turn %= self.feeds.len().max(1);
            match self.serve(moment) {
                Served::Worked => return Step::Worked,
                Served::Nothing => {}
                Served::NotBefore(at) => wait = Some(wait.map_or(at, |other: Duration| other.min(at))),
                Served::Gone => {
                    self.count_missed();
                    self.feeds.remove(self.turn);
                    continue;
                }
            }
            self.turn += 1;
        }
        if self.delivery.ready_at().is_none() {
            self.standing.change(|facts| facts.state = State::Idle);
        }
        wait.map_or(Step::Idle, Step::Wait)
    }

    /// The feed whose turn it is.
    fn serve(&mut self, moment: Moment) -> Served {
        let Some(slot) = self.feeds.get_mut(self.turn) else { return Served::Nothing };
        if slot.paused_until > moment.now {
            return Served::NotBefore(slot.paused_until);
        }
        if let Some((through_seq, tally)) = slot.uncommitted {
            return self.commit(through_seq, tally, moment);
        }
        let records = self.delivery.records();
        if !self.in_a_hurry && moment.now < self.not_before && slot.feed.pending().records < records as u64 {
            return Served::NotBefore(self.not_before);
        }
        match slot.feed.next_batch(records, self.config.batch_bytes_max) {
            Ok(batch) if batch.is_empty() && slot.feed.is_finished() => Served::Gone,
            Ok(batch) if batch.is_empty() => Served::Nothing,
            Ok(batch) => self.export(&batch, moment),
            Err(error) => self.feed_failed(&error, moment),
        }
    }

    fn export(&mut self, batch: &[Stored], moment: Moment) -> Served {
        let name = self.exporter.name();
        self.standing.change(|facts| facts.state = State::Delivering);
        let before = clock::monotonic();
        let result = self.ask_exporter(batch, moment.wall);
        let took = clock::monotonic().saturating_sub(before);
        counters::export_took(name, took);
        if !(self.is_current)() {
            // It was replaced meanwhile; its successor asks for these records again.
            return Served::Nothing;
        }
        // The waits count from when the answer came, not from when it was asked for.
        let moment = Moment { now: moment.now.saturating_add(took), ..moment };
        let outcome = match &result {
            Ok(_) => Outcome::Exported,
            Err(ExportError::Retry { after, .. }) => Outcome::Retry { after: *after },
            Err(ExportError::Blocked { .. }) => Outcome::Blocked,
            Err(ExportError::Refused { .. }) => Outcome::Refused,
        };
        let decision = self.delivery.decide(outcome, batch.len(), moment.now, moment.random);
        if let Err(error) = &result {
            self.standing.failed(error, decision, moment);
        }
        match (decision, result) {
            (Decision::Commit, Ok(exported)) => {
                self.not_before = moment.now.saturating_add(self.config.linger);
                let tally = Tally { delivered: exported.delivered, dropped: exported.rejected, quarantined: 0 };
                self.standing.delivered(tally, batch, moment);
                let through_seq = batch.last().map_or(0, |stored| stored.seq);
                let served = self.commit(through_seq, tally, moment);
                self.maintain(moment);
                served
            }
            (Decision::Quarantine { .. }, Err(why)) => self.quarantine(batch, &why, moment),
            (Decision::RetryAt(_), _) => {
                counters::retried(name);
                Served::Worked
            }
            _ => Served::Worked,
        }
    }

    /// A panic over a batch is a refusal: the record that causes it is found by halving, where
    /// restarting the thread would meet it again for ever.
    fn ask_exporter(&mut self, batch: &[Stored], wall: Time) -> Result<Exported, ExportError> {
        let deadline = self.config.export_deadline;
        let asked = catch_unwind(AssertUnwindSafe(|| self.exporter.export(batch, wall, deadline)));
        asked.unwrap_or_else(|panic| {
            let text = supervise::panic_text(&*panic);
            Err(ExportError::Refused { detail: format!("the exporter panicked: {text}") })
        })
    }

    fn quarantine(&mut self, batch: &[Stored], why: &ExportError, moment: Moment) -> Served {
        let (Some(record), Some(slot)) = (batch.first(), self.feeds.get_mut(self.turn)) else {
            return Served::Nothing;
        };
        if let Err(error) = slot.feed.quarantine(record, &why.to_string()) {
            // It stays where it is, and is refused and set aside again.
            return self.feed_failed(&error, moment);
        }
        self.standing.change(|facts| facts.quarantined += 1);
        counters::quarantined(self.exporter.name());
        self.commit(record.seq, Tally { quarantined: 1, ..Tally::default() }, moment)
    }

    /// Moves the cursor of the feed whose turn it is, and passes the turn on. A cursor that cannot
    /// be moved is tried again later, without a second delivery.
    fn commit(&mut self, through_seq: u64, tally: Tally, moment: Moment) -> Served {
        let Some(slot) = self.feeds.get_mut(self.turn) else { return Served::Nothing };
        if let Err(error) = slot.feed.commit(through_seq, tally) {
            slot.uncommitted = Some((through_seq, tally));
            return self.feed_failed(&error, moment);
        }
        slot.uncommitted = None;
        if !self.delivery.is_bisecting() {
            self.turn += 1;
        }
        Served::Worked
    }

    fn feed_failed(&mut self, error: &FeedError, moment: Moment) -> Served {
        self.standing.change(|facts| facts.last_error = Some((moment.wall, error::chain(error))));
        let until = moment.now.saturating_add(FEED_PAUSE);
        match (error, self.feeds.get_mut(self.turn)) {
            (FeedError::Gone { .. }, _) => Served::Gone,
            (FeedError::Unavailable { .. }, Some(slot)) => {
                slot.paused_until = until;
                Served::NotBefore(until)
            }
            (FeedError::Unavailable { .. }, None) => Served::Nothing,
        }
    }

    fn maintain(&mut self, moment: Moment) {
        if let Err(error) = self.exporter.maintain(moment.wall, self.config.export_deadline) {
            self.standing.change(|facts| facts.last_error = Some((moment.wall, error.to_string())));
        }
    }

    fn publish(&mut self, moment: Moment) {
        self.publish_at = moment.now.saturating_add(PENDING_EVERY);
        self.count_missed();
        let pending = self.pending();
        self.standing.change(|facts| facts.pending = pending);
        let facts = self.standing.facts();
        let age = pending.oldest_unix_micros.map(|micros| clock::age(moment.wall, clock::from_micros(micros)));
        counters::pending(self.exporter.name(), pending.records, age.unwrap_or_default());
        counters::blocked(self.exporter.name(), matches!(facts.state, State::Blocked { .. }));
    }

    fn count_missed(&mut self) {
        for (cause, records) in self.feeds.iter_mut().flat_map(|slot| slot.feed.missed()) {
            counters::missed(self.exporter.name(), cause, records);
            self.standing.change(|facts| facts.dropped += records);
        }
    }
}

/// What became of a feed's turn.
enum Served {
    Worked,
    Nothing,
    NotBefore(Duration),
    Gone,
}
