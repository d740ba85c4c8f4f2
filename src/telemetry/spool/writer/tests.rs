//! The writer against disks that fail, fill up and forget.

use std::io::ErrorKind;
use std::sync::Arc;

use super::*;
use crate::telemetry::spool::Cursor;
use crate::telemetry::spool::disk::Disk;
use crate::telemetry::spool::disk::faulty::{FaultyDisk, Op};
use crate::telemetry::spool::disk::memory::MemoryDisk;
use crate::telemetry::spool::tests::{BOOT, append, drain, payload, root, segments, small};

fn faulty() -> (MemoryDisk, FaultyDisk, Folder) {
    let memory = MemoryDisk::default();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let folder = Folder::create(&root(), BOOT, Arc::new(disk.clone())).unwrap();
    (memory, disk, folder)
}

/// Appends what the spooler would: again from where the writer says, until it is durable.
fn append_and_sync(writer: &mut Writer, ring: std::ops::RangeInclusive<u64>, disk: &FaultyDisk) -> u32 {
    let mut next = *ring.start();
    let mut failures = 0;
    loop {
        let mut step = || {
            for seq in next.max(writer.next_seq())..=*ring.end() {
                writer.append(seq, Kind::Log, Level::Info, 1, &payload(seq))?;
            }
            writer.sync()
        };
        match step() {
            Ok(durable) => {
                assert_eq!(durable, Some(*ring.end()));
                return failures;
            }
            Err(SpoolError::Distrusted { first_unsynced, .. }) => next = first_unsynced.max(*ring.start()),
            Err(SpoolError::Io { .. }) => next = writer.next_seq().max(*ring.start()),
            Err(other) => panic!("{other}"),
        }
        failures += 1;
        assert!(failures < 10, "it never becomes durable");
        if failures > 3 {
            disk.heal();
        }
    }
}

#[test]
fn nothing_durable_is_lost_by_any_failing_operation_at_any_time() {
    for op in Op::CHANGES {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem] {
            for after in 0..12 {
                for times in [1, 2, u64::MAX] {
                    let (memory, disk, folder) = faulty();
                    let mut writer = Writer::open(&folder, small(500)).unwrap();
                    disk.fail(op, kind, after, times);
                    for round in 0..8 {
                        append_and_sync(&mut writer, round * 5 + 1..=round * 5 + 5, &disk);
                    }
                    disk.heal();
                    let case = format!("{op:?} {kind:?} after {after} times {times}");
                    assert_eq!(disk.trusted_again(), 0, "{case}");
                    drop((writer, folder));
                    memory.crash();
                    let folder = Folder::adopt(&root(), BOOT, Arc::new(memory.clone())).unwrap().unwrap();
                    let mut cursor = Cursor::open(&folder, "database").unwrap();
                    assert_eq!(drain(&mut cursor), (1..=40).collect::<Vec<_>>(), "{case}");
                    assert_eq!(cursor.state().corrupt + cursor.state().evicted, 0, "{case}");
                }
            }
        }
    }
}

#[test]
fn a_cursor_follows_through_a_segment_that_was_given_up() {
    let (_, disk, folder) = faulty();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    append_and_sync(&mut writer, 1..=5, &disk);
    append(&mut writer, 6..=10);
    writer.flush().unwrap();
    let batch = cursor.next_batch(8, usize::MAX).unwrap();
    assert_eq!(batch.len(), 8);
    disk.fail(Op::Sync, ErrorKind::Other, 0, 1);
    assert!(matches!(writer.sync(), Err(SpoolError::Distrusted { first_unsynced: 6, .. })));
    cursor.commit(8, &crate::telemetry::spool::tests::all_delivered(8)).unwrap();
    append_and_sync(&mut writer, 6..=12, &disk);
    assert_eq!(drain(&mut cursor), [9, 10, 11, 12]);
    assert_eq!(cursor.state().ordinal, 12);
    assert_eq!(segments(&disk, folder.path()), [1, 6]);
}

#[test]
fn what_was_appended_anew_is_read_there_and_not_in_the_file_that_was_given_up() {
    let (memory, disk, folder) = faulty();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append_and_sync(&mut writer, 1..=5, &disk);
    let path = segment::path(folder.path(), 1);
    let durable = memory.len(&path).unwrap() as usize;
    append(&mut writer, 6..=8);
    disk.fail(Op::Sync, ErrorKind::Other, 0, 1);
    writer.sync().unwrap_err();
    memory.tamper(&path, |bytes| bytes[durable] ^= 1);
    append_and_sync(&mut writer, 6..=9, &disk);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor), (1..=9).collect::<Vec<_>>(), "7 and 8 of the old file would come before 6");
    assert_eq!(cursor.state().corrupt, 0);
}

#[test]
fn a_torn_tail_is_never_written_after() {
    let (memory, _, folder) = faulty();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append(&mut writer, 1..=3);
    writer.sync().unwrap();
    drop((writer, folder));
    let path = segment::path(&root().join(BOOT.to_string()), 1);
    let before = memory.len(&path).unwrap();
    memory.tamper(&path, |bytes| bytes.truncate(bytes.len() - 7));
    let folder = Folder::adopt(&root(), BOOT, Arc::new(memory.clone())).unwrap().unwrap();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    assert_eq!(writer.next_seq(), 3);
    append(&mut writer, 3..=4);
    writer.sync().unwrap();
    assert_eq!(memory.len(&path).unwrap(), before - 7);
    assert_eq!(segments(&memory, folder.path()), [1, 3]);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor), [1, 2, 3, 4]);
    assert_eq!(cursor.state().corrupt, 0, "record 3 was torn and came again");
}

#[test]
fn what_is_in_the_spool_is_not_taken_twice() {
    let (memory, _, folder) = faulty();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    assert_eq!(writer.sync().unwrap(), None);
    append(&mut writer, [8, 16]);
    let twice = writer.append(16, Kind::Log, Level::Info, 1, b"");
    assert!(matches!(twice, Err(SpoolError::OutOfOrder { seq: 16, next: 17 })));
    let large = writer.append(17, Kind::Log, Level::Info, 1, &vec![0; PAYLOAD_BYTES_MAX + 1]);
    assert!(matches!(large, Err(SpoolError::TooLarge { .. })));
    assert_eq!(writer.sync().unwrap(), Some(16));
    drop((writer, folder));
    let folder = Folder::adopt(&root(), BOOT, Arc::new(memory)).unwrap().unwrap();
    assert_eq!(Writer::open(&folder, SpoolConfig::default()).unwrap().next_seq(), 17);
}

#[test]
fn a_full_disk_is_told_and_survived() {
    let memory = MemoryDisk::with_room(20_000);
    let config = SpoolConfig { segment_bytes: 2_000, reserve_bytes: 4_000, ..SpoolConfig::default() };
    let folder = Folder::create(&root(), BOOT, Arc::new(memory.clone())).unwrap();
    let mut writer = Writer::open(&folder, config).unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    let mut durable = 0;
    let error = (1..1_000).find_map(|seq| {
        let step = writer.append(seq, Kind::Log, Level::Info, 1, &payload(seq)).and_then(|()| writer.sync());
        step.map(|through| durable = through.unwrap()).err()
    });
    assert!(error.unwrap().is_disk_full());
    assert!(durable > 100);
    assert!(memory.len(&folder.path().join("reserve")).is_err(), "given back");
    assert_eq!(drain(&mut cursor), (1..=durable).collect::<Vec<_>>());
    writer.keep_room().unwrap();
    let next = writer.next_seq();
    append(&mut writer, next..next + 50);
    assert_eq!(writer.sync().unwrap(), Some(next + 49));
    assert_eq!(drain(&mut cursor).len(), 50);
    assert!(memory.len(&folder.path().join("reserve")).is_ok(), "made again");
}

/// What it had written stands in its file, and went another way meanwhile.
#[test]
fn a_writer_that_is_fenced_while_it_syncs_makes_nothing_durable() {
    let (_, disk, folder) = faulty();
    let mut old = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append_and_sync(&mut old, 1..=5, &disk);
    append(&mut old, 6..=8);
    old.write_out().unwrap();
    folder.fence_writer();
    assert!(matches!(old.sync(), Err(SpoolError::Fenced)));
    assert_eq!(folder.synced().map(|end| (end.next, end.records)), Some((6, 5)));
    let mut next = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append_and_sync(&mut next, 9..=10, &disk);
    drop(old);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor), [1, 2, 3, 4, 5, 9, 10]);
    assert_eq!((cursor.state().ordinal, cursor.state().corrupt), (7, 0));
}
