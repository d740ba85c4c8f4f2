//! The way fails, in each way that it has.

use std::time::Duration;

use dogwatch::clock;
use dogwatch::telemetry::shipper::State;

use super::{Scene, migrate, rows};
use crate::postgres_rig::{Cluster, Durability, Stop, until};
use crate::postgrest_rig::Fault;

const RECORDS: usize = 300;

/// A scene whose project fails like that from the first call on.
fn failing(fault: Fault) -> Scene {
    let mut scene = Scene::new();
    scene.project.always(fault);
    scene.talk(RECORDS);
    scene
}

#[test]
fn the_edge_fails_in_its_own_words_and_nothing_is_lost() {
    let faults = [
        Fault::page(520, "Web server is returning an unknown error"),
        Fault::page(521, "Web server is down"),
        Fault::page(522, "Connection timed out"),
        Fault::page(524, "A timeout occurred"),
        Fault::status(503),
        Fault::status(408),
    ];
    let mut scene = Scene::new();
    for fault in faults {
        let before = scene.facts().retries;
        scene.project.always(fault);
        scene.talk(50);
        scene.stands("tried again", |facts| facts.retries > before);
        scene.project.heal();
        until("delivered", || scene.guard.wait_delivered(|_| ()));
    }
    assert_eq!(scene.end(), 0);
}

#[test]
fn a_page_of_the_edge_is_told_by_its_title() {
    let scene = failing(Fault::page(522, "Connection timed out"));
    assert_eq!(scene.retries(), "Supabase answered 522 project.supabase.co | 522: Connection timed out");
    assert_eq!(scene.end(), 0);
}

#[test]
fn retry_after_is_kept_to() {
    let began = clock::now();
    let headers = vec![("retry-after", "60".to_owned())];
    let scene = failing(Fault::Edge { status: 429, headers, body: String::new() });
    let facts = scene.stands("429", |facts| facts.retries > 0);
    let State::Retrying { until } = facts.state else { panic!("{facts:?}") };
    assert!(clock::age(until, began) >= Duration::from_secs(55));
    assert_eq!(scene.end(), 0);
}

#[test]
fn a_connection_cut_after_the_commit_gives_each_row_once() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        scene.project.next(Fault::CutAfterCommit);
    }
    scene.talk(RECORDS);
    scene.retries();
    assert_eq!(scene.end(), 0);
}

#[test]
fn a_slow_project_delays_and_loses_nothing() {
    let scene = failing(Fault::Slow(Duration::from_millis(300)));
    scene.stands("delivered", |facts| facts.delivered > 0);
    assert_eq!(scene.end(), 0);
}

#[test]
fn a_key_that_is_revoked_holds_everything_until_it_is_back() {
    let mut scene = Scene::new();
    scene.project.revoke_keys();
    scene.talk(RECORDS);
    let error = scene.blocks();
    assert!(error.contains("401") && error.contains("SUPABASE_SECRET_KEY"), "{error}");
    assert!(!scene.guard.wait_delivered(|_| ()), "somebody must act");
    scene.project.restore_keys();
    assert_eq!(scene.end(), 0);
}

#[test]
fn a_missing_function_table_or_right_names_migrate() {
    let breaks = [
        ("drop function public.dw_insert_logs(jsonb)", "PGRST202"),
        ("alter table public.system_logs rename to elsewhere", "42P01"),
        ("revoke insert on public.system_logs from service_role", "42501"),
    ];
    for (sql, code) in breaks {
        let mut scene = Scene::new();
        scene.database.run(sql);
        scene.talk(RECORDS);
        let error = scene.blocks();
        assert!(error.contains(code) && error.contains("migrat"), "{error}");
        // The remedy: the files may be applied again, and rights are granted again each time.
        if code == "42P01" {
            scene.database.run("alter table public.elsewhere rename to system_logs");
        }
        if code != "42501" {
            scene.database.run("delete from dogwatch.migrations");
        }
        migrate(&scene.database);
        assert_eq!(scene.end(), 0);
    }
}

#[test]
fn a_row_that_the_table_does_not_take_is_set_aside_alone() {
    let mut scene = Scene::new();
    scene.database.run("alter table system_logs add constraint mine check (message <> 'record 133')");
    scene.talk(RECORDS);
    scene.stands("set aside", |facts| facts.quarantined == 1);
    until("the others are rows", || rows(&scene.database).len() == RECORDS - 1);
    assert_eq!(scene.facts().retries, 0);
    assert_eq!(scene.end(), 1);
}

#[test]
fn a_body_that_is_too_large_is_split_until_it_fits() {
    let scene = failing(Fault::BodyMax(8 << 10));
    until("all are rows", || rows(&scene.database).len() == RECORDS);
    assert_eq!(scene.facts().quarantined, 0);
    assert_eq!(scene.end(), 0);
}

#[test]
fn a_database_that_is_read_only_or_locked_is_tried_again() {
    let mut scene = Scene::new();
    let name = scene.database.name.clone();
    scene.database.run(&format!("alter database {name} set default_transaction_read_only = on"));
    scene.talk(RECORDS);
    assert!(scene.retries().contains("25006"));
    scene.database.run(&format!(
        "set transaction_read_only = off; alter database {name} reset default_transaction_read_only"
    ));
    scene.database.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'authenticator'");
    until("delivered", || scene.guard.wait_delivered(|_| ()));

    scene.database.run("alter function public.dw_insert_logs(jsonb) set statement_timeout = '300ms'");
    let before = scene.facts().retries;
    std::thread::scope(|scope| {
        let database = scene.database.clone();
        let holder = scope.spawn(move || {
            database.run("begin; lock table system_logs in access exclusive mode; select pg_sleep(3); commit");
        });
        let holds = "select count(*) from pg_locks where relation = 'system_logs'::regclass and mode = 'AccessExclusiveLock'";
        until("the lock", || scene.database.ask(holds) != "0");
        scene.talk(50);
        let facts = scene.stands("tried again", |facts| facts.retries > before);
        assert!(facts.last_error.unwrap().1.contains("57014"));
        holder.join().unwrap();
    });
    assert_eq!(scene.end(), 0);
}

#[test]
fn a_database_that_stops_and_starts_again_gets_each_row_once() {
    let mut cluster = Cluster::start(Durability::Full);
    let mut scene = Scene::on(cluster.database());
    scene.talk(RECORDS);
    until("some arrived", || scene.facts().delivered > 0);
    cluster.stop(Stop::Immediate);
    scene.talk(RECORDS);
    let error = scene.retries();
    assert!(error.contains("503") || error.contains("504"), "{error}");
    cluster.resume();
    assert_eq!(scene.end(), 0);
}
