//! Looks into a spool from outside, and sets it right: `dogwatch spool ls | cat | repair`.
//!
//! Repair works on folders whose lock is free: every segment with damaged bytes or a torn tail is
//! written anew with its right frames only, in place and at once; the bytes that were wrong go to
//! quarantine. Records that are missing stay counted: ordinals and the ledger remember them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::SpoolError;
use super::disk::{self, Disk};
use super::folder::{Folder, adopt_all, boots, find_end};
use super::frame;
use super::ledger::{Ledger, cursors};
use super::quarantine;
use super::segment::{self, Piece, Segment, SegmentHeader};
use super::walk::{walk, walk_segment};
use crate::telemetry::record::{Kind, Level, Source, Stored};

/// A boot's folder, as `ls` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Whose it is.
    pub boot: Uuid,
    /// Segments in it.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were ever appended.
    pub records: u64,
    /// Records that are not done, by slot.
    pub pending: BTreeMap<String, u64>,
}

/// A segment that was set right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Whose it is.
    pub boot: Uuid,
    /// Its first sequence.
    pub segment: u64,
    /// Entries that were right and were kept.
    pub kept: u64,
    /// Bytes that were wrong and went to quarantine.
    pub damaged_bytes: u64,
}

/// The folders under the spool's root.
///
/// # Errors
/// As the disk tells.
pub fn ls(disk: &dyn Disk, root: &Path) -> Result<Vec<Listed>, SpoolError> {
    let list = |boot: Uuid| {
        let folder = root.join(boot.hyphenated().to_string());
        let segments = segment::list(disk, &folder).map_err(|source| SpoolError::io("list", &folder, source))?;
        let records = find_end(disk, &folder, boot)?.records;
        let cursors = cursors(disk, &folder, boot)?;
        let pending = cursors.into_iter().map(|(slot, state)| (slot, records.saturating_sub(state.ordinal)));
        let bytes = segments.iter().map(|segment| segment.bytes).sum();
        Ok(Listed { boot, segments: segments.len() as u64, bytes, records, pending: pending.collect() })
    };
    boots(disk, root, usize::MAX)?.into_iter().map(list).collect()
}

/// Shows every record of a boot that is on disk, in order, until `show` breaks.
///
/// # Errors
/// As the disk tells.
pub fn cat(
    disk: &dyn Disk,
    root: &Path,
    boot: Uuid,
    show: &mut dyn FnMut(Stored) -> ControlFlow<()>,
) -> Result<(), SpoolError> {
    let mut sources: HashMap<u16, Arc<Source>> = HashMap::new();
    let mut flow = ControlFlow::Continue(());
    walk(disk, &root.join(boot.hyphenated().to_string()), boot, &mut |_, piece| {
        let Piece::Frame { header, payload } = piece else { return };
        if flow.is_break() {
            return;
        }
        if header.kind == Kind::Source as u8 {
            if let Ok(source) = serde_json::from_slice(payload) {
                sources.insert(header.source, Arc::new(source));
            }
            return;
        }
        let (Some(kind), Some(level)) = (Kind::from_u8(header.kind), Level::from_u8(header.level)) else { return };
        let unknown = || Arc::new(super::cursor::unknown(boot, header.source));
        let source = sources.entry(header.source).or_insert_with(unknown).clone();
        flow = show(Stored { seq: header.seq, kind, level, source, boot, payload: payload.to_vec() });
    })
}

/// Sets right every folder whose process is dead.
///
/// # Errors
/// As the disk tells; what is done is done, and it may be asked again.
pub fn repair(disk: &Arc<dyn Disk>, root: &Path) -> Result<Vec<Repaired>, SpoolError> {
    let mut repaired = Vec::new();
    for folder in adopt_all(root, disk, usize::MAX)? {
        repaired.extend(repair_folder(&folder)?);
    }
    Ok(repaired)
}

fn repair_folder(folder: &Folder) -> Result<Vec<Repaired>, SpoolError> {
    let (disk, path, boot) = (folder.disk(), folder.path(), folder.boot());
    let told = |source| SpoolError::io("repair", path, source);
    let segments = segment::list(disk, path).map_err(told)?;
    // What a damaged tail says about how much there was is gone afterwards: keep it first.
    let mut ledger = Ledger::load(disk, path, boot)?;
    ledger.end = folder.end()?;
    let mut wrong = Vec::new();
    for (at, &Segment { first, .. }) in segments.iter().enumerate() {
        let (mut body, mut records_before) = (Vec::new(), None);
        let mut repaired = Repaired { boot, segment: first, kept: 0, damaged_bytes: 0 };
        let mut quarantined = io::Result::Ok(true);
        let header = walk_segment(disk, path, boot, &segments, at, &mut |_, piece| match piece {
            Piece::Frame { header, payload } => {
                repaired.kept += 1;
                if header.kind != Kind::Source as u8 {
                    records_before.get_or_insert(header.ordinal);
                }
                frame::encode(&mut body, frame::salt(boot, first), header, payload);
            }
            Piece::Damaged { offset, bytes, .. } => {
                repaired.damaged_bytes += bytes.len() as u64;
                if let Err(error) = quarantine::keep_damaged(folder, first, offset, bytes) {
                    quarantined = Err(error);
                }
            }
        })?;
        if header.is_some() && repaired.damaged_bytes == 0 {
            continue;
        }
        quarantined.map_err(told)?;
        ledger.save(folder)?;
        let records_before = header.map(|header| header.records_before).or(records_before).unwrap_or(0);
        let mut bytes = segment::encode_header(SegmentHeader { boot, first, records_before }).to_vec();
        bytes.append(&mut body);
        disk::replace(disk, &segment::path(path, first), &bytes).map_err(told)?;
        wrong.push(repaired);
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests;
