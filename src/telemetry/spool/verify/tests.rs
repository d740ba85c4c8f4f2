//! The conservation law over live, dead and finished boots.

use std::sync::Arc;

use super::*;
use crate::telemetry::record::Level;
use crate::telemetry::spool::disk::memory::MemoryDisk;
use crate::telemetry::spool::tests::{BOOT, append, drain, finish, memory, payload, root, small, source};
use crate::telemetry::spool::{Counters, Cursor, Folder, SpoolConfig, Tally, Writer, segment};

/// Two sources, 30 records each in turn, over several segments.
fn two_sources(disk: &MemoryDisk, folder: &Folder) -> Writer {
    let _ = disk;
    let mut writer = Writer::open(folder, small(1_000)).unwrap();
    writer.append(1, Kind::Source, Level::Debug, 1, &source("w1")).unwrap();
    writer.append(2, Kind::Source, Level::Debug, 2, &source("w2")).unwrap();
    for seq in 3..63 {
        writer.append(seq, Kind::Log, Level::Info, 1 + (seq % 2) as u16, &payload(seq)).unwrap();
    }
    writer.sync().unwrap();
    writer
}

fn lines(disk: &dyn Disk) -> Vec<String> {
    let lines = verify(disk, &root()).unwrap();
    let show = |line: &Line| {
        let sum = line.delivered + line.dropped.values().sum::<u64>() + line.quarantined + line.pending;
        assert!(!line.ok || sum == line.accepted, "{line:?}");
        assert!(!line.ok || line.offered == line.accepted + line.refused.values().sum::<u64>(), "{line:?}");
        format!(
            "{} {}: offered {} accepted {} delivered {} dropped {:?} quarantined {} pending {}{}",
            line.source_id,
            line.exporter,
            line.offered,
            line.accepted,
            line.delivered,
            line.dropped,
            line.quarantined,
            line.pending,
            line.fault.as_deref().map(|fault| format!(" FAULT {fault}")).unwrap_or_default()
        )
    };
    lines.iter().map(show).collect()
}

fn check(disk: &dyn Disk, expected: expect_test::Expect) {
    expected.assert_eq(&lines(disk).join("\n"));
}

#[test]
fn the_law_holds_from_the_first_record_to_the_kept_ledger() {
    use expect_test::expect;
    let (disk, folder) = memory();
    let mut writer = two_sources(&disk, &folder);
    check(
        &disk,
        expect![[r#"
        w1 none: offered 30 accepted 30 delivered 0 dropped {} quarantined 0 pending 30
        w2 none: offered 30 accepted 30 delivered 0 dropped {} quarantined 0 pending 30"#]],
    );
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    cursor.next_batch(20, usize::MAX).unwrap();
    cursor.commit(20, &Tally { delivered: 18, dropped: 0, quarantined: 0 }).unwrap();
    cursor.next_batch(1, usize::MAX).unwrap();
    cursor.commit(21, &Tally { delivered: 0, dropped: 0, quarantined: 1 }).unwrap();
    let refused = [("full".to_owned(), [("DEBUG".to_owned(), 5)].into())].into();
    let lost = [("half_written".to_owned(), 1)].into();
    writer.ledger_mut().fold(&Counters { offered: 70, accepted: 65, refused, lost, ring_closed: false });
    writer.save_ledger().unwrap();
    check(
        &disk,
        expect![[r#"
        w1 database: offered 40 accepted 35 delivered 9 dropped {"half_written": 1} quarantined 0 pending 25
        w2 database: offered 30 accepted 30 delivered 9 dropped {} quarantined 1 pending 20"#]],
    );
    let counters = Counters { ring_closed: true, ..writer.ledger_mut().counters.clone() };
    writer.ledger_mut().fold(&counters);
    writer.save_ledger().unwrap();
    check(
        &disk,
        expect![[r#"
        w1 database: offered 40 accepted 35 delivered 9 dropped {"half_written": 1} quarantined 0 pending 25 FAULT 4 accepted records never reached the spool
        w2 database: offered 30 accepted 30 delivered 9 dropped {} quarantined 1 pending 20 FAULT 4 accepted records never reached the spool"#]],
    );
    writer.append(63, Kind::Log, Level::Info, 1, &payload(63)).unwrap();
    writer.append(64, Kind::Log, Level::Info, 1, &payload(64)).unwrap();
    writer.append(65, Kind::Log, Level::Info, 1, &payload(65)).unwrap();
    writer.append(66, Kind::Log, Level::Info, 1, &payload(66)).unwrap();
    writer.sync().unwrap();
    drain(&mut cursor);
    drop((writer, cursor));
    assert!(finish(&folder, &["database".to_owned()], 1, 9).unwrap());
    check(
        &disk,
        expect![[r#"
        w1 database: offered 40 accepted 35 delivered 34 dropped {"half_written": 1} quarantined 0 pending 0
        w2 database: offered 30 accepted 30 delivered 29 dropped {} quarantined 1 pending 0"#]],
    );
}

#[test]
fn damage_and_deletion_are_losses_with_a_cause_before_and_after_they_are_met() {
    let (disk, folder) = memory();
    drop(two_sources(&disk, &folder));
    let segments = segment::list(&disk, folder.path()).unwrap();
    disk.remove(&segment::path(folder.path(), segments[1].first)).unwrap();
    disk.tamper(&segment::path(folder.path(), segments[2].first), |bytes| {
        let at = bytes.len() - 5;
        bytes[at] ^= 1;
    });
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    let met = |disk: &MemoryDisk| {
        let lines = verify(disk, &root()).unwrap();
        assert!(lines.iter().all(|line| line.ok), "{lines:#?}");
        let dropped = lines.iter().flat_map(|line| &line.dropped);
        dropped.fold(BTreeMap::<String, u64>::new(), |mut sum, (cause, count)| {
            *sum.entry(cause.clone()).or_default() += count;
            sum
        })
    };
    let gone = segments[2].first - segments[1].first;
    assert_eq!(met(&disk), [("missing".to_owned(), gone + 1)].into());
    drain(&mut cursor);
    assert_eq!(met(&disk), [("corrupt".to_owned(), 1), ("evicted".to_owned(), gone)].into());
}

#[test]
fn the_law_fails_where_somebody_lies() {
    let (disk, folder) = memory();
    drop(two_sources(&disk, &folder));
    let mut cursor = Cursor::open(&folder, "database").unwrap();
    drain(&mut cursor);
    let mut state = cursor.state().clone();
    state.fates(1).delivered += 1;
    disk.tamper(&folder.path().join("cursor.database"), |bytes| *bytes = state.encode());
    assert!(verify(&disk, &root()).unwrap().iter().all(|line| !line.ok));
    state.fates(2).delivered -= 1;
    disk.tamper(&folder.path().join("cursor.database"), |bytes| *bytes = state.encode());
    assert!(
        verify(&disk, &root()).unwrap().iter().all(|line| !line.ok),
        "one source's record counts as the other's"
    );
    state.fates(1).delivered -= 1;
    state.fates(2).delivered += 1;
    disk.tamper(&folder.path().join("cursor.database"), |bytes| *bytes = state.encode());
    assert!(verify(&disk, &root()).unwrap().iter().all(|line| line.ok));
    let mut ledger = Ledger::load(&disk, folder.path(), BOOT).unwrap();
    ledger.fold(&Counters { offered: 99, accepted: 60, ..Counters::default() });
    ledger.save(&folder).unwrap();
    assert!(verify(&disk, &root()).unwrap().iter().all(|line| !line.ok), "39 offered records are nowhere");
}

#[test]
fn a_root_that_is_not_there_has_no_lines() {
    assert_eq!(verify(&MemoryDisk::default(), &root()).unwrap(), []);
}

#[test]
fn boots_are_told_apart() {
    let disk = Arc::new(MemoryDisk::default());
    for boot in [1, 2] {
        let folder = Folder::create(&root(), Uuid::from_u128(boot), disk.clone()).unwrap();
        let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
        append(&mut writer, 0..boot as u64);
        writer.sync().unwrap();
    }
    let accepted: Vec<_> =
        verify(&*disk, &root()).unwrap().iter().map(|line| (line.boot.as_u128(), line.accepted)).collect();
    assert_eq!(accepted, [(1, 1), (2, 2)]);
}
