//! Several orchestrators on one database with workers that are real processes: one leads; one that was
//! stopped past the end of its lease in the middle of a spawn does nothing more when it is woken; and
//! a deploy that replaces each of three costs no task an attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::door::Door;
use super::rig::{Fleet, Running, let_pass};
use crate::flows::rig::{free_port, get};
use crate::postgres_rig::until;

/// Take-overs in the normal run, and on demand.
const ROUNDS: usize = 2;
const ROUNDS_LONG: usize = 50;
/// Tasks of a round.
const TASKS: u64 = 3;
/// Most workers.
const WORKERS_MAX: u64 = 2;
/// Looks for the beginning of a spawn, and the pause between two of them: it is over in a moment.
const LOOKS: u32 = 60_000;
const LOOK: Duration = Duration::from_micros(500);

fn orchestrator(fleet: &Fleet, name: &str, program: &str) -> Command {
    let max = WORKERS_MAX.to_string();
    let mut command = fleet.command(&["run", "--provider", "local", "--no-watch", "--max-workers", &max]);
    command.args(["--", "sh", "-c", program]);
    command.envs([
        ("ORCHESTRATOR_INSTANCE_ID", name),
        ("ORCHESTRATOR_POLL_SEC", "0.3"),
        ("MIN_ACTIVE_GPUS", "0"),
        ("DOGWATCH_BEAT_SECONDS", "0.3"),
        ("DOGWATCH_CLAIM_SECONDS", "0.1"),
        ("DOGWATCH_HEARTBEAT_LIMIT_SECONDS", "6"),
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

fn submit(fleet: &Fleet, tasks: u64) {
    fleet.database.run(&format!(
        "insert into dogwatch.tasks (task_type, user_id) select 'render', 'user-' || i from generate_series(1, {tasks}) i"
    ));
}

/// Never more than the limit, no worker started twice, and no more agents than workers that may be.
fn nobody_is_doubled(fleet: &Fleet) {
    let ambiguous = fleet.database.count("dogwatch.workers where state = 'ambiguous'");
    let agents = fleet.agents();
    let mut of_worker: BTreeMap<&String, u32> = BTreeMap::new();
    for worker in &agents {
        *of_worker.entry(worker).or_default() += 1;
    }
    assert!(of_worker.values().all(|agents| *agents == 1), "two agents of one worker: {of_worker:?}");
    assert!(agents.len() as u64 <= WORKERS_MAX + ambiguous, "{agents:?}: {}", workers(fleet));
    let live = fleet.database.count("dogwatch.workers where ended_at is null and state <> 'ambiguous'");
    assert!(live <= WORKERS_MAX, "{live} live workers: {}", workers(fleet));
    let twice =
        fleet.database.ask("select worker_id from dogwatch.incarnations group by worker_id having count(*) > 1");
    assert_eq!(twice, "", "started twice");
}

fn workers(fleet: &Fleet) -> String {
    fleet.database.ask("select id, state, outcome, reason from dogwatch.workers order by created_at")
}

/// Workers that the local provider was ever asked for.
fn asked_for(fleet: &Fleet) -> BTreeSet<String> {
    let entries = std::fs::read_dir(fleet.folder.path().join("data/workers")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".json")).collect()
}

/// Gives the leader work, and stops it while it starts a worker for it. False: it was done already.
fn stop_in_the_middle_of_a_spawn(fleet: &Fleet, leader: &Running) -> bool {
    let before = asked_for(fleet);
    submit(fleet, TASKS);
    let mut looks = 0..LOOKS;
    while asked_for(fleet).is_subset(&before) {
        assert!(looks.next().is_some(), "no worker was asked for");
        let_pass(LOOK);
    }
    leader.signal(Signal::STOP);
    fleet.database.count("dogwatch.workers where state in ('planned', 'requesting')") > 0
}

fn round(fleet: &Fleet, leads: &str, process: &Running) {
    process.signal(Signal::STOP);
    until("the other one to lead", || {
        let other = leader(fleet);
        !other.is_empty() && other != leads
    });
    process.signal(Signal::CONT);
}

/// All tasks are done, and all workers are gone again.
fn settles(fleet: &Fleet) {
    until("the tasks to end", || {
        nobody_is_doubled(fleet);
        fleet.database.count("dogwatch.tasks where status in ('Queued', 'In Progress')") == 0
    });
    until("the workers to go", || {
        nobody_is_doubled(fleet);
        fleet.database.count("dogwatch.workers where ended_at is null") == 0 && fleet.agents().is_empty()
    });
}

/// No row of the fleet was written under a term that was over.
fn no_term_wrote_late(fleet: &Fleet) {
    let shared =
        fleet.database.ask("select term from dogwatch.decisions group by term having count(distinct boot_id) > 1");
    assert_eq!(shared, "", "one process a term");
    let late = fleet.database.ask(
        "select d.term, d.id from dogwatch.decisions d
         where exists (select from dogwatch.decisions e where e.term > d.term and e.at < d.at)
         union all
         select d.term, d.id from dogwatch.action_results r join dogwatch.decisions d on d.id = r.decision_id
         where exists (select from dogwatch.decisions e where e.term > d.term and e.at < r.at)",
    );
    assert_eq!(late, "", "written under a term that was over");
}

#[test]
fn a_leader_stopped_past_its_lease_in_the_middle_of_a_spawn_doubles_nothing_when_it_wakes() {
    let rounds = if dogwatch::config::environment("DOGWATCH_TEST_LONG").is_some() { ROUNDS_LONG } else { ROUNDS };
    let fleet = Fleet::new();
    let mut processes: Vec<(&str, Running)> = Vec::new();
    for name in ["first", "second"] {
        let mut command = orchestrator(&fleet, name, "sleep 0.3");
        // Workers go after each round, so that the next one begins with a spawn.
        command.envs([("DOGWATCH_IDLE_LIMIT_SECONDS", "1"), ("GPU_OVERCAPACITY_IDLE_TIMEOUT_SEC", "1")]);
        command.env("MAX_WORKER_FAILURE_RATE", "1");
        let mut running = fleet.start(name, command);
        running.says("dogwatch runs on");
        processes.push((name, running));
    }
    until("somebody to lead", || !leader(&fleet).is_empty());
    let standby = usize::from(leader(&fleet) == "first");
    processes[standby].1.says("another orchestrator leads: standby");
    let (mut in_the_middle, mut submitted) = (0, 0);
    while in_the_middle < rounds {
        let mut leads = String::new();
        until("somebody to lead", || {
            leads = leader(&fleet);
            !leads.is_empty()
        });
        let (_, process) = processes.iter().find(|(name, _)| *name == leads).unwrap();
        submitted += TASKS;
        assert!(submitted < 20 * TASKS * rounds as u64, "{in_the_middle} spawns were met in their middle");
        if stop_in_the_middle_of_a_spawn(&fleet, process) {
            in_the_middle += 1;
            round(&fleet, &leads, process);
        } else {
            process.signal(Signal::CONT);
        }
        settles(&fleet);
    }
    let done = fleet.database.count("dogwatch.tasks where status = 'Complete'");
    let tasks = "select status, attempts, error_message, count(*) from dogwatch.tasks group by 1, 2, 3";
    println!(
        "{in_the_middle} leaders stopped in the middle of a spawn and woken, {submitted} tasks: {}; workers: {}",
        fleet.database.ask(tasks),
        fleet.database.ask("select outcome, reason, count(*) from dogwatch.workers group by 1, 2 order by 3 desc")
    );
    assert_eq!(done, submitted, "{}", fleet.database.ask(tasks));
    no_term_wrote_late(&fleet);
    let terms: usize = fleet.database.ask("select term from dogwatch.lease").parse().unwrap();
    assert!(terms > rounds, "{terms} terms in {rounds} rounds");
    for (name, process) in processes {
        assert_eq!(process.stop(), Some(0), "{name}");
    }
    assert_eq!(fleet.database.ask("select holder from dogwatch.lease"), "", "given back");
}

/// What `status` says of the orchestrators: name and standing.
fn standings(fleet: &Fleet) -> Vec<(String, String)> {
    let status = fleet.json("status", &["status"]);
    let text = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap().to_owned();
    let all = status["orchestrators"].as_array().unwrap();
    all.iter().map(|one| (text(one, "source_id"), text(one, "standing"))).collect()
}

#[test]
fn a_deploy_that_replaces_each_of_three_costs_no_task_an_attempt() {
    let fleet = Fleet::new();
    // Agents come through one door to whichever gateway there is, as behind a balancer.
    let door = Door::open();
    let start = |name: &str, idle_limit: &str| {
        let port = free_port();
        let mut command = orchestrator(&fleet, name, "sleep 1");
        command.env("DOGWATCH_LISTEN", format!("127.0.0.1:{port}"));
        command.envs([("DOGWATCH_BASE_URL", door.url().as_str()), ("DOGWATCH_IDLE_LIMIT_SECONDS", idle_limit)]);
        let mut running = fleet.start(name, command);
        running.says("dogwatch runs on");
        door.leads_to(port);
        (name.to_owned(), port, running)
    };
    let mut old: Vec<_> = ["a-1", "b-1", "c-1"].map(|name| start(name, "60")).into();
    until("one of three to lead", || {
        let leading = standings(&fleet).into_iter().filter(|(_, standing)| standing == "leads").count();
        leading == 1 && standings(&fleet).len() == 3
    });
    for (name, port, _) in &old {
        let standing = if leader(&fleet) == *name { "leads" } else { "standby" };
        let ready = Some((200, format!("ready: {standing}\n")));
        until("each to say how it stands", || get(*port, "/readyz") == ready);
        assert!(standings(&fleet).contains(&(name.clone(), standing.to_owned())), "{:?}", standings(&fleet));
    }
    assert!(fleet.ok(&["status"]).contains("standby    b-1") || leader(&fleet) == "b-1");
    submit(&fleet, 16);
    until("tasks in hand", || fleet.database.count("dogwatch.tasks where status = 'In Progress'") == WORKERS_MAX);

    let mut new = Vec::new();
    for name in ["a-2", "b-2", "c-2"] {
        new.push(start(name, "61"));
        let (gone, port, process) = old.remove(0);
        door.leads_no_more_to(port);
        assert_eq!(process.stop(), Some(0), "{gone}");
        until("somebody to lead", || !leader(&fleet).is_empty() && leader(&fleet) != gone);
        nobody_is_doubled(&fleet);
    }
    until("the tasks to end", || {
        nobody_is_doubled(&fleet);
        fleet.database.count("dogwatch.tasks where status in ('Queued', 'In Progress')") == 0
    });
    let ends = fleet.database.ask("select status, attempts, count(*) from dogwatch.tasks group by 1, 2");
    assert_eq!(ends, "Complete|1|16", "{}", workers(&fleet));
    assert_eq!(fleet.database.count("dogwatch.workers"), WORKERS_MAX, "{}", workers(&fleet));
    no_term_wrote_late(&fleet);
    let rows = fleet.database.ask(&format!(
        "select split_part(source_id, '-', 2), count(*), count(ended_at), count(distinct config_hash),
             bool_and(version = '{}' and host <> '')
         from dogwatch.processes where kind = 'orchestrator' group by 1 order by 1",
        env!("CARGO_PKG_VERSION")
    ));
    assert_eq!(rows, "1|3|3|1|t\n2|3|0|1|t");
    let hashes = fleet
        .database
        .ask("select count(distinct config_hash) from dogwatch.processes where kind = 'orchestrator'");
    assert_eq!(hashes, "2", "the deploy is to be seen in the rows");
    for (name, _, process) in new {
        assert_eq!(process.stop(), Some(0), "{name}");
    }
}
