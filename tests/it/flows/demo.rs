//! `dogwatch demo`: its verdict, what it ignores, and that nothing of it stays.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::rig::{Rig, Running, Said, eventually};
use crate::postgres_rig::{Cluster, Durability, PASSWORD, until};

/// The demo is over by then on any machine.
const DEMO_LIMIT: Duration = Duration::from_secs(100);
/// A whole demo is a minute of work for all cores: one at a time.
static WHOLE: Mutex<()> = Mutex::new(());

/// A demo in the rig's folder, with nonsense in every setting of the environment.
fn demo(rig: &Rig, words: &[&str]) -> Running {
    std::fs::create_dir_all(rig.path("tmp")).unwrap();
    let mut command = rig.command(&[&["demo", "--json"], words].concat());
    command.env("TMPDIR", rig.path("tmp"));
    for name in [
        "DATABASE_URL",
        "SUPABASE_URL",
        "SUPABASE_SERVICE_ROLE_KEY",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_SDK_DISABLED",
        "DOGWATCH_CONFIG",
        "DOGWATCH_LISTEN",
        "DOGWATCH_DATA_DIR",
        "DOGWATCH_SPOOL_DIR",
        "DOGWATCH_WORKER_ID",
        "MAX_ACTIVE_GPUS",
        "ORCHESTRATOR_POLL_SEC",
        "LOG_LEVEL",
        "RUST_LOG",
    ] {
        command.env(name, "/dev/null/rubbish");
    }
    rig.start(command)
}

/// What lies where the demo makes its folder.
fn folders(rig: &Rig) -> Vec<String> {
    let entries = std::fs::read_dir(rig.path("tmp")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Keys and types as `a.b:type`.
fn shape(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Object(map) => {
            for (key, value) in map {
                shape(value, &format!("{at}.{key}"), into);
            }
            return;
        }
        Value::Array(items) => {
            for item in items {
                shape(item, &format!("{at}[]"), into);
            }
            return;
        }
        Value::Bool(_) => "bool",
        Value::String(_) => "str",
        Value::Number(number) if number.is_u64() => "int",
        Value::Number(_) => "num",
        Value::Null => "null",
    };
    into.insert(format!("{at}:{kind}"));
}

/// The demo's one line has all that DESIGN.md section 7 asks for, and all of it holds.
fn holds(said: &Said, exporter: &str) {
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    // In Postgres a look at a locked table takes its time, so that the recorder's own watchdog, which
    // speaks after 8 s, is heard before the lock is let go.
    let is_own_voice =
        |line: &str| exporter == "postgres" && line.starts_with("dogwatch telemetry: exporter database");
    assert!(said.err.lines().all(is_own_voice), "nothing but the line: {said:?}");
    let verdict: Value = serde_json::from_str(&said.out).unwrap();
    let mut found = BTreeSet::new();
    shape(&verdict, "", &mut found);
    let mut expected: BTreeSet<String> = [".schema_version:int", ".ok:bool"].map(str::to_owned).into();
    let mut add = |of: &str, keys: &[&str], kind: &str| {
        expected.extend(keys.iter().map(|key| format!(".{of}.{key}:{kind}")));
    };
    add("tasks", &["total", "done"], "int");
    add("worker_killed", &["worker", "task", "finished_by"], "str");
    add("records", &["exporter"], "str");
    add("records", &["accepted", "delivered", "dropped", "quarantined", "pending"], "int");
    add("silence", &["cut_for_seconds", "noticed_after_seconds"], "num");
    add("checks[]", &["name", "detail"], "str");
    add("checks[]", &["ok"], "bool");
    assert_eq!(found, expected, "keys and types of DESIGN.md section 7");
    assert_eq!((&verdict["ok"], &verdict["records"]["exporter"]), (&Value::Bool(true), &Value::from(exporter)));
    assert_eq!(verdict["tasks"]["done"], verdict["tasks"]["total"]);
    assert_ne!(verdict["worker_killed"]["worker"], verdict["worker_killed"]["finished_by"]);
    assert_eq!(verdict["records"]["accepted"], verdict["records"]["delivered"]);
    assert_eq!(verdict["records"]["dropped"], 0);
    let noticed = verdict["silence"]["noticed_after_seconds"].as_f64().unwrap();
    assert!(noticed > 0.0 && noticed <= 30.0, "noticed after {noticed} s");
}

#[test]
fn the_demo_holds_all_it_claims_and_leaves_nothing() {
    let _turn = WHOLE.lock().unwrap_or_else(PoisonError::into_inner);
    let rig = Rig::new();
    holds(&demo(&rig, &[]).wait_for(DEMO_LIMIT), "sqlite");
    rig.is_left_alone();
    assert_eq!(folders(&rig), Vec::<String>::new());
}

/// What a server has: databases and roles.
fn inventory(cluster: &Cluster) -> String {
    cluster.admin().ask("select datname from pg_database union all select rolname from pg_roles order by 1")
}

#[test]
fn on_postgres_it_holds_the_same_and_leaves_neither_database_nor_role() {
    let _turn = WHOLE.lock().unwrap_or_else(PoisonError::into_inner);
    let (rig, cluster) = (Rig::new(), Cluster::start(Durability::Relaxed));
    let before = inventory(&cluster);
    let running = demo(&rig, &["--postgres", &cluster.admin().url()]);
    let own = "select datname from pg_database where datname ~ '^dogwatch_demo_[0-9a-f]{8}$'";
    until("the demo's database", || !cluster.admin().ask(own).is_empty());
    let said = running.wait_for(DEMO_LIMIT);
    holds(&said, "postgres");
    assert!(!said.out.contains(PASSWORD), "{said:?}");
    rig.is_left_alone();
    assert_eq!((folders(&rig), inventory(&cluster)), (Vec::new(), before));
}

#[test]
fn on_postgres_neither_ctrl_c_nor_a_kill_leaves_its_database() {
    for signal in [Signal::INT, Signal::KILL] {
        let (rig, cluster) = (Rig::new(), Cluster::start(Durability::Relaxed));
        let before = inventory(&cluster);
        let running = demo(&rig, &["--postgres", &cluster.admin().url()]);
        let agents = || rig.processes().into_iter().filter(|(_, words)| words.contains(" agent ")).count();
        eventually("agents of the demo at work", || (agents() > 0).then_some(()));
        running.signal(signal);
        let said = running.wait();
        if signal == Signal::INT {
            assert_eq!(said.code, Some(1), "{said:?}");
            assert!(said.err.contains("nothing stays behind"), "{said:?}");
            assert_eq!(inventory(&cluster), before, "dropped before it ended");
            assert_eq!(folders(&rig), Vec::<String>::new());
        }
        until("database and role to be gone", || inventory(&cluster) == before);
        rig.is_left_alone();
    }
}

#[test]
fn a_server_that_is_none_or_away_is_said_with_what_to_do() {
    let (rig, cluster) = (Rig::new(), Cluster::shared());
    let poor = format!(
        "do $$ begin if to_regrole('dw_poor') is null then create role dw_poor login password '{PASSWORD}'; end if; end $$"
    );
    cluster.admin().run(&poor);
    let wrong = cluster.admin().url().replace(PASSWORD, "marked-wrong");
    for (url, code, words) in [
        ("mysql://u:marked-x@127.0.0.1/d".to_owned(), 2, "--postgres is not a URL such as postgres://"),
        (cluster.admin().url_at("dw_admin", 1), 69, "Postgres at 127.0.0.1:1/postgres cannot be reached"),
        (wrong, 2, "password authentication failed"),
        (cluster.admin().url_of("dw_poor"), 2, "permission denied to create database"),
    ] {
        let said = demo(&rig, &["--postgres", &url]).wait();
        assert_eq!((said.code, said.out.as_str()), (Some(code), ""), "{url}: {said:?}");
        assert!(said.err.contains(words) && !said.err.contains("marked-"), "{url}: {said:?}");
        assert!(code == 69 || said.err.contains("postgres://USER:") || said.err.contains("createdb"), "{said:?}");
        assert_eq!(folders(&rig), Vec::<String>::new());
    }
    rig.is_left_alone();
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    let rig = Rig::new();
    let running = demo(&rig, &[]);
    eventually("agents of the demo at work", || {
        let agents = rig.processes().into_iter().filter(|(_, words)| words.contains(" agent ")).count();
        (agents > 0).then_some(())
    });
    running.signal(Signal::INT);
    let said = running.wait();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("nothing stays behind"), "{said:?}");
    rig.is_left_alone();
    assert_eq!(folders(&rig), Vec::<String>::new());
}
