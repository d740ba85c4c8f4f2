//! What a cursor remembers, as bytes: two slots written in turn, so that one is right at any
//! instant.
//!
//! A commit goes to the slot that does not hold the newest *durable* state; a power cut can tear
//! that one only. The slot with a right CRC and the higher generation counts. Pure.
//!
//! ```text
//! slot     0  8  "DWCURSOR"
//!          8  2  version (1)
//!         10  2  number of source entries n, at most 120
//!         12  4  zero
//!         16  8  generation: rises by one a commit
//!         24 16  boot id
//!         40  8  next: every sequence below it is done
//!         48  8  ordinal: records of this boot that are done
//!         56  8  evicted   (records lost: their segment was dropped or is gone)
//!         64  8  corrupt   (records lost: bytes were damaged)
//!         72  8  absent    (records that were gone before this cursor began)
//!         80 n*32  source number 2, zero 6, delivered 8, rejected 8, quarantined 8
//!          .. 4  CRC32C of all before
//! ```
//!
//! ordinal = evicted + corrupt + absent + the sum over sources of delivered + rejected +
//! quarantined.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::telemetry::spool::frame::array;

/// Bytes from one slot to the next.
pub const SLOT_BYTES: usize = 4_096;
/// Sources that are counted by themselves; what comes after counts under [`OTHERS`].
pub const SOURCES_MAX: usize = 120;
/// The number under which sources over the limit are counted.
pub const OTHERS: u16 = u16::MAX;
const MAGIC: [u8; 8] = *b"DWCURSOR";
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 80;
const SOURCE_BYTES: usize = 32;

/// What became of a source's records at this slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fates {
    /// Taken by the other side.
    pub delivered: u64,
    /// Refused by the other side for good (OTLP partial success).
    pub rejected: u64,
    /// Kept in `quarantine/`.
    pub quarantined: u64,
}

impl Fates {
    fn sum(&self) -> u64 {
        self.delivered + self.rejected + self.quarantined
    }

    fn delivered_mut(&mut self) -> &mut u64 {
        &mut self.delivered
    }

    fn rejected_mut(&mut self) -> &mut u64 {
        &mut self.rejected
    }

    fn quarantined_mut(&mut self) -> &mut u64 {
        &mut self.quarantined
    }
}

/// A cursor's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Rises by one a commit; 0 = nothing was ever written.
    pub generation: u64,
    /// Whose records.
    pub boot: Uuid,
    /// Every sequence below it is done.
    pub next: u64,
    /// Records that are done.
    pub ordinal: u64,
    /// Records whose segment was dropped at the cap, or is gone.
    pub evicted: u64,
    /// Records whose bytes were damaged.
    pub corrupt: u64,
    /// Records that were gone before this cursor began.
    pub absent: u64,
    /// The rest, by source number.
    pub sources: BTreeMap<u16, Fates>,
}

impl State {
    /// The fates of a source, or of the others where there are too many.
    pub fn fates(&mut self, source: u16) -> &mut Fates {
        let known = self.sources.contains_key(&source) || self.sources.len() < SOURCES_MAX - 1;
        self.sources.entry(if known { source } else { OTHERS }).or_default()
    }

    /// Takes back `surplus` records from what counts as done: they will come again. `appended`
    /// says how many records of each source are there up to the new position; first to go is what
    /// counts beyond that, so that the law holds for each source.
    pub fn take_back(&mut self, mut surplus: u64, appended: &BTreeMap<u16, u64>) {
        self.ordinal = self.ordinal.saturating_sub(surplus);
        let mut take = |count: &mut u64, at_most: u64| {
            let taken = surplus.min(*count).min(at_most);
            *count -= taken;
            surplus -= taken;
        };
        let named: Vec<u16> = self.sources.keys().copied().collect();
        let others =
            appended.iter().filter(|(source, _)| !named.contains(source)).map(|(_, records)| records).sum();
        for (source, fates) in &mut self.sources {
            let there = if *source == OTHERS { others } else { appended.get(source).copied().unwrap_or(0) };
            for which in [Fates::delivered_mut, Fates::rejected_mut, Fates::quarantined_mut] {
                let beyond = fates.sum().saturating_sub(there);
                take(which(fates), beyond);
            }
        }
        let delivered = self.sources.values_mut().map(|fates| &mut fates.delivered);
        for count in [&mut self.evicted, &mut self.corrupt, &mut self.absent].into_iter().chain(delivered) {
            take(count, u64::MAX);
        }
    }

    /// Delivered, rejected and quarantined over all sources.
    pub fn total(&self) -> Fates {
        self.sources.values().fold(Fates::default(), |sum, fates| Fates {
            delivered: sum.delivered + fates.delivered,
            rejected: sum.rejected + fates.rejected,
            quarantined: sum.quarantined + fates.quarantined,
        })
    }

    /// The bytes of a slot.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_BYTES + self.sources.len() * SOURCE_BYTES + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.sources.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(self.boot.as_bytes());
        for number in [self.next, self.ordinal, self.evicted, self.corrupt, self.absent] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for (&source, fates) in &self.sources {
            out.extend_from_slice(&u64::from(source).to_le_bytes());
            for number in [fates.delivered, fates.rejected, fates.quarantined] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// What a slot says; `None` where it is damaged, empty or of another version.
    pub fn decode(slot: &[u8]) -> Option<State> {
        let head = slot.get(..FIXED_BYTES)?;
        let count = usize::from(u16::from_le_bytes(array(head, 10)));
        let end = FIXED_BYTES + count * SOURCE_BYTES;
        let right = crc32c::crc32c(slot.get(..end)?).to_le_bytes() == slot.get(end..end + 4)?;
        if head[..8] != MAGIC || u16::from_le_bytes(array(head, 8)) != VERSION || !right {
            return None;
        }
        let number = |at| u64::from_le_bytes(array(slot, at));
        let sources = (0..count).map(|i| FIXED_BYTES + i * SOURCE_BYTES).map(|at| {
            let (delivered, rejected, quarantined) = (number(at + 8), number(at + 16), number(at + 24));
            (u16::from_le_bytes(array(slot, at)), Fates { delivered, rejected, quarantined })
        });
        Some(State {
            generation: number(16),
            boot: Uuid::from_bytes(array(head, 24)),
            next: number(40),
            ordinal: number(48),
            evicted: number(56),
            corrupt: number(64),
            absent: number(72),
            sources: sources.collect(),
        })
    }

    /// The state of a cursor file and the slot it stands in: the right one with the higher
    /// generation.
    pub fn newest(file: &[u8]) -> Option<(State, usize)> {
        let slots = [0, 1].map(|slot| (file.get(slot * SLOT_BYTES..).and_then(State::decode), slot));
        slots.into_iter().filter_map(|(state, slot)| Some((state?, slot))).max_by_key(|(state, _)| state.generation)
    }
}
