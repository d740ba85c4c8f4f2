//! Claims: 16 clients, 200,000 queued tasks, at most 5 of a user in hand, nothing ended meanwhile.
//!
//! Beside a bare claim (the oldest row by `for update skip locked`, no limits, no caller, no record of
//! it) and beside the same with the two other rows that the protocol keeps. The contenders alternate,
//! each on its own copy of the filled database; what the first calls of a session cost (plans) is not
//! measured, for none of them.

use std::collections::HashSet;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use dogwatch::clock::monotonic;
use dogwatch::rpc;
use dogwatch::store::postgres::{CONNECTIONS_MAX, PostgresStore};
use dogwatch::store::{TimeSource, WorkerDoor as _};
use dogwatch::telemetry::exporter::postgres::Address;
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::postgres_rig::{Cluster, Database};

const CLIENTS: u32 = 16;
const TASKS: u32 = 200_000;
const USER_LIMIT: u32 = 5;
/// Claims of one client before the clock starts.
const WARM_UP: u32 = 20;
const ROUNDS: usize = 3;

/// Whose the tasks are.
struct Shape {
    name: &'static str,
    /// Whose task `i` is, as SQL.
    user: &'static str,
    /// Claims of one client.
    claims: u32,
}

const SHAPES: [Shape; 2] = [
    Shape { name: "5,000 users in turn", user: "i % 5000", claims: 500 },
    Shape { name: "500 users, 400 tasks in a row each: the head is full", user: "i / 400", claims: 120 },
];

/// Who claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Bare,
    BareWithRows,
    Function,
    Store,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Bare, "bare `for update skip locked`"),
    (Way::BareWithRows, "the same, with the attempt's and the worker's row"),
    (Way::Function, "dogwatch, the SQL function"),
    (Way::Store, "dogwatch, through the store: together"),
];

/// What one contender came to.
#[derive(Default)]
struct Outcome {
    rates: Vec<f64>,
    granted: usize,
    asked: usize,
    twice: usize,
    above: u64,
    scans: u64,
    /// Claims that were written, and the transactions that wrote them.
    written: (u64, u64),
}

pub(crate) fn run(cluster: &Cluster, runtime: &Runtime) -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    for shape in &SHAPES {
        let filled = crate::migrated(cluster, runtime)?;
        fill(&filled, shape);
        let mut outcomes: Vec<Outcome> = WAYS.iter().map(|_| Outcome::default()).collect();
        for round in 0..ROUNDS {
            for ((way, _), outcome) in WAYS.iter().zip(&mut outcomes) {
                let name = format!("{}_{round}_{}", filled.name, *way as usize);
                cluster.admin().run(&format!("create database {name} template {}", filled.name));
                cluster.admin().run("checkpoint");
                let database = filled.named(&name);
                runtime.block_on(contend(&database, *way, shape, outcome))?;
                check(&database, outcome);
                cluster.admin().run(&format!("drop database {name} with (force)"));
            }
        }
        table(&mut out, shape, &mut outcomes)?;
        let plans =
            cluster.plans(&filled, &format!("select dogwatch.door_claim('{}', now(), {USER_LIMIT})", body(0)));
        let read: Vec<&str> = plans.lines().filter(|line| line.contains("Seq Scan")).collect();
        writeln!(
            out,
            "\nEXPLAIN of a claim and all it calls: {} plans, sequential scans: {read:?}",
            plans.matches("Query Text").count()
        )?;
    }
    Ok(out)
}

fn fill(database: &Database, shape: &Shape) {
    database.run(&format!(
        "insert into dogwatch.tasks (task_type, user_id, created_at)
         select 'render', 'user-' || {}, now() - interval '1 hour' + i * interval '1 ms' from generate_series(1, {TASKS}) i;
         insert into dogwatch.workers (id, status, state, state_since, created_at, pool, token_sha256)
         select 'gpu-' || i, 'spawning', 'created', now(), now(), 'default', sha256(convert_to('token ' || i, 'UTF8'))
         from generate_series(0, {}) i",
        shape.user,
        CLIENTS - 1
    ));
    for client in 0..CLIENTS {
        let mut body = body(client);
        body["info"] = json!({});
        database.run(&format!("select dogwatch.door_register('{body}', now())"));
    }
    database.run("vacuum analyze dogwatch.tasks");
    database.run("vacuum analyze dogwatch.workers");
}

fn caller(client: u32) -> rpc::Caller {
    rpc::Caller {
        worker_id: format!("gpu-{client}"),
        worker_token: format!("token {client}"),
        incarnation: Uuid::from_u128(u128::from(client) + 1),
    }
}

/// A claim's body.
fn body(client: u32) -> Value {
    let mut body = json!(caller(client));
    body["claim_id"] = json!(Uuid::new_v4());
    body
}

async fn contend(
    database: &Database,
    way: Way,
    shape: &Shape,
    outcome: &mut Outcome,
) -> Result<(), Box<dyn Error>> {
    let pool =
        PgPoolOptions::new().max_connections(CLIENTS).min_connections(CLIENTS).connect(&database.url()).await?;
    let store = Arc::new(PostgresStore::open(&Address::parse(&database.url())?, TimeSource::Database).await?);
    let mut got = batch(&pool, &store, way, WARM_UP).await?;
    let began = monotonic();
    let timed = batch(&pool, &store, way, shape.claims).await?;
    let took = (monotonic() - began).as_secs_f64();
    outcome.rates.push(timed.len() as f64 / took);
    outcome.asked += ((WARM_UP + shape.claims) * CLIENTS) as usize;
    got.extend(timed);
    outcome.granted += got.len();
    outcome.twice += got.len() - got.iter().collect::<HashSet<_>>().len();
    store.close().await;
    pool.close().await;
    Ok(())
}

/// All clients at once; the tasks that they got.
async fn batch(
    pool: &PgPool,
    store: &Arc<PostgresStore>,
    way: Way,
    claims: u32,
) -> Result<Vec<Uuid>, Box<dyn Error>> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (pool, store) = (pool.clone(), Arc::clone(store));
        clients.spawn(async move {
            let mut got = Vec::new();
            for _ in 0..claims {
                got.extend(claim(&pool, &store, way, client).await.map_err(|error| error.to_string())?);
            }
            Ok::<_, String>(got)
        });
    }
    let mut all = Vec::new();
    while let Some(got) = clients.join_next().await {
        all.extend(got??);
    }
    Ok(all)
}

async fn claim(
    pool: &PgPool,
    store: &PostgresStore,
    way: Way,
    client: u32,
) -> Result<Option<Uuid>, Box<dyn Error + Send + Sync>> {
    const BARE: &str = "update dogwatch.tasks set status = 'In Progress', worker_id = $1, attempts = attempts + 1,
             generation_started_at = now()
         where id = (select id from dogwatch.tasks where status = 'Queued' order by created_at, id limit 1
             for update skip locked)
         returning id";
    const ROWS: &str = "with worker as (
             update dogwatch.workers set tasks_claimed = tasks_claimed + 1, progress_at = now() where id = $1)
         insert into dogwatch.task_attempts (task_id, attempt, worker_id, incarnation, claim_id, claimed_at)
         values ($2, 1, $1, $3, $4, now())";
    let caller = caller(client);
    match way {
        Way::Bare => Ok(sqlx::query_scalar(BARE).bind(&caller.worker_id).fetch_optional(pool).await?),
        Way::BareWithRows => {
            let mut tx = pool.begin().await?;
            let task: Option<Uuid> =
                sqlx::query_scalar(BARE).bind(&caller.worker_id).fetch_optional(&mut *tx).await?;
            let rows = sqlx::query(ROWS).bind(&caller.worker_id).bind(task).bind(caller.incarnation);
            rows.bind(Uuid::new_v4()).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(task)
        }
        Way::Function => {
            let sql = "select dogwatch.door_claim($1, now(), $2)";
            let query = sqlx::query_scalar(sql).bind(body(client)).bind(i64::from(USER_LIMIT));
            let answer: Option<Value> = query.fetch_one(pool).await?;
            let Some(answer) = answer else { return Ok(None) };
            let task = answer["task_id"].as_str().ok_or_else(|| answer.to_string())?;
            Ok(Some(task.parse()?))
        }
        Way::Store => {
            let claim = rpc::Claim { claim_id: Uuid::new_v4(), run_type: None };
            Ok(store.claim_task(&caller, &claim, USER_LIMIT).await?.map(|claimed| claimed.task_id))
        }
    }
}

/// Sequential scans of the tables that grow, and users who have more than they may.
fn check(database: &Database, outcome: &mut Outcome) {
    let scans = database.ask(
        "select coalesce(sum(seq_scan), 0) from pg_stat_user_tables
         where schemaname = 'dogwatch' and relname in ('tasks', 'task_attempts')",
    );
    outcome.scans += scans.parse::<u64>().unwrap_or(u64::MAX);
    outcome.written.0 += database.count("dogwatch.task_attempts");
    outcome.written.1 += database.count("(select distinct xmin::text from dogwatch.task_attempts) written");
    outcome.above += database.count(&format!(
        "(select from dogwatch.tasks where status = 'In Progress' group by user_id having count(*) > {USER_LIMIT}) above"
    ));
}

fn table(out: &mut String, shape: &Shape, outcomes: &mut [Outcome]) -> Result<(), Box<dyn Error>> {
    for outcome in &mut *outcomes {
        outcome.rates.sort_by(f64::total_cmp);
    }
    let rates: Vec<f64> = outcomes.iter().map(|outcome| outcome.rates[ROUNDS / 2]).collect();
    writeln!(
        out,
        "\n{TASKS} queued of {}; {CLIENTS} clients (the store: {CONNECTIONS_MAX} connections), limit {USER_LIMIT} a user; \
         medians of {ROUNDS}\n",
        shape.name
    )?;
    writeln!(
        out,
        "| claim | x of bare | claims/s | granted | a transaction | twice | users above the limit | sequential scans |"
    )?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|---:|")?;
    for (((_, name), outcome), rate) in WAYS.iter().zip(&*outcomes).zip(&rates) {
        writeln!(
            out,
            "| {name} | {:.2} | {rate:.0} | {} of {} | {:.1} | {} | {} | {} |",
            rate / rates[0],
            outcome.granted,
            outcome.asked,
            // A bare claim leaves no record, and is one transaction.
            outcome.written.0.max(1) as f64 / outcome.written.1.max(1) as f64,
            outcome.twice,
            outcome.above,
            outcome.scans,
        )?;
    }
    Ok(())
}
