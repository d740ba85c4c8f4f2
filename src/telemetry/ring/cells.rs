//! The protocol between many producers and one consumer, over words that may be a model's.
//!
//! Producer: reserve (one compare-and-swap on the tail), store the head, copy the payload, store
//! the mark with release. Consumer: read what is published in order and stop at the first entry
//! that is not; once it is on disk, commit how far, zero it, hand the room back. Neither waits for
//! the other; a loop here goes round again only because another thread got on.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::compiler_fence;
use std::time::Duration;

use rustix::thread::{MembarrierCommand, membarrier};

use super::crc;
use super::entries::Entries;
use super::layout::{self, COUNT_MODULUS, Commit, Head, Tail, WORD_BYTES};
use super::word::Word;
use super::{Batch, End, Entry, Refused};
use crate::telemetry::record::Level;

/// The words that the protocol is about.
pub(super) struct Cells<'a, W> {
    pub(super) tail: &'a W,
    pub(super) free: &'a W,
    pub(super) skipped: &'a W,
    pub(super) commits: &'a [W],
    /// Who may consume: generation << 2 | [`ALIVE`] | [`BUSY`]. Not in the file.
    pub(super) owner: &'a W,
    pub(super) entries: Entries<'a, W>,
    pub(super) barrier: Barrier,
}

/// A consumer of this generation exists.
pub(super) const ALIVE: u64 = 1;
/// It is inside `release` and cannot be replaced for the microseconds that this takes.
pub(super) const BUSY: u64 = 2;
const GENERATION: u64 = 4;

/// How a producer's "published" and the consumer's "skipped" are ordered: one of both sees the
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Barrier {
    /// Producers pay nothing; the consumer, who skips once in a blue moon, asks the kernel to put
    /// a barrier into every running thread of the process.
    Membarrier,
    /// Both pay a fence.
    Fence,
}

impl Barrier {
    #[inline]
    fn light<W: Word>(self) {
        match self {
            Barrier::Membarrier => compiler_fence(std::sync::atomic::Ordering::SeqCst),
            Barrier::Fence => W::fence(),
        }
    }

    /// False: the kernel refused, and nothing is ordered.
    fn heavy<W: Word>(self) -> bool {
        W::fence();
        self == Barrier::Fence || membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }
}

/// Where a consumer stands.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The owner word while this consumer may work.
    key: u64,
    /// Everything below was read (or skipped), but is committed only up to `commit.head`.
    read: u64,
    commit: Commit,
    scratch: Vec<u8>,
    stall: Option<Stall>,
}

#[derive(Debug, Clone, Copy)]
struct Stall {
    at: u64,
    /// Everything below was reserved when the stall was first seen.
    limit: u64,
    since: Duration,
}

impl Cursor {
    /// The owner word while this consumer may work.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// The counts up to here; written to the file by the next release.
    #[cfg(test)]
    pub(super) fn commit(&self) -> Commit {
        self.commit
    }

    /// The position that is read next.
    #[cfg(test)]
    pub(super) fn next(&self) -> u64 {
        self.read
    }
}

impl<W: Word> Cells<'_, W> {
    /// Reserves room for an entry and gives its position.
    #[inline]
    pub(super) fn reserve(&self, bytes: u64, level: Level) -> Result<u64, Refused> {
        let capacity = self.entries.capacity_bytes();
        let mut seen = self.tail.load(Relaxed);
        loop {
            let tail = Tail(seen);
            if tail.is_closed() {
                return Err(Refused::Closed);
            }
            // Acquire: what the consumer zeroed happens before what is written there next. A tail
            // older than `free` makes the swap fail.
            let used = tail.position().saturating_sub(self.free.load(Acquire)) + bytes;
            if used > capacity {
                return Err(Refused::Full);
            }
            if level <= Level::Info && used > capacity / 10 * 9 {
                return Err(Refused::AboveNinety);
            }
            match self.tail.swap_if(seen, tail.reserved(bytes).0, Relaxed) {
                Ok(_) => return Ok(tail.position()),
                Err(now) => seen = now,
            }
        }
    }

    /// Writes all of an entry but its mark, and gives the CRC of its payload.
    #[inline]
    pub(super) fn fill(&self, position: u64, head: u64, payload: &[u8]) -> u32 {
        self.entries.data[self.entries.index(position)].store(head, Relaxed);
        let words = payload.len().div_ceil(WORD_BYTES as usize);
        let runs = self.entries.runs(position + layout::ENTRY_HEAD_BYTES, words);
        crc::copy_in(self.entries.salt, payload, runs)
    }

    /// Makes an entry visible.
    #[inline]
    pub(super) fn publish(&self, position: u64, head: u64, payload_crc: u32) -> Result<u64, Refused> {
        let crc = layout::entry_crc(payload_crc, head, position);
        let mark = u64::from(crc) << 32 | u64::from(self.entries.tag(position));
        self.entries.data[self.entries.index(position + WORD_BYTES)].store(mark, Release);
        self.barrier.light::<W>();
        if self.skipped.load(Relaxed) > position { Err(Refused::Skipped) } else { Ok(position) }
    }

    /// Reserve, fill, publish.
    #[inline]
    pub(super) fn push(&self, head: Head, payload: &[u8]) -> Result<u64, Refused> {
        let position = self.reserve(head.entry_bytes(), head.level)?;
        let word = head.pack();
        let payload_crc = self.fill(position, word, payload);
        self.publish(position, word, payload_crc)
    }

    /// Becomes the consumer. Where one is alive: it is fenced if `replace`, else None. None, too,
    /// while it is just releasing.
    pub(super) fn own(&self, replace: Replace) -> Option<Cursor> {
        let seen = self.owner.load(Acquire);
        if seen & BUSY != 0 || (seen & ALIVE != 0 && replace == Replace::OnlyTheDead) {
            return None;
        }
        let key = ((seen & !(ALIVE | BUSY)) + GENERATION) | ALIVE;
        let mut current = seen;
        while let Err(now) = self.owner.swap_if(current, key, Acquire) {
            if now != seen {
                return None;
            }
            current = now;
        }
        let read = self.free.load(Relaxed);
        let commit =
            Commit::latest(self.entries.salt, self.commits).unwrap_or(Commit { head: read, ..Commit::START });
        Some(Cursor { key, read, commit, scratch: Vec::new(), stall: None })
    }

    /// Ends a consumer; what it read and did not release is read again by the next one.
    pub(super) fn disown(&self, cursor: &Cursor) {
        while let Err(now) = self.owner.swap_if(cursor.key, cursor.key & !ALIVE, Release) {
            if now != cursor.key {
                return;
            }
        }
    }

    /// Hands out published entries in order.
    pub(super) fn read(&self, cursor: &mut Cursor, bytes_max: usize, mut each: impl FnMut(Entry<'_>)) -> Batch {
        let mut batch = Batch { entries: 0, bytes: 0, end: End::Empty };
        let mut tail = Tail(self.tail.load(Relaxed));
        loop {
            if self.owner.load(Relaxed) != cursor.key {
                return Batch { end: End::Fenced, ..batch };
            }
            if cursor.read >= tail.position() {
                tail = Tail(self.tail.load(Relaxed));
                if cursor.read >= tail.position() {
                    self.settle(cursor, tail);
                    return batch;
                }
            }
            let Some(head) = self.entries.entry_at(cursor.read, &mut cursor.scratch) else {
                return Batch { end: End::Unpublished, ..batch };
            };
            if batch.entries > 0 && batch.bytes + head.payload_bytes > bytes_max {
                return Batch { end: End::Limit, ..batch };
            }
            each(Entry::new(cursor.read, head, &cursor.scratch[..head.payload_bytes]));
            cursor.read += head.entry_bytes();
            cursor.commit.taken[head.level as usize] += 1;
            batch.entries += 1;
            batch.bytes += head.payload_bytes;
        }
    }

    /// All that was reserved has been passed: what was not taken was lost half-written. A gap that
    /// held several unfinished entries was counted as one until here.
    fn settle(&self, cursor: &mut Cursor, tail: Tail) {
        if cursor.read == tail.position() {
            cursor.commit.half_written += tail.count().wrapping_sub(cursor.commit.total()) % COUNT_MODULUS;
        }
    }

    /// Gives up a producer that reserved and did not publish for `patience`. Gives the number of
    /// gaps that were skipped, 0 or 1.
    pub(super) fn skip_stalled(&self, cursor: &mut Cursor, now: Duration, patience: Duration) -> u64 {
        let at = cursor.read;
        let limit = Tail(self.tail.load(Relaxed)).position();
        let owner = self.owner.load(Relaxed);
        if at >= limit || owner != cursor.key || self.entries.entry_at(at, &mut cursor.scratch).is_some() {
            cursor.stall = None;
            return 0;
        }
        let stall = *cursor.stall.get_or_insert(Stall { at, limit, since: now });
        if stall.at != at {
            cursor.stall = Some(Stall { at, limit, since: now });
            return 0;
        }
        if now.saturating_sub(stall.since) < patience {
            return 0;
        }
        let next = self.entries.next_sound(at, stall.limit, &mut cursor.scratch);
        self.skipped.store(next, Relaxed);
        if !self.barrier.heavy::<W>() {
            return 0;
        }
        // A producer that published before this point is seen here; one that publishes after it
        // sees `skipped` and tells its caller.
        cursor.read = self.entries.next_sound(at, next, &mut cursor.scratch);
        cursor.stall = None;
        let gaps = u64::from(cursor.read > at);
        cursor.commit.half_written += gaps;
        self.settle(cursor, Tail(self.tail.load(Relaxed)));
        gaps
    }

    /// Gives back the room of everything that was read, and counts before what became of it, if
    /// that is to be counted. False: this consumer is fenced, and neither was done.
    ///
    /// The commit comes first, so that a kill while zeroing finds the rest below the head.
    pub(super) fn release(&self, cursor: &mut Cursor, count: impl FnOnce()) -> bool {
        while let Err(now) = self.owner.swap_if(cursor.key, cursor.key | BUSY, Acquire) {
            if now != cursor.key {
                return false;
            }
        }
        count();
        let from = cursor.commit.head;
        if cursor.read > from {
            cursor.commit.head = cursor.read;
            cursor.commit.epoch = cursor.commit.epoch.wrapping_add(1);
            let slot = self.commits[cursor.commit.slot()..].iter();
            for (word, value) in slot.zip(cursor.commit.pack(self.entries.salt)) {
                word.store(value, Relaxed);
            }
            W::fence();
            let (before_end, after_end) = self.entries.runs(from, ((cursor.read - from) / WORD_BYTES) as usize);
            for word in before_end.iter().chain(after_end) {
                word.store(0, Relaxed);
            }
            self.free.store(cursor.read, Release);
        }
        self.owner.store(cursor.key, Release);
        true
    }
}

/// What [`Cells::own`] does about a consumer that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replace {
    /// Leaves it.
    OnlyTheDead,
    /// Fences it.
    Anyone,
}
