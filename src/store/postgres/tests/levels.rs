//! A database of the level before serves this program as well as its own; an older one is refused.

use super::*;

/// Where the migration of that name stands.
fn place(name: &str) -> usize {
    SCHEMA.migrations.iter().position(|migration| migration.name == name).unwrap()
}

/// A database as it was before that migration.
fn before(name: &str) -> Database {
    migrated(&SCHEMA.migrations[..place(name)])
}

/// That migration, and all after it.
fn bring_up(database: &Database, from: &str) {
    for migration in &SCHEMA.migrations[place(from)..] {
        database.run(migration.sql);
    }
}

async fn rig_of_level_2() -> Rig {
    static TEMPLATE: OnceLock<Database> = OnceLock::new();
    let database = copy_of(TEMPLATE.get_or_init(|| before("claims")));
    assert_eq!(database.ask("select dogwatch.fleet_level()"), "2");
    rig_on(&database).await
}

async fn rig_of_level_3() -> Rig {
    static TEMPLATE: OnceLock<Database> = OnceLock::new();
    let database = copy_of(TEMPLATE.get_or_init(|| before("claims_together")));
    assert_eq!(database.ask("select dogwatch.fleet_level()"), "3");
    rig_on(&database).await
}

/// A rolling deploy: the new program runs before the database is brought up.
mod contract_on_level_2 {
    crate::store::conformance::conformance!(crate::store::postgres::tests::levels::rig_of_level_2);
}

mod contract_on_level_3 {
    crate::store::conformance::conformance!(crate::store::postgres::tests::levels::rig_of_level_3);
}

/// A store that began on the level before makes its claims together once the database was brought up.
#[tokio::test]
async fn a_store_that_runs_sees_that_claims_can_be_made_together() {
    let database = before("claims_together");
    let rig = rig_on(&database).await;
    let agent = rig.ready("gpu-1").await;
    assert_eq!(agent.claim(1).await, None);
    bring_up(&database, "claims_together");
    database.run("drop function dogwatch.door_claim(jsonb, timestamptz, bigint)");
    for _ in 0..crate::store::postgres::together::LOOK_EVERY {
        let error = agent.try_claim(1).await.unwrap_err();
        assert!(matches!(error, crate::store::RpcError::Store(StoreError::Schema { .. })), "{error:?}");
    }
    rig.submit("ada", [1]).await;
    assert_eq!(agent.claim(2).await, Some((1, 1)), "by the function of many alone");
}

#[tokio::test]
async fn a_database_that_is_two_levels_behind_is_refused_and_brought_up_with_what_it_holds() {
    let old = before("policy");
    old.run(
        "insert into dogwatch.tasks (task_type, user_id) values ('command', 'ada');
         insert into dogwatch.workers (id, status, state, state_since, created_at, pool)
         values ('gpu-1', 'spawning', 'created', now(), now(), 'default')",
    );
    let error = PostgresStore::open(&address(&old), TimeSource::Database).await.unwrap_err();
    assert!(crate::error::chain(&error).contains("run `dogwatch migrate`"), "{error}");
    bring_up(&old, "policy");
    let store = open(&old, TimeSource::Database).await;
    let read = store.observe(Duration::from_secs(60), 5).await.unwrap();
    assert_eq!((read.workers.len(), read.demand.users[0].queued), (1, 1));
    assert!(read.orders.is_empty() && read.workers[0].cell().is_none());
}

/// A task that a worker had in hand when the database was brought up is ended by that worker.
#[tokio::test]
async fn a_task_in_hand_is_brought_up_with_its_worker() {
    let database = before("claims");
    let rig = rig_on(&database).await;
    rig.submit("ada", 1..=3).await;
    let agent = rig.ready("gpu-1").await;
    assert_eq!(agent.claim(1).await, Some((1, 1)));
    bring_up(&database, "claims");
    assert_eq!(agent.claim(1).await, Some((1, 1)), "a repeated claim is the same attempt");
    agent.complete(1, 1).await.unwrap();
    assert_eq!(agent.claim(2).await, Some((2, 1)));
}

/// What an operator has put in the place of ours stays theirs.
#[test]
fn a_migration_leaves_an_operators_functions_as_they_are() {
    let database = before("claims");
    let own = "create or replace function dogwatch.dw_requeue(
            task uuid, worker text, attempt bigint, error text, at timestamptz) returns boolean
        language sql as $$ select false $$;";
    database.run(own);
    bring_up(&database, "claims");
    let language = |name: &str| {
        database.ask(&format!(
            "select l.lanname || p.prosrc from pg_proc p join pg_language l on l.oid = p.prolang
             where p.proname = '{name}' and p.pronamespace = 'dogwatch'::regnamespace"
        ))
    };
    assert_eq!(language("dw_requeue"), "sql select false");
    assert!(language("dw_claim").starts_with("plpgsql"));
    assert!(language("dw_finish").starts_with("plpgsql"));
}
