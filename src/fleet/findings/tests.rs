//! Findings as a table: a file in, codes and numbers out.

use expect_test::{Expect, expect};

use super::findings;
use crate::fleet::snapshot::Snapshot;

/// `rest`: the keys after as_of, which is noon.
fn check(rest: &str, expected: Expect) {
    let text = format!(r#"{{"schema_version": 1, "name": "t", "as_of": "2025-10-16T12:00:00Z", {rest}}}"#);
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    let lines = findings(&snapshot, &snapshot.policy);
    let lines: String = lines.iter().map(|finding| serde_json::to_string(finding).unwrap() + "\n").collect();
    expected.assert_eq(&lines);
}

#[test]
fn cycles_that_go_back_are_told_per_source_in_order_of_time() {
    check(
        r#""workers": [], "records": [
            {"source_type": "o", "timestamp": "2025-10-16T11:00:03Z", "cycle": 1},
            {"source_type": "o", "timestamp": "2025-10-16T13:00:01+02:00", "cycle": 9},
            {"source_type": "o", "source_id": "b", "timestamp": "2025-10-16T11:00:02Z", "cycle": 3},
            {"source_type": "o", "source_id": "b", "timestamp": "2025-10-16T11:00:01Z", "cycle": 4},
            {"source_type": "o", "timestamp": "2025-10-16T11:00:04Z"},
            {"source_type": "o", "timestamp": "2025-10-16T11:00:05Z", "cycle": 1}]"#,
        expect![[r#"
            {"code":"cycle_number_reset","source_type":"o","source_id":"b","from":4,"to":3}
            {"code":"cycle_number_reset","source_type":"o","source_id":null,"from":9,"to":1}
        "#]],
    );
}

#[test]
fn pairs_are_told_up_to_sixty_seconds_apart_where_one_had_no_task() {
    let worker = |id: &str, second: &str, status: &str, claimed: &str| {
        format!(
            r#"{{"id": "{id}", "created_at": "2025-10-16T11:{second}Z", "status": "{status}", "reason": "idle"{claimed}}}"#
        )
    };
    let none = r#", "tasks_claimed": 0"#;
    let (a, b) = (worker("b", "00:00", "terminated", none), worker("a", "00:00", "terminated", none));
    let c = worker("c", "01:00", "crashed", "");
    check(
        &format!(r#""workers": [{a}, {b}, {c}]"#),
        expect![[r#"
        {"code":"double_spawn","workers":["a","b"],"gap_seconds":0}
        {"code":"double_spawn","workers":["a","c"],"gap_seconds":60}
        {"code":"double_spawn","workers":["b","c"],"gap_seconds":60}
    "#]],
    );
    let late = worker("d", "01:00.000001", "terminated", "");
    let (e, f) =
        (worker("e", "00:00", "active", none), worker("f", "00:00", "terminated", r#", "tasks_claimed": 1"#));
    check(&format!(r#""workers": [{a}, {late}]"#), expect![[""]]);
    check(
        &format!(r#""workers": [{e}, {f}]"#),
        expect![[r#"
        {"code":"never_heartbeat","worker":"e","age_seconds":3600}
    "#]],
    );
}

#[test]
fn early_ends_are_told_up_to_two_minutes_after_promotion() {
    let worker = |id: &str, ended: &str| {
        format!(
            r#"{{"id": "{id}", "created_at": "2025-10-16T10:0{}:00Z", "status": "terminated", "reason": "idle", "tasks_claimed": 0,
                "promoted_at": "2025-10-16T11:00:00Z", "ended_at": "2025-10-16T11:{ended}Z"}}"#,
            id.len() * 2
        )
    };
    check(
        &format!(
            r#""workers": [{}, {}, {}]"#,
            worker("zz", "02:00"),
            worker("y", "02:00.1"),
            worker("xxx", "00:00.9")
        ),
        expect![[r#"
            {"code":"early_kill","worker":"xxx","seconds_after_promotion":0}
            {"code":"early_kill","worker":"zz","seconds_after_promotion":120}
        "#]],
    );
}

#[test]
fn a_worker_that_never_spoke_is_told_when_it_should_have() {
    let worker = |id: &str, created: &str, rest: &str| {
        format!(r#"{{"id": "{id}", "created_at": "2025-10-16T{created}Z", "status": "spawning"{rest}}}"#)
    };
    check(
        &format!(
            r#""workers": [{}, {}, {}]"#,
            worker("b", "11:54:59.5", ""),
            worker("a", "11:55:00", ""),
            worker("c", "11:00:00", r#", "first_heartbeat_at": "2025-10-16T11:00:01Z""#)
        ),
        expect![[r#"
            {"code":"never_heartbeat","worker":"b","age_seconds":300}
        "#]],
    );
}

#[test]
fn silence_needs_age_and_a_change() {
    let fleet = |created: &str, last: &str| {
        format!(
            r#""workers": [{{"id": "a", "created_at": "2025-10-16T{created}Z", "status": "terminating"}}],
            "records": [{{"source_type": "orchestrator_gpu", "timestamp": "2025-10-16T{last}Z"}},
                        {{"source_type": "orchestrator_gpu", "timestamp": "2025-10-16T12:00:01Z"}},
                        {{"source_type": "worker", "timestamp": "2025-10-16T12:00:00Z"}}]"#
        )
    };
    check(&fleet("11:54:59.9", "11:54:59.9"), expect![[""]]);
    check(
        &fleet("11:55:00", "11:54:59.9"),
        expect![[r#"
        {"code":"log_silence","source_type":"orchestrator_gpu","last_record_at":"2025-10-16T11:54:59.9Z","silent_seconds":300,"worker_changes_since":1,"detectable_at":"2025-10-16T11:59:59.9Z"}
    "#]],
    );
    check(
        &fleet("11:59:00", "11:54:59.9"),
        expect![[r#"
        {"code":"log_silence","source_type":"orchestrator_gpu","last_record_at":"2025-10-16T11:54:59.9Z","silent_seconds":300,"worker_changes_since":1,"detectable_at":"2025-10-16T11:59:59.9Z"}
    "#]],
    );
    check(&fleet("11:59:00", "11:55:00"), expect![[""]]);
}
