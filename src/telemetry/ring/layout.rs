//! The ring file, byte by byte. Words are 64 bits, little-endian. Pure.
//!
//! ```text
//! byte      what
//! 0         identity: magic "DWRING01", capacity, boot id (2), kernel boot id (2), pid, CRC32C
//! 128       tail (written by producers): bit 63 closed; bits 7..63 position / 8; bits 0..7 number
//!           of reservations modulo 128
//! 256       free (written by the consumer): everything below is zeroed and may be reserved
//! 264       skipped: a stalled producer below this position has been given up
//! 512, 576  two commit slots: head, taken by level (5), half_written, check = epoch << 32 | CRC32C.
//!           The valid one with the higher epoch counts; the other one is written next.
//! 768       refused, [reason][level], 6 x 5 words; then spans that found no slot; then what was
//!           released and is not in the spool, by fate, 3 words
//! 4032      identity once more: one bad byte there must not cost the whole ring
//! 4096      256 slots of 128 bytes for open spans (see `spans`)
//! 36864     entries: `capacity` bytes, a power of two
//! ```
//!
//! An entry at position `p` lies at byte `p % capacity` of the entries and takes 16 bytes and its
//! payload, rounded up to whole words. It may go over the end and on at the beginning: all
//! accesses are single words with a masked index, so there is no padding and no special case.
//!
//! ```text
//! word 0    head: bits 0..24 payload length; 24..32 kind; 32..40 level; 40..56 source; 56..64 0xD6
//! word 1    mark: bits 0..32 lap + 1, where lap = p / capacity; 32..64 CRC32C over payload, head,
//!           p, begun with the salt (CRC32C of the boot id). Stored last, with release: an entry
//!           whose mark is not that of its position is not published.
//! word 2..  payload
//! ```

use uuid::Uuid;

use super::crc;
use super::word::Load;
use crate::telemetry::record::{Kind, Level};
use std::sync::atomic::Ordering::Relaxed;

/// Bytes of a word; positions are multiples of it.
pub(super) const WORD_BYTES: u64 = 8;
/// Head and mark.
pub(super) const ENTRY_HEAD_BYTES: u64 = 16;
/// The position of the first entry of a boot: 0 is free to mean "none".
pub(super) const FIRST_SEQ: u64 = 8;
/// The longest payload of any ring; a small ring takes at most a quarter of its capacity.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// Words before the entries.
pub(super) const HEADER_WORDS: usize = 36_864 / 8;
/// Word of each field of the header.
pub(super) const TAIL: usize = 16;
pub(super) const FREE: usize = 32;
pub(super) const SKIPPED: usize = 33;
pub(super) const COMMITS: usize = 64;
pub(super) const REFUSED: usize = 96;
pub(super) const SPANS_WITHOUT_SLOT: usize = REFUSED + REASONS * LEVELS;
pub(super) const ASIDE: usize = SPANS_WITHOUT_SLOT + 1;
pub(super) const SPANS: usize = 512;
/// Both places of the identity.
pub(super) const IDENTITIES: [usize; 2] = [0, 504];
/// Words of an identity and of a commit slot.
pub(super) const IDENTITY_WORDS: usize = 8;
pub(super) const COMMIT_WORDS: usize = 8;
/// Rows and columns of the refusals.
pub(super) const REASONS: usize = 6;
pub(super) const ASIDES: usize = 3;
pub(super) const LEVELS: usize = Level::ALL.len();

const MAGIC: u64 = u64::from_le_bytes(*b"DWRING01");
const HEAD_SIGN: u64 = 0xD6;
const LEN_BITS: u32 = 24;
const _: () = assert!(MAX_PAYLOAD_BYTES < 1 << LEN_BITS);
const _: () = assert!(cfg!(target_endian = "little"), "words are stored as the processor has them");

const CLOSED: u64 = 1 << 63;
const COUNT_BITS: u32 = 7;
/// Reservations are counted modulo this.
pub(super) const COUNT_MODULUS: u64 = 1 << COUNT_BITS;

/// The word that a reservation moves on: position, number of reservations, closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail(pub(super) u64);

impl Tail {
    /// The tail of an empty ring.
    pub(super) const START: Tail = Tail((FIRST_SEQ / WORD_BYTES) << COUNT_BITS);
    /// The bit that refuses every further reservation.
    pub(super) const CLOSED: u64 = CLOSED;

    /// The next position.
    pub(super) fn position(self) -> u64 {
        ((self.0 & !CLOSED) >> COUNT_BITS) * WORD_BYTES
    }

    /// Reservations so far, modulo [`COUNT_MODULUS`].
    pub(super) fn count(self) -> u64 {
        self.0 % COUNT_MODULUS
    }

    /// True once no further reservation can succeed.
    pub(super) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    /// After one more reservation, of `bytes`.
    pub(super) fn reserved(self, bytes: u64) -> Tail {
        let position = ((self.0 & !CLOSED) >> COUNT_BITS) + bytes / WORD_BYTES;
        Tail((self.0 & CLOSED) | position << COUNT_BITS | ((self.0 + 1) % COUNT_MODULUS))
    }
}

/// Word 0 of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) payload_bytes: usize,
    pub(super) kind: Kind,
    pub(super) level: Level,
    pub(super) source: u16,
}

impl Head {
    /// As a word; never zero.
    pub(super) fn pack(self) -> u64 {
        self.payload_bytes as u64
            | (self.kind as u64) << 24
            | (self.level as u64) << 32
            | u64::from(self.source) << 40
            | HEAD_SIGN << 56
    }

    /// Out of a word; None where it cannot be a head.
    pub(super) fn unpack(word: u64) -> Option<Head> {
        let [_, _, _, kind, level, low, high, sign] = word.to_le_bytes();
        if u64::from(sign) != HEAD_SIGN {
            return None;
        }
        Some(Head {
            payload_bytes: (word & ((1 << LEN_BITS) - 1)) as usize,
            kind: Kind::from_u8(kind)?,
            level: Level::from_u8(level)?,
            source: u16::from_le_bytes([low, high]),
        })
    }

    /// Bytes of the whole entry.
    pub(super) fn entry_bytes(self) -> u64 {
        entry_bytes(self.payload_bytes)
    }
}

/// Bytes of an entry with such a payload.
pub(super) fn entry_bytes(payload_bytes: usize) -> u64 {
    ENTRY_HEAD_BYTES + (payload_bytes as u64).next_multiple_of(WORD_BYTES)
}

/// The longest payload that a ring of this capacity takes.
pub(super) fn max_payload_bytes(capacity_bytes: u64) -> usize {
    MAX_PAYLOAD_BYTES.min((capacity_bytes / 4) as usize)
}

/// The CRC of an entry, from that of its payload, which begins with the salt.
#[inline]
pub(super) fn entry_crc(payload_crc: u32, head: u64, position: u64) -> u32 {
    crc::two_words(payload_crc, [head, position])
}

/// CRC over words, begun with the salt.
pub(super) fn words_crc(salt: u32, words: &[u64]) -> u32 {
    words.iter().fold(salt, |crc, word| crc32c::crc32c_append(crc, &word.to_le_bytes()))
}

/// What makes a CRC of this boot differ from that of any other.
pub(super) fn salt(boot: Uuid) -> u32 {
    crc32c::crc32c(boot.as_bytes())
}

/// Whose ring it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) capacity_bytes: u64,
    pub(super) boot: Uuid,
    pub(super) kernel_boot: Uuid,
    pub(super) pid: u64,
}

impl Identity {
    /// Its words.
    pub(super) fn pack(self) -> [u64; IDENTITY_WORDS] {
        let (boot, kernel) = (self.boot.as_u64_pair(), self.kernel_boot.as_u64_pair());
        let mut words = [MAGIC, self.capacity_bytes, boot.0, boot.1, kernel.0, kernel.1, self.pid, 0];
        words[7] = words_crc(0, &words[..7]).into();
        words
    }

    /// Out of words; None where they are damaged or something else.
    pub(super) fn unpack(words: &[u64]) -> Option<Identity> {
        let &[magic, capacity_bytes, b0, b1, k0, k1, pid, check] = words else { return None };
        let sound = magic == MAGIC && check == u64::from(words_crc(0, &words[..7]));
        (sound && capacity_bytes.is_power_of_two()).then_some(Identity {
            capacity_bytes,
            boot: Uuid::from_u64_pair(b0, b1),
            kernel_boot: Uuid::from_u64_pair(k0, k1),
            pid,
        })
    }
}

/// What the consumer commits when it releases: how far, and the counts up to there, in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) epoch: u32,
    pub(super) head: u64,
    pub(super) taken: [u64; LEVELS],
    pub(super) half_written: u64,
}

impl Commit {
    /// The commit of an empty ring.
    pub(super) const START: Commit = Commit { epoch: 0, head: FIRST_SEQ, taken: [0; LEVELS], half_written: 0 };

    /// The first word of the slot it belongs in, counted from the first slot.
    pub(super) fn slot(self) -> usize {
        (self.epoch % 2) as usize * COMMIT_WORDS
    }

    /// Its words.
    pub(super) fn pack(self, salt: u32) -> [u64; COMMIT_WORDS] {
        let [t0, t1, t2, t3, t4] = self.taken;
        let mut words = [self.head, t0, t1, t2, t3, t4, self.half_written, u64::from(self.epoch) << 32];
        words[7] |= u64::from(words_crc(salt, &words));
        words
    }

    /// Out of a slot; None where a kill or a bad byte left it torn.
    fn unpack(salt: u32, mut words: [u64; COMMIT_WORDS]) -> Option<Commit> {
        let check = words[7] as u32;
        words[7] &= !u64::from(u32::MAX);
        let [head, t0, t1, t2, t3, t4, half_written, epoch] = words;
        let epoch = (epoch >> 32) as u32;
        (words_crc(salt, &words) == check).then_some(Commit {
            epoch,
            head,
            taken: [t0, t1, t2, t3, t4],
            half_written,
        })
    }

    /// The newer valid one of both slots.
    pub(super) fn latest<L: Load>(salt: u32, slots: &[L]) -> Option<Commit> {
        let commit = |slot: usize| {
            let mut words = [0; COMMIT_WORDS];
            for (word, cell) in words.iter_mut().zip(slots.get(slot * COMMIT_WORDS..)?) {
                *word = cell.load(Relaxed);
            }
            Commit::unpack(salt, words)
        };
        match (commit(0), commit(1)) {
            (Some(a), Some(b)) if b.epoch.wrapping_sub(a.epoch) < u32::MAX / 2 => Some(b),
            (Some(a), _) => Some(a),
            (None, b) => b,
        }
    }

    /// Entries counted, whatever became of them.
    pub(super) fn total(self) -> u64 {
        self.taken.iter().sum::<u64>() + self.half_written
    }
}
