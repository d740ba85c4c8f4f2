//! A cursor against its folder: order, commits, damage, and the bytes of its file.

use std::sync::Arc;

use expect_test::expect;

use super::state::{Fates, SLOT_BYTES};
use super::*;
use crate::telemetry::spool::disk::Disk;
use crate::telemetry::spool::disk::memory::MemoryDisk;
use crate::telemetry::spool::tests::{
    BOOT, all_delivered, append, drain, memory, payload, root, segments, seqs, small, source,
};
use crate::telemetry::spool::{SpoolConfig, Writer, ledger, quarantine, verify};

/// A folder with source 1 and the records 1 to `last`, whose process is dead.
fn written(last: u64, segment_bytes: u64) -> (MemoryDisk, Folder) {
    let (disk, folder) = memory();
    let mut writer = Writer::open(&folder, small(segment_bytes)).unwrap();
    writer.append(0, Kind::Source, Level::Debug, 1, &source("w1")).unwrap();
    append(&mut writer, 1..=last);
    writer.sync().unwrap();
    (disk, folder)
}

/// From disk alone.
fn the_law_holds(disk: &MemoryDisk, when: &str) {
    let lines = verify(disk, &root()).unwrap();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.ok), "{when}: {lines:#?}");
}

fn state(folder: &Folder, slot: &str) -> State {
    ledger::cursors(folder.disk(), folder.path(), BOOT).unwrap()[slot].clone()
}

#[test]
fn the_file_is_as_documented_and_any_damage_to_a_slot_is_seen() {
    let mut state = State {
        generation: 3,
        boot: BOOT,
        next: 17,
        ordinal: 9,
        evicted: 1,
        corrupt: 2,
        absent: 3,
        ..State::default()
    };
    *state.fates(1) = Fates { delivered: 1, rejected: 1, quarantined: 1 };
    let mut bytes = state.encode();
    let hex: Vec<_> =
        bytes.chunks(8).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>()).collect();
    expect![[r#"
        4457435552534f52
        0100010000000000
        0300000000000000
        0f0e0d0c0b0a4908
        8706050403020100
        1100000000000000
        0900000000000000
        0100000000000000
        0200000000000000
        0300000000000000
        0100000000000000
        0100000000000000
        0100000000000000
        0100000000000000
        52528be9"#]]
    .assert_eq(&hex.join("\n"));
    assert_eq!(State::decode(&bytes), Some(state));
    for at in 0..bytes.len() {
        bytes[at] ^= 0x80;
        assert_eq!(State::decode(&bytes), None, "byte {at}");
        bytes[at] ^= 0x80;
        assert_eq!(State::decode(&bytes[..at]), None, "cut at {at}");
    }
}

#[test]
fn many_sources_fit_the_slot() {
    let mut state = State::default();
    for source in 0..1_000 {
        state.fates(source).delivered += 1;
    }
    let bytes = state.encode();
    assert!(bytes.len() <= state::SLOT_BYTES);
    assert_eq!(State::decode(&bytes).unwrap().total().delivered, 1_000);
}

#[test]
fn a_flipped_byte_anywhere_costs_at_most_one_record_and_is_counted() {
    let whole = written(3, 8 << 20);
    let path = segment::path(whole.1.path(), 0);
    let length = whole.0.len(&path).unwrap();
    for at in 0..length as usize {
        let (disk, folder) = written(3, 8 << 20);
        disk.tamper(&path, |bytes| bytes[at] ^= 0x20);
        let mut cursor = Cursor::open(&folder, "database").unwrap();
        let found = drain(&mut cursor);
        assert!(found.len() >= 2 && found.is_sorted(), "byte {at}: {found:?}");
        assert_eq!(cursor.state().corrupt, 3 - found.len() as u64, "byte {at}: {found:?}");
        assert_eq!((cursor.state().ordinal, cursor.state().evicted, cursor.state().absent), (3, 0, 0), "byte {at}");
        let kept = quarantine::list(&disk, &root()).unwrap();
        assert_eq!(kept.is_empty(), at < segment::SEGMENT_HEADER_BYTES, "byte {at}");
        assert_eq!(cursor.pending().unwrap(), Pending::default());
        the_law_holds(&disk, &format!("byte {at}"));
    }
}

#[test]
fn a_cut_anywhere_leaves_the_records_before_it_and_the_ledger_knows_how_many_are_gone() {
    let whole = written(3, 8 << 20);
    let path = segment::path(whole.1.path(), 0);
    let length = whole.0.len(&path).unwrap();
    for cut in 0..length as usize {
        for ledger in [false, true] {
            let (disk, folder) = written(3, 8 << 20);
            if ledger {
                Writer::open(&folder, SpoolConfig::default()).unwrap().save_ledger().unwrap();
            }
            disk.tamper(&path, |bytes| bytes.truncate(cut));
            // The process that wrote it would know better: this is the next one.
            let root = folder.root().to_owned();
            drop(folder);
            let folder = Folder::adopt(&root, BOOT, Arc::new(disk.clone())).unwrap().unwrap();
            drop(Writer::open(&folder, SpoolConfig::default()));
            let mut cursor = Cursor::open(&folder, "database").unwrap();
            let found = drain(&mut cursor);
            assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "cut at {cut}");
            assert!(found.len() < 3);
            let state = cursor.state();
            assert_eq!(
                state.evicted + state.corrupt,
                if ledger { 3 - found.len() as u64 } else { 0 },
                "cut at {cut}"
            );
            the_law_holds(&disk, &format!("cut at {cut}"));
        }
    }
}

#[test]
fn a_segment_deleted_in_the_middle_is_counted_and_the_rest_is_delivered() {
    let (disk, folder) = written(60, 1_000);
    let all = segments(&disk, folder.path());
    assert!(all.len() > 3);
    disk.remove(&segment::path(folder.path(), all[1])).unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    let found = drain(&mut cursor);
    assert_eq!(found, (1..all[1]).chain(all[2]..=60).collect::<Vec<_>>());
    assert_eq!(cursor.state().evicted, all[2] - all[1]);
    assert_eq!((cursor.state().ordinal, cursor.state().corrupt), (60, 0));
    the_law_holds(&disk, "a segment is gone");
}

#[test]
fn a_slot_that_begins_late_counts_what_was_there_before_as_absent() {
    let (disk, folder) = written(60, 1_000);
    let all = segments(&disk, folder.path());
    disk.remove(&segment::path(folder.path(), all[0])).unwrap();
    let mut cursor = Cursor::open(&folder, "otlp").unwrap();
    assert_eq!(drain(&mut cursor)[0], all[1]);
    assert_eq!((cursor.state().absent, cursor.state().evicted), (all[1] - 1, 0));
    the_law_holds(&disk, "the first segment is gone");
}

#[test]
fn the_same_records_come_until_they_are_committed() {
    let (_, folder) = written(30, 700);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    for _ in 0..3 {
        assert_eq!(seqs(&cursor.next_batch(25, usize::MAX).unwrap()), (1..=25).collect::<Vec<_>>());
    }
    cursor.commit(10, &all_delivered(10)).unwrap();
    cursor.commit(5, &all_delivered(0)).unwrap();
    assert_eq!(cursor.state().next, 11, "a commit never goes back");
    assert_eq!(seqs(&cursor.next_batch(2, usize::MAX).unwrap()), [11, 12]);
    let wrong = cursor.commit(12, &all_delivered(3));
    assert!(matches!(wrong, Err(SpoolError::Tally { taken: 2, told: 3 })));
    cursor.commit(12, &Tally { delivered: 0, dropped: 1, quarantined: 1 }).unwrap();
    let total = cursor.state().total();
    assert_eq!((total.delivered, total.rejected, total.quarantined), (10, 1, 1));
}

#[test]
fn a_batch_is_limited_in_bytes_but_never_empty_for_that() {
    let (_, folder) = written(5, 8 << 20);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    let one = payload(1).len();
    assert_eq!(cursor.next_batch(9, one * 2 + 1).unwrap().len(), 2);
    assert_eq!(cursor.next_batch(9, 1).unwrap().len(), 1);
    assert_eq!(cursor.next_batch(9, 0).unwrap().len(), 1);
    assert_eq!(cursor.next_batch(0, 0).unwrap().len(), 0);
}

#[test]
fn reading_follows_the_writer_up_to_what_it_has_flushed() {
    let (_, folder) = memory();
    let mut writer = Writer::open(&folder, small(600)).unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert!(cursor.next_batch(9, 999).unwrap().is_empty());
    let mut expected = Vec::new();
    for round in 0..40 {
        append(&mut writer, round * 3..round * 3 + 3);
        if round % 3 == 0 {
            writer.flush().unwrap();
        } else {
            writer.sync().unwrap();
        }
        expected.extend(round * 3..round * 3 + 3);
        if round % 2 == 0 {
            assert_eq!(drain(&mut cursor), std::mem::take(&mut expected));
            assert_eq!(cursor.pending().unwrap().records, 0);
        } else {
            assert_eq!(cursor.pending().unwrap().records, 3);
        }
    }
}

#[test]
fn a_lost_cursor_delivers_all_again() {
    let (disk, folder) = written(9, 8 << 20);
    let path = folder.path().join("cursor.database");
    drain(&mut Cursor::open(&folder, "database").unwrap());
    assert_eq!(state(&folder, "database").ordinal, 9);
    for damage in [|bytes: &mut Vec<u8>| bytes.fill(0xaa), |bytes: &mut Vec<u8>| bytes.clear()] {
        disk.tamper(&path, damage);
        assert_eq!(drain(&mut Cursor::open(&folder, "database").unwrap()).len(), 9);
    }
    disk.remove(&path).unwrap();
    assert_eq!(drain(&mut Cursor::open(&folder, "database").unwrap()).len(), 9);
    let mut other = state(&folder, "database");
    other.boot = uuid::Uuid::nil();
    disk.tamper(&path, |bytes| *bytes = other.encode());
    assert_eq!(drain(&mut Cursor::open(&folder, "database").unwrap()).len(), 9, "another boot's cursor");
    the_law_holds(&disk, "the cursor was lost");
}

#[test]
fn one_torn_slot_of_the_file_costs_one_commit_at_most() {
    let (disk, folder) = written(9, 8 << 20);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    for seq in 1..=4 {
        cursor.next_batch(1, usize::MAX).unwrap();
        cursor.commit(seq, &all_delivered(1)).unwrap();
    }
    let path = folder.path().join("cursor.database");
    for slot in [0, 1] {
        let copy = crate::telemetry::spool::disk::read(&disk, &path, 9_999).unwrap();
        disk.tamper(&path, |bytes| bytes[slot * SLOT_BYTES + 20] ^= 1);
        let next = state(&folder, "database").next;
        assert!(next == 5 || next == 4, "{next}");
        disk.tamper(&path, |bytes| *bytes = copy);
    }
}

#[test]
fn commits_survive_a_power_cut_and_unsynced_ones_only_repeat() {
    let (disk, folder) = written(20, 8 << 20);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    cursor.next_batch(20, usize::MAX).unwrap();
    cursor.commit(5, &all_delivered(5)).unwrap();
    for seq in 6..=9 {
        cursor.commit_buffered(seq, &all_delivered(1)).unwrap();
    }
    assert_eq!(state(&folder, "database").next, 10, "what a SIGKILL leaves");
    disk.crash_keeping(|unsynced| unsynced / 2);
    let folder = Folder::adopt(&root(), BOOT, Arc::new(disk)).unwrap().unwrap();
    assert_eq!(Cursor::open(&folder, "database").unwrap().state().next, 6);
}

#[test]
fn a_cursor_from_the_future_is_taken_back_to_the_end() {
    let (disk, folder) = memory();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append(&mut writer, 1..=5);
    writer.sync().unwrap();
    append(&mut writer, 6..=8);
    writer.flush().unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor).len(), 8, "delivered before it was durable");
    disk.crash();

    let folder = Folder::adopt(&root(), BOOT, Arc::new(disk.clone())).unwrap().unwrap();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!((cursor.state().next, cursor.state().ordinal, cursor.state().total().delivered), (6, 5, 5));
    append(&mut writer, 6..=9);
    writer.sync().unwrap();
    assert_eq!(drain(&mut cursor), [6, 7, 8, 9]);
    assert_eq!(cursor.state().ordinal, 9);
    the_law_holds(&disk, "the cursor was from the future");
}

#[test]
fn records_of_a_source_that_cannot_be_read_are_delivered() {
    let (disk, folder) = written(3, 8 << 20);
    let at = segment::SEGMENT_HEADER_BYTES + super::super::frame::HEADER_BYTES;
    let frame = source("w1").len() + super::super::frame::OVERHEAD_BYTES;
    disk.tamper(&segment::path(folder.path(), 0), |bytes| bytes[at] ^= 1);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(cursor.next_batch(1, 99).unwrap()[0].source.source_id, "w1", "its second copy is right");
    disk.tamper(&segment::path(folder.path(), 0), |bytes| bytes[at + frame] ^= 1);
    let mut cursor = Cursor::open(&folder, "stdout").unwrap();
    let batch = cursor.next_batch(9, 99).unwrap();
    assert_eq!(seqs(&batch), [1, 2, 3]);
    assert_eq!(batch[0].source.source_type, "unknown");
}

/// Two sources; what is lost in the power cut is the second one's.
#[test]
fn a_cursor_from_the_future_is_taken_back_for_each_source() {
    let (disk, folder) = memory();
    let mut writer = Writer::open(&folder, small(8 << 20)).unwrap();
    let say = |writer: &mut Writer, seq, number| {
        writer.append(seq, Kind::Log, Level::Info, number, &payload(seq)).unwrap();
    };
    for number in [1, 2] {
        writer.append(number.into(), Kind::Source, Level::Debug, number, &source(&format!("w{number}"))).unwrap();
    }
    (3..=6).for_each(|seq| say(&mut writer, seq, 1));
    say(&mut writer, 7, 2);
    writer.sync().unwrap();
    (8..=10).for_each(|seq| say(&mut writer, seq, 2));
    writer.flush().unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor).len(), 8);
    disk.crash();

    let folder = Folder::adopt(&root(), BOOT, Arc::new(disk.clone())).unwrap().unwrap();
    let mut writer = Writer::open(&folder, small(8 << 20)).unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    let delivered = |cursor: &Cursor| [1, 2].map(|source| cursor.state().sources[&source].delivered);
    assert_eq!((cursor.state().ordinal, delivered(&cursor)), (5, [4, 1]));
    let law = || crate::telemetry::spool::verify(&disk, &root()).unwrap();
    assert!(law().iter().all(|line| line.ok), "{:#?}", law());
    (8..=9).for_each(|seq| say(&mut writer, seq, 2));
    say(&mut writer, 10, 1);
    writer.sync().unwrap();
    assert_eq!(drain(&mut cursor), [8, 9, 10]);
    assert_eq!(delivered(&cursor), [5, 3]);
    assert!(law().iter().all(|line| line.ok), "{:#?}", law());
}
