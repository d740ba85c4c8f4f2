//! Looking in and setting right: listing, reading, repairing folders of the dead.

use super::*;
use crate::telemetry::spool::tests::{BOOT, append, drain, memory, root, segments, small};
use crate::telemetry::spool::{Cursor, Writer, verify};

fn cat_all(disk: &dyn Disk) -> Vec<u64> {
    let mut found = Vec::new();
    cat(disk, &root(), BOOT, &mut |stored| {
        found.push(stored.seq);
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

#[test]
fn repair_keeps_every_right_record_and_the_count_of_the_wrong_ones() {
    let (disk, folder) = memory();
    let mut writer = Writer::open(&folder, small(1_000)).unwrap();
    append(&mut writer, 1..=60);
    writer.sync().unwrap();
    drop(writer);
    let firsts = segments(&disk, folder.path());
    let last = *firsts.last().unwrap();
    let path = folder.path().to_path_buf();
    disk.tamper(&segment::path(&path, firsts[0]), |bytes| bytes[20] ^= 1);
    disk.tamper(&segment::path(&path, firsts[1]), |bytes| bytes[60] ^= 1);
    disk.tamper(&segment::path(&path, last), |bytes| {
        let end = bytes.len();
        bytes[end - 46 - 46 / 2] ^= 1;
    });
    let before = cat_all(&disk);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    assert_eq!(repair(&shared, &root()).unwrap(), [], "a live process' folder is left alone");
    drop(folder);
    let repaired = repair(&shared, &root()).unwrap();
    assert_eq!(repaired.iter().map(|r| r.segment).collect::<Vec<_>>(), [firsts[0], firsts[1], last]);
    assert_eq!(repaired[0].damaged_bytes, 0, "only its header was wrong");
    assert_eq!(repair(&shared, &root()).unwrap(), []);
    assert_eq!(cat_all(&disk), before);
    let wrong = [firsts[1], 59];
    assert_eq!(before, (1..=60).filter(|seq| !wrong.contains(seq)).collect::<Vec<_>>());
    assert_eq!(quarantine::list(&disk, &root()).unwrap().len(), 2);

    let folder = adopt_all(&root(), &shared, 9).unwrap().remove(0);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor), before);
    assert_eq!(cursor.state().ordinal, 60);
    assert!(verify(&disk, &root()).unwrap().iter().all(|line| line.ok));
    let listed = ls(&disk, &root()).unwrap();
    assert_eq!((listed[0].records, listed[0].pending["database"]), (60, 0));
}

#[test]
fn cat_stops_when_it_is_told() {
    let (disk, folder) = memory();
    let mut writer = Writer::open(&folder, small(1_000)).unwrap();
    append(&mut writer, 1..=40);
    writer.sync().unwrap();
    assert_eq!(cat_all(&disk), (1..=40).collect::<Vec<_>>());
    let mut seen = 0;
    cat(&disk, &root(), BOOT, &mut |_| {
        seen += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(seen, 1);
}
