//! Reading entries out of the words of a ring, live or dead.
//!
//! An entry is copied out before anything in it is believed: what the caller gets has the mark of
//! its position and a CRC that fits, whatever another thread did to the words meanwhile.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::crc;
use super::layout::{self, Head, WORD_BYTES};
use super::word::Load;

/// The words of the entries, and the salt of their CRCs.
#[derive(Debug)]
pub(super) struct Entries<'a, L> {
    /// As many as a power of two.
    pub(super) data: &'a [L],
    /// See [`layout::salt`].
    pub(super) salt: u32,
}

impl<L> Clone for Entries<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for Entries<'_, L> {}

impl<'a, L: Load> Entries<'a, L> {
    /// Bytes of the ring.
    pub(super) fn capacity_bytes(self) -> u64 {
        self.data.len() as u64 * WORD_BYTES
    }

    /// The word at a position.
    #[inline]
    pub(super) fn index(self, position: u64) -> usize {
        (position / WORD_BYTES) as usize & (self.data.len() - 1)
    }

    /// What the low half of a published entry's mark is.
    #[inline]
    pub(super) fn tag(self, position: u64) -> u32 {
        ((position >> self.capacity_bytes().trailing_zeros()) as u32).wrapping_add(1)
    }

    /// The position that an entry at this word claims by its mark.
    pub(super) fn claimed(self, index: usize) -> u64 {
        let offset = index as u64 * WORD_BYTES;
        let mark = self.data[self.index(offset + WORD_BYTES)].load(Relaxed);
        u64::from((mark as u32).wrapping_sub(1)) * self.capacity_bytes() + offset
    }

    /// The head of the published, sound entry at this position; its payload is the beginning of
    /// `scratch`. None: nothing published, or damaged.
    pub(super) fn entry_at(self, position: u64, scratch: &mut Vec<u8>) -> Option<Head> {
        let mark = self.data[self.index(position + WORD_BYTES)].load(Acquire);
        if mark as u32 != self.tag(position) {
            return None;
        }
        let word = self.data[self.index(position)].load(Relaxed);
        let head = Head::unpack(word)?;
        if head.payload_bytes > layout::max_payload_bytes(self.capacity_bytes()) {
            return None;
        }
        let payload_crc = self.copy_out(position + layout::ENTRY_HEAD_BYTES, head.payload_bytes, scratch);
        let crc = layout::entry_crc(payload_crc, word, position);
        (u64::from(crc) == mark >> 32).then_some(head)
    }

    /// The first position from `from` on where a sound entry stands, or `limit`.
    pub(super) fn next_sound(self, from: u64, limit: u64, scratch: &mut Vec<u8>) -> u64 {
        let mut position = from;
        while position < limit && self.entry_at(position, scratch).is_none() {
            position += WORD_BYTES;
        }
        position
    }

    /// Copies a payload to the beginning of `scratch` and gives its CRC.
    fn copy_out(self, position: u64, bytes: usize, scratch: &mut Vec<u8>) -> u32 {
        let words = bytes.div_ceil(WORD_BYTES as usize);
        let whole = words * WORD_BYTES as usize;
        if scratch.len() < whole {
            scratch.resize(whole, 0);
        }
        crc::copy_out(self.salt, self.runs(position, words), &mut scratch[..whole], bytes)
    }

    /// The words from a position on: up to the end of the ring, and on from its beginning.
    #[inline]
    pub(super) fn runs(self, position: u64, words: usize) -> (&'a [L], &'a [L]) {
        let start = self.index(position);
        let first = words.min(self.data.len() - start);
        (&self.data[start..start + first], &self.data[..words - first])
    }
}
