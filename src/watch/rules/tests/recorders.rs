//! Recorders, disk, canary, clocks.

use super::*;
use crate::watch::observation::RecorderSeen;

fn recorder(lost_at: Option<i64>) -> RecorderSeen {
    RecorderSeen {
        source: SourceId::new("worker", "w1"),
        lost: 7,
        lost_at: lost_at.map(at),
        spool_low: false,
        pending: 0,
        blocked: Vec::new(),
        at: at(0),
    }
}

fn with(now: i64, recorder: RecorderSeen) -> Observation {
    Observation { recorders: vec![recorder], ..seen(now, vec![]) }
}

#[test]
fn a_loss_is_told_for_a_while() {
    check(&with(0, recorder(None)), &[]);
    check(&with(599, recorder(Some(0))), &["records_lost w1"]);
    check(&with(600, recorder(Some(0))), &[]);
    assert!(summary(&with(1, recorder(Some(0)))).contains("has lost 7 records"));
}

#[test]
fn a_blocked_exporter_and_a_full_spool_are_named() {
    let blocked = vec![("otlp".to_owned(), "401 Unauthorized".to_owned())];
    let held = with(0, RecorderSeen { blocked, ..recorder(None) });
    check(&held, &["exporter_blocked w1"]);
    assert!(summary(&held).contains("otlp") && summary(&held).contains("401"));
    check(&with(0, RecorderSeen { spool_low: true, ..recorder(None) }), &["spool_full w1"]);
}

#[test]
fn the_disk_of_this_machine_is_judged_also_without_a_database() {
    let mut full = seen(0, vec![]);
    full.disk.spool_bytes = Some(79);
    check(&full, &[]);
    full.disk.spool_bytes = Some(80);
    check(&full, &["spool_full"]);
    full.disk.free_bytes = Some((64 << 20) - 1);
    full.database_away = Some(Away { since: at(-100), error: "full".to_owned() });
    check(&full, &["disk_full", "spool_full", "database_away"]);
    full.disk = DiskSeen { spool_cap_bytes: 100, ..DiskSeen::default() };
    check(&full, &["database_away"]);
}

#[test]
fn a_canary_that_does_not_come_back_or_comes_back_changed() {
    let mut waiting = seen(49, vec![]);
    waiting.canary.under_way_since = Some(at(0));
    check(&waiting, &[]);
    waiting.now = at(50);
    check(&waiting, &["canary"]);
    waiting.watching_since = at(10);
    check(&waiting, &[]);
    let mut changed = seen(0, vec![]);
    changed.canary.changed = Some("text a became b".to_owned());
    check(&changed, &["canary"]);
}

#[test]
fn a_clock_that_is_off_rings_while_its_rows_arrive() {
    let skewed = |seconds: Option<i64>, arrived: i64| {
        let skew_micros = seconds.map(|seconds| seconds * 1_000_000);
        seen(100, vec![LiveSource { skew_micros, ..source("w1", -500, arrived + 1, Some(arrived)) }])
    };
    check(&skewed(Some(0), 95), &[]);
    check(&skewed(Some(29), 95), &[]);
    check(&skewed(Some(30), 95), &["clock_skew w1"]);
    check(&skewed(Some(-30), 95), &["clock_skew w1"]);
    assert!(summary(&skewed(Some(-30), 95)).ends_with("is 30 s behind the database's"));
    check(&skewed(None, 95), &[]);
    check(&skewed(Some(-300), 60), &[]);
}

#[test]
fn rows_in_the_default_partition_ring_after_an_hour() {
    let with = |rows, first: Option<i64>| Observation {
        strays: Some(StrayRows { rows, first_arrived: first.map(at) }),
        ..seen(3_600, vec![])
    };
    check(&with(0, None), &[]);
    check(&with(7, Some(1)), &[]);
    check(&with(7, Some(0)), &["default_partition"]);
    assert!(summary(&with(7, Some(0))).starts_with("7 rows of system_logs lie in its DEFAULT partition"));
    assert!(summary(&with(10_000, Some(0))).starts_with("10000 or more rows"));
}
