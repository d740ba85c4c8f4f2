//! While the spool cannot be used and the ring fills, records go to stdout as JSON lines.
//!
//! So much that room stays for what comes, and bounded in rate: of [`LINES_PER_SECOND`] one half is
//! kept for WARNING and above; DEBUG and INFO beyond the other half are dropped. Every entry that
//! leaves the ring this way is counted in the ring's file, by what became of it, as its room is
//! given back. Where stdout cannot be written nothing is released. What an earlier writer made
//! durable is passed over, and that writer is fenced first: an fsync that comes back later makes
//! nothing durable that has a line here. Definitions of sources are kept for the spool.

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
    spooler: &'a Spooler,
    consumer: Consumer,
}

/// What one step made.
#[derive(Default)]
struct Made {
    lines: Vec<u8>,
    aside: [u64; 3],
}

impl<'a> Fallback<'a> {
    /// Becomes the ring's consumer, in place of a living one if `replace`. None: ask again. Not inside
    /// another one's step: what that one prints it also counts.
    pub(super) fn open(spooler: &'a Spooler, replace: bool) -> Option<Fallback<'a>> {
        let _between_steps = spooler.out.try_lock().ok()?;
        let consumer = spooler.consumer(replace)?;
        // What is read from here on has no durable copy, and never gets one.
        spooler.folder.fence_writer();
        Some(Fallback { spooler, consumer })
    }

    /// Takes some entries out of the ring, if it is too full. False: this consumer is of no use
    /// any more.
    pub(super) fn step(&mut self, now: Duration) -> bool {
        let Fallback { spooler, consumer } = self;
        // A write that hangs keeps the lock; who comes after it does not wait.
        let Ok(mut out) = spooler.out.try_lock() else { return true };
        let mut spent = *spooler.standing.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.renew(now);
        let mut made = Made::default();
        // What is read keeps its room until it is printed.
        let (mut taken, mut read) = (0, 0);
        while taken < STEP_ENTRIES && spent.takes(Level::Critical) && spooler.fill_without(read) > FALLBACK_FILL {
            let batch = consumer.read(1, |entry| spooler.set_aside(entry, &mut spent, &mut made));
            taken += batch.entries.max(1);
            read += batch.bytes as u64;
            match batch.end {
                End::Fenced => return false,
                End::Unpublished => {
                    consumer.skip_stalled(now, PRODUCER_PATIENCE);
                    break;
                }
                End::Empty => break,
                End::Limit => {}
            }
            if made.lines.is_empty() {
                if !made.hand_over(spooler, consumer) {
                    return false;
                }
                read = 0;
            }
        }
        if !made.lines.is_empty() {
            let written = out.write_all(&made.lines).and_then(|()| out.flush());
            *spooler.standing.spent.lock().unwrap_or_else(PoisonError::into_inner) = spent;
            if written.is_err() {
                return false;
            }
        }
        made.hand_over(spooler, consumer)
    }
}

impl Made {
    /// Counts what was set aside and gives the room back. False: fenced, and nothing is counted.
    fn hand_over(&mut self, spooler: &Spooler, consumer: &mut Consumer) -> bool {
        let aside = std::mem::take(&mut self.aside);
        let released = consumer.release_aside(aside);
        if released && Aside::LOST.iter().any(|lost| aside[*lost as usize] > 0) {
            spooler.standing.to_stdout(true);
        }
        released
    }
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
