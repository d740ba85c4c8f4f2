//! The whole program on a fleet whose logs are in Postgres: migrate, up, logs, status, and what is
//! done about records that the database refuses.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;

use super::rig::{ALL_DECISIONS, Rig, Said, decisions_hold, eventually};
use crate::postgres_rig::{Cluster, Database, PASSWORD};

/// Runs words against the database.
fn run(rig: &Rig, database: &Database, words: &[&str], input: &str) -> Said {
    let mut command = rig.command(words);
    command.env("DATABASE_URL", database.url()).stdin(Stdio::piped());
    let mut running = rig.start(command);
    let mut stdin = running.stdin();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let said = running.wait();
    assert!(!said.out.contains(PASSWORD) && !said.err.contains(PASSWORD), "{words:?} shows the password");
    said
}

fn ok(rig: &Rig, database: &Database, words: &[&str]) -> String {
    let said = run(rig, database, words, "");
    assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
    said.out
}

fn json(rig: &Rig, database: &Database, key: &str, words: &[&str]) -> Value {
    let said = run(rig, database, &[words, &["--json"]].concat(), "");
    let document: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    document[key].clone()
}

#[test]
fn migrate_says_what_it_would_do_and_does_it_once() {
    let (rig, database) = (Rig::new(), Cluster::shared().database());
    database.run("create table system_logs (id int)");
    let dry = ok(&rig, &database, &["migrate", "--dry-run"]);
    assert!(dry.contains("would get 20261101000000_system_logs"), "{dry}");
    assert!(dry.contains("would be renamed to system_logs_before_dogwatch"), "{dry}");
    assert_eq!(database.ask("select to_regnamespace('dogwatch')"), "");
    assert!(ok(&rig, &database, &["migrate"]).contains("got 20261101000000_system_logs"));
    let again = json(&rig, &database, "databases", &["migrate"]);
    let logs = &again.as_array().unwrap()[0];
    assert_eq!(
        (logs["applied"].as_array().unwrap().len(), &logs["by_pg_cron"]),
        (0, &Value::Bool(false)),
        "{again}"
    );

    let mut command = rig.command(&["migrate"]);
    command.env("DATABASE_URL", "postgres://u:marked@127.0.0.1:1/d");
    let said = rig.start(command).wait();
    assert_eq!(said.code, Some(69), "{said:?}");
    let mut command = rig.command(&["migrate"]);
    command.env("DATABASE_URL", "mysql://u:marked@127.0.0.1/d");
    let wrong = rig.start(command).wait();
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.err.contains("DATABASE_URL is not a URL such as postgres://"), "{wrong:?}");
    assert!(!said.err.contains("marked") && !wrong.err.contains("marked"));
}

#[test]
fn work_on_this_machine_leaves_its_logs_in_postgres() {
    let (rig, database) = (Rig::new(), Cluster::shared().database());
    ok(&rig, &database, &["migrate"]);
    let up = rig.up_with(&[], &[("DATABASE_URL", &database.url())]);
    let ids: Vec<String> = ok(&rig, &database, &["submit", "--", "echo", "hello from the program"])
        .lines()
        .map(str::to_owned)
        .collect();
    eventually("the task to end", || {
        (database.count("dogwatch.tasks where status = 'Complete'") == 1).then_some(())
    });
    // What the worker's program printed came through the gateway, and is read back from Postgres.
    let hello = eventually("the program's line", || {
        let rows = json(&rig, &database, "logs", &["logs", "--grep", "hello from the program"]);
        rows.as_array().unwrap().iter().find(|row| row["source_type"] == "worker").cloned()
    });
    assert_eq!(hello["task_id"], *ids[0]);
    let by_task = json(&rig, &database, "logs", &["logs", "--task", &ids[0]]);
    assert!(by_task.as_array().unwrap().iter().any(|row| row["id"] == hello["id"]));
    eventually("the orchestrator's rows", || {
        (database.count("system_logs where source_type = 'orchestrator_gpu'") > 0).then_some(())
    });
    assert!(!rig.data().join("logs.db").exists(), "nothing goes to the file");
    let status = json(&rig, &database, "status", &["status"]);
    assert!(status["newest_row_at"].is_string(), "{status}");
    assert!(up.err().contains("in Postgres at 127.0.0.1:"), "{}", up.err());
    assert!(!up.err().contains(PASSWORD));
    up.signal(rustix::process::Signal::TERM);
    let said = up.wait();
    assert_eq!(said.code, Some(0), "{said:?}");
    rig.spools_add_up();
    let Said { code, out, err } = run(&rig, &database, ALL_DECISIONS, "");
    decisions_hold(code, &out, &err);
}

#[test]
fn a_row_that_stays_in_the_default_partition_is_heard_after_an_hour() {
    let (rig, database) = (Rig::new(), Cluster::shared().database());
    ok(&rig, &database, &["migrate"]);
    let said = || {
        let findings = json(&rig, &database, "findings", &["watch", "--once"]);
        let rows = findings.as_array().unwrap().iter();
        rows.map(|row| format!("{} {}", row["rule"], row["summary"])).collect::<Vec<_>>().join("\n")
    };
    database.run(
        "insert into system_logs (timestamp, source_type, source_id, log_level, message)
         values (now() - interval '400 days', 'worker', 'gpu-1', 'INFO', 'far off')",
    );
    assert_eq!(database.count("dogwatch.system_logs_default"), 1);
    assert_eq!(said(), "", "it has only just come");
    let arrived =
        |ago: &str| database.run(&format!("update system_logs set ingested_at = now() - interval '{ago}'"));
    arrived("59 minutes");
    assert_eq!(said(), "");
    arrived("61 minutes");
    // Nobody's day: housekeeping makes no partition for it.
    database.run("select public.dw_maintain_system_logs()");
    let heard = said();
    assert!(
        heard.starts_with("\"DogwatchDefaultPartition\" \"1 rows of system_logs lie in its DEFAULT"),
        "{heard}"
    );
    database.run("delete from system_logs");
    assert_eq!(said(), "");
}

#[test]
fn a_table_that_is_missing_is_said_with_its_remedy() {
    let (rig, database) = (Rig::new(), Cluster::shared().database());
    let said = run(&rig, &database, &["ship", "--source", "t", "--wait-delivered"], "one\ntwo\n");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("does not exist"), "{said:?}");
    let ls = ok(&rig, &database, &["spool", "ls"]);
    assert!(ls.contains("postgres is blocked") && ls.contains("run `dogwatch migrate`"), "{ls}");
    let status = run(&rig, &database, &["status"], "");
    assert!(status.code == Some(2) && status.err.contains("run `dogwatch migrate`"), "{status:?}");
    ok(&rig, &database, &["migrate"]);
    let said = run(&rig, &database, &["ship", "--source", "t", "--wait-delivered"], "three\n");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(
        database.ask("select string_agg(message, ' ' order by timestamp) from system_logs where source_id = 't'"),
        "one two three"
    );
    rig.spools_add_up();
}

#[test]
fn what_was_set_aside_is_listed_delivered_again_or_given_up() {
    let (rig, database) = (Rig::new(), Cluster::shared().database());
    ok(&rig, &database, &["migrate"]);
    database.run("alter table system_logs add constraint nobody check (message not like 'poison%')");
    let lines: String =
        (0..40).map(|n| if n % 10 == 3 { format!("poison {n}\n") } else { format!("line {n}\n") }).collect();
    let said = run(&rig, &database, &["ship", "--source", "t", "--wait-delivered"], &lines);
    assert_eq!(said.code, Some(0), "{said:?}");
    let listed = || json(&rig, &database, "quarantine", &["spool", "quarantine", "ls"]).as_array().unwrap().clone();
    let all = listed();
    let mut texts: Vec<&str> = all.iter().map(|row| row["message"].as_str().unwrap()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["poison 13", "poison 23", "poison 3", "poison 33"]);
    assert!(
        all.iter().all(|row| row["reason"].as_str().unwrap().contains("nobody") && row["exporter"] == "database")
    );
    let name = |text: &str| {
        let row = all.iter().find(|row| row["message"] == text).unwrap();
        row["name"].as_str().unwrap().to_owned()
    };
    let sums = || {
        let lines = json(&rig, &database, "lines", &["spool", "verify"]);
        let own = lines.as_array().unwrap().iter().find(|line| line["source_id"] == "t").unwrap().clone();
        assert_eq!(own["ok"], true, "{own}");
        let number = |key: &str| own[key].as_u64().unwrap();
        (number("delivered"), number("quarantined"), own["dropped"]["given_up"].as_u64().unwrap_or(0))
    };
    assert_eq!(sums(), (36, 4, 0));

    // Still refused: it stays, and says so.
    let again = run(&rig, &database, &["spool", "quarantine", "retry", &name("poison 3")], "");
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.out.contains("nobody"), "{again:?}");
    assert_eq!((listed().len(), sums()), (4, (36, 4, 0)));
    ok(&rig, &database, &["spool", "quarantine", "drop", &name("poison 13")]);
    assert_eq!((listed().len(), sums()), (3, (36, 3, 1)));
    database.run("alter table system_logs drop constraint nobody");
    let table = ok(&rig, &database, &["spool", "quarantine", "retry", "--all"]);
    assert_eq!(table.matches(": delivered").count(), 3, "{table}");
    assert_eq!((listed().len(), sums()), (0, (39, 0, 1)));
    assert_eq!(database.count("system_logs where source_id = 't'"), 39);
    assert_eq!(database.count("system_logs where message like 'poison%' and log_level = 'INFO'"), 3);
    let unknown = run(&rig, &database, &["spool", "quarantine", "drop", "nothing"], "");
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    rig.spools_add_up();
}
