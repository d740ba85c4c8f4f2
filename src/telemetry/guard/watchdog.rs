//! The watchdog: the heartbeat record, the recorder's own metrics, and an eye on the other
//! threads. It does no disk I/O, so a slow disk never makes it late.
//!
//! Every `heartbeat_every` it emits the heartbeat record with depths and the state of every
//! exporter, through ring, spool and exporters like any other: silence means broken, not quiet. A
//! spooler without a beat for [`STALL_LIMIT`] is fenced and replaced.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};

use super::Slot;
use crate::catalogue;
use crate::clock;
use crate::supervise::thread::Child;
use crate::supervise::{Intensity, Pulse};
use crate::telemetry::quiet::quiet;
use crate::telemetry::record::Level;
use crate::telemetry::recorder::{NewRecord, Recorder, SourceNo};
use crate::telemetry::shipper::State;
use crate::telemetry::spooler;

/// Name of the heartbeat's event.
const HEARTBEAT_EVENT: &str = "dogwatch.heartbeat";
/// Period of its turns.
const TURN: Duration = Duration::from_millis(500);
/// A spooler that has not beaten for so long is replaced; above the longest fsync that is normal.
const STALL_LIMIT: Duration = Duration::from_secs(5);
/// Least time between two lines on stderr.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What it looks at.
pub(in crate::telemetry) struct View {
    pub(in crate::telemetry) recorder: Recorder,
    pub(in crate::telemetry) spooler: Arc<Child>,
    pub(in crate::telemetry) standing: Arc<spooler::Standing>,
    pub(in crate::telemetry) slots: Arc<Vec<Slot>>,
    pub(in crate::telemetry) heartbeat_every: Duration,
}

/// The running watchdog.
pub(in crate::telemetry) struct Watchdog {
    child: Child,
    stop: Sender<()>,
}

impl Watchdog {
    /// Starts the thread; the first heartbeat comes at once.
    pub(in crate::telemetry) fn start(view: View) -> std::io::Result<Watchdog> {
        let (stop, stopped) = bounded(1);
        let child = Child::start("watchdog", Intensity::default(), tell_panic, move |pulse, generation| {
            quiet(|| view.run(pulse, generation, &stopped));
        })?;
        Ok(Watchdog { child, stop })
    }

    /// Ends the thread.
    pub(super) fn stop(&self, limit: Duration) {
        let _ = self.stop.try_send(());
        self.child.wait(limit);
    }
}

impl View {
    fn run(&self, pulse: &Pulse, generation: u64, stopped: &Receiver<()>) {
        let (mut sequence, mut beat_at) = (0_u64, Duration::ZERO);
        let mut told_at = None;
        while pulse.generation() == generation {
            pulse.beat();
            let now = clock::monotonic();
            if now >= beat_at {
                sequence += 1;
                beat_at = now.saturating_add(self.heartbeat_every);
                self.heartbeat(sequence);
            }
            self.metrics();
            if self.spooler.pulse().silent_for() > STALL_LIMIT && self.spooler.replace().is_err() {
                tell(&mut told_at, now, "the spooler has stalled and cannot be replaced");
            }
            if let Some(trouble) = self.standing.trouble() {
                tell(&mut told_at, now, &format!("records wait in memory: {trouble}"));
            }
            pulse.progress();
            let wait = TURN.min(beat_at.saturating_sub(clock::monotonic()));
            match stopped.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn heartbeat(&self, sequence: u64) {
        let ring = self.recorder.ring();
        let counters = ring.counters();
        let exporters: Vec<Value> = self.slots.iter().map(exporter).collect();
        let pairs = [
            ("sequence", json!(sequence)),
            ("pid", json!(std::process::id())),
            ("ring_depth_bytes", json!(ring.depth_bytes())),
            ("ring_capacity_bytes", json!(ring.capacity_bytes())),
            ("ring_backing", json!(ring.backing().to_string())),
            ("refused", json!(counters.refused_total())),
            ("half_written", json!(counters.half_written)),
            ("spooler_restarts", json!(self.spooler.pulse().restarts())),
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
        let _ = self.recorder.emit(SourceNo::OWN, &record);
    }

    fn metrics(&self) {
        let ring = self.recorder.ring();
        metrics::gauge!(catalogue::RING_DEPTH.name).set(ring.depth_bytes() as f64);
        metrics::gauge!(catalogue::RING_CAPACITY.name).set(ring.capacity_bytes() as f64);
        let counters = ring.counters();
        metrics::counter!(catalogue::RECORDS_ACCEPTED.name).absolute(counters.accepted());
        metrics::counter!(catalogue::RING_HALF_WRITTEN.name).absolute(counters.half_written);
        for (reason, by_level) in crate::telemetry::ring::Refused::COUNTED.iter().zip(&counters.refused) {
            for (level, count) in Level::ALL.iter().zip(by_level) {
                metrics::counter!(
                    catalogue::RECORDS_REFUSED.name, "reason" => reason.word(), "level" => level.word()
                )
                .absolute(*count);
            }
        }
        metrics::counter!(catalogue::THREAD_RESTARTS.name, "thread" => "spooler")
            .absolute(self.spooler.pulse().restarts());
    }
}

fn exporter(slot: &Slot) -> Value {
    let facts = slot.handle.standing().facts();
    json!({
        "slot": slot.name,
        "state": state(&facts.state),
        "delivered": facts.delivered,
        "pending": facts.pending.records,
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

/// One line on stderr, at most every [`TELL_EVERY`]: the last way to speak when records cannot.
fn tell(told_at: &mut Option<Duration>, now: Duration, text: &str) {
    if told_at.is_none_or(|at| now.saturating_sub(at) >= TELL_EVERY) {
        *told_at = Some(now);
        let _ = writeln!(std::io::stderr().lock(), "dogwatch telemetry: {text}");
    }
}

/// Says that a thread of the recorder panicked; supervision restarts it and counts.
pub(in crate::telemetry) fn tell_panic(thread: &str, text: &str) {
    let _ = writeln!(
        std::io::stderr().lock(),
        "dogwatch telemetry: thread {thread} panicked and is started again: {text}"
    );
}
