//! One consistent read of everything a cycle needs; the queue is counted, never listed.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgRow;

use super::fault::Fault;
use super::rows::{At, Values};
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

pub(super) async fn observed_workers(tx: &mut Tx, ended_within: Duration) -> Result<Vec<Worker>, Fault> {
    let rows = sqlx::query(
        "select * from dogwatch.workers where ended_at is null or ended_at >= $1 order by created_at, id limit $2",
    )
    .bind(workers::before(tx, ended_within))
    .bind(i64::try_from(OBSERVED_WORKERS_MAX + 1).unwrap_or(i64::MAX))
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
pub(super) async fn demand(tx: &mut Tx, user_task_limit: u32) -> Result<Demand, Fault> {
    let rows = sqlx::query(
        "with counted as materialized (
             select d.*, least(ready, greatest(0, $1 - in_progress)) as claimable from dogwatch.dw_demand d
         )
         select null::text as user_id, null::bigint as queued, null::bigint as in_progress, null::bigint as waits,
             null::double precision as credits, null::boolean as cloud_enabled, sum(paused)::bigint as paused,
             sum(poisoned)::bigint as poisoned, sum(too_old)::bigint as too_old, sum(no_credits)::bigint as no_credits,
             sum(cloud_disabled)::bigint as cloud_disabled, sum(dependency)::bigint as dependency,
             sum(wrong_type)::bigint as wrong_type, sum(ready - claimable)::bigint as user_limit,
             sum(claimable)::bigint as claimable, min(ready_since) filter (where claimable > 0) as oldest_claimable_at
         from counted
         union all
         select * from (
             select c.user_id, c.queued, c.in_progress, c.waits, u.credits, u.cloud_enabled,
                 null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint,
                 null::bigint, null::bigint, null::timestamptz
             from counted c left join dogwatch.users u on u.user_id = c.user_id order by c.user_id limit $2) users",
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
    let declared = sqlx::query("select 1 from dogwatch.queue_pools limit 1").fetch_optional(tx.db()).await?;
    if declared.is_none() {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query(
        "with ready as (
             select user_id, pool, count(*) as tasks from dogwatch.dw_queue where bucket = 'ready' group by user_id, pool
         ), hands as (
             select user_id, count(*) as tasks from dogwatch.dw_tasks where status = 'In Progress' group by user_id
         ), shared as (
             select r.pool, r.tasks, greatest(0, $1 - coalesce(h.tasks, 0)) as free,
                 coalesce(sum(r.tasks) over (partition by r.user_id order by r.pool collate \"C\"
                     rows between unbounded preceding and 1 preceding), 0) as before
             from ready r left join hands h on h.user_id = r.user_id
         )
         select pool, sum(greatest(0, least(tasks, free - before)))::bigint as claimable from shared group by pool",
    )
    .bind(i64::from(user_task_limit))
    .fetch_all(tx.db())
    .await?;
    rows.iter()
        .map(|row| {
            let row = Values("dw_queue", row);
            Ok((row.text("pool")?, row.count("claimable")?))
        })
        .collect()
}

/// For each task in hand, what became of the earlier workers that died with it in theirs.
async fn suspects(tx: &mut Tx, workers: &mut [Worker]) -> Result<(), Fault> {
    let rows = sqlx::query(
        "select t.id, t.worker_id, t.started_at, a.claimed_at, w.last_heartbeat
         from dogwatch.dw_tasks t
         join dogwatch.task_attempts a on a.task_id = t.id and a.attempt < t.attempts and a.answer is null
         join dogwatch.workers w on w.id = a.worker_id and w.ended_at = a.ended_at
         where t.status = 'In Progress' and w.outcome in ('worker_crash', 'stalled', 'poison_task')
         order by t.started_at, t.id, a.attempt limit $1",
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
                claimed_at: row.time("started_at")?,
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
    let midnight = At::micros(tx.now.as_microsecond().div_euclid(DAY) * DAY);
    let micro_usd: Option<i64> = sqlx::query_scalar(
        "select sum(trunc(usd_per_hour * micros / 3600.0 + 0.5)::bigint)::bigint from (
             select usd_per_hour,
                 (extract(epoch from ended_at - greatest(created_at, $1)) * 1000000)::double precision as micros
             from dogwatch.workers where ended_at >= $1 and usd_per_hour is not null and pod_id is not null) ended",
    )
    .bind(midnight)
    .fetch_one(tx.db())
    .await?;
    Ok(micro_usd.map(|micro_usd| micro_usd as f64 / 1e6))
}

fn user(row: &PgRow) -> Result<User, Fault> {
    let row = Values("dw_demand", row);
    Ok(User {
        user: row.text("user_id")?,
        queued: row.count("queued")?,
        in_progress: row.count("in_progress")?,
        credits: row.number_opt("credits")?,
        cloud_enabled: row.flag_opt("cloud_enabled")?,
        dependency_blocked: row.count("waits")?,
    })
}

fn buckets(row: &PgRow) -> Result<BTreeMap<Bucket, u64>, Fault> {
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
        "select user_id, status, count(*) as n from dogwatch.dw_tasks
         where user_id in (select distinct user_id from dogwatch.dw_tasks order by user_id limit $1)
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
             ready - least(ready, greatest(0, $1 - in_progress)) as user_limit,
             least(ready, greatest(0, $1 - in_progress)) as claimable
         from dogwatch.dw_demand where queued > 0 order by user_id limit $2",
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
