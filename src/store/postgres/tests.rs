//! Postgres keeps the contract, on a private cluster; and what only this store can get wrong.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::*;
use crate::store::conformance::{Rig, START_MICROS, concurrency, cycle_record, decided};

#[expect(dead_code, reason = "each of those who include the rig uses a part of it")]
#[path = "../../../tests/rig/postgres.rs"]
pub(crate) mod cluster;

use crate::telemetry::exporter::postgres::schema::Migration;
use cluster::{Cluster, Database};

mod claims;
mod levels;
mod together;

/// A database with an empty fleet: a copy of one that was migrated.
pub(crate) fn database() -> Database {
    static TEMPLATE: OnceLock<Database> = OnceLock::new();
    copy_of(TEMPLATE.get_or_init(|| migrated(SCHEMA.migrations)))
}

fn copy_of(template: &Database) -> Database {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("fleet_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Cluster::shared().admin().run(&format!("create database {name} template {}", template.name));
    template.named(&name)
}

fn migrated(migrations: &[Migration]) -> Database {
    let database = Cluster::shared().database();
    database.make_supabase_roles();
    for migration in crate::telemetry::exporter::postgres::schema::MIGRATIONS.iter().chain(migrations) {
        database.run(migration.sql);
    }
    database
}

fn address(database: &Database) -> Address {
    Address::parse(&database.url()).unwrap()
}

/// A store on a database.
pub(crate) async fn open(database: &Database, time: TimeSource) -> PostgresStore {
    PostgresStore::open(&address(database), time).await.unwrap()
}

/// An empty store, and its database.
pub(in crate::store) async fn rig_on(database: &Database) -> Rig {
    let time = Arc::new(AtomicI64::new(START_MICROS));
    let store = open(database, TimeSource::Fixed(Arc::clone(&time))).await;
    Rig { store: Arc::new(store), time, keep: None }
}

/// An empty store.
pub(in crate::store) async fn rig() -> Rig {
    rig_on(&database()).await
}

mod contract {
    crate::store::conformance::conformance!(crate::store::postgres::tests::rig);
}

#[tokio::test]
async fn a_password_that_is_wrong_is_not_shown() {
    let database = database();
    let wrong = database.url().replace("marked-secret", "another-secret");
    let error = PostgresStore::open(&Address::parse(&wrong).unwrap(), TimeSource::Database).await.unwrap_err();
    let text = format!("{} {error:?}", crate::error::chain(&error));
    assert!(matches!(error, StoreError::Unavailable { .. }), "{text}");
    assert!(text.contains("password authentication failed") && !text.contains("another-secret"), "{text}");
}

#[tokio::test]
async fn a_database_without_the_schema_is_refused_with_a_remedy() {
    let empty = Cluster::shared().database();
    let error = PostgresStore::open(&address(&empty), TimeSource::Database).await.unwrap_err();
    let text = crate::error::chain(&error);
    assert!(text.contains("no tables of dogwatch's") && text.contains("dogwatch migrate"), "{text}");
    let place = address(&empty);
    super::open::check_level(SCHEMA_LEVEL + 1, &place).unwrap();
    super::open::check_level(SCHEMA_LEVEL_MIN, &place).unwrap();
    super::open::check_level(SCHEMA_LEVEL_MIN - 1, &place).unwrap_err();
}

/// What the migrations have granted on tables and views is found again where somebody revokes it.
#[test]
fn every_right_that_a_migration_gave_on_a_table_is_known() {
    let granted = database().ask(&format!(
        "select granted.object, granted.privilege, granted.role from (
             select format('dogwatch.%I', c.relname), lower(a.privilege_type), a.grantee::regrole::text
             from pg_class c cross join aclexplode(c.relacl) a
             where c.relnamespace = 'dogwatch'::regnamespace and not c.relispartition
               and (c.relkind = 'r' or c.relkind = 'v' and a.privilege_type = 'SELECT')
         ) as granted (object, privilege, role)
         where granted.role in ('anon', 'authenticated', 'service_role', 'dogwatch_rpc')
         except select object, privilege, role from ({}) as due (kind, object, privilege, role)
         order by 1, 2, 3",
        rights::RIGHTS
    ));
    assert_eq!(granted, "", "these are given back by nobody");
}

#[tokio::test]
async fn the_databases_own_clock_is_the_default() {
    let database = database();
    let store = open(&database, TimeSource::Database).await;
    let now = store.now().await.unwrap();
    let age = crate::clock::age(crate::clock::now(), now).as_secs();
    assert!(age < 60, "{now} is {age} s off");
}

/// Refusals: one row a worker and minute, and not more than the limit.
#[tokio::test]
async fn refusals_are_one_row_a_worker_and_minute() {
    let database = database();
    let rig = rig_on(&database).await;
    let mut caller = rpc::Caller {
        worker_id: "x".repeat(1_000),
        worker_token: "guessed".into(),
        incarnation: uuid::Uuid::from_u128(1),
    };
    for _ in 0..3 {
        rig.store.authenticate(&caller).await.unwrap_err();
        let claim = rpc::Claim { claim_id: uuid::Uuid::from_u128(1), run_type: None };
        rig.store.claim_task(&caller, &claim, 5).await.unwrap_err();
    }
    assert_eq!(database.count("dogwatch.refusals"), 1);
    rig.pass(Duration::from_secs(60));
    rig.store.authenticate(&caller).await.unwrap_err();
    assert_eq!(database.count("dogwatch.refusals"), 2);
    database.run(
        "insert into dogwatch.refusals select 'w' || i, i, 'f', 'DW401', 'm' from generate_series(1, 10050) i",
    );
    caller.worker_id = "another".into();
    rig.store.authenticate(&caller).await.unwrap_err();
    assert_eq!(database.count("dogwatch.refusals"), u64::try_from(crate::store::REFUSALS_ROWS_MAX).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_limit_holds_between_processes() {
    let database = database();
    let first = rig_on(&database).await;
    let store = open(&database, TimeSource::Fixed(Arc::clone(&first.time))).await;
    let second = Rig { store: Arc::new(store), ..first.clone() };
    concurrency::clients_never_pass_the_user_limit(&[first, second]).await;
}

#[tokio::test]
async fn an_unchanged_snapshot_is_stored_once_and_old_rows_go() {
    let database = database();
    let rig = rig_on(&database).await;
    let lease = rig.lead().await;
    let count = |table: &str| database.count(&format!("dogwatch.{table}"));
    for cycle in 1..=3 {
        rig.pass(Duration::from_secs(30));
        rig.commit_cycle(&lease, &cycle_record(rig.now(), cycle), &[]).await.unwrap();
    }
    assert_eq!((count("decisions"), count("snapshots")), (3, 1));
    let mut other = cycle_record(rig.now(), 4);
    other.snapshot.policy.max_workers = 99;
    let other = decided(4, other.snapshot);
    rig.commit_cycle(&lease, &other, &[]).await.unwrap();
    assert_eq!((count("decisions"), count("snapshots")), (4, 2));
    let result = ActionResult { ok: true, detail: "done".into() };
    rig.store.action_result(&lease, DecisionId(1), 0, &result).await.unwrap();
    rig.pass(Duration::from_secs(31 * 24 * 3_600));
    rig.commit_cycle(&lease, &other, &[]).await.unwrap();
    assert_eq!((count("decisions"), count("snapshots"), count("action_results")), (1, 1, 0));
    assert_eq!(rig.store.decisions(None, 0).await.unwrap()[0].snapshot, other.snapshot);
}

/// An operator's tool that writes nonsense is stopped by the database, not found by a cycle.
#[tokio::test]
async fn the_schema_refuses_what_the_state_machine_forbids() {
    let database = database();
    let rig = rig_on(&database).await;
    rig.ready("gpu-1").await;
    rig.submit("ada", [1]).await;
    let refused = [
        "update dogwatch.workers set state = 'gone'",
        "update dogwatch.workers set status = 'terminated'",
        "update dogwatch.workers set outcome = 'planned'",
        "update dogwatch.workers set state = 'happy'",
        "update dogwatch.workers set state = 'alive', status = 'active'",
        "update dogwatch.workers set last_heartbeat = null",
        "update dogwatch.tasks set status = 'Complete'",
        "update dogwatch.tasks set status = 'In Progress'",
        "update dogwatch.tasks set worker_id = 'gpu-1'",
    ];
    for sql in refused {
        let error = database.try_ask(sql).unwrap_err();
        assert!(error.contains("violates check constraint") || error.contains("cannot become"), "{sql}: {error}");
    }
    rig.end("gpu-1", crate::fleet::outcome::Outcome::Planned).await;
    let revive = "update dogwatch.workers set state = 'idle', status = 'active', ended_at = null, outcome = null";
    assert!(database.try_ask(revive).unwrap_err().contains("is gone and cannot become idle"));
}

/// The table of states here is that of `fleet::state`.
#[tokio::test]
async fn both_tables_of_states_are_the_same() {
    let database = database();
    let mut expected = Vec::new();
    for state in WorkerState::ALL {
        for next in WorkerState::ALL {
            let may = if state.may_become(next) { "t" } else { "f" };
            expected.push(format!("{}|{}|{may}|{}", state.word(), next.word(), state.status().word()));
        }
    }
    let words = WorkerState::ALL.map(WorkerState::word).join(",");
    let found = database.ask(&format!(
        "with words as (select * from unnest('{{{words}}}'::text[]) with ordinality w (word, n))
         select a.word, b.word, dogwatch.may_become(a.word, b.word), dogwatch.status_of(a.word)
         from words a, words b order by a.n, b.n"
    ));
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

/// What a program prints may hold what Postgres cannot keep.
#[tokio::test]
async fn a_text_with_nul_is_kept_without_it() {
    let rig = rig().await;
    rig.submit("ada", [1]).await;
    let agent = rig.ready("gpu-1").await;
    agent.claim(1).await;
    let fail = rpc::Fail { task_id: uuid::Uuid::from_u128(1), attempt: 1, error: "a\0b".into(), retryable: false };
    agent.store.fail_task(&agent.caller, &fail).await.unwrap();
    assert_eq!(rig.task(1).await.error.as_deref(), Some("a\u{fffd}b"));
}

/// While a write of the leader is under way nobody can take the lease over; the guard is a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_waits_for_the_write_under_way() {
    let database = database();
    let rig = rig_on(&database).await;
    let lease = rig.lead().await;
    let store = open(&database, TimeSource::Fixed(Arc::clone(&rig.time))).await;
    let mut tx = store.write().await.unwrap();
    lease::guard(&mut tx, &lease).await.unwrap();
    rig.pass(Duration::from_secs(7_200));
    let other = BootId(uuid::Uuid::from_u128(2));
    let mut taking = tokio::task::JoinSet::new();
    taking.spawn({
        let store = Arc::clone(&rig.store);
        async move { store.take_lease(crate::store::conformance::LEASE, other, Duration::from_secs(60)).await.unwrap() }
    });
    let waits =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    cluster::until("the take-over to wait", || database.ask(waits) != "0");
    assert!(taking.try_join_next().is_none());
    tx.inner.commit().await.unwrap();
    let LeaseAnswer::Held(taken) = taking.join_next().await.unwrap().unwrap() else { panic!("not taken") };
    assert_eq!(taken.term.0, lease.term.0 + 1);
    let stale = rig.commit_cycle(&lease, &cycle_record(rig.now(), 1), &[]).await;
    assert!(matches!(stale, Err(StoreError::StaleTerm)), "{stale:?}");
}

/// Who holds nothing but a worker's token claims what its pool takes, and sees no table.
#[tokio::test]
async fn a_claim_as_anon_keeps_to_its_pool() {
    let database = database();
    let rig = rig_on(&database).await;
    rig.submit("ada", [1, 2]).await;
    let agent = rig.ready("gpu-1").await;
    let pools = |pool: &str| vec![PoolTasks { pool: pool.into(), task_types: Vec::new() }];
    let claim = |claim: u128| {
        let keys = serde_json::json!({ "claim_id": uuid::Uuid::from_u128(claim) });
        let body = door::body(&agent.caller, keys).to_string();
        database.ask(&format!("set role anon; select coalesce(public.dw_claim_task('{body}'::jsonb), 'null')"))
    };
    rig.store.set_pools(&pools("another")).await.unwrap();
    assert_eq!(claim(1), "null");
    rig.store.set_pools(&pools("default")).await.unwrap();
    let claimed: rpc::Claimed = serde_json::from_str(&claim(1)).unwrap();
    assert_eq!((claimed.task_id.as_u128(), claimed.attempt), (1, 1));
    for table in ["orders", "queue_pools", "task_let_go"] {
        let error = database.try_ask(&format!("set role anon; select from dogwatch.{table}")).unwrap_err();
        assert!(error.contains("permission denied"), "{table}: {error}");
        let read = format!("set role service_role; select count(*) from dogwatch.{table}");
        assert_eq!(database.ask(&read), if table == "queue_pools" { "1" } else { "0" });
        let secured = format!("pg_class where oid = 'dogwatch.{table}'::regclass and relrowsecurity");
        assert_eq!(database.count(&secured), 1, "{table}");
    }
}

/// A file's fleet is loaded once, and never over a live one.
#[tokio::test]
async fn an_import_is_loaded_once_and_into_nothing_live() {
    let live = rig().await;
    live.ready("gpu-1").await;
    live.ready("gpu-2").await;
    live.end("gpu-2", crate::fleet::outcome::Outcome::WorkerCrash).await;
    live.submit("ada", [1]).await;
    let mut record = cycle_record(live.now(), 7);
    record.snapshot.workers = live.observe().await.workers;
    let record = decided(7, record.snapshot);
    let import = Import { digest: "d1".into(), snapshot: record.snapshot.clone(), decision: record.decision };
    let refused = live.store.import(&import).await.unwrap_err();
    assert!(crate::error::chain(&refused).contains("live fleet"), "{refused}");
    let empty = rig().await;
    assert!(empty.store.import(&import).await.unwrap());
    assert!(!empty.store.import(&import).await.unwrap());
    let rows = empty.store.decisions(None, 0).await.unwrap();
    assert_eq!((rows.len(), rows[0].imported.as_deref(), rows[0].at), (1, Some("d1"), record.snapshot.as_of));
    assert_eq!(rows[0].snapshot, record.snapshot);
    let mut workers: Vec<String> = empty.store.workers(None, 0).await.unwrap().iter().map(word_of).collect();
    workers.sort();
    assert_eq!(workers, ["gpu-1 idle", "gpu-2 gone"]);
    let second = Import { digest: "d2".into(), ..import };
    assert!(empty.store.import(&second).await.unwrap(), "files beside each other");
    assert_eq!(crate::store::taken_again::all(&*empty.store).await, 2);
}

fn word_of(row: &WorkerRow) -> String {
    format!("{} {}", row.worker.id, row.worker.live.as_ref().unwrap().state.word())
}

/// An instant at which a task was let go is forgotten where there are too many of them.
#[tokio::test]
async fn instants_of_letting_go_are_bounded() {
    let database = database();
    let rig = rig_on(&database).await;
    database.run(
        "insert into dogwatch.task_let_go select gen_random_uuid(), timestamptz '2020-01-01' + i * interval '1 s'
         from generate_series(1, 100050) i",
    );
    rig.store.hold_task(crate::store::conformance::task_id(1), None, "ada", "a test").await.unwrap();
    assert_eq!(database.count("dogwatch.task_let_go"), 100_000);
    assert_eq!(database.count("dogwatch.task_let_go where task_id = '00000000-0000-0000-0000-000000000001'"), 1);
}
