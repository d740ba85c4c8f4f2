//! The doctor as a process: what it asks, in which order, what it finds, and that it shows no secret.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::rig::Fleet;
use crate::postgres_rig::{Cluster, Durability, PASSWORD};
use crate::receiver_rig::{Receiver, Reply};

/// One finding of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    verdict: String,
    evidence: String,
    fix: String,
}

/// Exit code, and findings by what was asked; of several of a kind one that is not well.
fn examined(mut command: Command) -> (Option<i32>, BTreeMap<String, Found>) {
    let said = command.arg("--json").output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let all = format!("{text}{}", String::from_utf8_lossy(&said.stderr));
    assert!(!all.contains("marked-secret"), "{all}");
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {all}"));
    let mut found = BTreeMap::new();
    for finding in document["findings"].as_array().unwrap() {
        let text = |key: &str| finding[key].as_str().unwrap().to_owned();
        let new = Found { verdict: text("verdict"), evidence: text("evidence"), fix: text("fix") };
        let old = found.entry(text("check")).or_insert_with(|| new.clone());
        if new.verdict != "ok" {
            *old = new;
        }
    }
    (said.status.code(), found)
}

fn doctor(fleet: &Fleet, settings: &[(&str, &str)]) -> Command {
    let mut command = fleet.command(&["doctor"]);
    command.envs(settings.iter().copied());
    command
}

/// The check must stand like this, with these words in evidence or fix.
fn check(found: &BTreeMap<String, Found>, check: &str, verdict: &str, words: &[&str]) {
    let one = found.get(check).unwrap_or_else(|| panic!("{check} was not asked: {found:?}"));
    assert_eq!(one.verdict, verdict, "{check}: {one:?}");
    for word in words {
        assert!(one.evidence.contains(word) || one.fix.contains(word), "{check}: no {word:?} in {one:?}");
    }
}

#[test]
fn a_healthy_fleet_is_well_in_everything_that_is_asked() {
    let fleet = Fleet::new();
    let (code, found) = examined(doctor(&fleet, &[]));
    let asked = [
        "settings", "folder", "database", "pooler", "schema", "rights", "grants", "clock", "rows", "ring",
        "canary", "secrets",
    ];
    for one in asked {
        check(&found, one, "ok", &[]);
    }
    assert_eq!((code, found.len()), (Some(0), asked.len()), "{found:?}");
    check(&found, "canary", "ok", &["postgres", "read back"]);
    let out = fleet.ok(&["doctor"]);
    let places: Vec<_> = asked.iter().map(|one| out.find(&format!("  {one:9}  ")).unwrap()).collect();
    assert!(places.is_sorted(), "in the order of need: {out}");
    assert_eq!(fleet.database.count("public.system_logs where message like 'canary %'"), 2);
}

#[test]
fn each_declared_pool_is_shown_with_what_it_takes() {
    let fleet = Fleet::new();
    let file = fleet.folder.path().join("pools.toml");
    let pools = "[[pool]]\nname = \"video\"\ntask_types = [\"render\"]\nmax = 4\nidle_buffer = 1\n\
                 [[pool.cell]]\ngpu = \"A40\"\nregion = \"EU-NO-1\"\n[[pool]]\nname = \"others\"\nmin = 2\nmax = 3\n";
    std::fs::write(&file, pools).unwrap();
    let said = doctor(&fleet, &[("DOGWATCH_CONFIG", file.to_str().unwrap())]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let of_pools: Vec<&str> =
        said.lines().filter_map(|line| line.split_once("  pool       ")).map(|it| it.1).collect();
    assert_eq!(
        of_pools,
        [
            "video takes render: 0 to 4 workers, 1 kept idle; cells A40/EU-NO-1",
            "others takes the rest: 2 to 3 workers, 0 kept idle"
        ],
        "{said}"
    );
}

#[test]
fn each_setting_is_shown_with_its_origin_and_without_its_secret() {
    let fleet = Fleet::new();
    let file = fleet.folder.path().join("dogwatch.toml");
    std::fs::write(&file, "fleet = \"render\"\ntoken = \"marked-secret-token\"\n").unwrap();
    let (file, data) = (file.display().to_string(), fleet.folder.path().join("other").display().to_string());
    let mut command = doctor(&fleet, &[("DOGWATCH_CONFIG", &file), ("GPU_IDLE_TIMEOUT_SEC", "120")]);
    command.args(["--data-dir", &data]);
    let (code, found) = examined(command);
    assert_eq!(code, Some(0), "{found:?}");
    let shown = [
        "DATABASE_URL = (hidden) (environment DATABASE_URL)",
        "DOGWATCH_IDLE_LIMIT_SECONDS = 120 (environment GPU_IDLE_TIMEOUT_SEC)",
        "DOGWATCH_HEARTBEAT_LIMIT_SECONDS = 120 (environment GPU_IDLE_TIMEOUT_SEC)",
        &format!("DOGWATCH_FLEET = render ({file})"),
        &format!("DOGWATCH_TOKEN = (hidden) ({file})"),
        &format!("DOGWATCH_DATA_DIR = {data} (flag)"),
    ];
    check(&found, "settings", "ok", &shown);
}

#[test]
fn a_schema_of_another_level_or_none_is_told_with_what_to_do() {
    let fleet = Fleet::new();
    let level = |level: i64| {
        fleet.database.run(&format!(
            "create or replace function dogwatch.fleet_level() returns bigint language sql as 'select {level}::bigint'"
        ));
    };
    level(99);
    let (_, found) = examined(doctor(&fleet, &[]));
    check(&found, "schema", "warning", &["level 99", "use the dogwatch that migrated it"]);
    level(1);
    let (code, found) = examined(doctor(&fleet, &[]));
    check(&found, "schema", "problem", &["level 1", "run `dogwatch migrate`"]);
    assert_eq!(code, Some(1));
    let empty = Cluster::shared().database().url();
    let (code, found) = examined(doctor(&fleet, &[("DATABASE_URL", &empty)]));
    check(&found, "schema", "problem", &["no tables", "run `dogwatch migrate`"]);
    assert_eq!(code, Some(1));
    let gone = fleet.database.url_at("dw_admin", 1);
    let (code, found) = examined(doctor(&fleet, &[("DATABASE_URL", &gone)]));
    check(&found, "database", "problem", &["127.0.0.1:1/", "correct DATABASE_URL"]);
    assert_eq!(code, Some(1));
}

#[test]
fn rights_that_are_missing_are_named() {
    let cluster = Cluster::start(Durability::Relaxed);
    let fleet = Fleet::on(cluster.database());
    fleet.database.run(&format!(
        "create role dw_reader login password '{PASSWORD}';
         grant usage on schema dogwatch to dw_reader; grant select on all tables in schema dogwatch to dw_reader;
         grant execute on all functions in schema dogwatch to dw_reader;
         grant select on public.system_logs to dw_reader"
    ));
    let url = fleet.database.url_of("dw_reader");
    let (code, found) = examined(doctor(&fleet, &[("DATABASE_URL", &url)]));
    check(&found, "rights", "problem", &["lease", "workers", "grant it select, insert, update, delete"]);
    check(&found, "canary", "problem", &["postgres", "permission denied"]);
    assert_eq!(code, Some(1));
}

#[test]
fn clocks_that_differ_are_told_by_how_much() {
    let fleet = Fleet::new();
    for (ahead, verdict, word) in [(8, "warning", "+"), (-90, "problem", "-")] {
        fleet.database.run(&format!(
            "create or replace function public.now() returns timestamptz language sql stable as
                 $$ select pg_catalog.now() + interval '{ahead} seconds' $$;
             alter database {} set search_path = public, pg_catalog",
            fleet.database.name
        ));
        let (_, found) = examined(doctor(&fleet, &[]));
        check(&found, "clock", verdict, &[word, "by NTP"]);
    }
}

#[test]
fn a_number_that_a_data_api_cuts_is_no_fact() {
    let cluster = Cluster::start(Durability::Relaxed);
    let fleet = Fleet::on(cluster.database());
    fleet.database.make_supabase_roles();
    let submit = |tasks: u32| {
        fleet.database.run(&format!(
            "insert into dogwatch.tasks (task_type, user_id) select 'render', 'ada' from generate_series(1, {tasks})"
        ));
    };
    let rows = |verdict: &str, words: &[&str]| check(&examined(doctor(&fleet, &[])).1, "rows", verdict, words);
    submit(1_000);
    rows("ok", &["1000 tasks of 1 users", "ends after 1000 rows"]);
    submit(1);
    rows("warning", &["1001 tasks", "ends after 1000", "count in the database"]);
    fleet.database.run("alter role authenticator set pgrst.db_max_rows = '5000'");
    rows("ok", &["1001 tasks", "ends after 5000 rows"]);
}

#[test]
fn secrets_that_should_not_be_there_are_named_and_not_shown() {
    let fleet = Fleet::new();
    let keys = [("RUNPOD_API_KEY", "marked-secret-key"), ("PGPASSWORD", "marked-secret-too")];
    let (code, found) = examined(doctor(&fleet, &keys));
    check(&found, "secrets", "warning", &["RUNPOD_API_KEY, PGPASSWORD", "unset"]);
    assert_eq!(code, Some(0));
    let (code, found) = examined(doctor(&fleet, &[("DOGWATCH_WORKER_TOKEN", "marked-secret-token")]));
    check(&found, "secrets", "problem", &["a worker's pod", "DATABASE_URL", "take these out"]);
    assert_eq!(code, Some(1));
}

#[test]
fn every_exporter_takes_a_canary_or_says_why_not() {
    let fleet = Fleet::new();
    let receiver = Receiver::start(|_| Reply::taken());
    let (code, found) = examined(doctor(&fleet, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.base)]));
    assert_eq!(code, Some(0), "{found:?}");
    let logs: String = receiver
        .seen()
        .iter()
        .filter(|seen| seen.path == "/v1/logs")
        .map(|seen| format!("{:?}", seen.logs()))
        .collect();
    assert!(logs.contains("canary "), "nothing came to the other exporter: {logs}");
    let (code, found) = examined(doctor(&fleet, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")]));
    check(&found, "canary", "problem", &["otlp", "within 15 s", "spool ls"]);
    assert_eq!(code, Some(1));
    fleet
        .database
        .run("alter table public.system_logs add constraint nothing check (message not like 'canary%') not valid");
    let (code, found) = examined(doctor(&fleet, &[]));
    check(&found, "canary", "problem", &["postgres has refused it", "quarantine ls"]);
    assert_eq!(code, Some(1));
}

#[test]
fn rights_that_somebody_revoked_are_named_by_the_doctor_and_given_back_by_migrate() {
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
    let (code, found) = examined(doctor(&fleet, &[]));
    assert_eq!(code, Some(1), "{found:?}");
    check(&found, "grants", "problem", &rights);
    let (code, out, _) = fleet.run(&["migrate", "--dry-run"]);
    assert!(code == Some(0) && out.contains("would be granted again") && out.contains(rights[1]), "{out}");
    check(&examined(doctor(&fleet, &[])).1, "grants", "problem", &[]);
    let (code, out, _) = fleet.run(&["migrate"]);
    assert!(code == Some(0) && out.contains("were granted again") && out.contains(rights[2]), "{out}");
    check(&examined(doctor(&fleet, &[])).1, "grants", "ok", &[]);
    let (_, out, _) = fleet.run(&["migrate"]);
    assert!(!out.contains("granted"), "{out}");
}
