//! Folders: made whole, locked, adopted, and where their records end.

use std::sync::Arc;

use super::*;
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::disk::memory::MemoryDisk;
use crate::telemetry::spool::tests::{BOOT, append, drain, finish, root};
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
    assert!(!finish(&folder, &slots(), 1, 200).unwrap());
    drop((writer, cursor, folder));

    let folder = adopt_all(&root(), &disk, 9).unwrap().remove(0);
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append(&mut writer, 11..=12);
    writer.sync().unwrap();
    drop(writer);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor), (5..=12).collect::<Vec<_>>());
    let more = vec!["database".to_owned(), "otlp".to_owned()];
    assert!(!finish(&folder, &more, 1, 200).unwrap(), "otlp has not begun");
    assert!(finish(&folder, &slots(), 1, 200).unwrap());
    assert!(boots(&*disk, &root(), 9).unwrap().is_empty());
    let kept = ledger::finished(&*disk, &root()).unwrap();
    assert_eq!((kept[0].boot, kept[0].end.records, kept[0].slots["database"].ordinal), (BOOT, 12, 12));
}

#[test]
fn as_many_ledgers_are_kept_as_allowed_and_the_newest() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    for boot in 1..=5 {
        let folder = Folder::create(&root(), Uuid::from_u128(boot), disk.clone()).unwrap();
        assert!(finish(&folder, &slots(), boot as i64 * 1_000, 3).unwrap(), "an empty one is finished");
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
        assert!(finish(&folder, &slots(), 1, 9).is_err());
        faulty.heal();
    }
    let folder = Folder::adopt(&root(), BOOT, disk.clone()).unwrap().unwrap();
    assert!(finish(&folder, &slots(), 2, 9).unwrap());
    assert_eq!(ledger::finished(&*disk, &root()).unwrap().len(), 1);
    assert!(boots(&*disk, &root(), 9).unwrap().is_empty());
}

/// OTLP is switched off for good while a dead process has records for it.
#[test]
fn a_slot_without_an_exporter_holds_a_folder_for_a_day_and_is_counted() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let folder = Folder::create(&root(), BOOT, disk.clone()).unwrap();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    append(&mut writer, 1..=10);
    writer.sync().unwrap();
    let mut otlp = Cursor::open(&folder, "otlp").unwrap();
    otlp.next_batch(4, 999).unwrap();
    otlp.commit(4, &crate::telemetry::spool::tests::all_delivered(4)).unwrap();
    let mut database = Cursor::open(&folder, "database").unwrap();
    drop(writer);
    let day = 86_400_000_000;
    let at = |slots: &[String], now| {
        let terms = ledger::Terms {
            slots,
            now_unix_micros: now,
            removed_after: std::time::Duration::from_micros(day as u64),
            kept_max: 9,
        };
        ledger::finish(&folder, &terms).unwrap()
    };
    let noted = ledger::Finished { is_gone: false, removed: [("otlp".to_owned(), 6)].into() };
    assert_eq!(at(&slots(), 10), ledger::Finished::default(), "the database has not delivered");
    drain(&mut database);
    assert_eq!(at(&slots(), 10), noted, "seen for the first time");
    assert_eq!(at(&slots(), 10 + day - 1), ledger::Finished::default(), "told once, and kept");
    let both = ["database".to_owned(), "otlp".to_owned()];
    assert_eq!(at(&both, 10 + day), ledger::Finished::default(), "it is back, and has records to deliver");
    assert_eq!(at(&[], 10 + 2 * day), ledger::Finished::default(), "nobody delivers anything: nothing is dropped");
    let gone = ledger::Finished { is_gone: true, ..noted };
    assert_eq!(at(&slots(), 10 + 2 * day), gone);
    let lines = crate::telemetry::spool::verify(&*disk, &root()).unwrap();
    let otlp = lines.iter().find(|line| line.exporter == "otlp").unwrap();
    assert_eq!((otlp.delivered, otlp.pending, &otlp.dropped), (4, 0, &[("exporter_removed".to_owned(), 6)].into()));
    assert!(lines.iter().all(|line| line.ok), "{lines:#?}");
}
