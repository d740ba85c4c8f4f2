//! What a kill left, and whether it may have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use dogwatch::telemetry::ring;

use super::scenes::{ACKS, FIRST, KERNEL, RING, SPOOLED, payload};

/// Byte of the word that counts reservations, modulo 128, as the ring's layout says.
const TAIL_AT: usize = 128;

/// How a child ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// Acknowledged; all of these are found.
    pub(super) acknowledged: u64,
    /// Found beside these: the kill came between publishing and acknowledging.
    pub(super) in_flight: u64,
    /// Lost before they were published, and counted.
    pub(super) half_written: u64,
    /// Whether a ring was there.
    pub(super) has_ring: bool,
}

impl Found {
    /// Whether all that was found at an earlier kill is found at this one.
    pub(super) fn covers(&self, earlier: &Found) -> bool {
        self.acknowledged >= earlier.acknowledged
            && self.acknowledged + self.in_flight >= earlier.acknowledged + earlier.in_flight
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { acknowledged, in_flight, half_written, has_ring } = self;
        write!(out, "{acknowledged} acknowledged and found")?;
        if *in_flight > 0 {
            write!(out, " + {in_flight} in flight and found")?;
        }
        if *half_written > 0 {
            write!(out, " + {half_written} hole counted")?;
        }
        if *has_ring { Ok(()) } else { write!(out, " (no ring)") }
    }
}

/// A ring that may not have been ready: then nothing can have been acknowledged.
pub(super) fn unfinished_ring(dir: &Path) -> Found {
    match ring::recover(dir, KERNEL).unwrap() {
        None => {
            assert_eq!(acknowledged(dir), BTreeMap::new());
            Found::default()
        }
        Some(_) => ring_and_spool(dir),
    }
}

/// One producer, and a consumer that copies before it releases.
pub(super) fn ring_and_spool(dir: &Path) -> Found {
    let found = judge(dir);
    assert!(found.in_flight + found.half_written <= 1, "one record at a time: {found:?}");
    found
}

/// All before, and two that a second thread put in, are there whatever the first one did.
pub(super) fn overtaken(dir: &Path) -> Found {
    let found = ring_and_spool(dir);
    let known = acknowledged(dir);
    assert!((0..FIRST).chain([FIRST + 1, FIRST + 2]).all(|number| known.contains_key(&number)), "{known:?}");
    found
}

/// The ring is as it was, or all of it is spooled.
pub(super) fn recovery(dir: &Path) -> Found {
    if dir.join(RING).exists() {
        let found = judge(dir);
        assert_eq!((found.acknowledged, found.half_written), (FIRST + 2, 1), "the dead ring was changed");
        return found;
    }
    let kept = spooled(dir);
    let known = acknowledged(dir);
    let lost: Vec<_> = known.iter().filter(|(_, seq)| !kept.contains_key(seq)).collect();
    assert!(lost.is_empty(), "the ring was removed before {lost:?} were spooled");
    assert_eq!(kept.len(), known.len());
    Found { acknowledged: known.len() as u64, ..Found::default() }
}

fn judge(dir: &Path) -> Found {
    let recovered = ring::recover(dir, KERNEL).unwrap().unwrap();
    assert!(recovered.is_complete && !recovered.was_closed, "the header disagrees with itself: {recovered:?}");
    let mut kept = spooled(dir);
    let taken: u64 = recovered.counters.taken.iter().sum();
    assert!(taken <= kept.len() as u64, "{taken} were released and only {} were copied", kept.len());
    let mut last = 0;
    for entry in &recovered.entries {
        assert!(entry.seq > last, "out of order");
        last = entry.seq;
        let before = kept.insert(entry.seq, entry.payload.clone());
        assert!(before.is_none_or(|before| before == entry.payload), "{} is there twice, not the same", entry.seq);
    }
    let known = acknowledged(dir);
    let numbers: BTreeSet<u64> = kept.values().map(|bytes| number(bytes)).collect();
    assert_eq!(numbers.len(), kept.len(), "one record is there under two sequence numbers");
    for (number, seq) in &known {
        assert_eq!(kept.get(seq), Some(&payload(*number)), "acknowledged and not found: {number}");
    }
    let half_written = recovered.counters.half_written + recovered.half_written;
    let accepted = recovered.accepted();
    assert_eq!(accepted, kept.len() as u64 + half_written, "accepted = found + half-written");
    assert_eq!(
        accepted,
        taken + recovered.entries.len() as u64 + half_written,
        "accepted = taken + recovered + .."
    );
    assert_eq!(accepted % 128, reservations(dir), "as many as were reserved");
    Found {
        acknowledged: known.len() as u64,
        in_flight: (kept.len() - known.len()) as u64,
        half_written,
        has_ring: true,
    }
}

/// The number of a record, whose bytes are right.
fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, payload(number), "torn");
    number
}

/// Reservations modulo 128, out of the file.
fn reservations(dir: &Path) -> u64 {
    (fs::read(dir.join(RING)).unwrap()[TAIL_AT] & 0x7F).into()
}

/// By number: the sequence that its push returned.
pub(super) fn acknowledged(dir: &Path) -> BTreeMap<u64, u64> {
    let bytes = fs::read(dir.join(ACKS)).unwrap();
    let cells = bytes.as_chunks::<8>().0.iter().map(|cell| u64::from_le_bytes(*cell));
    (0..).zip(cells).filter(|(_, seq)| *seq > 0).collect()
}

/// By sequence, what was copied; a torn end is a batch that was not released.
fn spooled(dir: &Path) -> BTreeMap<u64, Vec<u8>> {
    let bytes = fs::read(dir.join(SPOOLED)).unwrap();
    let mut out = BTreeMap::new();
    let mut rest = &bytes[..];
    while let Some((head, after)) = rest.split_at_checked(16) {
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let Some((payload, after)) = after.split_at_checked(word(8) as usize) else { break };
        assert!(out.insert(word(0), payload.to_vec()).is_none(), "spooled twice");
        rest = after;
    }
    out
}
