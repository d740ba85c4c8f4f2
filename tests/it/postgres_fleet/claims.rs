//! Many clients claim at once from a long queue: nobody gets another's task, no user gets more than
//! the limit, and no claim reads the whole table. Printed: the rate beside that of a bare claim.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dogwatch::clock;
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::task::JoinSet;

use super::rig::Fleet;
use crate::postgres_rig::until;

const CLIENTS: u32 = 16;
const USER_LIMIT: i64 = 5;
/// Tasks that a client has in hand before it ends the oldest.
const IN_HAND: usize = 4;

/// Queued tasks, users, and claims that are made.
struct Size {
    tasks: u32,
    users: u32,
    claims: u32,
}

const NORMAL: Size = Size { tasks: 6_000, users: 40, claims: 640 };
const LONG: Size = Size { tasks: 200_000, users: 500, claims: 16_000 };

fn fill(fleet: &Fleet, size: &Size) {
    fleet.database.run(&format!(
        "insert into dogwatch.tasks (task_type, user_id, created_at)
         select 'render', 'user-' || i % {}, now() + i * interval '1 us' from generate_series(1, {}) i;
         insert into dogwatch.workers (id, status, state, state_since, created_at, pool, token_sha256)
         select 'gpu-' || i, 'spawning', 'created', now(), now(), 'default', sha256(convert_to('token ' || i, 'UTF8'))
         from generate_series(0, {}) i;
         analyze dogwatch.tasks",
        size.users,
        size.tasks,
        CLIENTS - 1
    ));
}

fn body(client: u32, keys: Value) -> Value {
    let mut body = json!({
        "worker_id": format!("gpu-{client}"), "worker_token": format!("token {client}"),
        "incarnation": uuid::Uuid::from_u128(u128::from(client) + 1),
    });
    body.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    body
}

async fn call(pool: &PgPool, sql: &'static str, body: Value) -> Value {
    let answer: Option<Value> = sqlx::query_scalar(sql).bind(body).fetch_one(pool).await.unwrap();
    let answer = answer.unwrap_or(Value::Null);
    assert!(answer.get("code").is_none(), "{answer}");
    answer
}

/// One client: claims until all have claimed enough, and gives what it got.
async fn client(pool: PgPool, client: u32, left: Arc<AtomicU32>) -> Vec<(String, i64)> {
    const CLAIM: &str = "select dogwatch.door_claim($1, now(), 5)";
    call(&pool, "select dogwatch.door_register($1, now())", body(client, json!({ "info": {} }))).await;
    let (mut got, mut in_hand) = (Vec::new(), Vec::new());
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        let claim = body(client, json!({ "claim_id": uuid::Uuid::new_v4() }));
        let claimed = call(&pool, CLAIM, claim).await;
        if let Some(task) = claimed["task_id"].as_str() {
            got.push((task.to_owned(), claimed["attempt"].as_i64().unwrap()));
            in_hand.push(task.to_owned());
        }
        if in_hand.len() >= IN_HAND {
            let keys = json!({ "task_id": in_hand.remove(0), "attempt": 1, "output": {} });
            call(&pool, "select dogwatch.door_complete($1, now())", body(client, keys)).await;
        }
    }
    got
}

async fn bare(pool: PgPool, left: Arc<AtomicU32>) {
    const CLAIM: &str =
        "update dogwatch.tasks set status = 'In Progress', worker_id = 'bare', attempts = attempts + 1,
            generation_started_at = now()
        where id = (select id from dogwatch.tasks where status = 'Queued' order by created_at, id limit 1
            for update skip locked)";
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        sqlx::query(CLAIM).execute(&pool).await.unwrap();
    }
}

/// The most tasks that one user has in hand, looked at until the clients have ended.
async fn most_of_a_user(pool: PgPool, left: Arc<AtomicU32>) -> i64 {
    let mut most = 0;
    while left.load(Ordering::SeqCst) > 0 {
        let now: Option<i64> = sqlx::query_scalar(
            "select max(n) from (
                 select count(*) as n from dogwatch.tasks where status = 'In Progress' group by user_id) of_user",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        most = most.max(now.unwrap_or(0));
    }
    most
}

async fn claims(url: &str, size: &Size) -> (Vec<(String, i64)>, i64, f64, f64) {
    let pool = PgPoolOptions::new().max_connections(CLIENTS + 1).connect(url).await.unwrap();
    let left = Arc::new(AtomicU32::new(size.claims));
    let began = clock::monotonic();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(pool.clone(), number, Arc::clone(&left)));
    }
    let looking = most_of_a_user(pool.clone(), Arc::clone(&left));
    let (most, got) = tokio::join!(looking, clients.join_all());
    let took = (clock::monotonic() - began).as_secs_f64();
    let left = Arc::new(AtomicU32::new(size.claims));
    let began = clock::monotonic();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(bare(pool.clone(), Arc::clone(&left)));
    }
    clients.join_all().await;
    let bare_took = (clock::monotonic() - began).as_secs_f64();
    pool.close().await;
    let all = f64::from(size.claims);
    (got.into_iter().flatten().collect(), most, all / took, all / bare_took)
}

#[test]
fn sixteen_clients_claim_each_task_once_within_the_limit_and_by_index() {
    let size = if dogwatch::config::environment("DOGWATCH_TEST_LONG").is_some() { LONG } else { NORMAL };
    let fleet = Fleet::new();
    fill(&fleet, &size);
    let scans = "select coalesce(sum(seq_scan), 0) from pg_stat_user_tables
        where schemaname = 'dogwatch' and relname in ('tasks', 'task_attempts')";
    until("the statistics of the filling", || {
        fleet
            .database
            .count("pg_stat_user_tables where relname = 'tasks' and schemaname = 'dogwatch' and n_live_tup > 0")
            == 1
    });
    let before = fleet.database.ask(scans);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (got, most, rate, bare) = runtime.block_on(claims(&fleet.database.url(), &size));
    let tasks: BTreeSet<&String> = got.iter().map(|(task, _)| task).collect();
    println!(
        "{} queued, {CLIENTS} clients: {rate:.0} claims/s with what goes before and after, {bare:.0}/s bare, ratio {:.2}; \
         {} claimed, {} twice, most of one user {most}",
        size.tasks,
        rate / bare,
        got.len(),
        got.len() - tasks.len()
    );
    assert_eq!(got.len(), tasks.len(), "claimed twice");
    assert!(got.iter().all(|(_, attempt)| *attempt == 1));
    assert!(most > 0 && most <= USER_LIMIT, "{most} tasks of one user");
    assert!(got.len() as u32 > size.claims / 2, "{} of {} claims were granted", got.len(), size.claims);
    assert_eq!(fleet.database.ask(scans), before, "sequential scans");
}
