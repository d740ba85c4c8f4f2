//! Work through one `up`: submitted, done, shown by every read command.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::rig::{Rig, Said, eventually, get};
use dogwatch::catalogue;

/// The page that `status` prints: its first sentence, its last line, its exit code.
fn status(rig: &Rig) -> (String, String, Option<i32>) {
    let Said { code, out, .. } = rig.run(&["status"]);
    let line = |line: Option<&str>| line.unwrap_or_default().to_owned();
    (line(out.lines().next()), line(out.lines().next_back()), code)
}

fn rows<'a>(rows: &'a Value, message: &str) -> Vec<&'a Value> {
    rows.as_array().unwrap().iter().filter(|row| row["message"] == *message).collect()
}

#[test]
fn submitted_work_is_done_and_seen_from_every_side() {
    let rig = Rig::new();
    let (sentence, next, code) = status(&rig);
    assert_eq!((sentence.as_str(), code), ("Nothing runs here and no task waits.", Some(0)));
    assert!(next.starts_with("Next: start `dogwatch up`"), "{next}");
    let up = rig.up(&[]);
    let (sentence, next, code) = status(&rig);
    assert_eq!(
        (sentence.as_str(), next.as_str(), code),
        ("All is quiet: no task waits, 0 workers.", "Next: nothing to do.", Some(0))
    );
    let files: Vec<(String, Vec<u8>)> = (0..7_u8)
        .map(|number| {
            let bytes = vec![number; usize::from(number) * 10_001];
            (rig.file(&format!("file {number}.bin"), &bytes), bytes)
        })
        .collect();
    let mut words = vec!["submit", "--user", "ann", "--each"];
    words.extend(files.iter().map(|(path, _)| path.as_str()));
    words.extend(["--wait", "--", "sha256sum", "{}"]);
    let printed = rig.ok(&words);
    let expected: String = files
        .iter()
        .map(|(path, bytes)| {
            let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{digest}  {path}\n")
        })
        .collect();
    assert_eq!(printed, expected, "every digest is ours, in the order of submission");
    read_commands(&rig, printed.lines().next().unwrap());
    waiting_behind_busy_workers_is_no_problem(&rig);
    pages_and_checks(&rig);
    up.signal(rustix::process::Signal::TERM);
    let said = up.wait();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.err.contains('\u{1b}'), "no colours where nobody looks: {}", said.err);
    assert_eq!(rig.run(&["healthcheck"]).code, Some(1));
    let (sentence, next, code) = status(&rig);
    assert_eq!((sentence.as_str(), code), ("Nothing runs here and no task waits.", Some(0)), "{next}");
    rig.spools_add_up();
    rig.is_left_alone();
}

/// Every read command tells the same story about the task that printed `line`.
fn read_commands(rig: &Rig, line: &str) {
    let tasks = rig.json("tasks", &["tasks", "--user", "ann"]);
    let tasks = tasks.as_array().unwrap();
    assert_eq!(tasks.len(), 7);
    assert!(tasks.iter().all(|task| task["status"] == "Complete" && task["attempts"] == 1), "{tasks:?}");
    let task =
        tasks.iter().find(|task| task["output"]["stdout_tail"].as_str().unwrap().trim_end() == line).unwrap();
    let (id, worker) = (task["id"].as_str().unwrap(), task["worker"].as_str().unwrap());
    let logs = eventually("the line in logs --task and the task's span", || {
        let logs = rig.json("logs", &["logs", "--task", id]);
        (!rows(&logs, line).is_empty() && !rows(&logs, "task").is_empty()).then_some(logs)
    });
    let row = rows(&logs, line)[0];
    assert_eq!((row["task_id"].as_str(), row["worker_id"].as_str()), (Some(id), Some(worker)), "{row}");
    assert_eq!((&row["source_type"], &row["source_id"]), (&"worker".into(), &worker.into()));
    assert_eq!(row["metadata"]["stream"], "stdout");
    let trace = row["trace_id"].as_str().expect("the line belongs to a trace");
    let tree = eventually("the submit as the root of the trace", || {
        Some(rig.ok(&["logs", "--trace", trace])).filter(|tree| tree.starts_with("▸ submit tasks"))
    });
    let at = |text: &str| tree.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{tree}"));
    assert!(
        at("▸ submit tasks") < at("\n  ▸ task") && at("\n  ▸ task") < at(&format!("\n    · INFO {line}")),
        "{tree}"
    );
    assert_eq!(tree.lines().filter(|line| !line.starts_with(' ')).count(), 1, "one trace, one root:\n{tree}");
    let users = rig.json("users", &["tasks", "--by", "user"]);
    assert_eq!((&users[0]["user"], &users[0]["by_status"]["Complete"]), (&"ann".into(), &7.into()), "{users}");
    let workers = rig.json("workers", &["workers"]);
    let workers = workers.as_array().unwrap();
    let claimed: u64 = workers.iter().map(|row| row["worker"]["tasks_claimed"].as_u64().unwrap()).sum();
    assert_eq!(claimed, 7, "{workers:?}");
    assert!(workers.iter().any(|row| row["worker"]["id"] == worker));
    let snapshot = eventually("a snapshot that has seen the workers", || {
        let text = rig.ok(&["snapshot", "--json"]);
        text.contains(worker).then_some(text)
    });
    let said = rig.run(&["replay", "--json", &rig.file("snapshot.json", snapshot)]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert!(serde_json::from_str::<Value>(&said.out).is_ok(), "{said:?}");
}

/// More tasks than workers: that is what a queue is for.
fn waiting_behind_busy_workers_is_no_problem(rig: &Rig) {
    let ids: Vec<String> = (0..6).flat_map(|_| rig.submit(&["--", "sleep", "1.5"])).collect();
    eventually("the workers to be busy", || {
        let status = rig.json("status", &["status"]);
        let decision = status["decision"].as_str().unwrap().to_owned();
        let is_full = status["tasks"]["In Progress"] == 2 && status["queued"]["claimable"].as_u64() > Some(0);
        (is_full && status["blocking"].as_array().is_some_and(|gates| !gates.is_empty())).then_some(decision)
    });
    let (sentence, next, code) = status(rig);
    assert!(sentence.starts_with("All is well: 2 tasks in progress, "), "{sentence}");
    assert_eq!((next.as_str(), code), ("Next: nothing to do.", Some(0)), "{sentence}");
    assert!(rig.ended(&ids).iter().all(|task| task["status"] == "Complete"));
}

/// Health, metrics, one round of the watch, alarms, schema.
fn pages_and_checks(rig: &Rig) {
    assert_eq!(rig.run(&["healthcheck"]).code, Some(0));
    let page = |port, path: &str| eventually(path, || get(port, path).filter(|(code, _)| *code == 200)).1;
    assert_eq!(page(rig.gateway, "/livez"), "ok\n");
    assert_eq!(page(rig.gateway, "/readyz"), "ready: leads\n");
    assert!(page(rig.watch, "/livez").starts_with("rounds "));
    let names = |port, metrics: &[catalogue::Metric]| {
        let text = page(port, "/metrics");
        for metric in metrics {
            let name = metric.prometheus();
            assert!(text.lines().any(|line| line.starts_with(&name)), "{name} is not in\n{text}");
        }
    };
    use catalogue as c;
    names(
        rig.gateway,
        &[
            c::CYCLE_COMPLETED,
            c::CYCLE_DURATION,
            c::LEADER,
            c::WORKERS,
            c::WORKERS_DESIRED,
            c::WORKER_CREATED,
            c::TASKS_QUEUED,
            c::TASKS_IN_PROGRESS,
            c::TASK_ENDED,
            c::RPC_CALLS,
        ],
    );
    names(rig.watch, &[c::WATCH_ROUNDS, c::NEWEST_ROW_AGE, c::ALARM]);
    let said = rig.run(&["watch", "--once"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "nothing is wrong\n"), "{said:?}");
    assert_eq!(rig.json("alerts", &["alerts"]), Value::Array(Vec::new()));
    let databases = rig.json("databases", &["migrate", "--dry-run"]);
    let databases = databases.as_array().unwrap();
    assert!(databases.len() == 2 && databases.iter().all(|one| one["from"] == one["to"] && one["done"] == false));
}
