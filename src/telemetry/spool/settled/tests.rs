//! Each record is settled once, whenever the one who does it is interrupted, and the law follows.

use std::collections::BTreeMap;

use super::*;
use crate::telemetry::record::{Level, Source};
use crate::telemetry::spool::disk::RealDisk;

fn label(seq: u64) -> Label {
    Label {
        slot: "database".into(),
        why: "a CHECK".into(),
        seq,
        boot: Uuid::from_u128(7),
        kind: 2,
        level: Level::Info,
        source: Source { source_type: "worker".into(), source_id: "gpu-1".into(), resource: vec![] },
    }
}

fn line(quarantined: u64) -> Line {
    Line {
        source_type: "worker".into(),
        source_id: "gpu-1".into(),
        boot: Uuid::from_u128(7),
        exporter: "database".into(),
        offered: 10,
        accepted: 10,
        refused: BTreeMap::new(),
        delivered: 10 - quarantined,
        dropped: BTreeMap::new(),
        quarantined,
        pending: 0,
        ok: true,
        fault: None,
    }
}

#[test]
fn the_law_moves_what_was_settled_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut settled = Settled::default();
    let files = quarantine::path(folder.path());
    std::fs::create_dir(&files).unwrap();
    for (seq, fate) in [(1, Fate::Delivered), (2, Fate::GivenUp), (3, Fate::Delivered)] {
        std::fs::write(files.join(seq.to_string()), "").unwrap();
        settled.settle(&RealDisk, folder.path(), &seq.to_string(), &label(seq), fate).unwrap();
    }
    assert_eq!(std::fs::read_dir(&files).unwrap().count(), 0);
    let settled = Settled::load(&RealDisk, folder.path()).unwrap();
    let mut of_four = line(4);
    settled.apply(&mut of_four);
    assert_eq!((of_four.delivered, of_four.quarantined, of_four.dropped[GIVEN_UP]), (8, 1, 1));
    let (mut of_one, mut others) = (line(1), line(4));
    settled.apply(&mut of_one);
    assert_eq!((of_one.delivered, of_one.quarantined, of_one.dropped.len()), (10, 0, 0));
    others.source_id = "gpu-2".into();
    settled.apply(&mut others);
    assert_eq!(others.quarantined, 4);
}

#[test]
fn an_interrupted_one_is_finished_and_not_counted_twice() {
    let folder = tempfile::tempdir().unwrap();
    let files = quarantine::path(folder.path());
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("a"), "").unwrap();
    let mut settled = Settled::default();
    settled.settle(&RealDisk, folder.path(), "a", &label(1), Fate::Delivered).unwrap();
    // As if the process had ended between counting and removing.
    std::fs::write(files.join("a"), "").unwrap();
    settled.removing.insert("a".to_owned());
    settled.save(&RealDisk, folder.path()).unwrap();
    let mut again = Settled::load(&RealDisk, folder.path()).unwrap();
    again.tidy(&RealDisk, folder.path()).unwrap();
    assert!(!files.join("a").exists());
    assert_eq!(again.counts[0].delivered, 1);
    assert_eq!(Settled::load(&RealDisk, folder.path()).unwrap(), again);
}
