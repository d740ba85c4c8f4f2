//! Orders of humans with an end, which pool takes which tasks, and the audit read back.

use super::fault::Fault;
use super::operators::audit as note;
use super::rows::{At, Values, json, text};
use super::{Tx, limit};
use crate::clock;
use crate::fleet::order::{Command, NewOrder, ORDERS_MAX, Order, OrderId};
use crate::fleet::pool::PoolTasks;
use crate::store::{AuditRow, OrderRow};

pub(super) async fn give(tx: &mut Tx, new: &NewOrder) -> Result<Order, Fault> {
    new.check().map_err(|rule| Fault::bad_row("the order", rule))?;
    tx.alone("orders").await?;
    if in_force(tx).await?.len() >= ORDERS_MAX {
        return Err(Fault::bad_row("the order", format!("{ORDERS_MAX} orders are in force; end some first")));
    }
    let mut command = new.command.clone();
    if let Command::Spawn { pool, beside, .. } = &mut command {
        *beside = staying(tx, pool.as_deref()).await?;
    }
    let until = new.lasts.map(|lasts| clock::plus(tx.now, lasts));
    let id: i64 = sqlx::query_scalar(
        "insert into dogwatch.orders (command, actor, reason, since, until) values ($1, $2, $3, $4, $5) returning id",
    )
    .bind(json(&command)?)
    .bind(text(&new.actor))
    .bind(text(&new.reason))
    .bind(tx.at())
    .bind(until.map(At))
    .fetch_one(tx.db())
    .await?;
    note(tx, &new.actor, command.word(), Some(&command.target()), &new.reason).await?;
    let (actor, reason) = (new.actor.clone(), new.reason.clone());
    Ok(Order { id: OrderId(id), command, actor, reason, since: tx.now, until })
}

/// Workers that are there and staying.
async fn staying(tx: &mut Tx, pool: Option<&str>) -> Result<u32, Fault> {
    let count: i64 = sqlx::query_scalar(
        "select count(*) from dogwatch.workers
         where ended_at is null and leaving_since is null and state not in ('draining', 'terminating')
             and ($1::text is null or pool = $1)",
    )
    .bind(pool.map(text))
    .fetch_one(tx.db())
    .await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(super) async fn end(tx: &mut Tx, order: OrderId, actor: &str, reason: &str) -> Result<bool, Fault> {
    let ended = sqlx::query(
        "update dogwatch.orders set ended_at = $2, ended_by = $3, ended_reason = $4
         where id = $1 and ended_at is null and (until is null or until > $2)",
    )
    .bind(order.0)
    .bind(tx.at())
    .bind(text(actor))
    .bind(text(reason))
    .execute(tx.db())
    .await?
    .rows_affected();
    if ended > 0 {
        note(tx, actor, "end an order", Some(&order.0.to_string()), reason).await?;
    }
    Ok(ended > 0)
}

/// Orders in force, oldest first.
pub(super) async fn in_force(tx: &mut Tx) -> Result<Vec<Order>, Fault> {
    let rows = sqlx::query(
        "select * from dogwatch.orders where ended_at is null and (until is null or until > $1) order by id limit $2",
    )
    .bind(tx.at())
    .bind(i64::try_from(ORDERS_MAX).unwrap_or(i64::MAX))
    .fetch_all(tx.db())
    .await?;
    rows.iter().map(|row| decode(&Values("orders", row))).collect()
}

pub(super) async fn newest(tx: &mut Tx, most: usize) -> Result<Vec<OrderRow>, Fault> {
    let rows = sqlx::query("select * from dogwatch.orders order by id desc limit $1")
        .bind(limit(most))
        .fetch_all(tx.db())
        .await?;
    rows.iter()
        .map(|row| {
            let row = Values("orders", row);
            Ok(OrderRow {
                order: decode(&row)?,
                ended_at: row.time_opt("ended_at")?,
                ended_by: row.text_opt("ended_by")?,
                ended_reason: row.text_opt("ended_reason")?,
            })
        })
        .collect()
}

fn decode(row: &Values<'_>) -> Result<Order, Fault> {
    Ok(Order {
        id: OrderId(row.int("id")?),
        command: row.json("command")?,
        actor: row.text("actor")?,
        reason: row.text("reason")?,
        since: row.time("since")?,
        until: row.time_opt("until")?,
    })
}

pub(super) async fn audit(tx: &mut Tx, most: usize) -> Result<Vec<AuditRow>, Fault> {
    let rows = sqlx::query("select * from dogwatch.audit order by id desc limit $1")
        .bind(limit(most))
        .fetch_all(tx.db())
        .await?;
    rows.iter()
        .map(|row| {
            let row = Values("audit", row);
            Ok(AuditRow {
                at: row.time("at")?,
                actor: row.text("actor")?,
                verb: row.text("verb")?,
                target: row.text_opt("target")?,
                reason: row.text("reason")?,
            })
        })
        .collect()
}

/// The whole mapping at once.
pub(super) async fn set_pools(tx: &mut Tx, pools: &[PoolTasks]) -> Result<(), Fault> {
    tx.alone("pools").await?;
    sqlx::query("delete from dogwatch.queue_pools").execute(tx.db()).await?;
    for pool in pools {
        let rest = [String::new()];
        let types = if pool.task_types.is_empty() { &rest[..] } else { &pool.task_types };
        for task_type in types {
            sqlx::query("insert into dogwatch.queue_pools (task_type, pool) values ($1, $2)")
                .bind(text(task_type))
                .bind(text(&pool.pool))
                .execute(tx.db())
                .await?;
        }
    }
    Ok(())
}
