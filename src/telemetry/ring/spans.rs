//! Slots for spans that are open: what a kill interrupts is known by name.
//!
//! ```text
//! word 0    check: CRC32C over words 1..16, salt and slot number << 32 | 1; 0: empty or unfinished
//! word 1,2  trace id, high half first     word 3  span id       word 4  parent span id, 0: none
//! word 5    start, microseconds since 1970 (signed)             word 6  cycle, 0: none
//! word 7    bits 0..16 source; 16..24 bytes of the name
//! word 8..  name, UTF-8, cut to 64 bytes at a character
//! ```

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::layout;
use super::word::{Load, Word};

/// Spans that can be open at once with a slot.
pub(super) const SLOTS: usize = 256;
/// Words of a slot.
pub(super) const SLOT_WORDS: usize = 16;
/// Bytes of a span's name that a slot keeps.
pub const SPAN_NAME_BYTES: usize = 64;

/// A span that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSpan<'a> {
    /// Its trace.
    pub trace_id: u128,
    /// Itself.
    pub span_id: u64,
    /// The span it is in; 0: none.
    pub parent_span_id: u64,
    /// When it began, microseconds since 1970-01-01T00:00:00Z.
    pub start_unix_micros: i64,
    /// The orchestrator's cycle; 0: none.
    pub cycle: u64,
    /// Whose: the number of its source.
    pub source: u16,
    /// Its name; the first [`SPAN_NAME_BYTES`] bytes are kept.
    pub name: Cow<'a, str>,
}

/// The slot of an open span; given back by `Ring::close_span`.
#[derive(Debug, PartialEq, Eq)]
pub struct SpanSlot(pub(super) u8);

/// Which slots are taken. Lives in the heap: after a kill the slots speak for themselves.
#[derive(Debug, Default)]
pub(super) struct Taken([AtomicU64; SLOTS / 64]);

impl Taken {
    /// Takes a slot, if one is left.
    pub(super) fn take(&self) -> Option<SpanSlot> {
        for (group, word) in self.0.iter().enumerate() {
            let mut seen = word.load(Relaxed);
            while seen != u64::MAX {
                let bit = seen.trailing_ones();
                match word.compare_exchange_weak(seen, seen | 1 << bit, Acquire, Relaxed) {
                    Ok(_) => return u8::try_from(group as u32 * 64 + bit).ok().map(SpanSlot),
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// Gives a slot back.
    pub(super) fn give_back(&self, slot: &SpanSlot) {
        let number = usize::from(slot.0);
        self.0[number / 64].fetch_and(!(1 << (number % 64)), Release);
    }

    /// Whether no slot is taken. What was pushed before a slot was given back is in the ring.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(Acquire) == 0)
    }
}

/// The words of one slot among those of all.
pub(super) fn slot<L>(spans: &[L], number: usize) -> &[L] {
    &spans[number * SLOT_WORDS..(number + 1) * SLOT_WORDS]
}

/// Writes a span into its slot.
pub(super) fn write<W: Word>(slot: &[W], number: usize, salt: u32, span: &OpenSpan<'_>) {
    let words = pack(span);
    for (cell, word) in slot.iter().zip(words).skip(1) {
        cell.store(word, Relaxed);
    }
    slot[0].store(check(&words, number, salt), Release);
}

/// Empties a slot.
pub(super) fn clear<W: Word>(slot: &[W]) {
    slot[0].store(0, Relaxed);
}

/// The span in a slot, if one is open there and whole.
pub(super) fn read<L: Load>(slot: &[L], number: usize, salt: u32) -> Option<OpenSpan<'static>> {
    let mut words = [0; SLOT_WORDS];
    for (word, cell) in words.iter_mut().zip(slot) {
        *word = cell.load(Acquire);
    }
    if words[0] != check(&words, number, salt) {
        return None;
    }
    let mut name = [0; SPAN_NAME_BYTES];
    for (chunk, word) in name.as_chunks_mut::<8>().0.iter_mut().zip(&words[8..]) {
        *chunk = word.to_le_bytes();
    }
    let name_bytes = usize::from((words[7] >> 16) as u8);
    Some(OpenSpan {
        trace_id: u128::from(words[1]) << 64 | u128::from(words[2]),
        span_id: words[3],
        parent_span_id: words[4],
        start_unix_micros: words[5] as i64,
        cycle: words[6],
        source: words[7] as u16,
        name: Cow::Owned(String::from_utf8_lossy(name.get(..name_bytes)?).into_owned()),
    })
}

fn pack(span: &OpenSpan<'_>) -> [u64; SLOT_WORDS] {
    let name = &span.name[..span.name.floor_char_boundary(SPAN_NAME_BYTES)];
    let mut words = [0; SLOT_WORDS];
    words[1] = (span.trace_id >> 64) as u64;
    words[2] = span.trace_id as u64;
    words[3] = span.span_id;
    words[4] = span.parent_span_id;
    words[5] = span.start_unix_micros as u64;
    words[6] = span.cycle;
    words[7] = u64::from(span.source) | (name.len() as u64) << 16;
    for (word, chunk) in words[8..].iter_mut().zip(name.as_bytes().chunks(8)) {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(bytes);
    }
    words
}

fn check(words: &[u64; SLOT_WORDS], number: usize, salt: u32) -> u64 {
    u64::from(layout::words_crc(salt ^ number as u32, &words[1..])) << 32 | 1
}
