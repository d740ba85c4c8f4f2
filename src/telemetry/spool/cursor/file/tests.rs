//! Files whose fsync has failed, and cursors that come too late.

use std::io::ErrorKind;

use super::*;
use crate::telemetry::spool::disk::faulty::{FaultyDisk, Op};
use crate::telemetry::spool::disk::memory::MemoryDisk;
use crate::telemetry::spool::tests::{BOOT, all_delivered, append, drain, root, segments, small};
use crate::telemetry::spool::{Cursor, Writer};

fn faulty() -> (MemoryDisk, FaultyDisk, Folder) {
    let memory = MemoryDisk::default();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let folder = Folder::create(&root(), BOOT, Arc::new(disk.clone())).unwrap();
    (memory, disk, folder)
}

/// Commits one record after another, the failed ones again, while `times` fsyncs or fresh files fail.
#[test]
fn a_file_whose_fsync_failed_is_never_written_or_believed_again() {
    for (op, after) in [(Op::Sync, 0), (Op::Sync, 1), (Op::Create, 0), (Op::Rename, 0), (Op::SyncDir, 0)] {
        for times in 1..5 {
            let (memory, disk, folder) = faulty();
            let mut writer = Writer::open(&folder, small(8 << 20)).unwrap();
            append(&mut writer, 1..=20);
            writer.sync().unwrap();
            let mut cursor = Cursor::open(&folder, "database").unwrap();
            cursor.next_batch(1, 99).unwrap();
            cursor.commit(1, &all_delivered(1)).unwrap();
            // The cursor's own fsync fails, and then so often what is to make it anew.
            disk.fail(op, ErrorKind::Other, after, times);
            if op != Op::Sync {
                disk.fail(Op::Sync, ErrorKind::Other, 0, 1);
            }
            for seq in 2..=20 {
                cursor.next_batch(1, 99).unwrap();
                // The same call is made until it succeeds.
                let tries = (0..10).take_while(|_| cursor.commit(seq, &all_delivered(1)).is_err()).count();
                assert!(tries < 10);
                let copy = memory.after_power_cut();
                let folder = Folder::adopt(&root(), BOOT, Arc::new(copy)).unwrap().unwrap();
                let kept = Cursor::open(&folder, "database").unwrap();
                assert_eq!(kept.state().next, seq + 1, "{op:?} {times}: a power cut after {seq}");
            }
            let trusted = disk.trusted_again_files();
            assert!(trusted.is_empty(), "{op:?} after {after}, {times} times: {trusted:?}");
        }
    }
}

#[test]
fn nothing_is_deleted_by_a_cursor_whose_fsync_failed() {
    let (_, disk, folder) = faulty();
    let mut writer = Writer::open(&folder, small(1_000)).unwrap();
    append(&mut writer, 1..=60);
    writer.sync().unwrap();
    let all = segments(&disk, folder.path());
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    let batch = cursor.next_batch(50, usize::MAX).unwrap();
    cursor.commit_buffered(50, &all_delivered(batch.len())).unwrap();
    disk.fail(Op::Sync, ErrorKind::Other, 0, 1);
    writer.keep_room().unwrap_err();
    writer.keep_room().unwrap();
    assert_eq!(segments(&disk, folder.path()), all, "its second fsync says that all is well");
    drain(&mut cursor);
    writer.keep_room().unwrap();
    assert!(segments(&disk, folder.path()).len() < all.len(), "it has a fresh file");
    assert_eq!(disk.trusted_again(), 0);
}

#[test]
fn a_cursor_that_was_opened_later_fences_the_earlier_one() {
    let (_, _, folder) = faulty();
    let mut writer = Writer::open(&folder, small(8 << 20)).unwrap();
    append(&mut writer, 1..=20);
    writer.sync().unwrap();
    let mut stuck = Cursor::open(&folder, "database").unwrap();
    let late = stuck.next_batch(10, usize::MAX).unwrap();
    let mut next = Cursor::open(&folder, "database").unwrap();
    assert_eq!(next.next_batch(4, usize::MAX).unwrap().len(), 4);
    next.commit(4, &all_delivered(4)).unwrap();
    assert!(matches!(stuck.commit(10, &all_delivered(late.len())), Err(SpoolError::Fenced)));
    assert!(matches!(stuck.next_batch(1, 99), Err(SpoolError::Fenced)));
    assert_eq!(drain(&mut next), (5..=20).collect::<Vec<_>>());
    assert_eq!(next.state().total().delivered, 20);
    assert_eq!(drain(&mut Cursor::open(&folder, "stdout").unwrap()).len(), 20, "another slot is its own");
}
