//! The watchdog: the heartbeat record, the recorder's own metrics, and an eye on the other
//! threads. It does no disk I/O, so a slow disk never makes it late.
//!
//! Every `heartbeat_every` it emits the heartbeat record with depths and the state of every
//! exporter, through ring, spool and exporters like any other: silence means broken, not quiet. A
//! spooler or keeper without a beat for its limit is fenced and replaced. What it has told outlives
//! a panic of its own.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};

use super::Slot;
use super::losses::Told;
use super::low::{self, Low};
use super::overdue::{Overdue, Word};
use super::stall::{Stall, Verdict};
use super::voice::Voice;
use crate::catalogue;
use crate::clock;
use crate::supervise::thread::{Child, Fall};
use crate::supervise::{Intensity, Pulse};
use crate::telemetry::quiet::quiet;
use crate::telemetry::record::Level;
use crate::telemetry::recorder::NewRecord;
use crate::telemetry::ring::{Aside, Counters};
use crate::telemetry::shipper::State;
use crate::telemetry::spooler::{self, Absence, Spooler};
use crate::telemetry::wiring::Fuse;

/// Name of the heartbeat's event.
const HEARTBEAT_EVENT: &str = "dogwatch.heartbeat";
/// Name of the event that an exporter takes nothing, or takes records again.
const OVERDUE_EVENT: &str = "dogwatch.exporter.overdue";
/// Name of the event that the spool's disk runs full, or has room again.
pub(in crate::telemetry) const DISK_EVENT: &str = "dogwatch.disk.low";
/// The keeper may be silent so many times longer than the spooler: one turn of it reads whole folders.
const KEEPER_PATIENCE: u32 = 6;
/// Least time between two lines on stderr.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Words that wait for their line; of more the oldest are left out.
const UNSAID_MAX: usize = 8;

/// What it looks at.
pub(in crate::telemetry) struct View {
    pub(in crate::telemetry) voice: Voice,
    pub(in crate::telemetry) spooler: Arc<Child>,
    pub(in crate::telemetry) stand_in: StandIn,
    pub(in crate::telemetry) standing: Arc<spooler::Standing>,
    pub(in crate::telemetry) slots: Arc<Vec<Slot>>,
    pub(in crate::telemetry) keeper: Arc<Child>,
    /// Entries that dead processes left half written.
    pub(in crate::telemetry) half_written: Arc<AtomicU64>,
    pub(in crate::telemetry) heartbeat_every: Duration,
    /// What the spool's next segment needs.
    pub(in crate::telemetry) segment_bytes: u64,
    pub(in crate::telemetry) limits: Limits,
    pub(in crate::telemetry) fuse: Fuse,
    pub(in crate::telemetry) memory: Mutex<Memory>,
}

/// How the way to stdout is kept open while the spooler is away.
pub(in crate::telemetry) struct StandIn {
    pub(in crate::telemetry) work: Arc<Spooler>,
    pub(in crate::telemetry) intensity: Intensity,
    pub(in crate::telemetry) child: Arc<OnceLock<Child>>,
}

impl StandIn {
    /// Starts the thread, once.
    fn start(&self) {
        if self.child.get().is_none() {
            let work = Arc::clone(&self.work);
            let body = move |pulse: &Pulse, generation| work.stand_in(pulse, generation);
            // No thread to be had: it is tried again at the next turn.
            if let Ok(child) = Child::start("stand-in", self.intensity, tell_panic, body) {
                let _ = self.child.set(child);
            }
        }
    }
}

/// Its times.
#[derive(Debug, Clone, Copy)]
pub(in crate::telemetry) struct Limits {
    pub(in crate::telemetry) turn: Duration,
    pub(in crate::telemetry) stall: Duration,
    pub(in crate::telemetry) tell_lost_every: Duration,
}

/// What outlives a panic of its own.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Memory {
    sequence: u64,
    beat_at: Duration,
    told: Told,
    told_at: Option<Duration>,
    spooler: Stall,
    keeper: Stall,
    shippers: Vec<Stall>,
    overdue: Vec<Overdue>,
    low: Low,
    /// What is said once, and has had no line on stderr.
    unsaid: VecDeque<String>,
}

/// The running watchdog.
pub(in crate::telemetry) struct Watchdog {
    child: Child,
    stop: Sender<()>,
}

impl Watchdog {
    /// Starts the thread; the first heartbeat comes at once.
    pub(in crate::telemetry) fn start(view: View, intensity: Intensity) -> std::io::Result<Watchdog> {
        let (stop, stopped) = bounded(1);
        let child = Child::start("watchdog", intensity, tell_panic, move |pulse, generation| {
            quiet(|| view.run(pulse, generation, &stopped));
        })?;
        Ok(Watchdog { child, stop })
    }

    /// The thread's vital signs.
    pub(super) fn pulse(&self) -> &Pulse {
        self.child.pulse()
    }

    /// Ends the thread; what was lost is told first.
    pub(super) fn stop(&self, limit: Duration) {
        let _ = self.stop.try_send(());
        self.child.wait(limit);
    }
}

impl View {
    fn run(&self, pulse: &Pulse, generation: u64, stopped: &Receiver<()>) {
        let mut last = false;
        while pulse.generation() == generation {
            pulse.beat();
            self.fuse.at("watchdog");
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            let now = clock::monotonic();
            if now >= memory.beat_at && !last {
                memory.sequence += 1;
                memory.beat_at = now.saturating_add(self.heartbeat_every);
                self.heartbeat(memory.sequence, pulse);
            }
            let trouble = self.standing.trouble();
            memory.told.switches(&self.voice, self.standing.switches(), trouble.as_deref());
            memory.told.losses(&self.voice, now, self.limits.tell_lost_every, last);
            for child in self.pulses(pulse) {
                memory.told.restarts(&self.voice, child);
            }
            self.metrics(pulse);
            self.overdue(&mut memory, now);
            self.low(&mut memory);
            if last {
                return;
            }
            let in_memory = trouble.map(|why| format!("records wait in memory: {why}"));
            let lasting = self.look_after(&mut memory).or(in_memory);
            let text = lasting.as_ref().or(memory.unsaid.front());
            let wait = self.limits.turn.min(memory.beat_at.saturating_sub(now));
            let is_time = memory.told_at.is_none_or(|at| now.saturating_sub(at) >= TELL_EVERY);
            let text = text.filter(|_| is_time).cloned();
            if text.is_some() {
                memory.told_at = Some(now);
                if lasting.is_none() {
                    memory.unsaid.pop_front();
                }
            }
            drop(memory);
            text.iter().for_each(|text| tell(text));
            pulse.progress();
            match stopped.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => last = true,
            }
        }
    }

    /// Replaces what has stalled; what to say about threads that stay down.
    fn look_after(&self, memory: &mut Memory) -> Option<String> {
        let mut say = None;
        let limit = self.limits.stall;
        self.stand_in(limit);
        let patient = limit.saturating_mul(KEEPER_PATIENCE);
        memory.shippers.resize_with(self.slots.len(), Stall::default);
        say = look_at(self.spooler.pulse(), &mut memory.spooler, limit, || self.spooler.replace()).or(say);
        say = look_at(self.keeper.pulse(), &mut memory.keeper, patient, || self.keeper.replace()).or(say);
        for (slot, stall) in self.slots.iter().zip(&mut memory.shippers) {
            let limit = limit.saturating_add(slot.handle.patience());
            say = look_at(slot.handle.pulse(), stall, limit, || slot.handle.replace()).or(say);
        }
        say
    }

    /// Has the way to stdout kept open while the spooler is away; back it says so itself.
    fn stand_in(&self, limit: Duration) {
        let pulse = self.spooler.pulse();
        let absence = if pulse.is_given_up() { Absence::GivenUp } else { Absence::Stalled };
        if absence == Absence::GivenUp || pulse.silent_for() > limit {
            self.standing.set_absence(Some(absence));
            self.stand_in.start();
        }
    }

    /// Exporters that take nothing while records wait: told in-band, on stderr and as a gauge.
    fn overdue(&self, memory: &mut Memory, now: Duration) {
        memory.overdue.resize_with(self.slots.len(), Overdue::default);
        let Memory { overdue, unsaid, .. } = memory;
        for (slot, overdue) in self.slots.iter().zip(overdue) {
            let facts = slot.handle.standing().facts();
            let (age, word) = overdue.look(&facts, now);
            metrics::gauge!(catalogue::EXPORTER_OVERDUE.name, "exporter" => facts.exporter).set(age.as_secs_f64());
            let Some(word) = word else { continue };
            let error = facts.last_error.map_or_else(|| "it gives no answer".to_owned(), |(_, text)| text);
            let (name, seconds) = (slot.name, age.as_secs());
            let waiting = match facts.pending.records {
                0 => "a batch is under way".to_owned(),
                records => format!("{records} records wait"),
            };
            let text = match word {
                Word::Begins => {
                    format!("exporter {name} has taken nothing for {seconds} s while {waiting}: {error}")
                }
                Word::Ends => format!("exporter {name} takes records again"),
            };
            let slot = json!(name);
            self.warn(unsaid, text, OVERDUE_EVENT, ("exporter", &slot));
        }
    }

    /// A disk that runs full is told before a write finds no room: who writes little may need none for
    /// minutes.
    fn low(&self, memory: &mut Memory) {
        let free = self.standing.free_bytes();
        let Some(word) = memory.low.look(free, self.segment_bytes) else { return };
        let bytes = free.unwrap_or_default();
        let text = match word {
            low::Word::Begins => format!(
                "the disk of the spool is nearly full, {} KiB are left; once it is full, records wait in memory \
                 and go to stdout",
                bytes >> 10
            ),
            low::Word::Ends => format!("the disk of the spool has room again, {} MiB", bytes >> 20),
        };
        self.warn(&mut memory.unsaid, text, DISK_EVENT, ("free_bytes", &json!(bytes)));
    }

    /// Says it in-band, and on stderr as soon as that has its turn.
    fn warn(&self, unsaid: &mut VecDeque<String>, text: String, event: &str, about: (&str, &Value)) {
        let record = NewRecord {
            time: clock::now(),
            level: Level::Warning,
            body: &text,
            attributes: &[about],
            event_name: Some(event),
        };
        self.voice.say(&record);
        unsaid.push_back(text);
        if unsaid.len() > UNSAID_MAX {
            unsaid.pop_front();
        }
    }

    /// The current values of the recorder's own metrics: where no page can be read, as of a worker
    /// behind a NAT, they are in the rows.
    fn heartbeat(&self, sequence: u64, own: &Pulse) {
        let ring = self.voice.recorder().ring();
        let counters = ring.counters();
        let exporters: Vec<Value> = self.slots.iter().map(exporter).collect();
        let restarts: BTreeMap<&str, u64> =
            self.pulses(own).map(|pulse| (pulse.name(), pulse.restarts())).collect();
        let given_up: Vec<&str> = self.pulses(own).filter(|pulse| pulse.is_given_up()).map(Pulse::name).collect();
        let pairs = [
            ("sequence", json!(sequence)),
            ("pid", json!(std::process::id())),
            ("ring_depth_bytes", json!(ring.depth_bytes())),
            ("ring_capacity_bytes", json!(ring.capacity_bytes())),
            ("ring_backing", json!(ring.backing().word())),
            ("ring_promise", json!(ring.backing().to_string())),
            ("accepted", json!(self.accepted(&counters))),
            ("refused", json!(counters.refused_total())),
            ("half_written", json!(self.half_written(&counters))),
            ("lost", json!(counters.refused_total() + counters.half_written + counters.lost_aside())),
            ("spool_low", json!(self.voice.recorder().is_spool_low())),
            ("spool_bytes", json!(self.standing.spool_bytes())),
            ("disk_free_bytes", json!(self.standing.free_bytes())),
            ("longest_sync_ms", json!(self.standing.longest_sync().as_secs_f64() * 1_000.0)),
            ("fallback", json!(self.standing.is_on_stdout())),
            ("restarts", json!(restarts)),
            ("given_up", json!(given_up)),
            ("exporters", json!(exporters)),
        ];
        let attributes: Vec<(&str, &Value)> = pairs.iter().map(|(key, value)| (*key, value)).collect();
        let record = NewRecord {
            time: clock::now(),
            level: Level::Info,
            body: "telemetry heartbeat",
            attributes: &attributes,
            event_name: Some(HEARTBEAT_EVENT),
        };
        // A refusal is counted by the ring; silence is what others hear.
        let _ = self.voice.say(&record);
    }

    /// All threads of the recorder.
    fn pulses<'a>(&'a self, own: &'a Pulse) -> impl Iterator<Item = &'a Pulse> {
        let shippers = self.slots.iter().map(|slot| slot.handle.pulse());
        let others = self.stand_in.child.get().map(Child::pulse).into_iter().chain(shippers);
        [self.spooler.pulse(), self.keeper.pulse(), own].into_iter().chain(others)
    }

    fn metrics(&self, own: &Pulse) {
        let ring = self.voice.recorder().ring();
        metrics::gauge!(catalogue::RING_DEPTH.name).set(ring.depth_bytes() as f64);
        metrics::gauge!(catalogue::RING_CAPACITY.name).set(ring.capacity_bytes() as f64);
        let counters = ring.counters();
        metrics::counter!(catalogue::RECORDS_ACCEPTED.name).absolute(self.accepted(&counters));
        metrics::counter!(catalogue::RING_HALF_WRITTEN.name).absolute(self.half_written(&counters));
        for (reason, by_level) in crate::telemetry::ring::Refused::COUNTED.iter().zip(&counters.refused) {
            for (level, count) in Level::ALL.iter().zip(by_level) {
                metrics::counter!(
                    catalogue::RECORDS_REFUSED.name, "reason" => reason.word(), "level" => level.word()
                )
                .absolute(*count);
            }
        }
        let active = self.standing.is_on_stdout();
        metrics::gauge!(catalogue::FALLBACK_ACTIVE.name).set(f64::from(u8::from(active)));
        for aside in Aside::LOST {
            metrics::counter!(catalogue::RECORDS_DROPPED.name, "exporter" => "all", "reason" => aside.word())
                .absolute(counters.aside[aside as usize]);
        }
        for pulse in self.pulses(own) {
            let thread = pulse.name().to_owned();
            metrics::counter!(catalogue::THREAD_RESTARTS.name, "thread" => thread.clone())
                .absolute(pulse.restarts());
            metrics::gauge!(catalogue::THREAD_GIVEN_UP.name, "thread" => thread)
                .set(f64::from(u8::from(pulse.is_given_up())));
        }
    }

    /// Records that were accepted and have left the ring.
    fn accepted(&self, counters: &Counters) -> u64 {
        counters.accepted().saturating_sub(self.voice.recorder().sources_count())
    }

    /// Entries that were half written, here and in the rings of dead processes.
    fn half_written(&self, counters: &Counters) -> u64 {
        counters.half_written + self.half_written.load(Ordering::Relaxed)
    }
}

/// Replaces a thread that has stalled; what to say where it stays down.
fn look_at(
    pulse: &Pulse,
    stall: &mut Stall,
    limit: Duration,
    replace: impl FnOnce() -> std::io::Result<()>,
) -> Option<String> {
    let name = pulse.name();
    if pulse.is_given_up() {
        return Some(format!("thread {name} panicked too often and stays down"));
    }
    match stall.judge(pulse, limit) {
        Verdict::Replace if replace().is_ok() => None,
        Verdict::Replace => Some(format!("thread {name} has stalled and cannot be replaced")),
        Verdict::GivenUp => Some(format!("thread {name} has stalled and replacing it does not help")),
        Verdict::Fine => None,
    }
}

fn exporter(slot: &Slot) -> Value {
    let facts = slot.handle.standing().facts();
    let oldest = facts.pending.oldest_unix_micros.map(|at| clock::age(clock::now(), clock::from_micros(at)));
    json!({
        "slot": slot.name,
        "exporter": facts.exporter,
        "state": state(&facts.state),
        "delivered": facts.delivered,
        "pending": facts.pending.records,
        "rejected": facts.rejected,
        "quarantined": facts.quarantined,
        "dropped": facts.dropped,
        "retries": facts.retries,
        "oldest_pending_s": oldest.map_or(0.0, |age| age.as_secs_f64()),
        "last_error": facts.last_error.map(|(_, text)| text),
    })
}

fn state(state: &State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Delivering => "delivering",
        State::Retrying { .. } => "retrying",
        State::Blocked { .. } => "blocked",
    }
}

/// One line on stderr: the last way to speak when records cannot.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "dogwatch telemetry: {text}");
}

/// Says that a thread of the recorder panicked, and what becomes of it.
pub(in crate::telemetry) fn tell_panic(fall: &Fall<'_>) {
    let Fall { child, text, again_in } = fall;
    let next = match again_in {
        Some(wait) => format!("is started again in {wait:?}"),
        None => {
            // The watchdog itself cannot set it when it is the one that stays down.
            metrics::gauge!(catalogue::THREAD_GIVEN_UP.name, "thread" => (*child).to_owned()).set(1.0);
            "has done so too often and stays down".to_owned()
        }
    };
    tell(&format!("thread {child} panicked and {next}: {text}"));
}
