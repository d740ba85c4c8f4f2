use super::*;
use crate::fleet::snapshot::Snapshot;

/// A live snapshot with these unknown pods (`worker`, age in seconds, lists) and these workers.
fn snapshot(unknown: &[(&str, i64, u32)], workers: &[(&str, &str, Option<&str>)], quality: &str) -> Snapshot {
    let as_of = 1_760_616_000_000_000_i64;
    let at = |age: i64| clock::from_micros(as_of - age * 1_000_000).to_string();
    let input = serde_json::json!({"quality": quality, "age_seconds": 0});
    let unknown: Vec<_> = unknown
        .iter()
        .map(|(worker, age, lists)| {
            let pod = format!("pod-{worker}-{age}");
            serde_json::json!({"pod_id": pod, "worker": worker, "created_at": at(*age), "lists": lists})
        })
        .collect();
    let workers: Vec<_> = workers
        .iter()
        .map(|(id, state, pod)| {
            let status = crate::fleet::state::WorkerState::from_word(state).unwrap().status();
            serde_json::json!({"id": id, "created_at": at(5_000), "status": status,
                "live": {"state": state, "pod_id": pod}})
        })
        .collect();
    let text = serde_json::json!({
        "schema_version": 1, "name": "test", "as_of": at(0), "workers": workers,
        "live": {"fleet": "f", "env": "e", "boot_id": uuid::Uuid::nil(), "cycle": 1, "term": 1,
            "inputs": {"database": {"quality": "complete", "age_seconds": 0}, "provider": input},
            "writes_since": at(90_000), "unknown_pods": unknown},
    });
    serde_json::from_value(text).unwrap()
}

fn check(snapshot: &Snapshot, expected: &str) {
    let said = match judge(snapshot, snapshot.live.as_ref().unwrap(), snapshot.as_of) {
        Verdict::Nothing => "nothing".to_owned(),
        Verdict::Reap { pod, left, .. } => format!("{} and {left} later", pod.pod_id),
        Verdict::TooMany { due, limit } => format!("{due} are more than {limit}"),
    };
    assert_eq!(said, expected);
}

#[test]
fn an_old_pod_that_two_complete_lists_show_and_no_row_knows_goes_alone() {
    check(&snapshot(&[("gpu-1", 601, 2)], &[], "complete"), "pod-gpu-1-601 and 0 later");
    check(&snapshot(&[("gpu-1", 601, 2), ("gpu-2", 900, 2)], &[], "complete"), "pod-gpu-2-900 and 1 later");
    check(&snapshot(&[("gpu-1", 600, 2)], &[], "complete"), "nothing");
    check(&snapshot(&[("gpu-1", 6_000, 1)], &[], "complete"), "nothing");
    check(&snapshot(&[("gpu-1", 6_000, 9)], &[], "partial"), "nothing");
    check(&snapshot(&[("gpu-1", 6_000, 9)], &[], "failed"), "nothing");
}

#[test]
fn a_pod_that_may_still_be_somebodys_is_left_alone() {
    let old = [("gpu-1", 6_000, 9)];
    for state in ["planned", "requesting", "ambiguous"] {
        check(&snapshot(&old, &[("gpu-1", state, None)], "complete"), "nothing");
    }
    // Its agent has spoken, and which pod it lives in is not written yet.
    check(&snapshot(&old, &[("gpu-1", "busy", None)], "complete"), "nothing");
    check(&snapshot(&old, &[("gpu-1", "busy", Some("pod-gpu-1-6000"))], "complete"), "nothing");
    check(&snapshot(&old, &[("gpu-1", "busy", Some("pod-7"))], "complete"), "pod-gpu-1-6000 and 0 later");
    check(&snapshot(&old, &[("gpu-1", "gone", Some("pod-7"))], "complete"), "pod-gpu-1-6000 and 0 later");
}

#[test]
fn many_at_once_are_our_mistake() {
    let three = [("gpu-1", 700, 2), ("gpu-2", 800, 2), ("gpu-3", 900, 2)];
    check(&snapshot(&three, &[], "complete"), "3 are more than 2");
    let many: Vec<String> = (0..17).map(|n| format!("gpu-9{n}")).collect();
    let young: Vec<_> = many.iter().map(|id| (id.as_str(), 10, 1)).chain(three).collect();
    check(&snapshot(&young, &[], "complete"), "pod-gpu-3-900 and 2 later");
}
