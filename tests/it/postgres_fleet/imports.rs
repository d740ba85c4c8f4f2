//! A file's fleet in Postgres: loaded into an empty database, asked about like any other, once.

use super::rig::Fleet;

const INCIDENTS: [&str; 2] = ["2025-10-16-1735-launch-analysis", "2025-10-16-1755-scale-up-in-silence"];

fn path(name: &str) -> String {
    format!("{}/tests/incidents/{name}.json", env!("CARGO_MANIFEST_DIR"))
}

/// Everything that was loaded, and the order in which it came.
fn everything(fleet: &Fleet) -> String {
    fleet.database.ask(
        "select md5(string_agg(l::text, '|' order by l.arrival)) from public.system_logs l
         union all select md5(string_agg(w::text, '|' order by w.id)) from dogwatch.workers w
         union all select md5(string_agg(d::text, '|' order by d.id)) from dogwatch.decisions d",
    )
}

#[test]
fn a_loaded_file_is_rows_of_system_logs_and_twice_changes_nothing() {
    let fleet = Fleet::new();
    let load = |name: &str| fleet.json("loaded", &["replay", "--load", &path(name)]);
    for name in INCIDENTS {
        assert_eq!(load(name)[0]["new"], true, "{name}");
    }
    assert_eq!(fleet.database.count("public.system_logs"), 4, "two records a file");
    let marked = "public.system_logs where metadata ? 'imported' and timestamp < '2025-10-17'";
    assert_eq!(fleet.database.count(marked), 4);
    let logs = fleet.json("logs", &["logs", "--since", "2025-10-16T00:00:00Z"]);
    assert_eq!(logs.as_array().unwrap().len(), 4, "{logs}");
    assert!(!fleet.folder.path().join("data/logs.db").exists(), "nothing goes to the file");
    let workers = fleet.json("workers", &["workers"]);
    assert!(workers.as_array().unwrap().len() >= 6, "{workers}");
    assert!(fleet.ok(&["why"]).contains("2025-10-16"), "asked about like any other");
    let before = everything(&fleet);
    for name in INCIDENTS {
        assert_eq!(load(name)[0]["new"], false, "{name}");
    }
    assert_eq!(everything(&fleet), before);
}

#[test]
fn nothing_is_loaded_over_a_live_fleet() {
    let fleet = Fleet::new();
    fleet.database.run("insert into dogwatch.tasks (task_type, user_id) values ('render', 'ada')");
    let before = everything(&fleet);
    let (code, out, err) = fleet.run(&["replay", "--load", &path(INCIDENTS[0])]);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(err.contains("holds a live fleet") && err.contains("an empty database with DATABASE_URL"), "{err}");
    assert!(!err.contains("marked-secret"), "{err}");
    assert_eq!(everything(&fleet), before);
}
