//! Replay: the incidents of the field, the exit codes, and the words.

mod oracle;

use std::path::PathBuf;

use expect_test::{Expect, expect};
use tempfile::TempDir;

use super::*;

fn incident(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/incidents").join(name)
}

const BOTH: [&str; 2] = ["2025-10-16-1735-launch-analysis.json", "2025-10-16-1755-scale-up-in-silence.json"];

struct Said {
    exit: u8,
    out: String,
    err: String,
}

fn say(files: &[PathBuf], json: bool) -> Said {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = run(files, json, &mut out, &mut err).code();
    Said { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

const EMPTY: &str = r#"{"schema_version": 1, "name": "empty", "as_of": "2025-10-16T12:00:00+02:00", "workers": []"#;

#[test]
fn both_incidents_of_the_field_are_as_expected() {
    let said = say(&BOTH.map(incident), true);
    assert_eq!((said.exit, said.err.as_str()), (0, ""));
    assert_eq!(said.out.lines().count(), 2);
    for line in said.out.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn the_words_begin_with_the_verdict() {
    let check = |name: &str, expected: Expect| expected.assert_eq(&say(&[incident(name)], false).out);
    check(
        BOTH[0],
        expect![[r#"
        Spawn 9: 10 desired, 1 active, 0 spawning.
        2025-10-16 17:35: no worker is launched, 83 % failure rate (as of 2025-10-16T17:35:31Z)
        failure rate: 1 of 6 failed (16.7 %); the old rule: 5 of 6 ended (83.3 %), blocks until 2025-10-16T17:42:22Z
        workers: 6, 5 ended, 1 planned, 1 stalled, 3 unknown
        queue: 35 = 14 claimable + 21 user_limit + 0 no_credits + 0 cloud_disabled + 0 dependency; 1 in progress
        gate min passes: 1 active and 0 spawning, 1 busy; at least 1
        gate max passes: 1 active, 0 spawning; at most 10
        gate failure_breaker passes: 1 of 6 workers failed in 1800 s: 16.7 %; blocks above 80.0 % of at least 5
        gate observation passes: a file is taken as it is written
        gate pause passes: a file holds no pause
        gate override passes: no override in force
        finding cycle_number_reset: orchestrator_gpu went from cycle 2088 to 638
        finding demand_contradiction: 0 claimable reported, 14 counted
        finding double_spawn: gpu-20251016_172957-590e9d98 and gpu-20251016_173023-673741fb were created 26 s apart
        finding ended_without_reason: gpu-20251016_173023-673741fb, gpu-20251016_171836-0e104c58, gpu-20251016_171248-d3c2449b
        finding row_cap_suspected: exactly 1000 rows of tasks is a cap, not a count
        finding row_cap_suspected: exactly 1000 rows of workers is a cap, not a count
        everything that the file expects is so
    "#]],
    );
    check(
        BOTH[1],
        expect![[r#"
        No decision: the file says nothing of the queue; 4 findings.
        2025-10-16 17:55: workers come and go while the orchestrator's log is silent (as of 2025-10-16T18:00:00Z)
        failure rate: 1 of 4 failed (25.0 %); the old rule: 3 of 4 ended (75.0 %)
        workers: 4, 3 ended, 2 planned, 1 boot
        finding double_spawn: gpu-20251016_174249-34c67fdd and gpu-20251016_174252-9356e3ac were created 3 s apart
        finding double_spawn: gpu-20251016_175506-a6a03b7b and gpu-20251016_175532-78a04c2b were created 26 s apart
        finding early_kill: gpu-20251016_175532-78a04c2b was ended 60 s after promotion, without a task
        finding log_silence: orchestrator_gpu silent for 1469 s since 2025-10-16T17:35:31Z while workers changed 10 times; could have been known at 2025-10-16T17:42:49Z
        everything that the file expects is so
    "#]],
    );
}

#[test]
fn every_promised_key_is_there_in_order() {
    let folder = TempDir::new().unwrap();
    let bare = file(&folder, "bare.json", &format!("{EMPTY}}}"));
    expect![[r#"
        {"schema_version":1,"name":"empty","as_of":"2025-10-16T10:00:00Z","failure_rate":{"raw":{"ended":0,"total":0,"rate":0.0,"blocks":false,"lifts_at":null},"classified":{"failures":0,"total":0,"rate":0.0,"blocks":false,"lifts_at":null}},"workers":[],"demand":null,"decision":null,"findings":[]}
    "#]].assert_eq(&say(&[bare], true).out);
    let failed = EMPTY.replace(
        r#""workers": []"#,
        r#""policy": {"failure_rate_min_workers": 1}, "demand": {"users": [{"user": "u", "queued": 2, "in_progress": 0}]},
        "workers": [{"id": "w", "created_at": "2025-10-16T09:59:59.5Z", "status": "error", "reason": "crash", "tasks_claimed": 1}]"#,
    );
    let failed = file(&folder, "failed.json", &format!("{failed}}}"));
    expect![[r#"
        {"schema_version":1,"name":"empty","as_of":"2025-10-16T10:00:00Z","failure_rate":{"raw":{"ended":1,"total":1,"rate":1.0,"blocks":true,"lifts_at":"2025-10-16T10:29:59.5Z"},"classified":{"failures":1,"total":1,"rate":1.0,"blocks":true,"lifts_at":"2025-10-16T10:29:59.5Z"}},"workers":[{"id":"w","outcome":"worker_crash","counts_for_breaker":true}],"demand":{"queued":2,"in_progress":0,"buckets":{"claimable":2,"user_limit":0,"no_credits":0,"cloud_disabled":0,"dependency":0},"adds_up":true},"decision":{"desired":2,"capacity":{"active":0,"spawning":0},"spawn":0,"terminate":[],"gates":[{"gate":"min","verdict":"pass","reason":"0 active and 0 spawning, 0 busy; at least 1","lifts_at":null,"lifts_when":null},{"gate":"max","verdict":"pass","reason":"0 active, 0 spawning; at most 10","lifts_at":null,"lifts_when":null},{"gate":"failure_breaker","verdict":"block","reason":"1 of 1 workers failed in 1800 s: 100.0 %; blocks above 80.0 % of at least 1","lifts_at":"2025-10-16T10:29:59.5Z","lifts_when":null},{"gate":"observation","verdict":"pass","reason":"a file is taken as it is written","lifts_at":null,"lifts_when":null},{"gate":"pause","verdict":"pass","reason":"a file holds no pause","lifts_at":null,"lifts_when":null},{"gate":"override","verdict":"pass","reason":"no override in force","lifts_at":null,"lifts_when":null}]},"findings":[]}
    "#]].assert_eq(&say(&[failed], true).out);
}

#[test]
fn what_is_not_met_is_told_with_its_path_and_both_values() {
    let folder = TempDir::new().unwrap();
    let check = |expect: &str, expected: Expect| {
        let path = file(&folder, "f.json", &format!(r#"{EMPTY}, "demand": {{}}, "expect": {expect}}}"#));
        let said = say(std::slice::from_ref(&path), true);
        assert_eq!(said.out.lines().count(), 1, "the report is printed all the same");
        let err = said.err.replace(path.to_str().unwrap(), "FILE");
        expected.assert_eq(&format!("exit {}\n{err}", said.exit));
    };
    check(
        r#"{"demand": {"queued": 0.0001, "adds_up": true}, "as_of": "2025-10-16T10:00:00.000Z"}"#,
        expect![[r#"
        exit 0
    "#]],
    );
    check(
        r#"{"demand": {"queued": 0.0002, "adds_up": 1}, "decision": null}"#,
        expect![[r#"
        exit 1
        FILE: $.decision: expected null, found {"capacity":{"active":0,"spawning":0},"desired":1,"gates":[{"gate":"min","lifts_at":null,"lifts_when":null,"reason":"0 active and 0 spawning, 0 busy; at least 1","verdict":"pass"},{"gate":"max","lifts_at":null,"lifts_when":null,"reason":"0 active, 0 spawning; at most 10","verdict":"pass"},{"gate":"failure_breaker","lifts_at":null,"lifts_when":null,"reason":"0 of 0 workers failed in 1800 s: 0.0 %; blocks above 80.0 % of at least 5","verdict":"pass"},{"gate":"observation","lifts_at":null,"lifts_when":null,"reason":"a file is taken as it is written","verdict":"pass"},{"gate":"pause","lifts_at":null,"lifts_when":null,"reason":"a file holds no pause","verdict":"pass"},{"gate":"override","lifts_at":null,"lifts_when":null,"reason":"no override in force","verdict":"pass"}],"spawn":1,"terminate":[]}
        FILE: $.demand.adds_up: expected 1, found true
        FILE: $.demand.queued: expected 0.0002, found 0
    "#]],
    );
    check(
        r#"{"workers": [{}], "findings": {}, "name": "Empty", "nonsense": null}"#,
        expect![[r#"
        exit 1
        FILE: $.findings: expected {}, found []
        FILE: $.name: expected "Empty", found "empty"
        FILE: $.nonsense: expected null, found nothing
        FILE: $.workers: expected [{}], found []
    "#]],
    );
}

#[test]
fn a_bad_file_says_nothing_on_stdout_and_leaves_the_others_alone() {
    let folder = TempDir::new().unwrap();
    let bad = file(&folder, "bad.json", &format!(r#"{EMPTY}, "demand": {{"users": [{{"user": 1}}]}}}}"#));
    let binary = folder.path().join("binary.json");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    let absent = folder.path().join("absent.json");
    for json in [true, false] {
        let said = say(&[bad.clone(), incident(BOTH[0]), binary.clone(), absent.clone()], json);
        assert_eq!(said.exit, 2);
        assert!(said.out.starts_with(if json { "{\"schema_version\":1," } else { "\nSpawn 9" }), "{}", said.out);
        assert_eq!(said.err.lines().count(), 3, "{}", said.err);
        let place = "bad.json: $.demand.users[0].user: invalid type: integer `1`, expected a string";
        assert!(said.err.contains(place), "{}", said.err);
    }
    assert_eq!(say(&[bad], true).out, "");
}

#[test]
fn bad_input_outweighs_an_expectation_that_is_not_met() {
    let folder = TempDir::new().unwrap();
    let unmet = file(&folder, "unmet.json", &format!(r#"{EMPTY}, "expect": {{"name": "x"}}}}"#));
    let bad = file(&folder, "bad.json", "{");
    assert_eq!(say(&[unmet.clone(), bad.clone()], true).exit, 2);
    assert_eq!(say(&[bad, unmet.clone()], true).exit, 2);
    assert_eq!(say(&[unmet, incident(BOTH[1])], true).exit, 1);
}
