//! Day partitions come and go, the DEFAULT partition is emptied, and rows are kept as long as the
//! setting says, with and without pg_cron.

use dogwatch::telemetry::exporter::postgres::schema::Mode;
use serde_json::{Value, json};

use super::migrations::{fresh, migrate};
use crate::postgres_rig::{Cluster, Database};

/// Noon of the day with that distance from today.
fn noon(days: i64) -> String {
    format!("((now() at time zone 'UTC')::date + {days})::timestamp at time zone 'UTC' + interval '12 hours'")
}

fn insert(database: &Database, days: i64, arrived_days: i64, rows: u32) {
    database.run(&format!(
        "insert into system_logs (timestamp, ingested_at, source_type, source_id, log_level, message)
         select {} + n * interval '1 second', {}, 'worker', 'gpu-1', 'INFO', 'day {days}'
         from generate_series(1, {rows}) n",
        noon(days),
        noon(arrived_days)
    ));
}

/// The housekeeping at noon of that day.
fn maintain(database: &Database, days: i64) -> Value {
    let said = database.ask(&format!("select dogwatch.maintain_logs({}, '48 hours')", noon(days)));
    serde_json::from_str(&said).unwrap()
}

fn by_partition(database: &Database) -> String {
    database.ask(
        "select string_agg(kind || ' ' || rows, ', ' order by kind) from (
             select case when tableoid = 'dogwatch.system_logs_default'::regclass then 'default' else message end
                 as kind, count(*) as rows from system_logs group by 1) as found",
    )
}

#[test]
fn partitions_are_made_ahead_and_the_default_is_emptied_into_them() {
    let database = fresh();
    for (days, rows) in [(0, 5), (-1, 4), (-10, 3), (9, 2), (-400, 1)] {
        insert(&database, days, 0, rows);
    }
    assert_eq!(by_partition(&database), "day 0 5, default 10");
    let expected = json!({"created": 2, "moved": 7, "dropped": 0, "deleted": 0, "busy": 0, "default_rows": 3});
    assert_eq!(maintain(&database, 0), expected);
    // A year ago and next week are nobody's day: a wrong clock makes no partitions.
    assert_eq!(by_partition(&database), "day -1 4, day -10 3, day 0 5, default 3");
    let idle = json!({"created": 0, "moved": 0, "dropped": 0, "deleted": 0, "busy": 0, "default_rows": 3});
    assert_eq!(maintain(&database, 0), idle);
    // Two days on: the row of day 9 has a partition then, and moves.
    let later = maintain(&database, 2);
    assert_eq!((&later["moved"], &later["default_rows"]), (&json!(2), &json!(1)), "{later}");
    assert_eq!(database.count("system_logs"), 15);
}

#[test]
fn rows_are_kept_from_their_arrival_and_dropped_by_the_partition() {
    let database = fresh();
    insert(&database, 0, 0, 5);
    insert(&database, 1, 1, 6);
    insert(&database, -9, 0, 3);
    insert(&database, -400, 0, 2);
    maintain(&database, 0);
    assert_eq!(maintain(&database, 1)["dropped"], 0, "a late backlog stays as long as everything else");
    let expected = |dropped, deleted| json!({"dropped": dropped, "deleted": deleted});
    let gone = |said: Value| json!({"dropped": said["dropped"], "deleted": said["deleted"]});
    // 48 hours and some seconds after their arrival; the day of today is not over by then.
    assert_eq!(gone(maintain(&database, 2)), expected(0, 0));
    database.run("update system_logs set ingested_at = ingested_at - interval '1 minute'");
    assert_eq!(gone(maintain(&database, 2)), expected(1, 2));
    assert_eq!(by_partition(&database), "day 0 5, day 1 6");
    assert_eq!(gone(maintain(&database, 3)), expected(1, 0));
    assert_eq!(by_partition(&database), "day 1 6");
}

#[test]
fn a_busy_table_is_left_for_later_and_nothing_is_lost() {
    let database = fresh();
    insert(&database, -1, 0, 4);
    // A reader of the DEFAULT partition holds it longer than the housekeeping waits.
    let reader = {
        let database = database.clone();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                database
                    .run("begin; select count(*) from dogwatch.system_logs_default; select pg_sleep(3.5); commit");
            });
            let holds = "select count(*) from pg_locks where relation = 'dogwatch.system_logs_default'::regclass";
            crate::postgres_rig::until("the reader's lock", || database.ask(holds) != "0");
            let said = maintain(&database, 0);
            reader.join().unwrap();
            said
        })
    };
    assert_eq!((&reader["busy"], &reader["moved"]), (&json!(1), &json!(0)), "{reader}");
    assert_eq!(maintain(&database, 0)["moved"], 4);
    assert_eq!(by_partition(&database), "day -1 4");
}

#[test]
fn with_pg_cron_it_is_scheduled_once_and_without_anybody_may_call_it() {
    let database = Cluster::shared().database();
    database.run(
        "create schema cron;
         create table cron.job (jobname text primary key, schedule text, command text);
         create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql as
         $$ insert into cron.job values ($1, $2, $3) on conflict (jobname) do update set schedule = $2, command = $3
            returning 1::bigint $$",
    );
    assert!(migrate(&database, Mode::Apply).unwrap().by_pg_cron);
    assert!(migrate(&database, Mode::Apply).unwrap().by_pg_cron);
    assert_eq!(database.count("cron.job"), 1);
    let command = database.ask("select command from cron.job");
    // As pg_cron runs it.
    insert(&database, -1, 0, 2);
    assert!(database.ask(&command).contains(r#""moved": 2"#));
    assert!(!migrate(&Cluster::shared().database(), Mode::Apply).unwrap().by_pg_cron);
}
