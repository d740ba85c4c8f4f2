//! `telemetry_silence()`: what the database alone can say of who has fallen silent.

use dogwatch::store::postgres::SCHEMA;
use dogwatch::telemetry::exporter::postgres::Address;
use dogwatch::telemetry::exporter::postgres::schema::{MIGRATIONS, Mode, migrate_with};

use super::migrations::fresh;
use crate::postgres_rig::{Cluster, Database, until};

/// A row of that source, made and arrived so many seconds before noon today.
fn row(database: &Database, source: &str, made: u32, arrived: u32, message: &str) {
    database.run(&format!(
        "insert into system_logs (timestamp, ingested_at, source_type, source_id, log_level, message)
         select {NOON} - interval '{made} seconds', {NOON} - interval '{arrived} seconds', 'worker', '{source}',
             'INFO', '{message}'"
    ));
}

const NOON: &str = "((now() at time zone 'UTC')::date::timestamp at time zone 'UTC' + interval '12 hours')";
const HEARTBEAT: &str = "telemetry heartbeat";

/// `source row-age heartbeat-age silent`, freshest first, as seen at noon.
fn silence(database: &Database, arguments: &str) -> String {
    database.ask(&format!(
        "select string_agg(format('%s %s %s %s', source_id, extract(epoch from row_age)::int,
             coalesce(extract(epoch from heartbeat_age)::int::text, '-'), silent), ', ' order by newest_row_at desc)
         from telemetry_silence(p_now => {NOON}{arguments})"
    ))
}

#[test]
fn each_source_has_the_age_of_its_newest_row_and_heartbeat() {
    let database = fresh();
    assert_eq!(silence(&database, ""), "");
    for made in [95, 80, 65] {
        row(&database, "quiet", made, made, HEARTBEAT);
    }
    for (made, text) in [(20, HEARTBEAT), (12, "work"), (10, "work")] {
        row(&database, "lively", made, made - 1, text);
    }
    row(&database, "mute", 50, 50, "no recorder of ours");
    row(&database, "gone", 90_000, 90_000, HEARTBEAT);
    assert_eq!(silence(&database, ""), "lively 9 19 f, mute 50 - f, quiet 65 65 t");
    assert_eq!(silence(&database, ", p_limit => '2 minutes'"), "lively 9 19 f, mute 50 - f, quiet 65 65 f");
    assert_eq!(silence(&database, ", p_look_back => '30 seconds'"), "lively 9 19 f");
}

#[test]
fn arrival_counts_and_not_what_clocks_say() {
    let database = fresh();
    // A clock that ran ahead once, and whose rows arrive with the right time since.
    database.run(&format!(
        "insert into system_logs (timestamp, ingested_at, source_type, source_id, log_level, message)
         select {NOON} + interval '1 hour', {NOON} - interval '300 seconds', 'worker', 'ahead', 'INFO', 'x'"
    ));
    row(&database, "ahead", 5, 5, "work");
    // A backlog that is being delivered: made long ago, arriving now.
    row(&database, "late", 600, 3, HEARTBEAT);
    assert_eq!(silence(&database, ""), "late 3 3 f, ahead 5 - f");
}

#[test]
fn nobody_may_ask_who_was_not_allowed_to() {
    let database = fresh();
    let allowed =
        "has_function_privilege('public', 'telemetry_silence(interval, interval, timestamptz)', 'execute')";
    assert_eq!(database.ask(&format!("select {allowed}")), "f");
    assert_eq!(database.ask("select count(*) from telemetry_silence()"), "0", "with the database's own time");
}

/// The job of docs/who-noticed.md, as it stands there.
fn recipe() -> &'static str {
    let page = include_str!("../../../docs/who-noticed.md");
    let blocks = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.into_iter().find(|block| block.contains("cron.schedule")).expect("a recipe")
}

/// The command of that job, with stand-ins for pg_cron and pg_net that keep what they are given.
fn job(database: &Database) -> String {
    database.run(
        "create schema cron; create schema net;
         create table cron.job (jobname text primary key, schedule text, command text);
         create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql as
         $$ insert into cron.job values ($1, $2, $3) on conflict (jobname) do update set schedule = $2, command = $3
            returning 1::bigint $$;
         create table net.told (body jsonb);
         create function net.http_post(url text, body jsonb) returns bigint language sql as
         $$ insert into net.told values ($2) returning 1::bigint $$",
    );
    database.run(recipe());
    database.ask("select command from cron.job where schedule = '* * * * *'")
}

/// Whom the job tells of.
fn told(database: &Database, command: &str) -> String {
    database.run("delete from net.told");
    database.run(command);
    database.ask("select coalesce(string_agg(body->>'source', ', ' order by body->>'source'), '') from net.told")
}

#[test]
fn the_recipe_for_pg_cron_tells_who_is_silent_and_whether_all_are() {
    let database = fresh();
    let command = job(&database);
    let told = |expected: &str| assert_eq!(told(&database, &command), expected);
    let row = |source: &str, kind: &str, ago: u32| {
        database.run(&format!(
            "insert into system_logs (timestamp, ingested_at, source_type, source_id, log_level, message)
             select at, at, '{kind}', '{source}', 'INFO', '{HEARTBEAT}' from (select now() - interval '{ago} seconds' as at) t"
        ));
    };
    told("every orchestrator");
    row("old", "orchestrator_gpu", 7_200);
    row("lively", "worker", 1);
    told("every orchestrator, old");
    row("late", "orchestrator_gpu", 61);
    told("every orchestrator, late, old");
    // Where no fleet's tables say who lives, who has ended is told of, too, for a day.
    row("late", "orchestrator_gpu", 30);
    told("old");
}

/// A database with the fleet's tables, too.
fn with_fleet() -> Database {
    let database = Cluster::shared().database();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Address::parse(&database.url()).unwrap();
    let migrated = migrate_with(&address, Some(SCHEMA), Mode::Apply, None, dogwatch::clock::now());
    runtime.block_on(migrated).unwrap();
    database
}

/// Does something while somebody holds that table against everybody.
fn while_held(database: &Database, table: &str, act: impl FnOnce()) {
    let hold = format!("begin; lock table {table} in access exclusive mode; select pg_sleep(600)");
    let holders =
        format!("pg_locks where relation = '{table}'::regclass and mode = 'AccessExclusiveLock' and granted");
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| database.try_ask(&hold));
        until("the lock", || database.count(&holders) == 1);
        act();
        database.run(&format!("select pg_terminate_backend(pid) from {holders}"));
        holder.join().unwrap().unwrap_err();
    });
}

/// The time that it allows itself is what counts: nobody here has a limit of his own.
#[test]
fn who_finds_a_table_locked_cannot_tell_and_the_recipe_tells_that() {
    for (database, tables) in [
        (fresh(), &["public.system_logs"][..]),
        (with_fleet(), &["public.system_logs", "dogwatch.processes", "dogwatch.workers"][..]),
    ] {
        let command = job(&database);
        for table in tables {
            while_held(&database, table, || {
                assert_eq!(told(&database, &command), "cannot tell", "{table}");
                let error = database.ask("select body->>'error' from net.told");
                assert!(error.contains("lock timeout"), "{table}: {error}");
            });
        }
        assert_eq!(told(&database, &command), "every orchestrator", "it can tell again");
    }
}

#[test]
fn a_job_whose_right_was_taken_away_cannot_tell_and_tells_that() {
    let database = fresh();
    let command = job(&database);
    database.run("alter function telemetry_silence(interval, interval, timestamptz) rename to gone");
    assert_eq!(told(&database, &command), "cannot tell");
}

/// Functions, and what they run with.
fn settings(database: &Database) -> String {
    database.ask(
        "select string_agg(format('%s %s', oid::regprocedure::regproc, array_to_string(proconfig, ' ')), ', '
             order by proname desc)
         from pg_proc where proname in ('telemetry_silence', 'silence_of_logs')",
    )
}

#[test]
fn whichever_migrations_came_first_each_function_has_its_limits() {
    const LIMITS: &str = "search_path=pg_catalog, pg_temp lock_timeout=3s";
    assert_eq!(settings(&fresh()), format!("telemetry_silence {LIMITS}"));
    let both = format!("telemetry_silence {LIMITS}, dogwatch.silence_of_logs {LIMITS}");
    let database = with_fleet();
    assert_eq!(settings(&database), both);
    // A fleet that was there before its log table got this migration.
    database.run(
        "alter function telemetry_silence(interval, interval, timestamptz) reset lock_timeout;
         alter function dogwatch.silence_of_logs(interval, interval, timestamptz) reset lock_timeout",
    );
    let this = MIGRATIONS.iter().find(|migration| migration.name == "silence_waits_no_longer").unwrap();
    database.run(this.sql);
    assert_eq!(settings(&database), both);
    database.run(this.sql);
    assert_eq!(settings(&database), both, "applied again it changes nothing");
}

#[test]
fn an_older_file_that_is_applied_again_by_hand_takes_nothing_from_the_fleets_function() {
    let database = with_fleet();
    let functions = "select string_agg(pg_get_functiondef(oid) || coalesce(proacl::text, ''), '' order by proname)
                     from pg_proc where proname in ('telemetry_silence', 'silence_of_logs')";
    let before = database.ask(functions);
    let older = MIGRATIONS.iter().find(|migration| migration.name == "telemetry_silence").unwrap();
    let error = database.try_ask(older.sql).unwrap_err();
    assert!(error.contains("cannot change return type of existing function"), "{error}");
    assert_eq!(database.ask(functions), before);
}
