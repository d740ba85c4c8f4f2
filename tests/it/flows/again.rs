//! Decisions that are taken again: `why`, `eta`, `replay --from`, and a file's fleet in a folder of its
//! own.

use serde_json::Value;

use super::input::check;
use super::rig::{Rig, eventually, rows_of};

const LAUNCH: &str = include_str!("../../incidents/2025-10-16-1735-launch-analysis.json");
const SILENCE: &str = include_str!("../../incidents/2025-10-16-1755-scale-up-in-silence.json");

/// Everything that is in the folder's two databases, as text.
fn everything(rig: &Rig) -> Vec<String> {
    let mut all = Vec::new();
    for (file, sql) in [
        (
            "fleet.db",
            "select id || ' ' || state || ' ' || coalesce(outcome, '') || ' ' || coalesce(reason, '') from workers order by id",
        ),
        ("fleet.db", "select id || ' ' || at || ' ' || coalesce(imported, '') from decisions order by id"),
        ("fleet.db", "select cast(count(*) as text) from snapshots"),
        ("logs.db", "select hex(id) || ' ' || source_type || ' ' || message from system_logs order by id"),
    ] {
        all.extend(rows_of(&rig.data().join(file), sql));
    }
    all
}

#[test]
fn a_file_is_loaded_once_and_every_command_answers_about_it() {
    let rig = Rig::new();
    let file = rig.file("launch.json", LAUNCH);
    let loaded = rig.json("loaded", &["replay", "--load", &file]);
    assert_eq!(loaded[0]["new"], true, "{loaded}");
    let before = everything(&rig);
    assert!(before.len() >= 9, "six workers, a decision, a snapshot, two records: {before:?}");
    let loaded = rig.json("loaded", &["replay", "--load", &file]);
    assert_eq!(loaded[0]["new"], false, "{loaded}");
    assert_eq!(everything(&rig), before, "loading it twice changes nothing");

    let why = rig.json("why", &["why"]);
    assert_eq!(why["as_of"], "2025-10-16T17:35:31Z");
    assert!(why["imported"].is_string() && why["reproduced"] == true, "{why}");
    assert_eq!((&why["queue"]["queued"], &why["queue"]["adds_up"]), (&35.into(), &true.into()), "{why}");
    let at = rig.json("why", &["why", "--at", "2025-10-16T17:40:00Z"]);
    assert_eq!(at, why, "the decision in force at an instant");
    let eta = rig.json("eta", &["eta"]);
    assert!(eta["asked"].is_array(), "{eta}");
    let workers = rig.json("workers", &["workers", "--since", "2025-10-16T00:00:00Z"]);
    assert_eq!(workers.as_array().unwrap().len(), 6);
    let logs = rig.json("logs", &["logs", "--since", "2025-10-16T00:00:00Z"]);
    assert_eq!(logs.as_array().unwrap().len(), 2, "{logs}");
    assert!(rig.ok(&["logs", "--since", "2025-10-16T00:00:00Z"]).contains("Cycle completed: 0 spawned"));
    let snapshot: Value = serde_json::from_str(&rig.ok(&["snapshot"])).unwrap();
    assert_eq!(snapshot["name"], "2025-10-16 17:35: no worker is launched, 83 % failure rate");
    let again = rig.json("replay", &["replay", "--from", "2025-10-16T17:00:00Z", "--to", "2025-10-16T18:00:00Z"]);
    assert_eq!((&again["decisions"], &again["not_reproduced"]), (&1.into(), &0.into()), "{again}");
    assert!(rig.run(&["status"]).code.is_some_and(|code| code < 2), "it has an answer");
    assert_eq!(rig.json("tasks", &["tasks"]), Value::Array(Vec::new()), "a file holds no tasks");
    assert_eq!(everything(&rig), before, "asking changes nothing");

    // A second file beside the first; the newest is asked about.
    rig.ok(&["replay", "--load", &rig.file("silence.json", SILENCE)]);
    assert_ne!(rig.json("why", &["why"])["as_of"], why["as_of"]);
    rig.is_left_alone();
}

#[test]
fn no_file_is_loaded_over_a_live_fleet() {
    let rig = Rig::new();
    let up = rig.up(&[]);
    assert_eq!(rig.ok(&["submit", "--wait", "--", "echo", "mine"]), "mine\n");
    let file = rig.file("launch.json", LAUNCH);
    let refused = |words: &str| {
        let said = rig.run(&["replay", "--load", &file]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{words}: {said:?}");
        assert!(said.err.contains("live fleet") && said.err.contains("--data-dir"), "{words}: {said:?}");
    };
    refused("while it runs");
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.wait().code, Some(0));
    refused("and afterwards");
    let workers = rows_of(&rig.data().join("fleet.db"), "select id from workers where id like 'gpu-20251016%'");
    assert_eq!(workers, [""; 0], "nothing of it was written");
    // One bad file among good ones: none is loaded.
    let empty = Rig::new();
    let (good, bad) = (empty.file("good.json", LAUNCH), empty.file("bad.json", "{}"));
    check(&empty, &["replay", "--load", &good, &bad], &[], &[&bad, "$"]);
    assert!(!empty.data().join("fleet.db").exists(), "every file is read before the first is written");
}

#[test]
fn other_numbers_are_laid_over_the_decisions_of_a_time() {
    let rig = Rig::new();
    let up = rig.up_with(&["--max-workers", "2"], &[("ORCHESTRATOR_POLL_SEC", "0.5")]);
    let ids: Vec<String> = (0..4).flat_map(|_| rig.submit(&["--", "sleep", "0.4"])).collect();
    assert!(rig.ended(&ids).iter().all(|task| task["status"] == "Complete"));
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.wait().code, Some(0));
    let all = rig.json("replay", &["replay", "--from", "1h"]);
    let number = |found: &Value, key: &str| found[key].as_u64().unwrap_or_else(|| panic!("{key}: {found}"));
    assert!(number(&all, "decisions") > 2, "{all}");
    assert_eq!((number(&all, "not_reproduced"), &all["differences"]), (0, &Value::Array(Vec::new())), "{all}");
    assert_eq!(number(&all, "spawned"), number(&all, "would_spawn"));
    assert!(number(&all, "spawned") >= 2, "{all}");
    let none = rig.file("none.json", r#"{"max_workers": 0, "min_workers": 0}"#);
    let other = rig.json("replay", &["replay", "--from", "1h", "--policy", &none]);
    assert_eq!((number(&other, "would_spawn"), number(&other, "not_reproduced")), (0, 0), "{other}");
    let first = &other["differences"][0];
    assert!(first["would_be"]["shut"].as_array().unwrap().contains(&"max".into()), "{first}");
    let inner = rig.file("inner.json", r#"{"live": {"spawns_per_cycle_max": 1}}"#);
    let slower = rig.json("replay", &["replay", "--from", "1h", "--policy", &inner]);
    assert_eq!(number(&slower, "decisions"), number(&all, "decisions"));
    // The first half of the time and the second are the whole.
    let middle = {
        let rows = rows_of(
            &rig.data().join("fleet.db"),
            "select strftime('%Y-%m-%dT%H:%M:%fZ', at / 1e6, 'unixepoch') from decisions order by id",
        );
        rows[rows.len() / 2].clone()
    };
    let part = |words: &[&str]| number(&rig.json("replay", &[&["replay"], words].concat()), "decisions");
    let (before, after) = (part(&["--from", "1h", "--to", &middle]), part(&["--from", &middle]));
    let whole = number(&all, "decisions");
    assert!(
        before > 0 && after > 0 && (whole..=whole + 1).contains(&(before + after)),
        "{before} + {after}, {whole}"
    );
    let cycle = rig.json("why", &["why", "--cycle", "1"]);
    assert!(cycle["cycle"] == 1 && cycle["reproduced"] == true, "{cycle}");
    rig.is_left_alone();
}

#[test]
fn questions_that_make_no_sense_are_refused_with_a_remedy() {
    let rig = Rig::new();
    let list = rig.file("list.json", "[1]");
    let unknown = rig.file("unknown.json", r#"{"max_worker": 3}"#);
    let all: &[(&[&str], &[&str])] = &[
        (&["replay"], &["nothing to replay", "name snapshot files, or --from a time"]),
        (&["replay", "--load"], &["<FILE>", "--help"]),
        (&["replay", "--load", "gone.json"], &["gone.json", "give a file"]),
        (&["replay", "--from", "yesterday"], &["--from \"yesterday\"", "write 90s"]),
        (&["replay", "--from", "1h", "--to", "never"], &["--to \"never\"", "write 90s"]),
        (&["replay", "--from", "1h", "--to", "2h"], &["is after --to", "exchange them"]),
        (&["replay", "--to", "1h"], &["--from", "--help"]),
        (&["replay", "--policy", &list], &["--from", "--help"]),
        (&["replay", "--from", "1h", "--policy", "gone.json"], &["gone.json", "write a JSON object"]),
        (&["replay", "--from", "1h", "--policy", &list], &[&list, "write a JSON object"]),
        (&["why", "--cycle", "77"], &["no decision of that cycle", "dogwatch logs"]),
        (&["why", "--at", "soon"], &["--at \"soon\"", "write 90s"]),
        (&["why", "--cycle", "one"], &["--cycle", "--help"]),
        (&["eta", "--at", "soon"], &["--at \"soon\"", "write 90s"]),
        (&["eta", "--cycle", "77"], &["no decision of that cycle", "dogwatch logs"]),
    ];
    for (words, parts) in all {
        check(&rig, words, &[], parts);
    }
    // A key that no policy knows shows where a decision is there to lay it over.
    rig.ok(&["replay", "--load", &rig.file("launch.json", LAUNCH)]);
    check(
        &rig,
        &["replay", "--from", "2025-10-16T00:00:00Z", "--policy", &unknown],
        &[],
        &[&unknown, "max_worker", "keys of a snapshot's policy"],
    );
    let nothing = eventually("an answer", || Some(Rig::new().run(&["why"])));
    assert_eq!(nothing.code, Some(69), "no cycle has been stored: {nothing:?}");
    assert!(nothing.err.contains("start `dogwatch up`"), "{nothing:?}");
}
