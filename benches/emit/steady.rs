//! What the recorder refuses: in a burst from a standing start, and at a steady rate.

use std::error::Error;
use std::time::Duration;

use dogwatch::clock::monotonic;
use dogwatch::telemetry::record::Source;
use dogwatch::telemetry::{self, Config, Guard};
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::contenders::{LIMIT, emit};
use super::rounds::BURST;

/// Events a second, over all threads.
const RATE: u64 = 500_000;
/// Seconds at that rate.
const SECONDS: u64 = 10;
/// Events that a thread emits before it looks at the clock.
const PIECE: u64 = 50;

/// What one stretch gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Steady {
    pub(crate) what: String,
    pub(crate) offered: u64,
    pub(crate) refused: u64,
    pub(crate) half_written: u64,
    /// Offered, not refused, and not on disk after the shutdown; told once, for both stretches. The
    /// recorder's own records, one or two, may hide as many.
    pub(crate) lost: u64,
    pub(crate) seconds: f64,
}

/// A burst, and then the steady rate, from so many threads.
pub(crate) fn steady(threads: u64) -> Result<Vec<Steady>, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let source = Source { source_type: "external".into(), source_id: "bench".into(), resource: Vec::new() };
    // No records of the recorder's own, so that the sums are those of the events.
    let config = Config {
        heartbeat_every: Duration::from_secs(86_400),
        spool_cap_bytes: 8 << 30,
        ..Config::new(folder.path(), source)
    };
    let (layer, guard) = telemetry::start(config)?;
    tracing_subscriber::registry().with(layer).init();
    let mut stretches = Vec::new();
    let each = BURST / threads;
    stretches.push(stretch(&guard, format!("burst of {BURST}"), threads, || (0..each).for_each(emit)));
    let (pieces, rate) = (RATE / threads * SECONDS / PIECE, RATE / threads);
    stretches.push(stretch(&guard, format!("{RATE} a second for {SECONDS} s"), threads, || {
        let began = monotonic();
        for piece in 0..pieces {
            let due = Duration::from_secs_f64((piece * PIECE) as f64 / rate as f64);
            let early = due.saturating_sub(monotonic() - began);
            if !early.is_zero() {
                std::thread::park_timeout(early);
            }
            (0..PIECE).for_each(emit);
        }
    }));
    let accepted: u64 = stretches.iter().map(|one| one.offered - one.refused).sum();
    let durable = guard.shutdown(LIMIT).durable;
    if let Some(last) = stretches.last_mut() {
        last.lost = accepted.saturating_sub(durable);
    }
    Ok(stretches)
}

fn stretch(guard: &Guard, what: String, threads: u64, body: impl Fn() + Sync) -> Steady {
    let before = guard.status();
    let began = monotonic();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&body);
        }
    });
    let seconds = (monotonic() - began).as_secs_f64();
    let offered =
        if what.starts_with("burst") { BURST / threads * threads } else { RATE / threads * threads * SECONDS };
    guard.flush(LIMIT);
    let after = guard.status();
    Steady {
        what,
        offered,
        refused: after.refused - before.refused,
        half_written: after.half_written - before.half_written,
        lost: 0,
        seconds,
    }
}
