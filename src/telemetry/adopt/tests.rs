//! Spans of a dead process: open ones are told once as interrupted, ended ones never, however often
//! the take-over itself is cut short.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use proptest::prelude::*;

use super::*;
use crate::telemetry::ring::{Ring, RingConfig};
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::disk::faulty::{FaultyDisk, Op};
use crate::telemetry::spool::{Cursor, Tally, verify};
use crate::telemetry::tests::payloads::any_payload;

const BOOT: Uuid = Uuid::from_u128(0x0f0e_0d0c_0b0a_4908_8706_0504_0302_0100);
/// Spans: open at the kill; ended, with its record in the ring only; ended, with it in the spool.
const OPEN: [u64; 2] = [1, 4];
const ENDED_IN_RING: u64 = 2;
const ENDED_IN_SPOOL: u64 = 3;

fn open_span(id: u64) -> OpenSpan<'static> {
    OpenSpan {
        trace_id: 7,
        span_id: id,
        parent_span_id: 0,
        start_unix_micros: 1_700_000_000_000_000,
        cycle: 638,
        source: 0,
        name: format!("span {id}").into(),
    }
}

/// What the kill left: the slots of spans that had ended were not cleared in time.
fn dead_process(root: &Path) {
    let folder = Folder::create(root, BOOT, Arc::new(RealDisk)).unwrap();
    let config = RingConfig { capacity_bytes: 4_096, boot: BOOT, kernel_boot: kernel_boot() };
    let ring = Ring::create(folder.path(), &config).unwrap();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    let definition = br#"{"source_type":"external","source_id":"dead"}"#;
    let ended = |id: u64| Span { status: None, ..encode(&open_span(id), 1, crate::clock::now()) }.encode_to_vec();
    let entries: [(Kind, Vec<u8>, bool); 5] = [
        (Kind::Source, definition.to_vec(), true),
        (Kind::Log, b"\x09\x01\0\0\0\0\0\0\0".to_vec(), true),
        (Kind::Span, ended(ENDED_IN_SPOOL), true),
        (Kind::Span, ended(ENDED_IN_RING), false),
        (Kind::Log, b"\x09\x02\0\0\0\0\0\0\0".to_vec(), false),
    ];
    for id in [OPEN[0], ENDED_IN_RING, ENDED_IN_SPOOL, OPEN[1]] {
        ring.open_span(&open_span(id)).unwrap();
    }
    for (kind, payload, is_spooled) in entries {
        let seq = ring.push(kind, Level::Info, 0, &payload).unwrap();
        if is_spooled {
            writer.append(seq, kind, Level::Info, 0, &payload).unwrap();
        }
    }
    writer.sync().unwrap();
}

/// Delivers the folder: how often each span came, and whether it was interrupted; and the logs.
fn delivered(folder: &Folder) -> (BTreeMap<(u64, bool), u32>, usize) {
    let mut cursor = Cursor::open(folder, "database").unwrap();
    let batch = cursor.next_batch(100, usize::MAX).unwrap();
    let (mut spans, mut logs) = (BTreeMap::new(), 0);
    for stored in &batch {
        if stored.kind == Kind::Log {
            logs += 1;
            continue;
        }
        let span = Span::decode(&*stored.payload).unwrap();
        let id = u64::from_be_bytes(span.span_id.try_into().unwrap());
        let is_interrupted = span.status.is_some_and(|status| status.message.starts_with("interrupted"));
        *spans.entry((id, is_interrupted)).or_default() += 1;
    }
    let tally = Tally { delivered: batch.len() as u64, ..Tally::default() };
    cursor.commit(batch.last().unwrap().seq, &tally).unwrap();
    (spans, logs)
}

/// Fails one change of the disk after another; then all goes well.
#[test]
fn an_open_span_is_told_once_and_an_ended_one_never_however_often_adoption_is_cut_short() {
    let expected: BTreeMap<(u64, bool), u32> =
        [((OPEN[0], true), 1), ((OPEN[1], true), 1), ((ENDED_IN_RING, false), 1), ((ENDED_IN_SPOOL, false), 1)]
            .into();
    let mut cut = 0;
    for op in Op::CHANGES {
        for after in 0..12 {
            let dir = tempfile::tempdir().unwrap();
            dead_process(dir.path());
            let disk = FaultyDisk::new(Arc::new(RealDisk));
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            disk.fail(op, ErrorKind::Other, after, 1);
            let adopt = || adopt_all(dir.path(), &shared, SpoolConfig::default(), crate::clock::now());
            let (mut adopted, troubles) = adopt();
            disk.heal();
            if adopted.is_empty() {
                assert_eq!(troubles.len(), 1);
                cut += 1;
                let again = adopt();
                assert_eq!(again.1, [""; 0]);
                adopted = again.0;
            }
            let folder = adopted.remove(0).folder;
            assert_eq!(delivered(&folder), (expected.clone(), 2), "{op:?} failed after {after}");
            let lines = verify(&RealDisk, dir.path()).unwrap();
            assert!(
                matches!(&lines[..], [line] if line.ok && line.accepted == 6 && line.delivered == 6),
                "{lines:#?}"
            );
            assert!(!folder.path().join("ring").exists());
        }
    }
    assert!(cut >= 8, "{cut} take-overs were cut short");
    println!("{cut} take-overs cut short, each span once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// What a dead process left as spans, records and sources may be any bytes, in its ring and in its
    /// spool: its folder is taken over, and each record is there for a shipper.
    #[test]
    fn a_dead_process_is_taken_over_whatever_its_payloads_are(
        entries in prop::collection::vec((1_u8..=3, any_payload(), any::<bool>()), 1..12)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path(), BOOT, Arc::new(RealDisk)).unwrap();
        let config = RingConfig { capacity_bytes: 1 << 20, boot: BOOT, kernel_boot: kernel_boot() };
        let ring = Ring::create(folder.path(), &config).unwrap();
        ring.open_span(&open_span(OPEN[0])).unwrap();
        let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
        let mut is_spooled = true;
        let mut records = 0;
        for (kind, payload, goes_on) in entries {
            let kind = Kind::from_u8(kind).unwrap();
            let seq = ring.push(kind, Level::Info, 0, &payload).unwrap();
            records += usize::from(kind != Kind::Source);
            is_spooled &= goes_on;
            if is_spooled {
                writer.append(seq, kind, Level::Info, 0, &payload).unwrap();
            }
        }
        writer.sync().unwrap();
        drop((writer, ring, folder));
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let (adopted, troubles) = adopt_all(dir.path(), &disk, SpoolConfig::default(), crate::clock::now());
        prop_assert_eq!(troubles, [""; 0]);
        let mut cursor = Cursor::open(&adopted[0].folder, "database").unwrap();
        let batch = cursor.next_batch(100, usize::MAX).unwrap();
        // The open span is there as interrupted, unless one of the payloads says that it had ended.
        let interrupted = usize::try_from(adopted[0].interrupted).unwrap();
        prop_assert_eq!(batch.len(), records + interrupted);
        prop_assert!(interrupted <= 1);
    }
}
