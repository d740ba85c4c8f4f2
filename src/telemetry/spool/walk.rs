//! Everything that a folder holds, in order, without a lock and without moving anything.
//!
//! For those who look from outside: verify, repair, `spool cat`. Memory is bounded by one chunk.

use std::io;
use std::path::Path;

use uuid::Uuid;

use super::SpoolError;
use super::disk::Disk;
use super::segment::{self, Piece, Reader, Segment, SegmentHeader};

/// Shows `visit` each piece of the folder with the segment it is in: frames that the segment owns,
/// and damaged stretches; a torn tail is one.
///
/// # Errors
/// The disk's, or [`SpoolError::Unsupported`].
pub fn walk(
    disk: &dyn Disk,
    folder: &Path,
    boot: Uuid,
    visit: &mut dyn FnMut(u64, Piece<'_>),
) -> Result<(), SpoolError> {
    let told = |source| SpoolError::io("read", folder, source);
    let segments = segment::list(disk, folder).map_err(told)?;
    for at in 0..segments.len() {
        walk_segment(disk, folder, boot, &segments, at, visit)?;
    }
    Ok(())
}

/// As [`walk`], the segment at that place of the list only; the header of its file, where that is
/// right.
///
/// # Errors
/// As [`walk`].
pub fn walk_segment(
    disk: &dyn Disk,
    folder: &Path,
    boot: Uuid,
    segments: &[Segment],
    at: usize,
    visit: &mut dyn FnMut(u64, Piece<'_>),
) -> Result<Option<SegmentHeader>, SpoolError> {
    let told = |source| SpoolError::io("read", folder, source);
    let Segment { first, bytes } = segments[at];
    let bound = segments.get(at + 1).map_or(u64::MAX, |next| next.first);
    let mut reader = match Reader::open(disk, folder, boot, first) {
        // The live process that owns the folder has deleted it meanwhile.
        Err(SpoolError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    while let Some(piece) = reader.next(bytes).map_err(told)? {
        if matches!(&piece, Piece::Frame { header, .. } if header.seq >= bound) {
            return Ok(reader.header());
        }
        visit(first, piece);
    }
    let offset = reader.offset();
    let torn = reader.rest(bytes).map_err(told)?;
    if !torn.is_empty() {
        visit(first, Piece::Damaged { offset, header: None, bytes: torn });
    }
    Ok(reader.header())
}
