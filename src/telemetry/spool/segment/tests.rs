//! Segments: golden bytes, cut at every length, every byte flipped.

use std::path::Path;
use std::sync::Arc;

use expect_test::expect;

use super::*;
use crate::telemetry::record::{Kind, Level};
use crate::telemetry::spool::disk::memory::MemoryDisk;
use crate::telemetry::spool::tests::{BOOT, append, memory, root, small, source};
use crate::telemetry::spool::{Folder, SpoolConfig, Writer};

#[test]
fn names_are_twenty_digits() {
    let path = path(Path::new("/s"), 42);
    assert_eq!(path, Path::new("/s/00000000000000000042.dws"));
    assert_eq!(parse_name("00000000000000000042.dws"), Some(42));
    assert_eq!(parse_name("18446744073709551615.dws"), Some(u64::MAX));
    for other in
        ["42.dws", "0000000000000000004x.dws", "00000000000000000042.tmp", "99999999999999999999.dws", "lock"]
    {
        assert_eq!(parse_name(other), None, "{other}");
    }
}

#[test]
fn the_header_is_as_documented_and_a_higher_version_is_left_alone() {
    let header = SegmentHeader { boot: BOOT, first: 42, records_before: 7 };
    let mut bytes = encode_header(header);
    let hex: Vec<_> =
        bytes.chunks(8).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>()).collect();
    expect![[r#"
        444f475741544348
        0100000000000000
        0f0e0d0c0b0a4908
        8706050403020100
        2a00000000000000
        0700000000000000
        924c9529"#]]
    .assert_eq(&hex.join("\n"));
    assert_eq!(decode_header(&bytes).unwrap(), Some(header));
    for at in 0..bytes.len() {
        bytes[at] ^= 4;
        assert_eq!(decode_header(&bytes).unwrap(), None, "byte {at}");
        bytes[at] ^= 4;
    }
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..48]);
    bytes[48..].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(decode_header(&bytes), Err(SpoolError::Unsupported { version: 2 })));
}

#[test]
fn a_segment_begins_with_the_sources_in_force() {
    let (disk, folder) = memory();
    let mut writer = Writer::open(&folder, small(1_000)).unwrap();
    writer.append(1, Kind::Source, Level::Debug, 1, &source("w1")).unwrap();
    append(&mut writer, 2..30);
    writer.sync().unwrap();
    let last = list(&disk, folder.path()).unwrap().pop().unwrap();
    assert!(last.first > 2);
    let mut reader = Reader::open(&disk, folder.path(), BOOT, last.first).unwrap();
    let mut kinds = Vec::new();
    while let Some(Piece::Frame { header, .. }) = reader.next(last.bytes).unwrap() {
        kinds.push(header.kind);
        if kinds.len() < 3 {
            assert_eq!(header.ordinal, last.first - 2, "records of that source so far");
        }
    }
    assert_eq!(kinds[..3], [1, 1, 2]);
}

#[test]
fn garbage_is_read_with_bounded_memory() {
    let disk = MemoryDisk::default();
    let folder = Folder::create(&root(), BOOT, Arc::new(disk.clone())).unwrap();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append(&mut writer, [1]);
    writer.sync().unwrap();
    let mut x = 1u32;
    let mut garbage = std::iter::repeat_with(move || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    });
    disk.tamper(&path(folder.path(), 1), |bytes| bytes.extend(garbage.by_ref().take(6 << 20)));
    let mut reader = Reader::open(&disk, folder.path(), BOOT, 1).unwrap();
    let size = reader.size().unwrap();
    let mut seen = SEGMENT_HEADER_BYTES as u64;
    while let Some(piece) = reader.next(size).unwrap() {
        seen += match piece {
            Piece::Frame { payload, .. } => (payload.len() + OVERHEAD_BYTES) as u64,
            Piece::Damaged { bytes, .. } => bytes.len() as u64,
        };
        assert!(reader.buffer.capacity() <= 2 * READ_BYTES);
    }
    assert!(size - seen < OVERHEAD_BYTES as u64);
}
