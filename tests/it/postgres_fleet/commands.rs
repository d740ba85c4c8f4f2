//! One rule for every command: DATABASE_URL where it is set.

use serde_json::json;

use super::rig::Fleet;
use crate::postgres_rig::{Cluster, Durability};

#[test]
fn every_command_works_on_postgres() {
    let fleet = Fleet::new();
    let mut up = fleet.start("up", fleet.command(&["up", "--max-workers", "2"]));
    up.says("dogwatch is up");
    let printed = fleet.ok(&["submit", "--wait", "--", "echo", "from postgres"]);
    assert!(printed.contains("from postgres"), "{printed}");
    let tasks = fleet.json("tasks", &["tasks"]);
    assert_eq!((&tasks[0]["status"], &tasks[0]["attempts"]), (&json!("Complete"), &json!(1)), "{tasks}");
    assert_eq!(fleet.database.ask("select status from dogwatch.tasks"), "Complete");
    assert_eq!(fleet.json("workers", &["workers"]).as_array().unwrap().len(), 1);
    assert!(fleet.json("status", &["status"]).is_object() || fleet.ok(&["status"]).contains("worker"));
    let snapshot: serde_json::Value = serde_json::from_str(&fleet.ok(&["snapshot"])).unwrap();
    assert!(snapshot["name"].as_str().unwrap().starts_with("dogwatch.local"), "{snapshot}");
    assert!(!fleet.folder.path().join("data/fleet.db").exists(), "nothing of the fleet is in the folder");
    let process = fleet.database.ask("select kind, version <> '', length(config_hash), host <> '' from dogwatch.processes where kind = 'orchestrator'");
    assert_eq!(process, "orchestrator|t|64|t");
    assert_eq!(up.stop(), Some(0));
    assert_eq!(fleet.database.count("dogwatch.processes where kind = 'orchestrator' and ended_at is null"), 0);
    assert_eq!(fleet.database.count("dogwatch.workers where ended_at is null"), 0);
}

#[test]
fn run_needs_a_database_and_its_schema() {
    let fleet = Fleet::new();
    let mut without = fleet.command(&["run", "--provider", "local"]);
    let said = without.env_remove("DATABASE_URL").output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(2), "{err}");
    assert!(err.contains("DATABASE_URL is not set") && err.contains("dogwatch up"), "{err}");
    let empty = Cluster::shared().database();
    for words in [&["run", "--provider", "local"][..], &["up"], &["tasks"], &["status"]] {
        let said = fleet.command(words).env("DATABASE_URL", empty.url()).output().unwrap();
        let err = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(2), "{words:?}: {err}");
        assert!(err.contains("dogwatch migrate"), "{words:?}: {err}");
        assert!(!err.contains("marked-secret"), "{words:?}: {err}");
    }
    fleet
        .database
        .run("create or replace function dogwatch.fleet_level() returns bigint language sql as 'select 0::bigint'");
    let (code, _, err) = fleet.run(&["run", "--provider", "local"]);
    assert_eq!(code, Some(2), "{err}");
    let gone = fleet.database.url_at("dw_admin", 1);
    let said = fleet.command(&["tasks"]).env("DATABASE_URL", gone).output().unwrap();
    assert_eq!(said.status.code(), Some(69), "{}", String::from_utf8_lossy(&said.stderr));
}

/// A project of Supabase's: the role `postgres` owns the database and is no superuser, and the project
/// keeps a history of its own.
#[test]
fn under_supabase_the_whole_fleet_goes_into_the_projects_history_and_works() {
    let cluster = Cluster::start(Durability::Relaxed);
    let database = cluster.database();
    database.make_supabase_roles();
    database.make_supabase_history();
    let fleet = Fleet::unmigrated(database);
    let url = fleet.database.url_of("postgres");
    let run = |words: &[&str]| {
        let said = fleet.command(words).env("DATABASE_URL", &url).output().unwrap();
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert_eq!(said.status.code(), Some(0), "{words:?}: {text}");
        text
    };
    let history = "supabase_migrations.schema_migrations";
    assert!(run(&["migrate", "--dry-run"]).contains("would get 20261101000000_system_logs"));
    assert_eq!(
        (fleet.database.count(history), fleet.database.ask("select to_regnamespace('dogwatch')")),
        (0, String::new())
    );
    let applied = run(&["migrate"]);
    let names = fleet.database.ask(&format!("select version || '_' || name from {history} order by version"));
    assert_eq!(
        names,
        fleet.database.ask("select version || '_' || name from dogwatch.migrations order by version")
    );
    for name in names.lines() {
        assert!(applied.contains(name), "{name}: {applied}");
    }
    assert!(names.contains("_fleet\n") && names.contains("_system_logs\n"), "{names}");
    // What the project's own tools have written down is not applied again.
    fleet.database.run("delete from dogwatch.migrations");
    assert!(run(&["migrate"]).contains(&format!("has all {} migrations", names.lines().count())));
    run(&["doctor"]);
    let mut up = fleet.command(&["up", "--max-workers", "1"]);
    up.env("DATABASE_URL", &url);
    let mut up = fleet.start("up", up);
    up.says("dogwatch is up");
    assert!(run(&["submit", "--wait", "--", "echo", "from a project"]).contains("from a project"));
    assert_eq!(up.stop(), Some(0));
}
