//! One consistent read of everything a cycle needs; the queue is counted, never listed.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;

use super::fault::Fault;
use super::rows::Values;
use super::{Tx, lease, operators, orders, workers};
use crate::clock;
use crate::fleet::ids::TaskId;
use crate::fleet::snapshot::{Demand, DemandLive, Suspect, User, Worker};
use crate::fleet::task::Bucket;
use crate::store::{DEMAND_USERS_MAX, FleetRead, OBSERVED_WORKERS_MAX, READ_ROWS_MAX, UserTotals};

pub(super) async fn observe(tx: &mut Tx, ended_within: Duration, user_task_limit: u32) -> Result<FleetRead, Fault> {
    let mut workers = observed_workers(tx, ended_within).await?;
    suspects(tx, &mut workers).await?;
    let mut demand = demand(tx, user_task_limit).await?;
    if let Some(live) = &mut demand.live {
        live.pools = pools(tx, user_task_limit).await?;
    }
    Ok(FleetRead {
        now: tx.now,
        workers,
        demand,
        records: Vec::new(),
        writes_since: lease::writes_since(tx).await?,
        pause: operators::pause_in_force(tx).await?,
        orders: orders::in_force(tx).await?,
        ended_today_usd: ended_today_usd(tx).await?,
    })
}

async fn observed_workers(tx: &mut Tx, ended_within: Duration) -> Result<Vec<Worker>, Fault> {
    let rows = sqlx::query(
        "select * from workers where ended_at is null or ended_at >= ?1 order by created_at, id limit ?2 + 1",
    )
    .bind(workers::before(tx, ended_within))
    .bind(i64::try_from(OBSERVED_WORKERS_MAX).unwrap_or(i64::MAX))
    .fetch_all(tx.db())
    .await?;
    if rows.len() > OBSERVED_WORKERS_MAX {
        // A read that was cut is no observation: what is absent from it would look ended.
        return Err(Fault::bad_row("workers", format!("more than {OBSERVED_WORKERS_MAX} rows to observe")));
    }
    let mut hands = workers::tasks_in_hand(tx).await?;
    rows.iter()
        .map(|row| {
            let worker = workers::decode(row)?;
            let tasks = hands.remove(&worker.id).unwrap_or_default();
            Ok(worker.worker(tasks))
        })
        .collect()
}

/// The queue, counted once: the row without a user holds the sums over all users, also where there
/// are too many to list.
async fn demand(tx: &mut Tx, user_task_limit: u32) -> Result<Demand, Fault> {
    let rows = sqlx::query(
        "with counted as materialized (
             select d.*, min(ready, max(0, ?1 - in_progress)) as claimable from dw_demand d
         )
         select null as user_id, null as queued, null as in_progress, null as waits, null as credits,
             null as cloud_enabled, sum(paused) as paused, sum(poisoned) as poisoned, sum(too_old) as too_old,
             sum(no_credits) as no_credits, sum(cloud_disabled) as cloud_disabled, sum(dependency) as dependency,
             sum(wrong_type) as wrong_type, sum(ready - claimable) as user_limit, sum(claimable) as claimable,
             min(case when claimable > 0 then ready_since end) as oldest_claimable_at
         from counted
         union all
         select * from (
             select c.user_id, c.queued, c.in_progress, c.waits, u.credits, u.cloud_enabled,
                 null, null, null, null, null, null, null, null, null, null
             from counted c left join users u on u.user_id = c.user_id order by c.user_id limit ?2)",
    )
    .bind(i64::from(user_task_limit))
    .bind(i64::try_from(DEMAND_USERS_MAX).unwrap_or(i64::MAX))
    .fetch_all(tx.db())
    .await?;
    let mut demand = Demand::default();
    for row in &rows {
        let values = Values("dw_demand", row);
        if values.text_opt("user_id")?.is_some() {
            demand.users.push(user(row)?);
        } else {
            let oldest_claimable_at = values.time_opt("oldest_claimable_at")?;
            demand.live = Some(DemandLive { buckets: buckets(row)?, oldest_claimable_at, ..DemandLive::default() });
        }
    }
    demand.users.sort_by(|a, b| a.user.cmp(&b.user));
    Ok(demand)
}

/// Claimable tasks by pool, where pools are declared: what a user's limit leaves goes to the pools in
/// the order of their names.
async fn pools(tx: &mut Tx, user_task_limit: u32) -> Result<BTreeMap<String, u64>, Fault> {
    let declared = sqlx::query("select 1 from queue_pools limit 1").fetch_optional(tx.db()).await?;
    if declared.is_none() {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query(
        "with ready as (
             select user_id, pool, sum(tasks) as tasks from dw_counts where bucket = 'ready' group by user_id, pool
         ), hands as (
             select user_id, count(*) as tasks from dw_tasks where status = 'In Progress' group by user_id
         ), shared as (
             select r.pool, r.tasks, max(0, ?1 - coalesce(h.tasks, 0)) as free,
                 coalesce(sum(r.tasks) over (
                     partition by r.user_id order by r.pool rows between unbounded preceding and 1 preceding), 0) as before
             from ready r left join hands h on h.user_id = r.user_id
         )
         select pool, sum(max(0, min(tasks, free - before))) as claimable from shared group by pool order by pool",
    )
    .bind(i64::from(user_task_limit))
    .fetch_all(tx.db())
    .await?;
    rows.iter()
        .map(|row| {
            let row = Values("dw_counts", row);
            Ok((row.text("pool")?, row.count("claimable")?))
        })
        .collect()
}

/// For each task in hand, what became of the earlier workers that died with it in theirs.
async fn suspects(tx: &mut Tx, workers: &mut [Worker]) -> Result<(), Fault> {
    let rows = sqlx::query(
        "select t.id, t.worker_id, t.generation_started_at, a.claimed_at, w.last_heartbeat
         from tasks t
         join task_attempts a on a.task_id = t.id and a.attempt < t.attempts and a.answer is null
         join workers w on w.id = a.worker_id and w.ended_at = a.ended_at
         where t.status = 'In Progress' and w.outcome in ('worker_crash', 'stalled', 'poison_task')
         order by t.generation_started_at, t.id, a.attempt limit ?1",
    )
    .bind(i64::try_from(READ_ROWS_MAX).unwrap_or(i64::MAX))
    .fetch_all(tx.db())
    .await?;
    for row in &rows {
        let row = Values("task_attempts", row);
        let holder = row.text("worker_id")?;
        let task = TaskId(row.uuid("id")?);
        let (claimed, last) = (row.time("claimed_at")?, row.time_opt("last_heartbeat")?);
        let after = clock::age(last.unwrap_or(claimed), claimed).as_secs();
        let live = workers.iter_mut().find(|worker| worker.id.0 == holder).and_then(|worker| worker.live.as_mut());
        let Some(live) = live else { continue };
        match live.suspects.iter_mut().find(|suspect| suspect.task == task) {
            Some(suspect) => suspect.deaths_after_seconds.push(after),
            None => live.suspects.push(Suspect {
                task,
                claimed_at: row.time("generation_started_at")?,
                deaths_after_seconds: vec![after],
            }),
        }
    }
    Ok(())
}

/// What workers that ended today have cost today; micro-dollars, so that the sum does not depend on
/// its order.
async fn ended_today_usd(tx: &mut Tx) -> Result<Option<f64>, Fault> {
    const DAY: i64 = 86_400_000_000;
    let midnight = tx.micros().div_euclid(DAY) * DAY;
    let micro_usd: Option<i64> = sqlx::query_scalar(
        "select sum(cast(round(usd_per_hour * (ended_at - max(created_at, ?1)) / 3600.0) as integer))
         from workers where ended_at >= ?1 and usd_per_hour is not null and pod_id is not null",
    )
    .bind(midnight)
    .fetch_one(tx.db())
    .await?;
    Ok(micro_usd.map(|micro_usd| micro_usd as f64 / 1e6))
}

fn user(row: &SqliteRow) -> Result<User, Fault> {
    let row = Values("dw_demand", row);
    Ok(User {
        user: row.text("user_id")?,
        queued: row.count("queued")?,
        in_progress: row.count("in_progress")?,
        credits: row.number_opt("credits")?,
        cloud_enabled: row.int_opt("cloud_enabled")?.map(|enabled| enabled != 0),
        dependency_blocked: row.count("waits")?,
    })
}

fn buckets(row: &SqliteRow) -> Result<BTreeMap<Bucket, u64>, Fault> {
    let row = Values("dw_demand", row);
    let mut buckets = BTreeMap::new();
    for bucket in Bucket::ALL {
        let tasks = u64::try_from(row.int_opt(bucket.word())?.unwrap_or(0)).unwrap_or(0);
        if tasks > 0 {
            buckets.insert(bucket, tasks);
        }
    }
    Ok(buckets)
}

pub(super) async fn totals(tx: &mut Tx, user_task_limit: u32) -> Result<Vec<UserTotals>, Fault> {
    let mut users: BTreeMap<String, UserTotals> = BTreeMap::new();
    let rows = sqlx::query(
        "select user_id, status, count(*) as n from dw_tasks
         where user_id in (select distinct user_id from dw_tasks order by user_id limit ?1)
         group by user_id, status",
    )
    .bind(i64::try_from(READ_ROWS_MAX).unwrap_or(i64::MAX))
    .fetch_all(tx.db())
    .await?;
    for row in &rows {
        let row = Values("dw_tasks", row);
        let user = row.text("user_id")?;
        let totals = users.entry(user.clone()).or_insert_with(|| UserTotals { user, ..UserTotals::default() });
        totals.by_status.insert(row.text("status")?, row.count("n")?);
    }
    let rows = sqlx::query(
        "select user_id, paused, poisoned, too_old, no_credits, cloud_disabled, dependency, wrong_type,
             ready - min(ready, max(0, ?1 - in_progress)) as user_limit,
             min(ready, max(0, ?1 - in_progress)) as claimable
         from dw_demand where queued > 0 order by user_id limit ?2",
    )
    .bind(i64::from(user_task_limit))
    .bind(i64::try_from(READ_ROWS_MAX).unwrap_or(i64::MAX))
    .fetch_all(tx.db())
    .await?;
    for row in &rows {
        if let Some(totals) = users.get_mut(&Values("dw_demand", row).text("user_id")?) {
            totals.by_bucket =
                buckets(row)?.into_iter().map(|(bucket, tasks)| (bucket.word().to_owned(), tasks)).collect();
        }
    }
    Ok(users.into_values().collect())
}
