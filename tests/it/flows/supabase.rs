//! The whole program on a fleet in a folder whose log rows are in a Supabase project: rows are read
//! back by the Data API, and their silence rings.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::rig::{Rig, Said, eventually};
use crate::postgres_rig::{Cluster, Database};
use crate::postgrest_rig::{Fault, Project, SECRET_KEY};

/// A project with our migrations.
fn project() -> (Database, Project) {
    let database = Cluster::shared().database();
    let project = Project::start(&database);
    let rig = Rig::new();
    let mut command = rig.command(&["migrate"]);
    command.env("DATABASE_URL", database.url_of("postgres"));
    assert_eq!(rig.start(command).wait().code, Some(0));
    (database, project)
}

fn settings(project: &Project) -> [(&'static str, &str); 2] {
    [("SUPABASE_URL", &project.url), ("SUPABASE_SECRET_KEY", SECRET_KEY)]
}

fn command(rig: &Rig, project: &Project, words: &[&str]) -> Command {
    let mut command = rig.command(words);
    command.envs(settings(project));
    command
}

fn run(rig: &Rig, project: &Project, words: &[&str]) -> Said {
    let said = rig.start(command(rig, project, words)).wait();
    assert!(!format!("{said:?}").contains("marked-secret"), "{words:?} shows the key");
    said
}

fn json(rig: &Rig, project: &Project, key: &str, words: &[&str]) -> Value {
    let said = run(rig, project, &[words, &["--json"]].concat());
    let document: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    document[key].clone()
}

fn ship(rig: &Rig, project: &Project, lines: &str) {
    let mut command = command(rig, project, &["ship", "--source", "t", "--wait-delivered"]);
    command.stdin(Stdio::piped());
    let mut ship = rig.start(command);
    let mut stdin = ship.stdin();
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    assert_eq!(ship.wait().code, Some(0));
}

#[test]
fn what_was_shipped_to_a_project_is_read_back() {
    let (rig, (database, project)) = (Rig::new(), project());
    let lines: String = (0..1_234).map(|n| format!("line {n}\n")).collect();
    ship(&rig, &project, &lines);
    let rows = json(&rig, &project, "logs", &["logs", "--source", "t", "--limit", "10000"]);
    let texts: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["message"].as_str().unwrap()).collect();
    assert_eq!(texts, lines.lines().collect::<Vec<_>>());
    let doctor = json(&rig, &project, "findings", &["doctor"]);
    let canary = doctor.as_array().unwrap().iter().find(|finding| finding["check"] == "canary").unwrap();
    assert_eq!(canary["verdict"], "ok", "{canary}");
    let well = json(&rig, &project, "status", &["status"]);
    assert!(well["newest_row_at"].is_string() && well["recorders"] == serde_json::json!([]), "{well}");

    // What does not answer is a service that is missed; the rest of the status is still said.
    let breaks: [(&dyn Fn(), &str); 3] = [
        (&|| project.always(Fault::status(503)), "503"),
        (&|| project.revoke_keys(), "check SUPABASE_SECRET_KEY"),
        (&|| database.run("drop function public.dw_read_logs(jsonb)"), "dogwatch migrate"),
    ];
    for (break_it, word) in breaks {
        break_it();
        let said = run(&rig, &project, &["logs", "--source", "t"]);
        assert_eq!(said.code, Some(69), "{said:?}");
        assert!(said.err.contains(word) && said.err.contains(&project.url), "{said:?}");
        let status = json(&rig, &project, "status", &["status"]);
        let recorders = status["recorders"].to_string();
        assert!(recorders.contains("log rows cannot be read") && recorders.contains(word), "{recorders}");
        project.heal();
        project.restore_keys();
    }
    rig.spools_add_up();
}

#[test]
fn silence_over_a_project_rings_and_ends() {
    let (rig, (database, project)) = (Rig::new(), project());
    let mut all = super::silence::pace().1;
    all.extend(settings(&project));
    let up = rig.up_with(&["--max-workers", "1"], &all);
    let page = || super::rig::get(rig.watch, "/metrics").map(|(_, page)| page).unwrap_or_default();
    eventually("a canary that came back whole", || {
        let page = page();
        let whole = page.contains("dogwatch_canary_took_seconds ") && page.contains("dogwatch_canary_changed 0\n");
        whole.then_some(())
    });
    let said = run(&rig, &project, &["submit", "--", "echo", "hello from the program"]);
    let ids: Vec<String> = said.out.lines().map(str::to_owned).collect();
    rig.ended(&ids);
    let hello = eventually("the program's line", || {
        let rows = json(&rig, &project, "logs", &["logs", "--grep", "hello from the program"]);
        rows.as_array().unwrap().iter().find(|row| row["source_type"] == "worker").cloned()
    });
    assert_eq!(hello["task_id"], *ids[0]);
    assert!(!rig.data().join("logs.db").exists(), "nothing goes to the file");
    let firing = |alarm: &str| {
        let alerts = rig.json("alerts", &["alerts"]);
        alerts.as_array().unwrap().iter().find(|row| row["alarm"] == alarm).cloned()
    };
    let quiet = || eventually("it to be over", || firing("log_silence").is_none().then_some(()));
    eventually("all to be well", || firing("log_silence").is_none().then_some(()));

    // Rows are refused while those that are there can be read: they grow old.
    database.run("revoke insert on public.system_logs from service_role");
    let alert = eventually("silence", || firing("log_silence"));
    assert!(alert["summary"].as_str().unwrap().contains("nothing has arrived from"), "{alert}");
    database.run("grant insert on public.system_logs to service_role");
    quiet();

    // Nothing can be written or read: the same alarm, and it says so.
    project.always(Fault::status(503));
    let alert = eventually("silence", || firing("log_silence"));
    let summary = alert["summary"].as_str().unwrap();
    assert!(summary.contains("cannot be read back") && summary.contains("503"), "{alert}");
    project.heal();
    quiet();
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.wait().code, Some(0));
    rig.spools_add_up();
}
