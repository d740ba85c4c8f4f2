//! One file of frames: its name, its header, and a reader with bounded memory.
//!
//! The name says the first sequence, the folder the boot id; so a damaged file header costs
//! nothing but its own bytes. A reader remembers its place, reads ahead in chunks, and reports
//! frames and damaged stretches in order. Which segment owns a sequence is told by names alone: a
//! segment owns what lies between its first sequence and the next segment's, so that a tail that
//! was written anew after a failed fsync is never read twice.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::SpoolError;
use super::disk::{Disk, DiskFile};
use super::frame::{self, Header, OVERHEAD_BYTES, PAYLOAD_BYTES_MAX, Step, array};

/// Length of the header at the start of each segment.
pub const SEGMENT_HEADER_BYTES: usize = 52;
/// How a segment's name ends.
pub const EXTENSION: &str = "dws";
/// The version of the format that is written and read.
pub const VERSION: u16 = 1;
/// A reader asks the disk for so much at once.
const READ_BYTES: usize = 256 * 1024;
const MAGIC: [u8; 8] = *b"DOGWATCH";

/// A segment in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its first sequence.
    pub first: u64,
    /// Its length.
    pub bytes: u64,
}

/// What a segment's own header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The boot that wrote it.
    pub boot: Uuid,
    /// Its first sequence.
    pub first: u64,
    /// Records of this boot in the segments before it.
    pub records_before: u64,
}

/// The path of the segment that begins with `first`.
pub fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.{EXTENSION}"))
}

/// The first sequence that a file name speaks of, where it is a segment's.
pub fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The folder's segments in order of their sequences.
///
/// # Errors
/// As the disk tells; a segment that is removed meanwhile is left out.
pub fn list(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in disk.list(folder)? {
        let Some(first) = parse_name(&entry.name) else { continue };
        match disk.len(&path(folder, first)) {
            Ok(bytes) => segments.push(Segment { first, bytes }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(segments)
}

/// The header's bytes.
pub fn encode_header(header: SegmentHeader) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut out = [0; SEGMENT_HEADER_BYTES];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[16..32].copy_from_slice(header.boot.as_bytes());
    out[32..40].copy_from_slice(&header.first.to_le_bytes());
    out[40..48].copy_from_slice(&header.records_before.to_le_bytes());
    let crc = crc32c::crc32c(&out[..48]);
    out[48..52].copy_from_slice(&crc.to_le_bytes());
    out
}

/// What the header says; `None` where it is damaged.
///
/// # Errors
/// [`SpoolError::Unsupported`] where it is right and of another version.
pub fn decode_header(bytes: &[u8]) -> Result<Option<SegmentHeader>, SpoolError> {
    let Some(head) = bytes.get(..SEGMENT_HEADER_BYTES) else { return Ok(None) };
    if head[..8] != MAGIC || crc32c::crc32c(&head[..48]).to_le_bytes() != head[48..52] {
        return Ok(None);
    }
    let version = u16::from_le_bytes(array(head, 8));
    if version != VERSION {
        return Err(SpoolError::Unsupported { version });
    }
    Ok(Some(SegmentHeader {
        boot: Uuid::from_bytes(array(head, 16)),
        first: u64::from_le_bytes(array(head, 32)),
        records_before: u64::from_le_bytes(array(head, 40)),
    }))
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A right frame.
    Frame {
        /// Its header.
        header: Header,
        /// Its payload.
        payload: &'a [u8],
    },
    /// Bytes that are no right frame; a long stretch comes in several pieces.
    Damaged {
        /// Where the stretch begins in the file.
        offset: u64,
        /// The header, where only the payload is wrong.
        header: Option<Header>,
        /// The bytes as they are.
        bytes: &'a [u8],
    },
}

/// Reads one segment from its first frame on.
pub struct Reader {
    file: Box<dyn DiskFile>,
    header: Option<SegmentHeader>,
    salt: u32,
    buffer: Vec<u8>,
    /// Offset in the file of the buffer's first byte.
    base: u64,
    /// Place in the buffer of the next piece.
    at: usize,
}

impl Reader {
    /// Opens the segment of that folder and boot.
    ///
    /// # Errors
    /// The disk's, or [`SpoolError::Unsupported`].
    pub fn open(disk: &dyn Disk, folder: &Path, boot: Uuid, first: u64) -> Result<Reader, SpoolError> {
        let path = path(folder, first);
        let told = |source| SpoolError::io("read segment", &path, source);
        let file = disk.open_read(&path).map_err(told)?;
        let mut head = [0; SEGMENT_HEADER_BYTES];
        let mut filled = 0;
        while filled < head.len() {
            match file.read_at(filled as u64, &mut head[filled..]).map_err(told)? {
                0 => break,
                n => filled += n,
            }
        }
        let header = decode_header(&head[..filled])?;
        let base = SEGMENT_HEADER_BYTES as u64;
        Ok(Reader { file, header, salt: frame::salt(boot, first), buffer: Vec::new(), base, at: 0 })
    }

    /// What the segment's own header says; `None` where it is damaged.
    pub fn header(&self) -> Option<SegmentHeader> {
        self.header
    }

    /// Offset in the file of the next piece.
    pub fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// The file's length.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    /// Goes to a place where a piece begins.
    pub fn seek(&mut self, offset: u64) {
        match offset.checked_sub(self.base).and_then(|at| usize::try_from(at).ok()) {
            Some(at) if at <= self.buffer.len() => self.at = at,
            _ => {
                self.buffer.clear();
                (self.base, self.at) = (offset, 0);
            }
        }
    }

    /// The next piece that ends at or before `limit`; `None` where what is left is no whole frame.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn next(&mut self, limit: u64) -> io::Result<Option<Piece<'_>>> {
        let (header, bytes, right) = loop {
            let within = usize::try_from(limit.saturating_sub(self.base)).unwrap_or(usize::MAX);
            let end = self.buffer.len().min(within).max(self.at);
            match frame::decode(&self.buffer[self.at..end], self.salt) {
                Step::Frame(header, bytes) => break (Some(header), bytes, true),
                Step::BadPayload(header, bytes) => break (Some(header), bytes, false),
                Step::Junk(bytes) => break (None, bytes, false),
                Step::Incomplete(bytes) => {
                    if self.offset() + bytes as u64 > limit || !self.fill(bytes, limit)? {
                        return Ok(None);
                    }
                }
            }
        };
        let (offset, from) = (self.offset(), self.at);
        self.at += bytes;
        let bytes = &self.buffer[from..self.at];
        Ok(Some(match header {
            Some(header) if right => Piece::Frame { header, payload: frame::payload(bytes) },
            header => Piece::Damaged { offset, header, bytes },
        }))
    }

    /// What is left before `limit` after [`Reader::next`] has said `None`: a torn frame (at most the
    /// first part of it that a frame could have), or nothing.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn rest(&mut self, limit: u64) -> io::Result<&[u8]> {
        let left = usize::try_from(limit.saturating_sub(self.offset())).unwrap_or(usize::MAX);
        let wanted = left.min(OVERHEAD_BYTES + PAYLOAD_BYTES_MAX);
        self.fill(wanted, limit)?;
        let end = self.buffer.len().min(self.at + wanted);
        Ok(&self.buffer[self.at..end])
    }

    /// Makes at least `bytes` bytes available from the current place; false where the file has
    /// fewer.
    fn fill(&mut self, bytes: usize, limit: u64) -> io::Result<bool> {
        self.buffer.drain(..self.at);
        self.base += self.at as u64;
        self.at = 0;
        let within = usize::try_from(limit.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let wanted = bytes.max(READ_BYTES).min(within);
        let mut filled = self.buffer.len();
        if filled < wanted {
            self.buffer.resize(wanted, 0);
        }
        while filled < wanted {
            match self.file.read_at(self.base + filled as u64, &mut self.buffer[filled..wanted]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) => {
                    self.buffer.truncate(filled);
                    return Err(error);
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(filled >= bytes)
    }
}

#[cfg(test)]
mod tests;
