//! One entry as bytes: encoded whole, decoded so that one bad byte costs one record.
//!
//! The header has its own CRC, so that a length is believed only where it is right: a bad payload
//! is stepped over as a whole, and a bad header sends the decoder to the next mark that a right
//! header follows. Both CRCs start from a salt made of boot id and segment, so that bytes copied
//! from another segment (a log line about this very file) never pass for a record. Pure; looks at
//! no more than the window it is given and never allocates on what a damaged length says.
//!
//! The layout is in the header of [`super`].

use uuid::Uuid;

use crate::telemetry::ring::crc32c_append;

/// Where a frame may begin. The first byte cannot begin UTF-8 text and is rare as a protobuf tag.
pub const MARK: [u8; 4] = [0xD7, 0x06, 0xF5, 0xA9];
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 32;
/// Bytes around the payload: header and the CRC after it.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + 4;
/// The longest payload.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Payload length in bytes.
    pub payload_bytes: u32,
    /// The entry's position: unique and rising within its boot, with holes.
    pub seq: u64,
    /// A record: how many records of this boot were appended before it, so that a reader knows
    /// exactly how many are missing. A source: how many records of that source.
    pub ordinal: u64,
    /// Number of a [`crate::telemetry::record::Kind`].
    pub kind: u8,
    /// Number of a [`crate::telemetry::record::Level`].
    pub level: u8,
    /// The source's number.
    pub source: u16,
}

/// What the bytes at the start of a window are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A whole right frame of that many bytes.
    Frame(Header, usize),
    /// A right header, and a payload of which at least one bit is wrong.
    BadPayload(Header, usize),
    /// That many bytes belong to no frame.
    Junk(usize),
    /// Perhaps a frame; it takes that many bytes to know.
    Incomplete(usize),
}

/// What both CRCs of a frame start from.
pub fn salt(boot: Uuid, segment_first_seq: u64) -> u32 {
    crc32c_append(crc32c_append(0, boot.as_bytes()), &segment_first_seq.to_le_bytes())
}

/// Appends the frame; the header's length is taken from the payload.
pub fn encode(out: &mut Vec<u8>, salt: u32, header: Header, payload: &[u8]) {
    let mut head = [0u8; HEADER_BYTES];
    head[0..4].copy_from_slice(&MARK);
    head[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[8..16].copy_from_slice(&header.seq.to_le_bytes());
    head[16..24].copy_from_slice(&header.ordinal.to_le_bytes());
    head[24] = header.kind;
    head[25] = header.level;
    head[26..28].copy_from_slice(&header.source.to_le_bytes());
    let crc = crc32c_append(salt, &head[..28]);
    head[28..32].copy_from_slice(&crc.to_le_bytes());
    out.reserve(OVERHEAD_BYTES + payload.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out.extend_from_slice(&crc32c_append(crc, payload).to_le_bytes());
}

/// Says what the window begins with; an empty window is incomplete.
pub fn decode(window: &[u8], salt: u32) -> Step {
    if let Some((header, crc)) = header(window, salt) {
        let end = HEADER_BYTES + header.payload_bytes as usize;
        let Some(stored) = window.get(end..end + 4) else { return Step::Incomplete(end + 4) };
        let right = crc32c_append(crc, &window[HEADER_BYTES..end]).to_le_bytes() == stored;
        return if right { Step::Frame(header, end + 4) } else { Step::BadPayload(header, end + 4) };
    }
    if may_begin(window) {
        return Step::Incomplete(HEADER_BYTES);
    }
    let next = (1..window.len()).find(|&at| {
        let rest = &window[at..];
        may_begin(rest) || header(rest, salt).is_some()
    });
    Step::Junk(next.unwrap_or(window.len()))
}

/// The payload of a frame of that many bytes at the start of the window.
pub fn payload(frame: &[u8]) -> &[u8] {
    &frame[HEADER_BYTES..frame.len() - 4]
}

/// The header at the start of the window and its CRC, where it is whole and right.
fn header(window: &[u8], salt: u32) -> Option<(Header, u32)> {
    let head = window.get(..HEADER_BYTES)?;
    if head[..4] != MARK {
        return None;
    }
    let crc = u32::from_le_bytes(array(head, 28));
    if crc32c_append(salt, &head[..28]) != crc {
        return None;
    }
    let payload_bytes = u32::from_le_bytes(array(head, 4));
    if payload_bytes as usize > PAYLOAD_BYTES_MAX {
        return None;
    }
    let header = Header {
        payload_bytes,
        seq: u64::from_le_bytes(array(head, 8)),
        ordinal: u64::from_le_bytes(array(head, 16)),
        kind: head[24],
        level: head[25],
        source: u16::from_le_bytes(array(head, 26)),
    };
    Some((header, crc))
}

/// Whether a window too short for a header could be the start of one.
fn may_begin(window: &[u8]) -> bool {
    let shown = window.len().min(MARK.len());
    window.len() < HEADER_BYTES && window[..shown] == MARK[..shown]
}

/// `N` bytes from `at`; the caller has checked the length.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests;
