//! The ring: records in mapped memory that outlive the process the moment `push` returns.
//!
//! One process, many producers, one consumer, one file. SIGKILL and the OOM killer take a
//! process's heap, not the pages of a shared mapping: what was published is read back by
//! [`recover`] at the next start.
//!
//! - **push** never blocks, never allocates, takes no lock and makes no system call. (It writes to
//!   memory that a file backs: where the kernel must read an evicted page back first, it waits for
//!   that as any access to memory does under such pressure; and where the disk below the file does
//!   not answer, the first store to a page that was written back may wait for it. In shared memory
//!   it does neither.) The 64-bit position that it reserves
//!   is the record's sequence number: unique, rising, never reused in a boot. Above 90 % full DEBUG
//!   and INFO are refused; every refusal is counted in the file by reason and level ([`Refused`]).
//! - **read, then release**: the consumer gets published entries in order, and gives the room back
//!   only when they are on disk elsewhere. Until then a new consumer, or the next process, reads
//!   them again. Release commits head and counts in one step, so a kill at any instruction leaves
//!   both right.
//! - **An acknowledged push is read**, but for one case: a *different* producer that stayed inside
//!   `push` for longer than the spooler's patience and woke up after its room was used again can
//!   damage the entry there. The CRC tells, and it is counted as half-written.
//! - **Accepted** means: has a sequence number. accepted = taken + half-written, exactly, also after
//!   a kill: the tail counts reservations modulo 128 beside the position.
//! - A forked child shares the memory and must not write records; it is refused.
//!
//! The bytes are documented in `layout`, the protocol in `cells`, the safety argument in `map`, the
//! choice of a place in `place`. Not here: waiting, waking, threads, clocks; the consumer polls.

mod cells;
mod crc;
mod entries;
mod layout;
mod map;
mod place;
mod recover;
mod refused;
mod spans;
#[cfg(test)]
pub(in crate::telemetry) mod tests;
mod word;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::time::Duration;

use rustix::thread::{MembarrierCommand, membarrier};
use uuid::Uuid;

pub(in crate::telemetry) use self::crc::append as crc32c_append;
pub use self::layout::MAX_PAYLOAD_BYTES;
pub use self::place::Backing;
pub use self::recover::{Recovered, Saved};
pub use self::refused::{Aside, Refused};
pub use self::spans::{OpenSpan, SPAN_NAME_BYTES, SpanSlot};

use self::cells::{Barrier, Cells, Cursor, Replace};
use self::entries::Entries;
use self::layout::{ASIDES, Commit, HEADER_WORDS, Head, Identity, LEVELS, REASONS, Tail, WORD_BYTES};
use self::map::{ForkGuard, Mapping};
use self::word::Load;
use super::record::{Kind, Level};

/// What a ring is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    /// Bytes for entries; made a power of two within [`RingConfig::CAPACITY_RANGE`].
    pub capacity_bytes: u64,
    /// This process start.
    pub boot: Uuid,
    /// The kernel's start, from /proc/sys/kernel/random/boot_id.
    pub kernel_boot: Uuid,
}

impl RingConfig {
    /// 16 MiB.
    pub const CAPACITY_DEFAULT_BYTES: u64 = 16 << 20;
    /// 4 KiB to 1 GiB.
    pub const CAPACITY_RANGE: RangeInclusive<u64> = 4_096..=1 << 30;
}

/// A ring that cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// A ring is there already: recover and remove it first.
    #[error("{} has a ring already", dir.display())]
    Exists {
        /// The folder.
        dir: PathBuf,
    },
    /// The file is no ring that can be read: set it aside and go on.
    #[error("the ring {} cannot be read: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system said no.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        source: std::io::Error,
    },
}

/// What the file counts. Entries are counted when their room is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Released, by level.
    pub taken: [u64; LEVELS],
    /// Reserved and never published, or damaged; skipped.
    pub half_written: u64,
    /// By reason ([`Refused::COUNTED`]), then by level.
    pub refused: [[u64; LEVELS]; REASONS],
    /// Open spans that found no slot: a kill would not be told for these.
    pub spans_without_slot: u64,
    /// Released and not in the spool, by [`Aside`].
    pub aside: [u64; ASIDES],
}

impl Counters {
    /// All released entries that had a sequence number, the half-written ones too.
    pub fn accepted(&self) -> u64 {
        self.taken.iter().sum::<u64>() + self.half_written
    }

    /// Records that were released and reached no spool.
    pub fn lost_aside(&self) -> u64 {
        Aside::LOST.iter().map(|aside| self.aside[*aside as usize]).sum()
    }

    /// All refusals.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().flatten().sum()
    }

    fn read(header: &[impl Load], commit: Commit) -> Counters {
        let word = |at: usize| header[at].load(Relaxed);
        Counters {
            taken: commit.taken,
            half_written: commit.half_written,
            refused: std::array::from_fn(|reason| {
                std::array::from_fn(|level| word(layout::REFUSED + reason * LEVELS + level))
            }),
            spans_without_slot: word(layout::SPANS_WITHOUT_SLOT),
            aside: std::array::from_fn(|aside| word(layout::ASIDE + aside)),
        }
    }
}

/// An entry as the consumer sees it; the payload is a copy that nobody else can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its position.
    pub seq: u64,
    /// What the payload is.
    pub kind: Kind,
    /// Its level.
    pub level: Level,
    /// Number of its source.
    pub source: u16,
    /// As it was pushed.
    pub payload: &'a [u8],
}

impl<'a> Entry<'a> {
    fn new(seq: u64, head: Head, payload: &'a [u8]) -> Entry<'a> {
        Entry { seq, kind: head.kind, level: head.level, source: head.source, payload }
    }
}

/// What one read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Entries handed out.
    pub entries: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
    /// Why it stopped.
    pub end: End,
}

/// Why a read stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing more is there.
    Empty,
    /// The batch is full.
    Limit,
    /// The next entry is reserved and not yet published: call [`Consumer::skip_stalled`].
    Unpublished,
    /// Another consumer has taken over: stop.
    Fenced,
}

/// A ring of this process. Clones are the same ring.
#[derive(Debug, Clone)]
pub struct Ring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    map: Mapping,
    guard: ForkGuard,
    owner: AtomicU64,
    slots: spans::Taken,
    salt: u32,
    max_payload_bytes: usize,
    barrier: Barrier,
    backing: Backing,
}

impl Ring {
    /// Makes the ring of this boot in its own folder, or where the folder's file system cannot keep
    /// the promise, elsewhere ([`Ring::backing`] says where and why).
    ///
    /// # Errors
    /// [`RingError::Exists`], or there is no memory at all.
    pub fn create(dir: &Path, config: &RingConfig) -> Result<Ring, RingError> {
        Ring::create_at(dir, Path::new(place::SHARED_MEMORY), config, &place::Kernel)
    }

    fn create_at(
        dir: &Path,
        shared_memory: &Path,
        config: &RingConfig,
        kinds: &impl place::Kinds,
    ) -> Result<Ring, RingError> {
        let (low, high) = RingConfig::CAPACITY_RANGE.into_inner();
        let capacity = config.capacity_bytes.clamp(low, high).next_power_of_two();
        let bytes = HEADER_WORDS as u64 * WORD_BYTES + capacity;
        let (map, backing) = place::allocate(dir, shared_memory, config.boot, bytes, kinds)?;
        let salt = layout::salt(config.boot);
        let words = map.words();
        words[layout::TAIL].store(Tail::START.0, Relaxed);
        words[layout::FREE].store(layout::FIRST_SEQ, Relaxed);
        for (word, value) in words[layout::COMMITS..].iter().zip(Commit::START.pack(salt)) {
            word.store(value, Relaxed);
        }
        // The identity comes last, and of it the magic: a ring that has one is ready.
        let identity = Identity {
            capacity_bytes: capacity,
            boot: config.boot,
            kernel_boot: config.kernel_boot,
            pid: std::process::id().into(),
        };
        for at in layout::IDENTITIES {
            let cells = words[at..at + layout::IDENTITY_WORDS].iter();
            for (word, value) in cells.zip(identity.pack()).rev() {
                word.store(value, Release);
            }
        }
        let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
        Ok(Ring(Arc::new(Inner {
            map,
            guard: ForkGuard::new(),
            owner: AtomicU64::new(0),
            slots: spans::Taken::default(),
            salt,
            max_payload_bytes: layout::max_payload_bytes(capacity),
            barrier: if registered { Barrier::Membarrier } else { Barrier::Fence },
            backing,
        })))
    }

    /// Puts a record into the ring and gives its sequence number: from then on a kill cannot take
    /// it. Never blocks, allocates or panics.
    ///
    /// # Errors
    /// Why it was refused; the refusal is counted.
    #[inline]
    pub fn push(&self, kind: Kind, level: Level, source: u16, payload: &[u8]) -> Result<u64, Refused> {
        let inner = &*self.0;
        let outcome = if inner.guard.is_child() {
            Err(Refused::Forked)
        } else if payload.len() > inner.max_payload_bytes {
            Err(Refused::TooLarge)
        } else {
            let head = Head { payload_bytes: payload.len(), kind, level, source };
            inner.cells().push(head, payload)
        };
        if let Err(refused) = outcome {
            inner.count(refused, level);
        }
        outcome
    }

    /// Counts a refusal that the ring's owner decided on, before anything was pushed.
    #[cold]
    pub fn refuse(&self, refused: Refused, level: Level) -> Refused {
        self.0.count(refused, level);
        refused
    }

    /// The consumer, if none is alive.
    pub fn consumer(&self) -> Option<Consumer> {
        self.consumer_if(Replace::OnlyTheDead)
    }

    /// The consumer, in place of one that has stalled: that one is fenced, reads no further and
    /// releases nothing. None while it is inside `release`, which takes microseconds: ask again.
    pub fn take_over(&self) -> Option<Consumer> {
        self.consumer_if(Replace::Anyone)
    }

    fn consumer_if(&self, replace: Replace) -> Option<Consumer> {
        if self.0.guard.is_child() {
            return None;
        }
        let cursor = self.0.cells().own(replace)?;
        Some(Consumer { inner: Arc::clone(&self.0), cursor })
    }

    /// Refuses every push from here on; when this returns the tail is final.
    pub fn close(&self) {
        if !self.0.guard.is_child() {
            self.0.header()[layout::TAIL].fetch_or(Tail::CLOSED, AcqRel);
        }
    }

    /// What the file counts.
    pub fn counters(&self) -> Counters {
        let header = self.0.header();
        let commit = Commit::latest(self.0.salt, &header[layout::COMMITS..]);
        Counters::read(header, commit.unwrap_or(Commit::START))
    }

    /// Bytes that are reserved and not released.
    pub fn depth_bytes(&self) -> u64 {
        let header = self.0.header();
        let free = header[layout::FREE].load(Relaxed);
        Tail(header[layout::TAIL].load(Relaxed)).position().saturating_sub(free)
    }

    /// Bytes for entries.
    pub fn capacity_bytes(&self) -> u64 {
        self.0.cells().entries.capacity_bytes()
    }

    /// The longest payload that is not [`Refused::TooLarge`].
    pub fn max_payload_bytes(&self) -> usize {
        self.0.max_payload_bytes
    }

    /// Where the memory lies, and why not in a better place.
    pub fn backing(&self) -> &Backing {
        &self.0.backing
    }

    /// Notes that a span is open, so that a kill is told. None: all slots are taken (counted), or
    /// this is a forked child.
    pub fn open_span(&self, span: &OpenSpan<'_>) -> Option<SpanSlot> {
        let inner = &*self.0;
        if inner.guard.is_child() {
            return None;
        }
        let Some(slot) = inner.slots.take() else {
            inner.header()[layout::SPANS_WITHOUT_SLOT].fetch_add(1, Relaxed);
            return None;
        };
        let number = usize::from(slot.0);
        spans::write(spans::slot(&inner.header()[layout::SPANS..], number), number, inner.salt, span);
        Some(slot)
    }

    /// Notes that a span is closed; after its record was pushed.
    pub fn close_span(&self, slot: SpanSlot) {
        if !self.0.guard.is_child() {
            spans::clear(spans::slot(&self.0.header()[layout::SPANS..], usize::from(slot.0)));
            self.0.slots.give_back(&slot);
        }
    }

    /// Whether a span that has a slot is open.
    pub fn has_open_spans(&self) -> bool {
        !self.0.slots.is_empty()
    }
}

impl Inner {
    #[inline]
    fn header(&self) -> &[AtomicU64] {
        &self.map.words()[..HEADER_WORDS]
    }

    #[inline]
    fn cells(&self) -> Cells<'_, AtomicU64> {
        let (header, data) = self.map.words().split_at(HEADER_WORDS);
        Cells {
            tail: &header[layout::TAIL],
            free: &header[layout::FREE],
            skipped: &header[layout::SKIPPED],
            commits: &header[layout::COMMITS..layout::COMMITS + 2 * layout::COMMIT_WORDS],
            owner: &self.owner,
            entries: Entries { data, salt: self.salt },
            barrier: self.barrier,
        }
    }

    /// The one thing that a forked child writes, too: an atomic count beside no record.
    #[cold]
    fn count(&self, refused: Refused, level: Level) {
        if refused != Refused::Skipped {
            let at = layout::REFUSED + refused as usize * LEVELS + level as usize;
            self.header()[at].fetch_add(1, Relaxed);
        }
    }
}

/// The one who reads a ring. Dropping it ends it; what it did not release is read again.
#[derive(Debug)]
pub struct Consumer {
    inner: Arc<Inner>,
    cursor: Cursor,
}

impl Consumer {
    /// Hands out published entries in order, at least one if there is one and until their payloads
    /// would exceed `bytes_max`. Stops at the first entry that is not published.
    pub fn read(&mut self, bytes_max: usize, each: impl FnMut(Entry<'_>)) -> Batch {
        self.inner.cells().read(&mut self.cursor, bytes_max, each)
    }

    /// For [`End::Unpublished`]: once the same entry has been in the way for `patience` (`now` is
    /// monotonic), passes over it to the next sound entry, or over all that was reserved when it
    /// was first seen. Gives the number of gaps passed, 0 or 1; counted as half-written.
    pub fn skip_stalled(&mut self, now: Duration, patience: Duration) -> u64 {
        self.inner.cells().skip_stalled(&mut self.cursor, now, patience)
    }

    /// Gives the room of all that was read back to the producers. Call it when what was read is on
    /// disk elsewhere. False: fenced, nothing was released.
    pub fn release(&mut self) -> bool {
        self.release_aside([0; ASIDES])
    }

    /// As [`Consumer::release`], of entries of which so many are not in the spool, by [`Aside`].
    /// They are counted in the file, and only if they are released: a consumer that is fenced counts
    /// nothing, as the next one reads them again. A kill between both counts them and finds them again.
    pub fn release_aside(&mut self, aside: [u64; ASIDES]) -> bool {
        let inner = &*self.inner;
        let count = || {
            for (word, entries) in inner.header()[layout::ASIDE..].iter().zip(aside) {
                if entries > 0 {
                    word.fetch_add(entries, Relaxed);
                }
            }
        };
        !inner.guard.is_child() && inner.cells().release(&mut self.cursor, count)
    }

    /// False once another consumer has taken over.
    pub fn is_owner(&self) -> bool {
        self.inner.owner.load(Relaxed) == self.cursor.key()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.inner.cells().disown(&self.cursor);
    }
}

/// What the dead process that used this folder left in its ring; None if it has none. Changes
/// nothing: [`remove`] it once everything is on disk elsewhere.
///
/// # Errors
/// [`RingError::Damaged`]: it cannot be read. [`RingError::Io`]: nor can the file.
pub fn recover(dir: &Path, kernel_boot_now: Uuid) -> Result<Option<Recovered>, RingError> {
    recover::recover(dir, kernel_boot_now)
}

/// Deletes the ring of this folder, wherever it lies.
///
/// # Errors
/// The file cannot be deleted.
pub fn remove(dir: &Path) -> Result<(), RingError> {
    place::remove(dir)
}
