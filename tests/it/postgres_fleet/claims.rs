//! Many clients claim at once from a long queue: nobody gets another's task, no user gets more than
//! the limit, and no claim reads the whole table.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::task::JoinSet;

use super::rig::Fleet;
use crate::postgres_rig::{Cluster, until};

const CLIENTS: u32 = 16;
const USER_LIMIT: i64 = 5;
/// Tasks that a client has in hand before it ends the oldest.
const IN_HAND: usize = 4;

/// Tasks that wait, and claims that are made.
const TASKS: u32 = 20_000;
const CLAIMS: u32 = 640;

/// Tasks of 40 users in turn: the queue's head leads to one.
const IN_TURN: &str = "i % 40";
/// Tasks of 40 users, each of whom has 500 in a row: the head is full of one user's, who may not have more.
const IN_A_ROW: &str = "i / 500";

fn fill(fleet: &Fleet, user: &str) {
    fleet.database.run(&format!(
        "insert into dogwatch.tasks (task_type, user_id, created_at)
         select 'render', 'user-' || {user}, now() + i * interval '1 us' from generate_series(1, {TASKS}) i;
         insert into dogwatch.workers (id, status, state, state_since, created_at, pool, token_sha256)
         select 'gpu-' || i, 'spawning', 'created', now(), now(), 'default', sha256(convert_to('token ' || i, 'UTF8'))
         from generate_series(0, {}) i;
         analyze dogwatch.tasks",
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

/// What the clients got, and the most that one user had in hand.
async fn claims(url: &str) -> (Vec<(String, i64)>, i64) {
    let pool = PgPoolOptions::new().max_connections(CLIENTS + 1).connect(url).await.unwrap();
    let left = Arc::new(AtomicU32::new(CLAIMS));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(pool.clone(), number, Arc::clone(&left)));
    }
    let looking = most_of_a_user(pool.clone(), Arc::clone(&left));
    let (most, got) = tokio::join!(looking, clients.join_all());
    pool.close().await;
    (got.into_iter().flatten().collect(), most)
}

fn check(user: &str) {
    let fleet = Fleet::new();
    fill(&fleet, user);
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
    let (got, most) = runtime.block_on(claims(&fleet.database.url()));
    let tasks: BTreeSet<&String> = got.iter().map(|(task, _)| task).collect();
    assert_eq!(got.len(), tasks.len(), "claimed twice");
    assert!(got.iter().all(|(_, attempt)| *attempt == 1));
    assert!(most > 0 && most <= USER_LIMIT, "{most} tasks of one user");
    assert!(got.len() as u32 > CLAIMS / 2, "{} of {CLAIMS} claims were granted", got.len());
    assert_eq!(fleet.database.ask(scans), before, "sequential scans");
    // Before all tables have statistics, and after; and each with the reading of heads, which is due once a second.
    for statistics in ["select 1", "analyze"] {
        fleet.database.run(statistics);
        let claim = body(0, json!({ "claim_id": uuid::Uuid::new_v4() }));
        for claim in [format!("select dogwatch.door_claim('{claim}', now(), 5)"), together()] {
            fleet.database.run("update dogwatch.claim_scans set at = '-infinity'");
            let plans = Cluster::shared().plans(&fleet.database, &claim);
            assert!(plans.contains("Index Scan using tasks_queued"), "{plans}");
            assert_eq!(read_whole(&plans), BTreeSet::new(), "{plans}");
            // What is counted for a limit is the user's, and not all that is in hand.
            assert!(!plans.contains("Index Scan using tasks_in_hand_of_worker"), "{plans}");
        }
    }
}

/// The tables that the plans read from end to end, but for `claim_scans`, whose rows are 64 at most.
fn read_whole(plans: &str) -> BTreeSet<&str> {
    let tables = plans.split("Seq Scan on ").skip(1).map(|scan| scan.split_whitespace().next().unwrap());
    tables.filter(|table| *table != "claim_scans").collect()
}

/// The claim of all clients at once.
fn together() -> String {
    let list = |of: fn(u32) -> String| (0..CLIENTS).map(of).collect::<Vec<_>>().join(",");
    format!(
        "select * from dogwatch.door_claims('{{{}}}', '{{{}}}', '{{{}}}', '{{{}}}', '{{{}}}', now(), {USER_LIMIT})",
        list(|client| format!("gpu-{client}")),
        list(|client| format!("token {client}")),
        list(|client| uuid::Uuid::from_u128(u128::from(client) + 1).to_string()),
        list(|_| uuid::Uuid::new_v4().to_string()),
        list(|_| "null".to_owned()),
    )
}

#[test]
fn sixteen_clients_claim_each_task_once_within_the_limit_and_by_index() {
    check(IN_TURN);
}

#[test]
fn sixteen_clients_behind_users_at_their_limit_claim_by_index_too() {
    check(IN_A_ROW);
}
