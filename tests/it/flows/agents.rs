//! What an agent does with a task that cannot end well.

use super::rig::{Rig, eventually};

#[test]
fn a_failure_is_told_with_its_cause_and_only_a_kill_is_tried_again() {
    let rig = Rig::new();
    let up = rig.up(&[]);
    let ids: Vec<String> = [
        &["--type", "render", "--", "frame", "7"][..],
        &["--", "sh", "-c", "echo so far; echo why >&2; exit 7"],
        &["--", "sh", "-c", "kill -KILL $$"],
        &["--", "/no/such/program"],
    ]
    .into_iter()
    .flat_map(|words| rig.submit(words))
    .collect();
    let tasks = rig.ended(&ids);
    let expected: [(&str, i64, &[&str]); 4] = [
        ("a type that nobody runs", 1, &["no program for tasks of type \"render\"", "dogwatch agent"]),
        ("exit code 7", 1, &["exit code 7", "why"]),
        ("killed", 3, &["signal 9"]),
        ("a program that is not there", 1, &["/no/such/program", "No such file"]),
    ];
    for (task, (what, attempts, words)) in tasks.iter().zip(expected) {
        assert_eq!((&task["status"], &task["attempts"]), (&"Failed".into(), &attempts.into()), "{what}: {task}");
        let error = task["error"].as_str().unwrap();
        assert!(words.iter().all(|word| error.contains(word)), "{what}: {error:?}");
    }
    let said = rig.run(&["submit", "--wait", "--", "sh", "-c", "echo seen; exit 7"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.contains("Failed: exit code 7; last lines:\nseen"), "{said:?}");
    let row = eventually("the failure as a record", || {
        let logs = rig.json("logs", &["logs", "--task", &ids[1], "--level", "warning"]);
        logs.as_array().unwrap().iter().find(|row| row["message"] == "task failed").cloned()
    });
    assert_eq!(row["metadata"]["retryable"], false, "{row}");
    let table = rig.ok(&["tasks"]);
    assert!(!table.contains('\u{fffd}') && table.lines().all(|line| !line.starts_with(' ')), "{table}");
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.wait().code, Some(0));
}
