//! Folders: made whole, locked, adopted, and where their records end.

use std::sync::Arc;

use super::*;
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::disk::memory::MemoryDisk;
use crate::telemetry::spool::tests::{BOOT, append, drain, root};
use crate::telemetry::spool::{Cursor, SpoolConfig, Writer, ledger};

fn slots() -> Vec<String> {
    vec!["database".to_owned()]
}

#[test]
fn a_folder_that_is_held_is_neither_made_again_nor_adopted() {
    for (disk, root) in [
        (Arc::new(RealDisk) as Arc<dyn Disk>, tempfile::tempdir().unwrap().keep()),
        (Arc::new(MemoryDisk::default()), root()),
    ] {
        let folder = Folder::create(&root, BOOT, disk.clone()).unwrap();
        let other = Folder::create(&root, Uuid::from_u128(2), disk.clone()).unwrap();
        assert!(Folder::adopt(&root, BOOT, disk.clone()).unwrap().is_none());
        assert!(adopt_all(&root, &disk, 9).unwrap().is_empty());
        drop(folder);
        let adopted = adopt_all(&root, &disk, 9).unwrap();
        assert_eq!(adopted.iter().map(Folder::boot).collect::<Vec<_>>(), [BOOT]);
        assert!(adopt_all(&root, &disk, 9).unwrap().is_empty());
        drop((adopted, other));
        assert_eq!(adopt_all(&root, &disk, 1).unwrap().len(), 1, "as many as asked for");
        if disk.len(Path::new("/spool/none")).is_err() && root.starts_with(std::env::temp_dir()) {
            std::fs::remove_dir_all(&root).unwrap();
        }
    }
}

#[test]
fn two_processes_write_and_read_beside_each_other() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let open = |boot: u128| {
        let folder = Folder::create(&root(), Uuid::from_u128(boot), disk.clone()).unwrap();
        let writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
        (Cursor::open(&folder, "database").unwrap(), writer, folder)
    };
    let (mut one, mut two) = (open(1), open(2));
    for round in 0..10 {
        append(&mut one.1, round * 4..round * 4 + 4);
        append(&mut two.1, round * 2..round * 2 + 2);
        one.1.sync().unwrap();
        two.1.sync().unwrap();
        assert_eq!((drain(&mut one.0).len(), drain(&mut two.0).len()), (4, 2));
    }
}

#[test]
fn who_adopts_goes_on_where_the_dead_process_was_and_then_finishes_the_folder() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let folder = Folder::create(&root(), BOOT, disk.clone()).unwrap();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append(&mut writer, 1..=10);
    writer.sync().unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    cursor.next_batch(4, 999).unwrap();
    cursor.commit(4, &crate::telemetry::spool::tests::all_delivered(4)).unwrap();
    assert!(!ledger::finish(&folder, &slots(), 1, 200).unwrap());
    drop((writer, cursor, folder));

    let folder = adopt_all(&root(), &disk, 9).unwrap().remove(0);
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append(&mut writer, 11..=12);
    writer.sync().unwrap();
    drop(writer);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor), (5..=12).collect::<Vec<_>>());
    let more = vec!["database".to_owned(), "otlp".to_owned()];
    assert!(!ledger::finish(&folder, &more, 1, 200).unwrap(), "otlp has not begun");
    assert!(ledger::finish(&folder, &slots(), 1, 200).unwrap());
    assert!(boots(&*disk, &root(), 9).unwrap().is_empty());
    let kept = ledger::finished(&*disk, &root()).unwrap();
    assert_eq!((kept[0].boot, kept[0].end.records, kept[0].slots["database"].ordinal), (BOOT, 12, 12));
}

#[test]
fn as_many_ledgers_are_kept_as_allowed_and_the_newest() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    for boot in 1..=5 {
        let folder = Folder::create(&root(), Uuid::from_u128(boot), disk.clone()).unwrap();
        assert!(ledger::finish(&folder, &slots(), boot as i64 * 1_000, 3).unwrap(), "an empty one is finished");
    }
    let kept: Vec<_> =
        ledger::finished(&*disk, &root()).unwrap().iter().map(|ledger| ledger.boot.as_u128()).collect();
    assert_eq!(kept, [3, 4, 5]);
}

#[test]
fn a_folder_that_was_half_removed_is_removed_and_counted_once() {
    let memory = MemoryDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let folder = Folder::create(&root(), BOOT, disk.clone()).unwrap();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append(&mut writer, 1..=3);
    writer.sync().unwrap();
    drop(writer);
    drain(&mut Cursor::open(&folder, "database").unwrap());
    let faulty = crate::telemetry::spool::disk::faulty::FaultyDisk::new(disk.clone());
    drop(folder);
    for after in 0..4 {
        let folder = Folder::adopt(&root(), BOOT, Arc::new(faulty.clone())).unwrap().unwrap();
        faulty.fail(crate::telemetry::spool::disk::faulty::Op::Remove, std::io::ErrorKind::Other, after.min(1), 1);
        assert!(ledger::finish(&folder, &slots(), 1, 9).is_err());
        faulty.heal();
    }
    let folder = Folder::adopt(&root(), BOOT, disk.clone()).unwrap().unwrap();
    assert!(ledger::finish(&folder, &slots(), 2, 9).unwrap());
    assert_eq!(ledger::finished(&*disk, &root()).unwrap().len(), 1);
    assert!(boots(&*disk, &root(), 9).unwrap().is_empty());
}
