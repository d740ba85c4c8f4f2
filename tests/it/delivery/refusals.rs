//! The database says no: what somebody has to lift is held with its remedy, and goes on once it is
//! lifted; what a record has caused is set aside, that record alone.

use super::scene::{Account, Scene, migrate, migrated};
use crate::postgres_rig::{Cluster, Database, PASSWORD};

/// Ends all connections to the database, so that new settings count.
fn disconnect(database: &Database) {
    database.run(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    );
}

#[test]
fn a_missing_table_holds_until_somebody_migrates() {
    let database = Cluster::shared().database();
    let mut scene = Scene::new(&database);
    scene.send(300);
    let (remedy, error) = scene.blocked();
    assert_eq!(remedy, "run `dogwatch migrate`");
    assert!(error.contains("system_logs\" does not exist"), "{error}");
    assert_eq!(database.ask("select to_regclass('public.system_logs')"), "", "it never migrates by itself");
    migrate(&database);
    scene.delivered();
    assert_eq!((scene.facts().quarantined, scene.end().pending), (0, 0));
}

#[test]
fn a_read_only_database_holds_until_it_is_writable() {
    let database = migrated(Cluster::shared());
    let mut scene = Scene::new(&database);
    scene.send(100);
    scene.delivered();
    database.run(&format!("alter database {} set default_transaction_read_only = on", database.name));
    disconnect(&database);
    scene.send(300);
    let (remedy, error) = scene.blocked();
    assert!(remedy.contains("make the database writable") && error.contains("read-only"), "{remedy}: {error}");
    database.run(&format!(
        "set transaction read write; alter database {} set default_transaction_read_only = off",
        database.name
    ));
    disconnect(&database);
    scene.delivered();
    assert_eq!(scene.end().pending, 0);
}

#[test]
fn rights_that_are_missing_hold_until_they_are_granted() {
    let database = migrated(Cluster::shared());
    let role = format!("writer_of_{}", database.name);
    let rights = format!(
        "on public.system_logs to {role}; grant usage on sequence dogwatch.system_logs_arrival to {role};
         grant execute on function public.dw_maintain_system_logs() to {role}"
    );
    database
        .run(&format!("create role {role} login bypassrls password '{PASSWORD}'; grant insert, select {rights}"));
    let mut scene = Scene::at(&database, &database.url_of(&role));
    scene.send(100);
    scene.delivered();
    database.run(&format!("revoke insert on public.system_logs from {role}"));
    scene.send(300);
    let (remedy, error) = scene.blocked();
    assert!(remedy.starts_with("grant the role") && error.contains("permission denied"), "{remedy}: {error}");
    database.run(&format!("grant insert {rights}"));
    scene.delivered();
    // Another password: the same, and neither is shown.
    database.run(&format!("alter role {role} password 'another'"));
    disconnect(&database);
    scene.send(300);
    let (remedy, error) = scene.blocked();
    assert!(remedy.contains("correct user and password") && !error.contains("another"), "{remedy}: {error}");
    database.run(&format!("alter role {role} password '{PASSWORD}'"));
    scene.delivered();
    assert_eq!((scene.facts().quarantined, scene.end().pending), (0, 0));
}

#[test]
fn a_missing_partition_is_made_again() {
    let database = migrated(Cluster::shared());
    let mut scene = Scene::new(&database);
    scene.send(100);
    scene.delivered();
    let today = "dogwatch.system_logs_' || to_char(now() at time zone 'UTC', 'YYYYMMDD')";
    let kept = "create table kept as select * from system_logs";
    database.run(&format!(
        "{kept}; do $$ begin execute 'drop table {today}; end $$; drop table dogwatch.system_logs_default"
    ));
    scene.send(300);
    scene.delivered();
    assert_eq!(scene.facts().quarantined, 0);
    assert_eq!(database.ask("select to_regclass('dogwatch.system_logs_default')"), "dogwatch.system_logs_default");
    database.run("insert into system_logs select * from kept on conflict do nothing");
    assert_eq!(scene.end().pending, 0);
}

#[test]
fn a_record_that_is_refused_is_set_aside_alone() {
    let database = migrated(Cluster::shared());
    database.run(
        "create function refuse() returns trigger language plpgsql as $$ begin
             if new.message = 'record 137' then raise exception 'not this one'; end if; return new; end $$;
         create trigger refuse before insert on system_logs for each row execute function refuse();
         alter table system_logs add constraint nobody check (message <> 'record 1444')",
    );
    let mut scene = Scene::new(&database);
    scene.send(3_000);
    scene.delivered();
    assert_eq!(scene.facts().quarantined, 2);
    assert_eq!(database.count("system_logs where message in ('record 137', 'record 1444')"), 0);
    let Account { quarantined, pending, .. } = scene.end();
    assert_eq!((quarantined, pending), (2, 0));
}
