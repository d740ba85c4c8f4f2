//! The conservation law (I3), from disk alone.
//!
//! Per boot and slot: offered = accepted + refused, and accepted = delivered + dropped +
//! quarantined + pending. What is pending is counted by reading the records that are there, not by
//! subtracting; what a cursor has not met yet and is not there any more is dropped (`missing`).
//! What was accepted and has not reached the spool is pending, too, unless its ring is closed.
//! Takes no lock and changes nothing, so the numbers of a process that runs are a moment's.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use uuid::Uuid;

use super::SpoolError;
use super::disk::Disk;
use super::folder::{boots, find_end};
use super::ledger::{self, Appended, Ledger, SlotTotals};
use super::segment::Piece;
use super::settled::Settled;
use super::walk::walk;
use crate::telemetry::record::{Kind, Source};

/// The slot of a line where no slot has begun.
pub const NO_SLOT: &str = "none";

/// The law for one source, boot and slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Who speaks.
    pub source_type: String,
    /// Which one of them.
    pub source_id: String,
    /// Which process start.
    pub boot: Uuid,
    /// The slot, which is an exporter's destination.
    pub exporter: String,
    /// Records that were to be emitted.
    pub offered: u64,
    /// Those that got a sequence.
    pub accepted: u64,
    /// Those that did not, by `reason/LEVEL`; a boot's are on the line of its first source.
    pub refused: BTreeMap<String, u64>,
    /// Taken by the other side.
    pub delivered: u64,
    /// Lost after they were accepted, by cause.
    pub dropped: BTreeMap<String, u64>,
    /// Kept for a human.
    pub quarantined: u64,
    /// Still to be delivered.
    pub pending: u64,
    /// Whether the law holds for this boot and slot.
    pub ok: bool,
    /// Why it does not.
    pub fault: Option<String>,
}

/// The law for everything under the spool's root, finished boots first.
///
/// # Errors
/// As the disk tells.
pub fn verify(disk: &dyn Disk, root: &Path) -> Result<Vec<Line>, SpoolError> {
    let finished = ledger::finished(disk, root)?;
    let mut lines: Vec<Line> = finished.iter().flat_map(|ledger| Boot::finished(ledger).lines()).collect();
    for boot in boots(disk, root, usize::MAX)? {
        if finished.iter().all(|ledger| ledger.boot != boot) {
            lines.extend(Boot::read(disk, &root.join(boot.hyphenated().to_string()), boot)?.lines());
        }
    }
    let settled =
        Settled::load(disk, root).map_err(|source| SpoolError::io("read what was settled in", root, source))?;
    lines.iter_mut().for_each(|line| settled.apply(line));
    Ok(lines)
}

/// How many records of one source that boot has on disk, or had when its folder was finished. None:
/// nobody has taken over its ring yet, so the number is not known.
///
/// # Errors
/// As the disk tells.
pub fn records_of(disk: &dyn Disk, root: &Path, boot: Uuid, source_id: &str) -> Result<Option<u64>, SpoolError> {
    let of = |sources: &[Appended]| {
        let own = sources.iter().filter(|source| source.source_id == source_id);
        own.map(|source| source.records).sum()
    };
    if let Some(ledger) = ledger::finished(disk, root)?.iter().find(|ledger| ledger.boot == boot) {
        return Ok(Some(of(&ledger.sources)));
    }
    if !boots(disk, root, usize::MAX)?.contains(&boot) {
        return Ok(Some(0));
    }
    let folder = root.join(boot.hyphenated().to_string());
    let ledger = Ledger::load(disk, &folder, boot)?;
    if !ledger.counters.ring_closed {
        return Ok(None);
    }
    Ok(Some(of(&appended(disk, &folder, boot, &ledger)?)))
}

/// A boot's sources and how many records of each were appended: what the ledger says or what the
/// segments tell, whichever is more.
pub(super) fn appended(
    disk: &dyn Disk,
    folder: &Path,
    boot: Uuid,
    ledger: &Ledger,
) -> Result<Vec<Appended>, SpoolError> {
    let mut sources: BTreeMap<u16, Appended> = BTreeMap::new();
    walk(disk, folder, boot, &mut |_, piece| {
        let Piece::Frame { header, payload } = piece else { return };
        let source = sources.entry(header.source).or_default();
        source.number = header.source;
        if header.kind != Kind::Source as u8 {
            source.records += 1;
            return;
        }
        source.records = source.records.max(header.ordinal);
        if let Ok(named) = serde_json::from_slice::<Source>(payload) {
            (source.source_type, source.source_id) = (named.source_type, named.source_id);
        }
    })?;
    for known in &ledger.sources {
        let source = sources.entry(known.number).or_insert_with(|| known.clone());
        source.records = source.records.max(known.records);
    }
    Ok(sources.into_values().collect())
}

/// All that the lines of a boot are made of.
struct Boot {
    ledger: Ledger,
    sources: Vec<Appended>,
    records: u64,
    slots: BTreeMap<String, SlotTotals>,
    /// Records on disk that a slot has not done, by slot and source.
    pending: BTreeMap<String, BTreeMap<u16, u64>>,
}

impl Boot {
    fn finished(ledger: &Ledger) -> Boot {
        Boot {
            sources: ledger.sources.clone(),
            records: ledger.end.records,
            slots: ledger.slots.clone(),
            pending: BTreeMap::new(),
            ledger: ledger.clone(),
        }
    }

    fn read(disk: &dyn Disk, folder: &Path, boot: Uuid) -> Result<Boot, SpoolError> {
        // Cursors first: what is appended or delivered meanwhile is then pending, never too much.
        let cursors = ledger::cursors(disk, folder, boot)?;
        let ledger = Ledger::load(disk, folder, boot)?;
        let records = find_end(disk, folder, boot)?.records;
        let mut pending: BTreeMap<String, BTreeMap<u16, u64>> = BTreeMap::new();
        walk(disk, folder, boot, &mut |_, piece| {
            let Piece::Frame { header, .. } = piece else { return };
            if header.kind == Kind::Source as u8 || header.ordinal >= records {
                return;
            }
            let waiting =
                cursors.iter().filter(|(_, state)| state.next <= header.seq).map(|(slot, _)| slot.as_str());
            for slot in waiting.chain(cursors.is_empty().then_some(NO_SLOT)) {
                *pending.entry(slot.to_owned()).or_default().entry(header.source).or_default() += 1;
            }
        })?;
        let sources = appended(disk, folder, boot, &ledger)?;
        let slots = cursors.iter().map(|(slot, state)| (slot.clone(), ledger::totals(state)));
        Ok(Boot { sources, records, slots: slots.collect(), pending, ledger })
    }

    fn lines(mut self) -> Vec<Line> {
        // A record whose bytes are damaged does not say whose it was: it is the first source's.
        let known: u64 = self.sources.iter().map(|source| source.records).sum();
        if self.sources.is_empty() {
            self.sources.push(Appended { source_type: "unknown".to_owned(), ..Appended::default() });
        }
        self.sources[0].records += self.records.saturating_sub(known);
        if self.slots.is_empty() {
            self.slots.insert(NO_SLOT.to_owned(), SlotTotals::default());
        }
        self.slots.iter().flat_map(|(slot, totals)| self.slot_lines(slot, totals)).collect()
    }

    fn slot_lines(&self, slot: &str, totals: &SlotTotals) -> Vec<Line> {
        let counters = &self.ledger.counters;
        let in_ring = counters.accepted.saturating_sub(self.records + self.ledger.lost());
        let done: u64 = totals.sources.values().flatten().sum();
        let on_disk: u64 = self.pending.get(slot).map_or(0, |by_source| by_source.values().sum());
        let waiting = self.records.saturating_sub(totals.ordinal);
        let missing = waiting.saturating_sub(on_disk);
        let counted_lost = [("evicted", totals.evicted), ("corrupt", totals.corrupt), ("absent", totals.absent)];
        let mut losses: Vec<(&str, u64)> = counted_lost.into_iter().chain([("missing", missing)]).collect();
        let lost: u64 = losses.iter().map(|(_, count)| count).sum();

        let mut lines: Vec<_> = self.sources.iter().map(|source| self.line(slot, totals, source)).collect();
        let mut unexplained = 0;
        for line in &mut lines {
            let known = line.delivered + line.quarantined + line.pending + line.dropped.values().sum::<u64>();
            let Some(mut gap) = line.accepted.checked_sub(known) else {
                unexplained += known - line.accepted;
                continue;
            };
            for (cause, left) in &mut losses {
                let taken = gap.min(*left);
                if taken > 0 {
                    *line.dropped.entry((*cause).to_owned()).or_default() += taken;
                }
                (gap, *left) = (gap - taken, *left - taken);
            }
            unexplained += gap;
        }
        let fault = if done + totals.evicted + totals.corrupt + totals.absent != totals.ordinal {
            Some(format!("the cursor is at {} records and accounts for {}", totals.ordinal, done + lost - missing))
        } else if on_disk > waiting {
            Some(format!("{on_disk} records wait on disk and {waiting} are expected"))
        } else if unexplained > 0 {
            Some(format!("{unexplained} records of single sources are not accounted for"))
        } else if counters.ring_closed && in_ring > 0 {
            Some(format!("{in_ring} accepted records never reached the spool"))
        } else if counters.offered > 0 && counters.offered != counters.accepted + self.ledger.refused() {
            Some(format!(
                "{} were offered, {} accepted, {} refused",
                counters.offered,
                counters.accepted,
                self.ledger.refused()
            ))
        } else {
            None
        };
        self.add_boot_wide(&mut lines[0], in_ring);
        for line in &mut lines {
            line.offered = line.accepted + line.refused.values().sum::<u64>();
            (line.ok, line.fault) = (fault.is_none(), fault.clone());
        }
        lines
    }

    fn line(&self, slot: &str, totals: &SlotTotals, source: &Appended) -> Line {
        let [delivered, rejected, quarantined] = totals.sources.get(&source.number).copied().unwrap_or_default();
        let pending = self.pending.get(slot).and_then(|by_source| by_source.get(&source.number));
        Line {
            source_type: source.source_type.clone(),
            source_id: source.source_id.clone(),
            boot: self.ledger.boot,
            exporter: slot.to_owned(),
            offered: 0,
            accepted: source.records,
            refused: BTreeMap::new(),
            delivered,
            dropped: if rejected > 0 {
                BTreeMap::from([("rejected".to_owned(), rejected)])
            } else {
                BTreeMap::new()
            },
            quarantined,
            pending: pending.copied().unwrap_or(0),
            ok: true,
            fault: None,
        }
    }

    /// What is known of the boot and of no single source, on its first line.
    fn add_boot_wide(&self, line: &mut Line, in_ring: u64) {
        line.accepted += in_ring + self.ledger.lost();
        line.pending += in_ring;
        for (cause, &count) in &self.ledger.counters.lost {
            *line.dropped.entry(cause.clone()).or_default() += count;
        }
        for (reason, levels) in &self.ledger.counters.refused {
            for (level, &count) in levels {
                line.refused.insert(format!("{reason}/{level}"), count);
            }
        }
    }
}

#[cfg(test)]
mod tests;
