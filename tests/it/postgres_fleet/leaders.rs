//! Two orchestrators on one database with workers that are real processes: one leads, and one that
//! was stopped past the end of its lease does nothing more when it is woken.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::rig::{Fleet, Running, let_pass};
use crate::postgres_rig::until;

/// Take-overs in the normal run, and on demand.
const ROUNDS: u64 = 2;
const ROUNDS_LONG: u64 = 50;
/// Tasks of a round.
const TASKS: u64 = 3;
/// Most workers.
const WORKERS_MAX: &str = "2";

fn orchestrator(fleet: &Fleet, name: &str) -> Command {
    let mut command = fleet.command(&["run", "--provider", "local", "--no-watch", "--max-workers", WORKERS_MAX]);
    command.args(["--", "sh", "-c", "sleep 0.3"]);
    command.envs([
        ("ORCHESTRATOR_INSTANCE_ID", name),
        ("ORCHESTRATOR_POLL_SEC", "0.3"),
        ("MIN_ACTIVE_GPUS", "0"),
        ("DOGWATCH_BEAT_SECONDS", "0.3"),
        ("DOGWATCH_CLAIM_SECONDS", "0.1"),
        ("DOGWATCH_LEASE_SECONDS", "3"),
        ("DOGWATCH_LEASE_RENEW_SECONDS", "0.5"),
        ("DOGWATCH_LEASE_MARGIN_SECONDS", "1"),
    ]);
    command
}

/// The instance that holds the lease.
fn leader(fleet: &Fleet) -> String {
    fleet.database.ask(
        "select p.source_id from dogwatch.lease l join dogwatch.processes p on p.boot_id = l.holder where l.until > now()",
    )
}

fn submit(fleet: &Fleet) {
    fleet.database.run(&format!(
        "insert into dogwatch.tasks (task_type, user_id) select 'render', 'user-' || i from generate_series(1, {TASKS}) i"
    ));
}

/// Never more than the limit, and no worker started twice.
fn nobody_is_doubled(fleet: &Fleet) {
    let live = fleet.database.count("dogwatch.workers where ended_at is null and state <> 'ambiguous'");
    assert!(live <= WORKERS_MAX.parse().unwrap(), "{live} live workers: {}", workers(fleet));
    let twice =
        fleet.database.ask("select worker_id from dogwatch.incarnations group by worker_id having count(*) > 1");
    assert_eq!(twice, "", "started twice");
}

fn workers(fleet: &Fleet) -> String {
    fleet.database.ask("select id, state, outcome, reason from dogwatch.workers order by created_at")
}

#[test]
fn a_leader_that_was_stopped_past_its_lease_writes_nothing_and_spawns_nothing() {
    let rounds = if dogwatch::config::environment("DOGWATCH_TEST_LONG").is_some() { ROUNDS_LONG } else { ROUNDS };
    let fleet = Fleet::new();
    let mut processes: Vec<(&str, Running)> = Vec::new();
    for name in ["first", "second"] {
        let mut running = fleet.start(name, orchestrator(&fleet, name));
        running.says("dogwatch runs on");
        processes.push((name, running));
    }
    until("somebody to lead", || !leader(&fleet).is_empty());
    let standby = usize::from(leader(&fleet) == "first");
    processes[standby].1.says("another orchestrator leads: standby");
    for round in 0..rounds {
        let leads = leader(&fleet);
        let (_, process) = processes.iter().find(|(name, _)| *name == leads).unwrap();
        submit(&fleet);
        // Somewhere in the cycle that spawns: the moment differs from round to round.
        let_pass(Duration::from_millis(round * 173 % 900));
        process.signal(Signal::STOP);
        until("the other one to lead", || {
            let other = leader(&fleet);
            !other.is_empty() && other != leads
        });
        process.signal(Signal::CONT);
        until("the tasks to end", || {
            nobody_is_doubled(&fleet);
            fleet.database.count("dogwatch.tasks where status in ('Queued', 'In Progress')") == 0
        });
    }
    let done = fleet.database.count("dogwatch.tasks where status = 'Complete'");
    assert_eq!(
        done,
        rounds * TASKS,
        "{}",
        fleet.database.ask("select status, attempts, error_message from dogwatch.tasks")
    );
    let shared =
        fleet.database.ask("select term from dogwatch.decisions group by term having count(distinct boot_id) > 1");
    assert_eq!(shared, "", "one process a term");
    let late = fleet.database.ask(
        "select d.term, d.id from dogwatch.decisions d
         where exists (select from dogwatch.decisions e where e.term > d.term and e.at < d.at)",
    );
    assert_eq!(late, "", "written under a term that was over");
    let terms: u64 = fleet.database.ask("select term from dogwatch.lease").parse().unwrap();
    assert!(terms > rounds, "{terms} terms in {rounds} rounds");
    for (name, process) in processes {
        assert_eq!(process.stop(), Some(0), "{name}");
    }
    assert_eq!(fleet.database.ask("select holder from dogwatch.lease"), "", "given back");
}
