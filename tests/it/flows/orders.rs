//! Orders of humans, as they are typed: each is in force for the running fleet, is kept with who and
//! why, and is refused with a remedy where it makes no sense.

use serde_json::Value;

use super::input::check;
use super::rig::{Rig, Running, eventually, rows_of};

/// The audit, oldest first: verb, target, reason; each row names who.
fn audit(rig: &Rig) -> Vec<String> {
    let sql =
        "select verb || '|' || coalesce(target, '') || '|' || reason from audit where actor like '%@%' order by id";
    let rows = rows_of(&rig.data().join("fleet.db"), sql);
    let all = rows_of(&rig.data().join("fleet.db"), "select cast(count(*) as text) from audit");
    assert_eq!(all, [rows.len().to_string()], "each row names who did it");
    rows
}

/// The gate of the newest decision.
fn gate(rig: &Rig, name: &str) -> Value {
    let why = rig.json("why", &["why"]);
    let gates = why["gates"].as_array().unwrap();
    gates.iter().find(|gate| gate["gate"] == name).unwrap_or_else(|| panic!("{name}: {why}")).clone()
}

fn ends(up: Running) {
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.wait().code, Some(0));
}

/// The worker of that id as `workers --json` shows it.
fn worker(rig: &Rig, id: &str) -> Value {
    let all = rig.json("workers", &["workers"]);
    all.as_array().unwrap().iter().find(|row| row["worker"]["id"] == id).unwrap().clone()
}

/// Workers that are heard of and stay.
fn ready(rig: &Rig) -> Vec<String> {
    let all = rig.json("workers", &["workers"]);
    let is_ready =
        |row: &&Value| row["worker"]["live"]["state"] == "idle" && row["worker"]["live"]["leaving"].is_null();
    let ready = all.as_array().unwrap().iter().filter(is_ready);
    ready.map(|row| row["worker"]["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_pause_holds_spawning_until_it_is_resumed() {
    let rig = Rig::new();
    let up = rig.up(&[]);
    rig.ok(&["pause", "--reason", "the bill is looked at"]);
    let ids = rig.submit(&["--", "echo", "after the pause"]);
    let paused = eventually("the gate to be shut", || {
        let pause = gate(&rig, "pause");
        (pause["verdict"] == "block").then_some(pause)
    });
    assert!(paused["reason"].as_str().unwrap().contains("the bill is looked at"), "{paused}");
    assert_eq!((&paused["lifts_when"], &paused["lifts_at"]), (&"an operator resumes".into(), &Value::Null));
    let said = eventually("the task to be seen behind the pause", || {
        let eta = rig.json("eta", &["eta"]);
        (eta["wanted"].as_u64() > Some(0)).then_some(eta)
    });
    assert_eq!((&said["at"], &said["conditions"][0]["gate"]), (&Value::Null, &"pause".into()), "{said}");
    assert!(rig.ok(&["why"]).contains("BLOCK pause"));
    assert_eq!(rig.tasks(&ids)[0]["status"], "Queued");
    rig.ok(&["resume", "--reason", "it is paid"]);
    assert_eq!(rig.ended(&ids)[0]["status"], "Complete");
    assert_eq!(gate(&rig, "pause")["verdict"], "pass");
    // With an end, it lifts by itself, and says when.
    rig.ok(&["pause", "--for", "1h", "--reason", "lunch"]);
    let paused = eventually("the gate to be shut again", || {
        let pause = gate(&rig, "pause");
        (pause["verdict"] == "block").then_some(pause)
    });
    assert!(paused["lifts_at"].is_string(), "{paused}");
    // One task alone.
    rig.ok(&["resume", "--reason", "lunch is over"]);
    let held = rig.submit(&["--", "echo", "held"]);
    let _ = rig.run(&["pause", "--task", &held[0], "--reason", "not yet"]);
    rig.ok(&["resume", "--task", &held[0], "--reason", "go on"]);
    assert_eq!(rig.ended(&held)[0]["status"], "Complete");
    assert_eq!(
        audit(&rig)[..4],
        ["pause||the bill is looked at", "resume||it is paid", "pause||lunch", "resume||lunch is over"]
    );
    assert!(audit(&rig).contains(&format!("release a task|{}|go on", held[0])), "{:?}", audit(&rig));
    ends(up);
}

#[test]
fn an_override_is_listed_shown_by_its_gate_and_expires() {
    let rig = Rig::new();
    let up = rig.up(&[]);
    let order = rig.json("order", &["override", "add", "failure_breaker", "--for", "20m", "--reason", "new image"]);
    let number = order["id"].to_string();
    assert!(order["until"].is_string(), "an override ends by itself: {order}");
    let shown = eventually("the override in a decision", || {
        let shown = gate(&rig, "override")["reason"].as_str().unwrap().to_owned();
        shown.contains("failure_breaker").then_some(shown)
    });
    assert!(shown.contains("new image"), "{shown}");
    let listed = rig.ok(&["override", "ls"]);
    assert!(
        listed.contains("failure_breaker") && listed.contains("new image") && listed.contains("left"),
        "{listed}"
    );
    assert_eq!(rig.json("orders", &["override", "ls"]).as_array().unwrap().len(), 1);
    rig.ok(&["override", "expire", &number, "--reason", "it works"]);
    assert_eq!(rig.json("orders", &["override", "ls"]), Value::Array(Vec::new()));
    let history = rig.json("orders", &["override", "ls", "--history"]);
    assert_eq!((&history[0]["ended_reason"], history.as_array().unwrap().len()), (&"it works".into(), 1));
    eventually("the override to be gone from the decisions", || {
        (gate(&rig, "override")["reason"] == "no override in force").then_some(())
    });
    assert_eq!(
        audit(&rig),
        ["override|failure_breaker|new image".to_owned(), format!("end an order|{number}|it works")]
    );
    let again = rig.run(&["override", "expire", &number, "--reason", "twice"]);
    assert!(again.code == Some(2) && again.err.contains("dogwatch override ls"), "{again:?}");
    assert_eq!(audit(&rig).len(), 2, "what was refused is no order");
    ends(up);
}

#[test]
fn workers_are_spawned_drained_and_terminated_by_order() {
    let rig = Rig::new();
    let up = rig.up(&["--max-workers", "3"]);
    rig.ok(&["workers", "spawn", "2", "--reason", "a demonstration"]);
    let both = eventually("two workers without any task", || Some(ready(&rig)).filter(|ready| ready.len() >= 2));
    rig.ok(&["workers", "drain", &both[0], "--reason", "this one is slow"]);
    rig.ok(&["workers", "terminate", &both[1], "--reason", "this one is wrong"]);
    for (id, reason) in [(&both[0], "this one is slow"), (&both[1], "this one is wrong")] {
        let ended = eventually("the worker to end", || {
            Some(worker(&rig, id)).filter(|row| row["worker"]["ended_at"].is_string())
        });
        assert_eq!(ended["worker"]["live"]["outcome"], "operator", "{ended}");
        let words = ended["worker"]["reason"].as_str().unwrap();
        assert!(words.starts_with("asked by ") && words.contains(reason), "{words}");
        let said = rig.run(&["workers", "drain", id, "--reason", "again"]);
        assert!(said.code == Some(2) && said.err.contains("has ended"), "{said:?}");
    }
    assert_eq!(
        audit(&rig),
        [
            "spawn|2 in default|a demonstration".to_owned(),
            format!("drain|{}|this one is slow", both[0]),
            format!("terminate|{}|this one is wrong", both[1]),
        ]
    );
    ends(up);
}

#[test]
fn orders_that_make_no_sense_are_refused_with_a_remedy() {
    let rig = Rig::new();
    let all: &[(&[&str], &[&str])] = &[
        (&["pause"], &["--reason", "--help"]),
        (&["pause", "--reason", " "], &["--reason is empty", "say why"]),
        (&["pause", "--reason", "x", "--for", "soon"], &["--for \"soon\"", "write 90s"]),
        (&["pause", "--reason", "x", "--task", "7"], &["--task", "--help"]),
        (&["resume"], &["--reason", "--help"]),
        (&["resume", "--reason", "x", "--pool", "none"], &["pool none is not paused", "dogwatch override ls"]),
        (&["override", "add", "max", "--reason", "x"], &["\"max\"", "write failure_breaker"]),
        (&["override", "add", "failure_breaker"], &["--reason", "--help"]),
        (&["override", "add", "budget", "--for", "2d", "--reason", "x"], &["at most 24 h", "change it"]),
        (&["override", "expire", "77", "--reason", "x"], &["no order 77", "dogwatch override ls"]),
        (&["workers", "spawn", "0", "--reason", "x"], &["1 to 1000 workers", "change it"]),
        (&["workers", "spawn"], &["--reason", "--help"]),
        (&["workers", "drain", "gpu-7", "--reason", "x"], &["no worker gpu-7", "dogwatch workers"]),
        (&["workers", "terminate", "gpu-7", "--reason", "x"], &["no worker gpu-7", "dogwatch workers"]),
        (&["workers", "drain", "--reason", "x"], &["WORKER", "--help"]),
    ];
    for (words, parts) in all {
        check(&rig, words, &[], parts);
    }
    assert_eq!(audit(&rig), [""; 0]);
}
