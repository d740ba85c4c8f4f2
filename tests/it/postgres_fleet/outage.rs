//! The database goes away under a fleet at work, for real: nobody is ended for it, and no task is done
//! twice.

use std::time::Duration;

use super::rig::{Fleet, let_pass};
use crate::postgres_rig::{Cluster, Durability, Stop, until};

/// How long it is away in the normal run, and on demand.
const AWAY_SECONDS: u64 = 15;
const AWAY_SECONDS_LONG: u64 = 60;
/// A worker that is not heard of for this long is ended: less than the database is away.
const HEARTBEAT_LIMIT_SECONDS: u64 = 6;
const WORKERS_MAX: u64 = 3;
const TASKS: u64 = 8;

#[test]
fn a_database_that_is_away_costs_no_worker_and_no_attempt() {
    let is_long = dogwatch::config::environment("DOGWATCH_TEST_LONG").is_some();
    let away = if is_long { AWAY_SECONDS_LONG } else { AWAY_SECONDS };
    let mut cluster = Cluster::start(Durability::Full);
    let fleet = Fleet::on(cluster.database());
    let mut command = fleet.command(&["run", "--provider", "local", "--no-watch"]);
    // Of the tasks in hand some end while the database is away, and some when it is back.
    let program = format!(
        "echo begun $DOGWATCH_TASK_ID; case $DOGWATCH_TASK_ID in *9) sleep {};; *) sleep {};; esac; \
         echo ended $DOGWATCH_TASK_ID",
        away + 4,
        away / 3
    );
    command.args(["--max-workers", &WORKERS_MAX.to_string(), "--", "sh", "-c", &program]);
    command.envs([("ORCHESTRATOR_POLL_SEC", "0.5"), ("MIN_ACTIVE_GPUS", "0"), ("DOGWATCH_BEAT_SECONDS", "0.5")]);
    command.env("DOGWATCH_CLAIM_SECONDS", "0.1");
    command.env("DOGWATCH_HEARTBEAT_LIMIT_SECONDS", HEARTBEAT_LIMIT_SECONDS.to_string());
    let mut run = fleet.start("run", command);
    run.says("dogwatch runs on");
    // The last digit says how long it takes: the first tasks are of both kinds.
    fleet.database.run(&format!(
        "insert into dogwatch.tasks (id, task_type, user_id, created_at)
         select ('00000000-0000-0000-0000-00000000000' || case i when 1 then 9 else i end)::uuid,
             'render', 'user-' || i, now() + i * interval '1 ms'
         from generate_series(0, {TASKS} - 1) i"
    ));
    until("tasks in hand", || fleet.database.count("dogwatch.tasks where status = 'In Progress'") == WORKERS_MAX);

    cluster.stop(Stop::Immediate);
    let_pass(Duration::from_secs(away));
    cluster.resume();

    until("all tasks to end", || {
        let ended = fleet.database.ask(
            "select string_agg(id || ' ' || outcome || ' ' || reason, ', ') from dogwatch.workers where outcome <> 'planned'",
        );
        assert_eq!(ended, "", "ended for what nobody could say");
        fleet.database.count("dogwatch.tasks where status in ('Queued', 'In Progress')") == 0
    });
    let ends = fleet.database.ask("select status, attempts, count(*) from dogwatch.tasks group by 1, 2");
    assert_eq!(ends, format!("Complete|1|{TASKS}"));
    let twice = "select count(*) from dogwatch.task_attempts";
    assert_eq!(fleet.database.ask(twice), TASKS.to_string(), "done once");
    assert_eq!(fleet.database.count("dogwatch.workers"), WORKERS_MAX, "and nobody was started in anybody's place");
    for word in ["begun", "ended"] {
        let lines = format!("public.system_logs where message like '{word} %'");
        until("every line that a program wrote", || fleet.database.count(&lines) == TASKS);
        let tasks = fleet.database.ask(&format!("select count(distinct message) from {lines}"));
        assert_eq!(tasks, TASKS.to_string(), "{word}: each once");
    }
    assert_eq!(run.stop(), Some(0));
    let sums = fleet.ok(&["spool", "verify"]);
    println!("the database was away for {away} s; workers: {WORKERS_MAX}, none ended by it; tasks: {ends}\n{sums}");
}
