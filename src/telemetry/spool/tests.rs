//! What tests of the spool share, and the stories that need all its parts.

mod model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::disk::{Disk, RealDisk, memory::MemoryDisk};
use super::*;
use crate::telemetry::record::{Kind, Level, Source, Stored};

/// The boot of most tests.
pub(super) const BOOT: Uuid = Uuid::from_u128(0x0f0e_0d0c_0b0a_4908_8706_0504_0302_0100);

/// Where the spool is in memory.
pub(super) fn root() -> PathBuf {
    PathBuf::from("/spool")
}

pub(super) fn memory() -> (MemoryDisk, Folder) {
    let disk = MemoryDisk::default();
    let folder = Folder::create(&root(), BOOT, Arc::new(disk.clone())).unwrap();
    (disk, folder)
}

pub(super) fn small(segment_bytes: u64) -> SpoolConfig {
    SpoolConfig { segment_bytes, ..SpoolConfig::default() }
}

pub(super) fn source(name: &str) -> Vec<u8> {
    let source = Source { source_type: "worker".into(), source_id: name.into(), resource: Vec::new() };
    serde_json::to_vec(&source).unwrap()
}

/// A payload that says its sequence.
pub(super) fn payload(seq: u64) -> Vec<u8> {
    format!("record {seq}").into_bytes()
}

pub(super) fn append(writer: &mut Writer, seqs: impl IntoIterator<Item = u64>) {
    for seq in seqs {
        writer.append(seq, Kind::Log, Level::Info, 1, &payload(seq)).unwrap();
    }
}

/// The sequences of a batch, each payload checked.
pub(super) fn seqs(batch: &[Stored]) -> Vec<u64> {
    batch
        .iter()
        .inspect(|stored| assert_eq!(stored.payload, payload(stored.seq)))
        .map(|stored| stored.seq)
        .collect()
}

pub(super) fn all_delivered(records: usize) -> Tally {
    Tally { delivered: records as u64, ..Tally::default() }
}

/// Everything that the slot has not done, committed as it comes.
pub(super) fn drain(cursor: &mut Cursor) -> Vec<u64> {
    let mut all = Vec::new();
    loop {
        let batch = cursor.next_batch(7, usize::MAX).unwrap();
        let Some(last) = batch.last() else { return all };
        all.extend(seqs(&batch));
        cursor.commit(last.seq, &all_delivered(batch.len())).unwrap();
    }
}

/// Whether the folder is gone; an exporter that is switched off is waited for.
pub(super) fn finish(folder: &Folder, slots: &[String], now: i64, kept_max: usize) -> Result<bool, SpoolError> {
    let removed_after = SpoolConfig::default().removed_after;
    let terms = ledger::Terms { slots, now_unix_micros: now, removed_after, kept_max };
    ledger::finish(folder, &terms).map(|finished| finished.is_gone)
}

pub(super) fn segments(disk: &dyn Disk, folder: &Path) -> Vec<u64> {
    segment::list(disk, folder).unwrap().iter().map(|segment| segment.first).collect()
}

#[test]
fn records_go_through_the_real_disk_over_several_segments() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::create(dir.path(), BOOT, Arc::new(RealDisk)).unwrap();
    let mut writer = Writer::open(&folder, small(2_000)).unwrap();
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    writer.append(0, Kind::Source, Level::Debug, 1, &source("w1")).unwrap();
    append(&mut writer, 1..=100);
    assert_eq!(writer.sync().unwrap(), Some(100));
    assert!(segments(&RealDisk, folder.path()).len() > 2);

    let batch = cursor.next_batch(60, usize::MAX).unwrap();
    assert_eq!(seqs(&batch), (1..=60).collect::<Vec<_>>());
    assert!(batch.iter().all(|stored| stored.source.source_id == "w1" && stored.boot == BOOT));
    assert_eq!(cursor.pending().unwrap().records, 100);
    cursor.commit(40, &all_delivered(40)).unwrap();
    assert_eq!(cursor.pending().unwrap().records, 60);
    drop((writer, cursor, folder));

    let folder = folder::adopt_all(dir.path(), &(Arc::new(RealDisk) as Arc<dyn Disk>), 9).unwrap().remove(0);
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    assert_eq!(drain(&mut cursor), (41..=100).collect::<Vec<_>>());
    assert_eq!(cursor.pending().unwrap(), Pending::default());
    assert_eq!(drain(&mut Cursor::open(&folder, "stdout").unwrap()).len(), 100);
}
