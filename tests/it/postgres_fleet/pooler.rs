//! A fleet behind a real pooler: refused where sessions are shared, at work where they are not.

use super::rig::Fleet;
use crate::delivery::pooler::{Mode, Pooler};
use crate::postgres_rig::{ADMIN, Cluster, PASSWORD, until};

/// Code, and all that was said, of words through the pooler.
fn said(fleet: &Fleet, pooler: &Pooler, words: &[&str]) -> (Option<i32>, String) {
    let mut command = fleet.command(words);
    let said = command.env("DATABASE_URL", fleet.database.url_at(ADMIN, pooler.port)).output().unwrap();
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(!text.contains(PASSWORD), "{words:?}: {text}");
    (said.status.code(), text)
}

#[test]
fn a_pooler_in_transaction_mode_is_refused_and_one_in_session_mode_works() {
    let cluster = Cluster::shared();
    let Some(shared) = Pooler::start(cluster, Mode::Transaction) else {
        println!("postgres_fleet: a pooler before a fleet is not shown: pgbouncer is not on this machine");
        return;
    };
    let fleet = Fleet::new();
    for words in [&["run", "--provider", "local"][..], &["up"]] {
        let (code, text) = said(&fleet, &shared, words);
        assert_eq!(code, Some(2), "{words:?}: {text}");
        assert!(text.contains("a pooler in transaction mode"), "{words:?}: {text}");
        assert!(text.contains("session mode (Supabase: port 5432 instead of 6543)"), "{words:?}: {text}");
    }
    let (code, text) = said(&fleet, &shared, &["doctor"]);
    assert_eq!(code, Some(1), "{text}");
    let line = text.lines().find(|line| line.contains("pooler")).unwrap();
    assert!(line.starts_with("WRONG") && line.contains("transaction mode"), "{text}");
    assert!(text.contains("port 5432 instead of 6543"), "{text}");
    assert_eq!(fleet.database.count("dogwatch.processes"), 0, "who was refused wrote nothing");

    let own = Pooler::start(cluster, Mode::Session).unwrap();
    let (code, text) = said(&fleet, &own, &["doctor"]);
    assert_eq!(code, Some(0), "{text}");
    let mut command = fleet.command(&["run", "--provider", "local", "--no-watch", "--max-workers", "1"]);
    command.env("DATABASE_URL", fleet.database.url_at(ADMIN, own.port)).args(["--", "true"]);
    command.envs([("ORCHESTRATOR_POLL_SEC", "0.3"), ("MIN_ACTIVE_GPUS", "0"), ("DOGWATCH_CLAIM_SECONDS", "0.1")]);
    let mut run = fleet.start("run", command);
    run.says("dogwatch runs on");
    fleet.database.run("insert into dogwatch.tasks (task_type, user_id) values ('render', 'ada')");
    until("a task to be done through it", || fleet.database.count("dogwatch.tasks where status = 'Complete'") == 1);
    assert_eq!(run.stop(), Some(0));
}
