//! What a dead process left in its ring.
//!
//! Reads the file (it does not map it: a file that someone cut short must not raise SIGBUS here),
//! walks from the committed head and takes every entry whose mark and CRC fit; where none stands it
//! goes on 8 bytes at a time. Nothing is changed, so it can be killed and run again. If the kernel
//! was started anew in between, pages reached the disk in any order: then head and tail say
//! nothing, the whole ring is searched, and only the CRC is believed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::entries::Entries;
use super::layout::{self, COUNT_MODULUS, Commit, Head, Identity, Tail, WORD_BYTES};
use super::spans::{self, OpenSpan};
use super::{Counters, Entry, RingConfig, RingError, place};
use crate::telemetry::record::{Kind, Level};

/// Bytes that are given up where the disk cannot read.
const BLOCK_BYTES: usize = 4_096;

/// The contents of a dead process's ring.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// The boot that made it.
    pub boot: Uuid,
    /// The kernel's boot at that time.
    pub kernel_boot: Uuid,
    /// Its process.
    pub pid: u64,
    /// True: it closed its ring, so it ended in order.
    pub was_closed: bool,
    /// True: the kernel is the same and the header agrees with itself, so every published entry
    /// is here and the counts are exact.
    pub is_complete: bool,
    /// Published and not released, in order. May hold what is in the spool already: entries with a
    /// sequence number that is there are dropped by the caller.
    pub entries: Vec<Saved>,
    /// Reserved and never published, or damaged; on top of what `counters` holds.
    pub half_written: u64,
    /// As of the last release.
    pub counters: Counters,
    /// Spans that were open.
    pub spans: Vec<OpenSpan<'static>>,
}

impl Recovered {
    /// All that ever got a sequence number: released, recovered and half-written.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted() + self.entries.len() as u64 + self.half_written
    }
}

/// An entry out of a dead ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Its position.
    pub seq: u64,
    /// What the payload is.
    pub kind: Kind,
    /// Its level.
    pub level: Level,
    /// Number of its source.
    pub source: u16,
    /// As it was pushed.
    pub payload: Vec<u8>,
}

/// Reads the ring of a dead process that belongs to this folder. None: there is none, or it was
/// killed before its ring was ready and nothing can have been pushed.
///
/// # Errors
/// [`RingError::Damaged`]: the file is not one that can be read; keep it, and go on without.
pub(super) fn recover(dir: &Path, kernel_boot_now: Uuid) -> Result<Option<Recovered>, RingError> {
    let Some(path) = place::locate(dir)? else { return Ok(None) };
    let words =
        image(&path).map_err(|source| RingError::Io { what: format!("read {}", path.display()), source })?;
    scan(words, &path, kernel_boot_now)
}

/// The file's words. A block that cannot be read is zero, which costs the entries in it.
fn image(path: &PathBuf) -> io::Result<Vec<u64>> {
    let mut file = File::open(path)?;
    let bytes_max = layout::HEADER_WORDS as u64 * WORD_BYTES + RingConfig::CAPACITY_RANGE.end();
    let bytes_total = file.metadata()?.len().min(bytes_max) as usize;
    let mut words = Vec::with_capacity(bytes_total / WORD_BYTES as usize);
    let mut block = [0; BLOCK_BYTES];
    let mut at = 0;
    while at < bytes_total {
        let part = &mut block[..BLOCK_BYTES.min(bytes_total - at)];
        file.seek(SeekFrom::Start(at as u64))?;
        if file.read_exact(part).is_err() {
            part.fill(0);
        }
        words.extend(part.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)));
        at += part.len();
    }
    Ok(words)
}

pub(super) fn scan(
    mut words: Vec<u64>,
    path: &Path,
    kernel_boot_now: Uuid,
) -> Result<Option<Recovered>, RingError> {
    let identity = |at: usize| Identity::unpack(words.get(at..at + layout::IDENTITY_WORDS)?);
    let Some(identity) = layout::IDENTITIES.into_iter().find_map(identity) else {
        let unwritten = layout::IDENTITIES.into_iter().all(|at| words.get(at).is_none_or(|word| *word == 0));
        return if unwritten { Ok(None) } else { Err(damaged(path, "no identity can be read")) };
    };
    let data_words = usize::try_from(identity.capacity_bytes / WORD_BYTES).unwrap_or(usize::MAX);
    if !RingConfig::CAPACITY_RANGE.contains(&identity.capacity_bytes) {
        return Err(damaged(path, "its capacity makes no sense"));
    }
    words.resize(layout::HEADER_WORDS + data_words, 0);
    let (header, data) = words.split_at(layout::HEADER_WORDS);
    let entries = Entries { data, salt: layout::salt(identity.boot) };
    let commit = Commit::latest(entries.salt, &header[layout::COMMITS..]);
    let tail = Tail(header[layout::TAIL]);
    let same_kernel = identity.kernel_boot == kernel_boot_now;
    let sound = commit.filter(|commit| same_kernel && agrees(header, *commit, identity.capacity_bytes));
    let (found, half_written) = match sound {
        Some(commit) => walk(entries, commit, tail),
        None => search(entries, commit.filter(|_| same_kernel).unwrap_or(Commit::START).head),
    };
    Ok(Some(Recovered {
        boot: identity.boot,
        kernel_boot: identity.kernel_boot,
        pid: identity.pid,
        was_closed: tail.is_closed(),
        is_complete: sound.is_some(),
        entries: found,
        half_written,
        counters: Counters::read(header, commit.unwrap_or(Commit::START)),
        spans: (0..spans::SLOTS)
            .filter_map(|number| spans::read(spans::slot(&header[layout::SPANS..], number), number, entries.salt))
            .collect(),
    }))
}

/// Whether head, room and tail fit each other. A release that was cut short leaves the head ahead
/// of the room; the other way round, a bad byte took the newer commit.
fn agrees(header: &[u64], commit: Commit, capacity_bytes: u64) -> bool {
    let tail = Tail(header[layout::TAIL]).position();
    header[layout::FREE] <= commit.head && (commit.head..=commit.head + capacity_bytes).contains(&tail)
}

/// From the head on, over holes, for one whole ring: the tail is not needed to find anything.
fn walk(entries: Entries<'_, u64>, commit: Commit, tail: Tail) -> (Vec<Saved>, u64) {
    let end = commit.head + entries.capacity_bytes();
    let (mut found, mut scratch) = (Vec::new(), Vec::new());
    let mut gaps = 0;
    let mut position = commit.head;
    while position < end {
        let next = entries.next_sound(position, end, &mut scratch);
        let reserved_up_to = if next < end { next } else { tail.position().clamp(position, end) };
        gaps += u64::from(reserved_up_to > position);
        position = next;
        if let Some(head) = entries.entry_at(position, &mut scratch).filter(|_| position < end) {
            found.push(Saved::new(position, head, &scratch));
            position += head.entry_bytes();
        }
    }
    // A gap is one lost entry, or several beside each other: the tail's count of reservations
    // tells how many.
    let missing = tail.count().wrapping_sub(commit.total() + found.len() as u64) % COUNT_MODULUS;
    (found, missing.max(gaps))
}

/// Everywhere, whatever lap it is of, but nothing that is known to be released.
fn search(entries: Entries<'_, u64>, head: u64) -> (Vec<Saved>, u64) {
    let (mut found, mut scratch) = (Vec::new(), Vec::new());
    let mut index = 0;
    while index < entries.data.len() {
        let position = entries.claimed(index);
        match entries.entry_at(position, &mut scratch) {
            Some(head) => {
                found.push(Saved::new(position, head, &scratch));
                index += (head.entry_bytes() / WORD_BYTES) as usize;
            }
            None => index += 1,
        }
    }
    found.retain(|saved: &Saved| saved.seq >= head);
    found.sort_by_key(|saved| saved.seq);
    let gaps = found.windows(2).filter(|pair| pair[0].end() != pair[1].seq).count();
    (found, gaps as u64)
}

impl Saved {
    fn new(seq: u64, head: Head, scratch: &[u8]) -> Saved {
        let entry = Entry::new(seq, head, &scratch[..head.payload_bytes]);
        Saved { seq, kind: entry.kind, level: entry.level, source: entry.source, payload: entry.payload.to_vec() }
    }

    fn end(&self) -> u64 {
        self.seq + layout::entry_bytes(self.payload.len())
    }
}

fn damaged(path: &Path, why: &str) -> RingError {
    RingError::Damaged { path: path.to_owned(), why: why.to_owned() }
}
