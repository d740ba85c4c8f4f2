//! While the spool cannot be used and the ring fills, records go to stdout as JSON lines.
//!
//! So much that room stays for what comes, and bounded in rate: of [`LINES_PER_SECOND`] one half is
//! kept for WARNING and above; DEBUG and INFO beyond the other half are dropped. Every entry that
//! leaves the ring this way is counted in the ring's file, by what became of it, before its room is
//! given back. Where stdout cannot be written nothing is released. What an earlier writer made
//! durable is passed over; definitions of sources are kept for the spool.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::telemetry::exporter::stdout::line;
use crate::telemetry::record::{Kind, Level, Source, Stored};
use crate::telemetry::ring::{Aside, Consumer, End, Entry};
use crate::telemetry::row::Row;

use super::{PRODUCER_PATIENCE, Spooler};

/// Share of the ring in use above which records leave it this way.
pub(in crate::telemetry) const FALLBACK_FILL: f64 = 0.75;
/// Lines that stdout gets in a second, at most; the upper half only WARNING and above.
pub(in crate::telemetry) const LINES_PER_SECOND: u64 = 1_000;
/// Bytes that stdout gets in a second; one line may go beyond.
const BYTES_PER_SECOND: usize = 4 << 20;
/// Entries of one step.
const STEP_ENTRIES: usize = 512;
const SECOND: Duration = Duration::from_secs(1);

/// What stdout has taken since `since`.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::telemetry) struct Spent {
    since: Duration,
    lines: u64,
    bytes: usize,
}

impl Spent {
    fn renew(&mut self, now: Duration) {
        if now.saturating_sub(self.since) >= SECOND {
            *self = Spent { since: now, lines: 0, bytes: 0 };
        }
    }

    /// Whether one more line may go, of that level.
    fn takes(&self, level: Level) -> bool {
        let lines_max = if level >= Level::Warning { LINES_PER_SECOND } else { LINES_PER_SECOND / 2 };
        self.lines < lines_max && self.bytes < BYTES_PER_SECOND
    }
}

/// One stretch of emptying the ring to stdout.
pub(super) struct Fallback<'a> {
    pub(super) spooler: &'a Spooler,
    pub(super) consumer: Consumer,
}

/// What one step made.
#[derive(Default)]
struct Made {
    lines: Vec<u8>,
    aside: [u64; 3],
}

impl Fallback<'_> {
    /// Takes some entries out of the ring, if it is too full. False: this consumer is of no use
    /// any more.
    pub(super) fn step(&mut self, now: Duration) -> bool {
        let Fallback { spooler, consumer } = self;
        // A write that hangs keeps the lock; who comes after it does not wait.
        let Ok(mut out) = spooler.out.try_lock() else { return true };
        let mut spent = *spooler.standing.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.renew(now);
        let mut made = Made::default();
        let mut taken = 0;
        while taken < STEP_ENTRIES && spent.takes(Level::Critical) && spooler.fill() > FALLBACK_FILL {
            let batch = consumer.read(1, |entry| spooler.set_aside(entry, &mut spent, &mut made));
            taken += batch.entries.max(1);
            match batch.end {
                End::Fenced => return false,
                End::Unpublished => {
                    consumer.skip_stalled(now, PRODUCER_PATIENCE);
                    break;
                }
                End::Empty => break,
                End::Limit => {}
            }
            // Room is given back in small pieces, so that the share in use is seen to fall.
            if made.lines.is_empty() && !hand_over(spooler, consumer, &mut made) {
                return false;
            }
        }
        if !made.lines.is_empty() {
            let written = out.write_all(&made.lines).and_then(|()| out.flush());
            *spooler.standing.spent.lock().unwrap_or_else(PoisonError::into_inner) = spent;
            if written.is_err() {
                return false;
            }
            spooler.standing.to_stdout(true);
        }
        hand_over(spooler, consumer, &mut made)
    }
}

/// Counts what was set aside, then gives the room back. False: fenced.
fn hand_over(spooler: &Spooler, consumer: &mut Consumer, made: &mut Made) -> bool {
    for aside in [Aside::Stdout, Aside::FallbackRate, Aside::Source] {
        let entries = std::mem::take(&mut made.aside[aside as usize]);
        if entries > 0 {
            spooler.ring.put_aside(aside, entries);
            if aside == Aside::FallbackRate {
                spooler.standing.to_stdout(true);
            }
        }
    }
    consumer.release()
}

impl Spooler {
    fn set_aside(&self, entry: Entry<'_>, spent: &mut Spent, made: &mut Made) {
        if entry.kind == Kind::Source {
            self.folder.define_source(entry.source, entry.payload);
            made.aside[Aside::Source as usize] += 1;
            return;
        }
        if self.folder.synced().is_some_and(|end| entry.seq < end.next) {
            return;
        }
        let line = if spent.takes(entry.level) { self.json_line(entry) } else { None };
        let Some(line) = line else {
            made.aside[Aside::FallbackRate as usize] += 1;
            return;
        };
        spent.lines += 1;
        spent.bytes += line.len();
        made.lines.extend_from_slice(&line);
        made.aside[Aside::Stdout as usize] += 1;
    }

    /// The line of a record; None where nothing can be made of it.
    fn json_line(&self, entry: Entry<'_>) -> Option<Vec<u8>> {
        let nobody = || Source { source_type: String::new(), source_id: String::new(), resource: Vec::new() };
        let stored = Stored {
            seq: entry.seq,
            kind: entry.kind,
            level: entry.level,
            source: Arc::new(self.folder.source(entry.source).unwrap_or_else(nobody)),
            boot: self.folder.boot(),
            payload: entry.payload.to_vec(),
        };
        let mut bytes = serde_json::to_vec(&line(Row::from_stored(&stored).ok()?)).ok()?;
        bytes.push(b'\n');
        Some(bytes)
    }
}
