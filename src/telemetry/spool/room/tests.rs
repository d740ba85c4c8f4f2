//! Room on the disk: what is deleted, what is dropped, and what is counted.

use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::telemetry::spool::tests::{BOOT, all_delivered, append, drain, memory, root, segments, small};
use crate::telemetry::spool::{Cursor, SpoolConfig};

#[test]
fn a_segment_goes_when_every_slot_has_delivered_it() {
    let (disk, folder) = memory();
    let mut writer = Writer::open(&folder, small(1_000)).unwrap();
    writer.set_slots(&["database", "otlp"]);
    append(&mut writer, 1..=60);
    writer.sync().unwrap();
    let all = segments(&disk, folder.path());
    let mut database = Cursor::open(&folder, "database").unwrap();
    drain(&mut database);
    writer.keep_room().unwrap();
    assert_eq!(segments(&disk, folder.path()), all, "otlp has not begun");
    let mut otlp = Cursor::open(&folder, "otlp").unwrap();
    let batch = otlp.next_batch(all[2] as usize, usize::MAX).unwrap();
    otlp.commit(batch.last().unwrap().seq, &all_delivered(batch.len())).unwrap();
    writer.keep_room().unwrap();
    assert_eq!(segments(&disk, folder.path()), all[2..]);
    assert_eq!(drain(&mut otlp).len() as u64, 60 - all[2]);
    writer.keep_room().unwrap();
    assert_eq!(segments(&disk, folder.path()), all[all.len() - 1..], "the active one stays");
}

#[test]
fn deleting_makes_the_cursors_durable_first() {
    let (disk, folder) = memory();
    let mut writer = Writer::open(&folder, small(1_000)).unwrap();
    append(&mut writer, 1..=60);
    writer.sync().unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    let batch = cursor.next_batch(50, usize::MAX).unwrap();
    cursor.commit_buffered(50, &all_delivered(batch.len())).unwrap();
    writer.keep_room().unwrap();
    disk.crash();
    let folder = Folder::adopt(&root(), BOOT, Arc::new(disk)).unwrap().unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor), (51..=60).collect::<Vec<_>>());
    assert_eq!(cursor.state().absent + cursor.state().evicted, 0);
}

#[test]
fn over_the_cap_the_oldest_is_dropped_and_counted_by_slot_and_level() {
    let (disk, folder) = memory();
    let config = SpoolConfig { segment_bytes: 1_000, cap_bytes: 4_000, ..SpoolConfig::default() };
    let mut writer = Writer::open(&folder, config).unwrap();
    let mut done = Cursor::open(&folder, "stdout").unwrap();
    let mut stuck = Cursor::open(&folder, "database").unwrap();
    append(&mut writer, 1..=60);
    writer.sync().unwrap();
    assert!(!writer.is_low_on_room());
    drain(&mut done);
    append(&mut writer, 61..=85);
    writer.sync().unwrap();
    assert!(writer.is_low_on_room(), "{} bytes", writer.bytes());
    append(&mut writer, 86..=200);
    writer.sync().unwrap();
    writer.keep_room().unwrap();
    assert!(writer.bytes() <= 4_000);
    let first = segments(&disk, folder.path())[0];
    let evicted = Ledger::load(&disk, folder.path(), BOOT).unwrap().evicted;
    assert_eq!(evicted["database"]["INFO"], first - 1);
    assert_eq!(evicted["stdout"]["INFO"], first - 61);
    assert_eq!(drain(&mut stuck), (first..=200).collect::<Vec<_>>());
    // A slot that had not begun to deliver cannot tell who dropped what was before it.
    assert_eq!(stuck.state().evicted + stuck.state().absent, first - 1);
    drain(&mut done);
    assert_eq!((done.state().evicted, done.state().ordinal), (first - 61, 200));
}

#[test]
fn an_adopted_folder_pays_before_the_own_one() {
    let (disk, old) = memory();
    let mut writer = Writer::open(&old, small(1_000)).unwrap();
    append(&mut writer, 1..=60);
    writer.sync().unwrap();
    drop(writer);
    let folder = Folder::create(&root(), Uuid::from_u128(7), Arc::new(disk.clone())).unwrap();
    let config = SpoolConfig { segment_bytes: 1_000, cap_bytes: 4_500, ..SpoolConfig::default() };
    let mut writer = Writer::open(&folder, config).unwrap();
    writer.set_adopted(vec![old.clone()]);
    append(&mut writer, 1..=60);
    writer.sync().unwrap();
    writer.keep_room().unwrap();
    assert_eq!(segments(&disk, folder.path())[0], 1);
    let left = segments(&disk, old.path());
    assert!(left[0] > 1 && !left.is_empty());
    let mut cursor = Cursor::open(&old, "database").unwrap();
    assert_eq!(drain(&mut cursor), (left[0]..=60).collect::<Vec<_>>());
    assert_eq!(cursor.state().ordinal, 60);
}
