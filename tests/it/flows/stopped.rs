//! SIGTERM to `up` with work in hand, and Ctrl-C in a terminal.

use super::rig::{LIMIT, Rig, eventually};

#[test]
fn sigterm_puts_tasks_back_and_leaves_no_process() {
    let rig = Rig::new();
    let up = rig.up(&[]);
    let mark = rig.path("mark").display().to_string();
    // The second one does not listen to SIGTERM, nor does its child.
    let scripts = [
        format!("echo at work; sleep 600; echo {mark}"),
        format!("trap '' TERM; echo at work; sh -c 'sleep 601' {mark}; echo {mark}"),
    ];
    let ids: Vec<String> = scripts.iter().flat_map(|script| rig.submit(&["--", "sh", "-c", script])).collect();
    let sleepers = || rig.processes().into_iter().filter(|(_, words)| words.contains("sleep 60")).count();
    eventually("both at work", || {
        let at_work = rig.tasks(&ids).iter().filter(|task| task["status"] == "In Progress").count();
        (at_work == 2 && sleepers() >= 2).then_some(())
    });
    up.signal(rustix::process::Signal::TERM);
    let begun = dogwatch::clock::monotonic();
    let said = up.wait_for(LIMIT);
    let took = dogwatch::clock::monotonic() - begun;
    assert_eq!(said.code, Some(0), "{said:?}");
    rig.is_left_alone();
    let tasks = rig.tasks(&ids);
    assert!(tasks.iter().all(|task| task["status"] == "Queued" && task["attempts"] == 1), "{tasks:?}");
    let workers = rig.json("workers", &["workers"]);
    assert!(workers.as_array().unwrap().iter().all(|row| row["worker"]["ended_at"].is_string()), "{workers}");
    rig.spools_add_up();
    println!(
        "ended {:.1} s after SIGTERM; {}",
        took.as_secs_f64(),
        said.err.lines().next_back().unwrap_or_default()
    );
}

#[test]
fn ctrl_c_goes_to_the_watch_as_well_and_is_no_failure_of_it() {
    let rig = Rig::new();
    let up = rig.up(&[]);
    let watch = || rig.processes().into_iter().find(|(_, words)| words.contains(" watch "));
    let (watch, _) = eventually("the watch to run", watch);
    // The watch is first: it has long ended when the fleet has said good-bye.
    rustix::process::kill_process(watch, rustix::process::Signal::INT).unwrap();
    up.signal(rustix::process::Signal::INT);
    let said = up.wait_for(LIMIT);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.err.contains("the watch has ended"), "{said:?}");
    rig.is_left_alone();
}
