//! Ring to spool: the one consumer, on a thread of its own.
//!
//! It polls the ring in bulk (a wake-up per record would cost its producer more than the record
//! itself), appends to the spool, and makes it durable every `sync_every`, at once for ERROR and
//! when somebody asks. Only then is the room in the ring given back, so that a kill at any moment
//! finds each record in one of the two. Where the spool fails nothing is released: records wait in
//! the ring, and the spool is opened anew after a backoff. A generation that was replaced reads and
//! releases nothing more, because the ring fences its consumer and the folder its writer. Where the
//! ring fills meanwhile, records go to stdout (`fallback`), and back to the spool by themselves; while
//! this thread itself is away, because the disk does not answer, another does that (`stand_in`).

mod fallback;
mod stand_in;
mod standing;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use self::fallback::Fallback;
use super::quiet::quiet;
use super::record::Level;
use super::ring::{Consumer, End, Ring};
use super::spool::{Folder, SpoolConfig, SpoolError, Writer};
use super::wiring::{Fuse, Out};
use crate::backoff::Backoff;
use crate::clock;
use crate::error;
use crate::supervise::Pulse;

/// Payload bytes that one read takes from the ring.
const READ_BYTES: usize = 256 << 10;
/// Period at which an empty ring is looked at.
const POLL: Duration = Duration::from_millis(2);
/// A producer that has reserved and not published for so long is passed over.
const PRODUCER_PATIENCE: Duration = Duration::from_secs(1);
/// Share of the ring in use above which a sync does not wait for its time.
const FILL_SYNC: f64 = 0.4;
/// Period at which room is kept on the disk.
const ROOM_EVERY: Duration = Duration::from_secs(1);
/// Wait before the spool is opened again.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), ceiling: Duration::from_secs(2), jitter: 0.0 };

/// Longest wait for a step on the way to stdout to end.
const STEP_PATIENCE: Duration = Duration::from_millis(100);
/// Period at which the ring is looked at while the spool cannot be used.
const FALLBACK_POLL: Duration = Duration::from_millis(10);

#[cfg(test)]
pub(super) use self::fallback::{FALLBACK_FILL, LINES_PER_SECOND};
pub(super) use self::standing::{Absence, Standing};

/// What the spooler is told.
pub(super) enum Order {
    /// Something urgent is in the ring.
    Wake,
    /// Make everything durable that was published before this, then answer.
    Flush(Sender<()>),
    /// Make everything durable and end, as [`Standing::stop_by`] says.
    Stop,
}

/// What the spooler works on; shared by its generations.
pub(super) struct Spooler {
    pub(super) ring: Ring,
    pub(super) folder: Folder,
    pub(super) config: SpoolConfig,
    pub(super) durable: Arc<AtomicU64>,
    pub(super) orders: Receiver<Order>,
    pub(super) standing: Arc<Standing>,
    /// Slots that must have delivered a segment before it is deleted.
    pub(super) slots: Vec<&'static str>,
    /// Folders of dead processes that count against the same cap.
    pub(super) adopted: Arc<Mutex<Vec<Folder>>>,
    /// Tells the shippers that there is more.
    pub(super) on_durable: Box<dyn Fn() + Send + Sync>,
    /// Set while the spool is nearly at its cap: DEBUG and INFO are refused.
    pub(super) low: Arc<AtomicBool>,
    /// Where records go while the spool cannot be used.
    pub(super) out: Out,
    pub(super) fuse: Fuse,
}

/// A consumer and a writer that go together; given up together.
struct Hand {
    consumer: Consumer,
    writer: Writer,
    unsynced_since: Option<Duration>,
    urgent: bool,
    room_at: Duration,
}

/// What a step leaves to do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// There may be more: step again at once.
    Worked,
    /// The ring is empty.
    Idle,
    /// The next entry is reserved and not yet published.
    Unpublished,
    /// Another generation has taken over.
    Fenced,
}

impl Spooler {
    /// The body of one generation.
    pub(super) fn run(&self, pulse: &Pulse, generation: u64) {
        quiet(|| {
            let (mut attempt, mut waiting) = (0, Vec::new());
            while pulse.generation() == generation && !self.standing.is_over(clock::monotonic()) {
                pulse.beat();
                let replace = generation > 0 || self.standing.absence().is_some();
                let outcome = self.open(replace).and_then(|hand| match hand {
                    Some(hand) => self.work(hand, pulse, generation, &mut waiting),
                    None => Ok(false),
                });
                if pulse.generation() == generation {
                    // Back from the disk, whatever that has said.
                    self.standing.set_absence(None);
                }
                match outcome {
                    Ok(true) => return self.standing.end(),
                    Ok(false) | Err(SpoolError::Fenced) => attempt = 0,
                    Err(trouble) => {
                        if pulse.generation() == generation {
                            self.standing.set_trouble(Some(error::chain(&trouble)));
                        }
                        attempt += 1;
                    }
                }
                self.wait(BACKOFF.delay(attempt, 0.0), pulse, generation, &mut waiting);
            }
        });
    }

    /// Waits before the spool is opened again; keeps room in the ring meanwhile.
    fn wait(&self, limit: Duration, pulse: &Pulse, generation: u64, waiting: &mut Vec<Sender<()>>) {
        let until = clock::monotonic().saturating_add(limit);
        let mut fallback: Option<Fallback<'_>> = None;
        while pulse.generation() == generation {
            pulse.beat();
            let now = clock::monotonic();
            if now >= until || self.standing.is_over(now) {
                return;
            }
            if self.standing.trouble().is_some() && self.fill() > fallback::FALLBACK_FILL {
                fallback = fallback.or_else(|| Fallback::open(self, generation > 0));
                if fallback.as_mut().is_some_and(|fallback| !fallback.step(now)) {
                    fallback = None;
                }
            }
            self.pause(FALLBACK_POLL.min(until.saturating_sub(now)), waiting);
        }
    }

    /// Share of the ring in use.
    fn fill(&self) -> f64 {
        self.fill_without(0)
    }

    /// The same without so many bytes of it.
    fn fill_without(&self, bytes: u64) -> f64 {
        self.ring.depth_bytes().saturating_sub(bytes) as f64 / self.ring.capacity_bytes() as f64
    }

    /// Becomes the ring's consumer. None: another one lives, or is inside a release; ask again.
    fn consumer(&self, replace: bool) -> Option<Consumer> {
        if replace { self.ring.take_over() } else { self.ring.consumer() }
    }

    /// Opens the spool behind what is in it, and becomes the ring's consumer. None: another one
    /// lives.
    fn open(&self, replace: bool) -> Result<Option<Hand>, SpoolError> {
        let between_steps = if replace { self.between_steps() } else { None };
        let Some(consumer) = self.consumer(replace) else { return Ok(None) };
        drop(between_steps);
        let mut writer = Writer::open(&self.folder, self.config)?;
        writer.set_slots(&self.slots);
        self.standing.set_absence(None);
        Ok(Some(Hand { consumer, writer, unsynced_since: None, urgent: false, room_at: Duration::ZERO }))
    }

    /// Waits for the end of a step on the way to stdout: what it prints is then counted there, and not
    /// read again. Not for long, since a write that hangs keeps the lock.
    fn between_steps(&self) -> Option<MutexGuard<'_, dyn Write + Send + 'static>> {
        let until = clock::monotonic().saturating_add(STEP_PATIENCE);
        loop {
            match self.out.try_lock() {
                Ok(out) => return Some(out),
                Err(_) if clock::monotonic() >= until => return None,
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Works until told to stop (true), fenced (false), or the spool fails.
    fn work(
        &self,
        mut hand: Hand,
        pulse: &Pulse,
        generation: u64,
        waiting: &mut Vec<Sender<()>>,
    ) -> Result<bool, SpoolError> {
        while pulse.generation() == generation {
            pulse.beat();
            self.fuse.at("spooler");
            let now = clock::monotonic();
            // Asked before the ring is read: what was published before the stop is then seen.
            let stopping = self.standing.is_stopping();
            let was_unsynced = hand.unsynced_since.is_some();
            let step = self.step(&mut hand, now)?;
            if was_unsynced && hand.unsynced_since.is_none() {
                pulse.progress();
            }
            self.keep_room(&mut hand, now)?;
            match step {
                Step::Fenced => return Ok(false),
                Step::Worked => pulse.progress(),
                Step::Idle | Step::Unpublished => {
                    if hand.urgent || stopping {
                        self.sync(&mut hand)?;
                    }
                    if hand.unsynced_since.is_none() {
                        for answer in waiting.drain(..) {
                            let _ = answer.try_send(());
                        }
                        if stopping && step == Step::Idle {
                            return Ok(true);
                        }
                        self.standing.is_well();
                    }
                    self.pause(POLL, waiting);
                    hand.urgent |= !waiting.is_empty();
                }
            }
        }
        Ok(false)
    }

    /// Takes what is published, at most one read; makes it durable when that is due.
    fn step(&self, hand: &mut Hand, now: Duration) -> Result<Step, SpoolError> {
        let Hand { consumer, writer, unsynced_since, urgent, .. } = hand;
        let mut failed = None;
        let batch = consumer.read(READ_BYTES, |entry| {
            // What lies below was appended by an earlier hand.
            if failed.is_some() || entry.seq < writer.next_seq() {
                return;
            }
            *urgent |= entry.level >= Level::Error && entry.kind != super::record::Kind::Source;
            if let Err(error) = writer.append(entry.seq, entry.kind, entry.level, entry.source, entry.payload) {
                failed = Some(error);
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if batch.entries > 0 {
            unsynced_since.get_or_insert(now);
        }
        let due = unsynced_since.is_some_and(|since| now.saturating_sub(since) >= self.config.sync_every);
        if due || self.fill() > FILL_SYNC {
            self.sync(hand)?;
        }
        match batch.end {
            End::Fenced => Ok(Step::Fenced),
            End::Limit => Ok(Step::Worked),
            End::Empty => Ok(Step::Idle),
            End::Unpublished => {
                hand.consumer.skip_stalled(now, PRODUCER_PATIENCE);
                Ok(Step::Unpublished)
            }
        }
    }

    /// Deletes what every exporter has, and the oldest over the cap.
    fn keep_room(&self, hand: &mut Hand, now: Duration) -> Result<(), SpoolError> {
        if now < hand.room_at {
            return Ok(());
        }
        hand.room_at = now + ROOM_EVERY;
        // Before anything that fails on a full disk, and also where nothing is written.
        self.standing.has_free(self.folder.disk().free(self.folder.path()).ok().flatten());
        hand.writer.set_adopted(self.adopted.lock().unwrap_or_else(PoisonError::into_inner).clone());
        hand.writer.keep_room()?;
        self.low.store(hand.writer.is_low_on_room(), Ordering::Relaxed);
        self.standing.has_spooled(hand.writer.bytes());
        Ok(())
    }

    /// fdatasync, then the room is given back, then everybody may know.
    fn sync(&self, hand: &mut Hand) -> Result<(), SpoolError> {
        let before = clock::monotonic();
        let through = hand.writer.sync()?;
        self.standing.has_synced(clock::monotonic().saturating_sub(before));
        if hand.consumer.release() {
            if let Some(through) = through {
                self.durable.fetch_max(through, Ordering::AcqRel);
            }
            hand.unsynced_since = None;
            hand.urgent = false;
            self.low.store(hand.writer.is_low_on_room(), Ordering::Relaxed);
            self.standing.is_well();
            self.standing.to_stdout(false);
            (self.on_durable)();
        }
        Ok(())
    }

    /// Waits for an order or the time.
    fn pause(&self, limit: Duration, waiting: &mut Vec<Sender<()>>) {
        match self.orders.recv_timeout(limit) {
            Ok(Order::Flush(answer)) => waiting.push(answer),
            // What to stop by stands in `standing`; here it only wakes.
            Ok(Order::Stop | Order::Wake) | Err(RecvTimeoutError::Timeout) => {}
            // Nobody is left who could tell us anything.
            Err(RecvTimeoutError::Disconnected) => self.standing.stop_by(clock::monotonic()),
        }
    }
}
