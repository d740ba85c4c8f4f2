//! Files that cannot be used, and what is said of them; what may be absent; how times look.

use expect_test::{Expect, expect};

use super::*;

const MINIMAL: &str = r#""schema_version": 1, "name": "t", "as_of": "2025-10-16T12:00:00Z""#;

fn check(rest: &str, expected: Expect) {
    let error = parse(&format!("{{{MINIMAL}, {rest}}}")).unwrap_err();
    expected.assert_eq(&format!("{error}\n"));
}

#[test]
fn a_bad_worker_is_named_with_its_place() {
    let worker =
        |rest: &str| format!(r#""workers": [{{"id": "a", "created_at": "2025-10-16T11:00:00Z", {rest}}}]"#);
    check(
        &worker(r#""status": "active", "colour": 1"#),
        expect![[r#"
        $.workers[0].colour: unknown field `colour`, expected one of `id`, `created_at`, `status`, `promoted_at`, `first_heartbeat_at`, `last_heartbeat_at`, `ended_at`, `reason`, `running_tasks`, `tasks_claimed`, `live` at line 1 column 158
    "#]],
    );
    check(
        &worker(r#""status": "inactive""#),
        expect![[r#"
        $.workers[0].status: unknown variant `inactive`, expected one of `spawning`, `active`, `terminating`, `error`, `terminated`, `crashed` at line 1 column 150
    "#]],
    );
    check(
        &worker(r#""running_tasks": 1"#),
        expect![[r#"
            $.workers[0].status: expected this key, it is missing at line 1 column 149
        "#]],
    );
    check(
        &worker(r#""status": "active", "running_tasks": 1.5"#),
        expect![[r#"
        $.workers[0].running_tasks: invalid type: floating point `1.5`, expected u32 at line 1 column 170
    "#]],
    );
    check(
        &worker(r#""status": "active", "promoted_at": "yesterday""#),
        expect![[r#"
        $.workers[0].promoted_at: invalid value: string "yesterday", expected a time by RFC 3339 with at most 6 fraction digits, such as "2025-10-16T17:35:31Z" at line 1 column 176
    "#]],
    );
    check(
        &worker(r#""status": "active", "promoted_at": 5"#),
        expect![[r#"
        $.workers[0].promoted_at: invalid type: integer `5`, expected a time by RFC 3339 with at most 6 fraction digits, such as "2025-10-16T17:35:31Z" at line 1 column 166
    "#]],
    );
    check(
        &worker(r#""status": "active", "live": {"shape": 1}"#),
        expect![[r#"
            $.workers[0].live: unknown field `shape`, expected one of `state`, `state_since`, `outcome`, `leaving`, `pool`, `pod_id`, `pod`, `progress_at`, `idle_since`, `tasks`, `cell`, `usd_per_hour`, `refusal`, `suspects`, `unlisted` at line 1 column 166
        "#]],
    );
    check(
        &worker(r#""status": "error", "ended_at": "2025-10-16T10:59:59.999999Z""#),
        expect![[r#"
        $.workers[0].ended_at: 2025-10-16T10:59:59.999999Z is before its beginning, expected 2025-10-16T11:00:00Z or later
    "#]],
    );
}

#[test]
fn anything_else_bad_is_named_with_its_place() {
    check(
        r#""workers": [], "policy": {"max_worker": 3}"#,
        expect![[r#"
        $.policy.max_worker: unknown field `max_worker`, expected one of `min_workers`, `max_workers`, `idle_buffer`, `user_task_limit`, `failure_rate_max`, `failure_window_seconds`, `failure_rate_min_workers`, `heartbeat_timeout_seconds`, `idle_timeout_seconds`, `log_silence_seconds`, `live` at line 1 column 106
    "#]],
    );
    check(
        r#""workers": [], "demand": {"users": [{"user": "u", "queued": -1, "in_progress": 0}]}"#,
        expect![[r#"
            $.demand.users[0].queued: invalid value: integer `-1`, expected u64 at line 1 column 130
        "#]],
    );
    check(
        r#""workers": [], "expect": 5"#,
        expect![[r#"
        $.expect: invalid type: integer `5`, expected a map at line 1 column 94
    "#]],
    );
    check(
        r#""workers": [], "workers": []"#,
        expect![[r#"
            $: expected each key once: duplicate field `workers` at line 1 column 92
        "#]],
    );
    check(
        r#""workers": {}"#,
        expect![[r#"
        $.workers: invalid type: map, expected a sequence at line 1 column 79
    "#]],
    );
    check(
        r#""records": []"#,
        expect![[r#"
            $.workers: expected this key, it is missing at line 1 column 82
        "#]],
    );
    check(
        r#""workers": []} extra {"#,
        expect![[r#"
            $: expected the end of the file: trailing characters at line 1 column 84
        "#]],
    );
    check(
        r#""workers": ["#,
        expect![[r#"
        $.workers[0]: expected value at line 1 column 81
    "#]],
    );
}

#[test]
fn a_version_that_is_not_known_is_refused() {
    let error = parse(r#"{"schema_version": 2, "name": "t", "as_of": "2025-10-16T12:00:00Z", "workers": []}"#);
    assert_eq!(error.unwrap_err().path, "$.schema_version");
}

#[test]
fn null_is_absent_and_any_object_may_carry_live() {
    let full = format!(
        r#"{{{MINIMAL}, "policy": {{"min_workers": null, "live": {{}}}}, "records": null, "expect": null, "live": {{}},
          "workers": [{{"id": "a", "created_at": "2025-10-16T13:00:00+02:00", "status": "terminated", "reason": "idle",
                        "running_tasks": null, "live": {{"outcome": "operator"}}}}],
          "demand": {{"reported_claimable": null, "live": {{}}, "row_counts": {{"tasks": 1, "live": {{"x": 1}}}},
            "users": [{{"user": "u", "queued": 1, "in_progress": 0, "dependency_blocked": null, "live": {{"x": 1}}}}]}}}}"#
    );
    let file = parse(&full).unwrap();
    assert_eq!(file.snapshot.policy.min_workers, Policy::default().min_workers);
    assert_eq!(file.snapshot.live, None);
    assert_eq!(file.snapshot.demand.unwrap().live, None);
    assert_eq!(file.snapshot.workers[0].outcome(), Some(crate::fleet::outcome::Outcome::Operator));
    assert_eq!(file.snapshot.workers[0].created_at.to_string(), "2025-10-16T11:00:00Z");
}

#[test]
fn times_are_rfc_3339_and_nothing_else() {
    let check = |text: &str, expected: Option<&str>| {
        let found = format::parse_time(text).map(|time| time.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
    };
    check("2025-10-16T17:35:31Z", Some("2025-10-16T17:35:31Z"));
    check("2025-10-16t17:35:31.500000z", Some("2025-10-16T17:35:31.5Z"));
    check("2025-10-16T17:35:31.000001-05:30", Some("2025-10-16T23:05:31.000001Z"));
    for bad in [
        "2025-10-16 17:35:31Z",
        "2025-10-16T17:35:31",
        "2025-10-16T17:35:31.Z",
        "2025-10-16T17:35:31.0000001Z",
        "2025-10-16T17:35Z",
        "2025-10-16T17:35:31+0200",
        "2025-10-16T17:35:31+24:00",
        "2025-10-16T17:35:31+00:00[UTC]",
        "2025-02-30T17:35:31Z",
        "2025-10-16",
        "",
        "2025-10-16T17:35:3é",
    ] {
        check(bad, None);
    }
}
