//! `system_logs` is made once, beside whatever was there, under either history, with rights only
//! for roles that exist.

use dogwatch::telemetry::exporter::postgres::Address;
use dogwatch::telemetry::exporter::postgres::schema::{self, MIGRATIONS, MigrateError, Migrated, Mode};

use crate::postgres_rig::{Cluster, Database, PASSWORD};

pub(super) fn migrate(database: &Database, mode: Mode) -> Result<Migrated, MigrateError> {
    migrate_as(&database.url(), mode)
}

fn migrate_as(url: &str, mode: Mode) -> Result<Migrated, MigrateError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Address::parse(url).unwrap();
    runtime.block_on(schema::migrate(&address, mode, None, dogwatch::clock::now()))
}

pub(super) fn fresh() -> Database {
    let database = Cluster::shared().database();
    migrate(&database, Mode::Apply).unwrap();
    database
}

fn names() -> Vec<String> {
    MIGRATIONS.iter().map(|migration| format!("{}_{}", migration.version, migration.name)).collect()
}

#[test]
fn it_is_applied_once_and_a_dry_run_changes_nothing() {
    let database = Cluster::shared().database();
    // Roles belong to the cluster: another test's would come in the middle, and get their rights late.
    Cluster::shared().database().make_supabase_roles();
    let expected = Migrated {
        present: vec![],
        applied: names(),
        renamed_to: None,
        granted: vec![],
        ungranted: vec![],
        by_pg_cron: false,
    };
    assert_eq!(migrate(&database, Mode::DryRun).unwrap(), expected);
    assert_eq!(database.ask("select to_regclass('public.system_logs'), to_regnamespace('dogwatch')"), "|");
    assert_eq!(migrate(&database, Mode::Apply).unwrap(), expected);
    let again = migrate(&database, Mode::Apply).unwrap();
    assert_eq!((again.present, again.applied), (names(), vec![]));
    // The files themselves may be applied again, too, as other tools do.
    for migration in MIGRATIONS {
        database.run(migration.sql);
    }
    let partitions = "pg_inherits where inhparent = 'public.system_logs'::regclass";
    assert_eq!(database.count(partitions), 9, "today, 7 days ahead, and the default");
}

#[test]
fn two_at_once_do_no_harm() {
    let database = Cluster::shared().database();
    let both: Vec<Migrated> = std::thread::scope(|scope| {
        let run = || migrate(&database, Mode::Apply).unwrap();
        let both = [scope.spawn(run), scope.spawn(run)];
        both.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let applied: usize = both.iter().map(|migrated| migrated.applied.len()).sum();
    assert_eq!(applied, MIGRATIONS.len());
}

#[test]
fn a_migration_that_was_changed_is_refused() {
    let database = fresh();
    database.run("update dogwatch.migrations set sha256 = 'other'");
    let error = migrate(&database, Mode::Apply).unwrap_err();
    assert!(matches!(error, MigrateError::Changed { .. }), "{error}");
    assert!(error.to_string().contains("use the dogwatch that applied it"));
}

#[test]
fn the_table_as_it_was_is_kept_readable_and_old_writers_still_write() {
    let database = Cluster::shared().database();
    database.run(
        "create table system_logs (id uuid primary key default gen_random_uuid(), timestamp timestamptz not null
             default now(), source_type text not null, source_id text not null, log_level text not null,
             message text not null, task_id uuid, worker_id text, cycle_number int, metadata jsonb default '{}');
         create index system_logs_timestamp on system_logs (timestamp);
         create view recent as select * from system_logs;
         insert into system_logs (source_type, source_id, log_level, message)
             values ('worker', 'gpu-1', 'INFO', 'from before');",
    );
    let dry = migrate(&database, Mode::DryRun).unwrap();
    assert_eq!(dry.renamed_to, Some("system_logs_before_dogwatch"));
    assert_eq!(database.count("system_logs"), 1);
    assert_eq!(migrate(&database, Mode::Apply).unwrap(), dry);
    assert_eq!(database.ask("select message from system_logs_before_dogwatch"), "from before");
    assert_eq!(database.ask("select message from recent"), "from before");
    assert_eq!(database.count("system_logs"), 0);
    database.run(
        "insert into system_logs (source_type, source_id, log_level, message, metadata)
         values ('worker', 'gpu-1', 'INFO', 'an old writer', '{\"a\": 1}')",
    );
    assert_eq!(
        database.ask("select message, tableoid::regclass::text ~ '_[0-9]{8}$' from system_logs"),
        "an old writer|t"
    );
    // A second one of others is not overwritten.
    database
        .run("drop table system_logs cascade; create table system_logs (id int); delete from dogwatch.migrations");
    let error = migrate(&database, Mode::Apply).unwrap_err();
    assert!(dogwatch::error::chain(&error).contains("system_logs_before_dogwatch exists"), "{error:?}");
    assert_eq!(database.ask("select message from system_logs_before_dogwatch"), "from before");
}

#[test]
fn under_supabase_its_history_and_roles_are_used() {
    let cluster = Cluster::start(crate::postgres_rig::Durability::Relaxed);
    let (database, other) = (cluster.database(), cluster.database());
    for database in [&database, &other] {
        database.make_supabase_roles();
        database.make_supabase_history();
    }
    // `postgres` is no superuser there.
    assert_eq!(migrate_as(&database.url_of("postgres"), Mode::Apply).unwrap().applied, names());
    let history = "select version || '_' || name from supabase_migrations.schema_migrations order by version";
    assert_eq!(database.ask(history), names().join("\n"));
    // What Supabase's tools have applied is left alone.
    for migration in MIGRATIONS {
        other.try_ask_as("postgres", migration.sql).unwrap();
        let (version, name) = (migration.version, migration.name);
        other.run(&format!(
            "insert into supabase_migrations.schema_migrations (version, name) values ('{version}', '{name}')"
        ));
    }
    assert_eq!(migrate_as(&other.url_of("postgres"), Mode::Apply).unwrap().present, names());

    let insert = "insert into public.system_logs (source_type, source_id, log_level, message)
                  values ('worker', 'gpu-1', 'INFO', 'hello')";
    let act = |role: &str, sql: &str| {
        database.try_ask_as("authenticator", &format!("set role {role}; {sql}")).map_err(|error| {
            assert!(error.contains("permission denied"), "{error}");
        })
    };
    for role in ["anon", "authenticated"] {
        for sql in [
            insert,
            "select * from public.system_logs",
            "select public.dw_maintain_system_logs()",
            "select * from dogwatch.system_logs_default",
        ] {
            assert_eq!(act(role, sql), Err(()), "{role}: {sql}");
        }
    }
    assert_eq!(act("service_role", insert), Ok(String::new()));
    assert_eq!(act("service_role", "select message from public.system_logs"), Ok("hello".to_owned()));
    assert!(act("service_role", "select public.dw_maintain_system_logs()").is_ok());
    for sql in ["delete from public.system_logs", "drop table dogwatch.system_logs_default"] {
        assert!(database.try_ask_as("authenticator", &format!("set role service_role; {sql}")).is_err(), "{sql}");
    }
}

#[test]
fn rights_that_were_revoked_are_granted_again_and_a_dry_run_changes_none() {
    let database = Cluster::shared().database();
    database.make_supabase_roles();
    migrate_as(&database.url_of("postgres"), Mode::Apply).unwrap();
    database.run(
        "revoke insert on public.system_logs from service_role;
         revoke execute on function public.dw_insert_logs(jsonb) from service_role;
         revoke usage on sequence dogwatch.system_logs_arrival from service_role",
    );
    let missing = [
        "execute on public.dw_insert_logs(jsonb) to service_role",
        "usage on dogwatch.system_logs_arrival to service_role",
        "insert on public.system_logs to service_role",
    ];
    let may_insert = || database.ask("select has_table_privilege('service_role', 'public.system_logs', 'insert')");
    let dry = migrate_as(&database.url_of("postgres"), Mode::DryRun).unwrap();
    assert_eq!(
        (dry.granted, dry.ungranted, may_insert().as_str()),
        (missing.map(String::from).to_vec(), vec![], "f")
    );
    let done = migrate_as(&database.url_of("postgres"), Mode::Apply).unwrap();
    assert_eq!(
        (done.granted, done.ungranted, may_insert().as_str()),
        (missing.map(String::from).to_vec(), vec![], "t")
    );
    let again = migrate_as(&database.url_of("postgres"), Mode::Apply).unwrap();
    assert_eq!((again.granted, again.ungranted), (vec![], vec![]));
    assert_eq!(database.ask("select has_table_privilege('anon', 'public.system_logs', 'select')"), "f");
}

#[test]
fn rights_that_another_has_to_grant_are_named_and_stop_nothing() {
    let database = Cluster::shared().database();
    database.make_supabase_roles();
    migrate_as(&database.url_of("postgres"), Mode::Apply).unwrap();
    let role = format!("operator_of_{}", database.name);
    database.run(&format!(
        "create role {role} login password '{PASSWORD}'; grant create on database {} to {role};
         grant all on schema dogwatch to {role}; grant all on all tables in schema dogwatch to {role};
         grant execute on all functions in schema dogwatch to {role};
         revoke insert on public.system_logs from service_role",
        database.name
    ));
    let done = migrate_as(&database.url_of(&role), Mode::Apply).unwrap();
    assert_eq!(
        (done.granted, done.ungranted),
        (vec![], vec!["insert on public.system_logs to service_role".to_owned()])
    );
}
