//! Room on the disk: deletes what every slot has delivered, drops the oldest at the cap and counts
//! it, and keeps a reserve that is given back when the disk is full.
//!
//! A cursor counts what it finds missing by itself (by ordinals), so nothing here has to reach it;
//! what is counted here says which levels were dropped, per slot. Cursors are made durable before
//! a segment below them is deleted, so that a power cut never leaves a cursor before the first
//! record that is there.

use std::collections::BTreeMap;
use std::io;
use std::sync::PoisonError;

use super::SpoolError;
use super::cursor::state::State;
use super::folder::Folder;
use super::ledger::{self, Ledger};
use super::retention;
use super::segment::{self, Piece, Reader, Segment};
use super::writer::Writer;
use crate::telemetry::record::{Kind, Level};

const RESERVE: &str = "reserve";

/// What a writer knows about room.
#[derive(Default)]
pub(super) struct Room {
    /// Bytes of all segments it answers for.
    bytes: u64,
    /// Folders of dead processes that count against the same cap, oldest first.
    beside: Vec<Folder>,
    /// Slots that must have delivered a segment before it is deleted.
    slots: Vec<String>,
}

impl Room {
    pub(super) fn grow(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

/// A segment that was dropped at the cap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// Its first sequence.
    pub first: u64,
    /// Records that a slot had not delivered, by slot and level.
    pub by_slot: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Writer {
    /// Names the slots without which nothing counts as delivered, even before they have a cursor.
    pub fn set_slots(&mut self, slots: &[&str]) {
        self.room.slots = slots.iter().map(|&slot| slot.to_owned()).collect();
    }

    /// Names the adopted folders that count against the same cap, oldest first.
    pub fn set_adopted(&mut self, folders: Vec<Folder>) {
        self.room.beside = folders;
    }

    /// Bytes of the segments of this folder and the adopted ones.
    pub fn bytes(&self) -> u64 {
        self.room.bytes
    }

    /// Whether DEBUG and INFO are to be refused: 90 % of the cap are used.
    pub fn is_low_on_room(&self) -> bool {
        retention::is_low_on_room(self.room.bytes, self.config.cap_bytes)
    }

    /// Deletes the segments that every slot is past, and drops the oldest over the cap, which are
    /// returned. It is done at each rotation; do it as often as cursors move.
    ///
    /// # Errors
    /// As the disk tells; it may be asked again.
    pub fn keep_room(&mut self) -> Result<Vec<Evicted>, SpoolError> {
        let folders: Vec<_> = self.room.beside.iter().chain([&self.folder]).cloned().collect();
        let mut kept = Vec::new();
        for folder in &folders {
            kept.push(delete_delivered(folder, &self.room.slots)?);
        }
        let mut evicted = Vec::new();
        let over = retention::over_cap(&kept, self.config.cap_bytes);
        for ((folder, segments), count) in folders.iter().zip(&mut kept).zip(over) {
            for pair in segments.windows(2).take(count) {
                let own = folder.boot() == self.folder.boot();
                let mut other = None;
                let ledger = match own {
                    true => &mut self.ledger,
                    false => other.insert(Ledger::load(folder.disk(), folder.path(), folder.boot())?),
                };
                evicted.push(evict(folder, ledger, pair[0], pair[1].first)?);
            }
            segments.drain(..count);
        }
        self.room.bytes = kept.iter().flatten().map(|segment| segment.bytes).sum();
        Ok(evicted)
    }

    /// Learns how many bytes are there; deletes nothing, as the slots are not named yet.
    pub(super) fn count_bytes(&mut self) -> Result<(), SpoolError> {
        let segments = segment::list(self.folder.disk(), self.folder.path());
        let segments = segments.map_err(|source| SpoolError::io("list", self.folder.path(), source))?;
        self.room.bytes = segments.iter().map(|segment| segment.bytes).sum();
        Ok(())
    }

    /// Makes the reserve where it is missing; without it, deletes on a full disk may fail.
    pub(super) fn reserve(&self) {
        let path = self.folder.path().join(RESERVE);
        let disk = self.folder.disk();
        if disk.len(&path).is_err() && disk.allocate(&path, self.config.reserve_bytes).is_err() {
            // A part of it on a full disk is worse than none.
            let _ = disk.remove(&path);
        }
    }

    /// After an error: where the disk is full, gives the reserve back and deletes what is delivered.
    pub(super) fn make_way(&mut self, error: &SpoolError) {
        if error.is_disk_full() {
            // Best effort: the error itself is already on its way to the caller.
            let _ = self.folder.disk().remove(&self.folder.path().join(RESERVE));
            let _ = self.keep_room();
        }
    }
}

/// Deletes what all slots are past; the segments that remain.
fn delete_delivered(folder: &Folder, slots: &[String]) -> Result<Vec<Segment>, SpoolError> {
    let (disk, path) = (folder.disk(), folder.path());
    let told = |source| SpoolError::io("delete segments", path, source);
    let mut segments = segment::list(disk, path).map_err(told)?;
    let cursors = ledger::cursors(disk, path, folder.boot())?;
    let next: Vec<_> = cursors.values().map(|state| state.next).collect();
    let begun = slots.iter().all(|slot| cursors.contains_key(slot));
    let count = if begun { retention::delivered(&segments, &next) } else { 0 };
    if count > 0 {
        for slot in cursors.keys() {
            let reading = folder.reading(slot);
            let lock = || reading.lock().unwrap_or_else(PoisonError::into_inner);
            if lock().distrusted {
                // An fsync of it would say nothing: its owner writes a fresh one first.
                return Ok(segments);
            }
            let mut file = disk.open_write(&path.join(format!("cursor.{slot}"))).map_err(told)?;
            file.sync_data().inspect_err(|_| lock().distrusted = true).map_err(told)?;
        }
    }
    for segment in segments.drain(..count) {
        remove(folder, segment.first)?;
    }
    Ok(segments)
}

/// Drops a segment: counts first, durably, then deletes.
fn evict(folder: &Folder, ledger: &mut Ledger, segment: Segment, next_first: u64) -> Result<Evicted, SpoolError> {
    let cursors = ledger::cursors(folder.disk(), folder.path(), folder.boot())?;
    let by_slot = undelivered(folder, segment, next_first, &cursors)?;
    if segment.first >= ledger.evicted_below {
        for (slot, levels) in &by_slot {
            for (level, count) in levels {
                *ledger.evicted.entry(slot.clone()).or_default().entry(level.clone()).or_default() += count;
            }
        }
        ledger.evicted_below = next_first;
        // On a full disk the ledger may not be writable; the deletion must go on, and cursors
        // count what is missing in any case.
        let _ = ledger.save(folder);
    }
    remove(folder, segment.first)?;
    folder.tail().generation += 1;
    Ok(Evicted { first: segment.first, by_slot })
}

/// The segment's records that a slot has not delivered, by slot and level.
fn undelivered(
    folder: &Folder,
    segment: Segment,
    next_first: u64,
    cursors: &BTreeMap<String, State>,
) -> Result<BTreeMap<String, BTreeMap<String, u64>>, SpoolError> {
    let told = |source| SpoolError::io("count", folder.path(), source);
    let mut by_slot: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let mut reader = Reader::open(folder.disk(), folder.path(), folder.boot(), segment.first)?;
    while let Some(piece) = reader.next(segment.bytes).map_err(told)? {
        let (Piece::Frame { header, .. } | Piece::Damaged { header: Some(header), .. }) = piece else { continue };
        if header.kind == Kind::Source as u8 || header.seq >= next_first {
            continue;
        }
        let level = Level::from_u8(header.level).map_or("unknown", Level::word);
        for (slot, _) in cursors.iter().filter(|(_, state)| state.next <= header.seq) {
            *by_slot.entry(slot.clone()).or_default().entry(level.to_owned()).or_default() += 1;
        }
    }
    Ok(by_slot)
}

fn remove(folder: &Folder, first: u64) -> Result<(), SpoolError> {
    let path = segment::path(folder.path(), first);
    match folder.disk().remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SpoolError::io("delete", &path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
