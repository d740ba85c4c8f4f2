//! One rule for every command: DATABASE_URL where it is set.

use serde_json::json;

use super::rig::Fleet;
use crate::postgres_rig::Cluster;

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

/// Findings of the doctor by what was asked.
fn doctor(fleet: &Fleet) -> std::collections::BTreeMap<String, String> {
    let findings = fleet.json("findings", &["doctor"]);
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    findings.as_array().unwrap().iter().map(|found| (text(found, "check"), text(found, "verdict"))).collect()
}

#[test]
fn the_doctor_asks_in_order_and_names_what_is_wrong() {
    // Roles belong to the whole cluster: none may come after the migration, which gives them rights.
    Cluster::shared().database().make_supabase_roles();
    let fleet = Fleet::new();
    let (code, out, err) = fleet.run(&["doctor"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("DATABASE_URL = (hidden)") && !out.contains("marked-secret"), "{out}");
    let found = doctor(&fleet);
    for check in [
        "settings", "folder", "database", "pooler", "schema", "rights", "grants", "clock", "rows", "canary",
        "secrets",
    ] {
        assert_eq!(found.get(check).map(String::as_str), Some("ok"), "{check}: {out}");
    }
    assert_eq!(fleet.database.count("public.system_logs where message like 'canary %'"), 2);
    fleet
        .database
        .run("create or replace function dogwatch.fleet_level() returns bigint language sql as 'select 9::bigint'");
    assert_eq!(doctor(&fleet)["schema"], "warning");
    fleet
        .database
        .run("create or replace function dogwatch.fleet_level() returns bigint language sql as 'select 1::bigint'");
    let (code, out, _) = fleet.run(&["doctor"]);
    assert!(code == Some(1) && out.contains("works with 2 and later") && out.contains("dogwatch migrate"), "{out}");
    let empty = Cluster::shared().database();
    let said = fleet.command(&["doctor"]).env("DATABASE_URL", empty.url()).output().unwrap();
    let out = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said.status.code(), Some(1), "{out}");
    assert!(out.contains("dogwatch migrate"), "{out}");
}

#[test]
fn rights_that_somebody_revoked_are_named_by_the_doctor_and_given_back_by_migrate() {
    Cluster::shared().database().make_supabase_roles();
    let fleet = Fleet::new();
    fleet.database.run(
        "revoke execute on function public.dw_claim_task(jsonb) from anon;
         revoke select on dogwatch.tasks from dogwatch_rpc;
         revoke insert on public.system_logs from service_role",
    );
    let rights = [
        "execute on public.dw_claim_task(jsonb) to anon",
        "select on dogwatch.tasks to dogwatch_rpc",
        "insert on public.system_logs to service_role",
    ];
    let (code, out, _) = fleet.run(&["doctor"]);
    assert!(code == Some(1) && rights.iter().all(|right| out.contains(right)), "{out}");
    assert_eq!(doctor(&fleet)["grants"], "problem");
    let (code, out, _) = fleet.run(&["migrate", "--dry-run"]);
    assert!(code == Some(0) && out.contains("would be granted again") && out.contains(rights[1]), "{out}");
    assert_eq!(doctor(&fleet)["grants"], "problem");
    let (code, out, _) = fleet.run(&["migrate"]);
    assert!(code == Some(0) && out.contains("were granted again") && out.contains(rights[2]), "{out}");
    assert_eq!(doctor(&fleet)["grants"], "ok");
    let (_, out, _) = fleet.run(&["migrate"]);
    assert!(!out.contains("granted"), "{out}");
}
