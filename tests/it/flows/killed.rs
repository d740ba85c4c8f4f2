//! SIGKILL of `up` in the middle of tasks, and `up` again.

use super::rig::{Rig, eventually};

/// Tasks; more than two workers have in hand at once.
const TASKS: usize = 6;

#[test]
fn a_killed_up_loses_no_task_and_does_none_twice() {
    let rig = Rig::new();
    let up = rig.up(&[]);
    let done = rig.path("done");
    std::fs::create_dir(&done).unwrap();
    let ids: Vec<String> = (0..TASKS)
        .flat_map(|number| {
            let file = done.join(number.to_string());
            let script = format!(
                "echo begun {number}; sleep 1.5; echo $DOGWATCH_TASK_ATTEMPT >> '{}'; echo ended {number}",
                file.display()
            );
            rig.submit(&["--", "sh", "-c", &script])
        })
        .collect();
    assert_eq!(ids.len(), TASKS);
    let in_hand = eventually("two tasks in hand", || {
        let tasks = rig.tasks(&ids);
        let at_work = tasks.iter().filter(|task| task["status"] == "In Progress");
        let ids: Vec<_> = at_work.map(|task| task["id"].as_str().unwrap().to_owned()).collect();
        (ids.len() == 2).then_some(ids)
    });
    up.kill();
    // The programs of the workers end while nobody is there to be told.
    eventually("both programs to end without their orchestrator", || {
        (std::fs::read_dir(&done).unwrap().count() == 2).then_some(())
    });
    let status = rig.json("tasks", &["tasks", "--status", "in-progress"]);
    assert_eq!(status.as_array().unwrap().len(), 2, "nobody could take their results: {status}");
    let up = rig.up(&[]);
    let tasks = rig.ended(&ids);
    for (number, task) in tasks.iter().enumerate() {
        assert_eq!(task["status"], "Complete", "{task}");
        let written = std::fs::read_to_string(done.join(number.to_string())).unwrap();
        assert_eq!(written.lines().count(), 1, "task {number} was done once: {written:?}; {task}");
        assert_eq!(written.trim(), task["attempts"].to_string(), "the attempt that counts did it");
        let output = task["output"]["stdout_tail"].as_str().unwrap();
        assert_eq!(output, format!("begun {number}\nended {number}\n"));
    }
    for id in &in_hand {
        // What was printed while the orchestrator was away has arrived.
        eventually("the last line of a task that ended meanwhile", || {
            let logs = rig.json("logs", &["logs", "--task", id]);
            let rows = logs.as_array().unwrap();
            rows.iter().any(|row| row["message"].as_str().unwrap().starts_with("ended ")).then_some(())
        });
    }
    let watches: Vec<_> = eventually("one watch", || {
        let processes = rig.processes();
        let watches: Vec<_> = processes.into_iter().filter(|(_, words)| words.contains(" watch ")).collect();
        (watches.len() == 1).then_some(watches)
    });
    println!("{TASKS} tasks, {} in hand at the kill, each done once; {} watch", in_hand.len(), watches.len());
    up.signal(rustix::process::Signal::TERM);
    let said = up.wait();
    assert_eq!(said.code, Some(0), "{said:?}");
    rig.spools_add_up();
    rig.is_left_alone();
}
