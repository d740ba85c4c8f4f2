//! Decision rows: the snapshot itself, what was decided, and what became of it.
//!
//! A snapshot's body is stored without what differs each cycle anyhow (see `snapshot_body`), so
//! that a fleet in which nothing happens stores one body for many rows. Rows that are too old or
//! too many are deleted in small batches, one batch a cycle.

use std::time::Duration;

use sha2::Digest as _;
use sqlx::QueryBuilder;

use super::fault::Fault;
use super::rows::{At, Values, text};
use super::{Tx, lease, limit, workers};
use crate::fleet::decision::Decision;
use crate::fleet::ids::{BootId, Term};
use crate::fleet::snapshot::Snapshot;
use crate::store::snapshot_body::{self, Instant};
use crate::store::{ActionResult, CycleRecord, DecisionId, DecisionQuery, DecisionRow, Lease};

/// Decision rows are kept this long.
const DECISIONS_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Most decision rows that are kept.
const DECISIONS_ROWS_MAX: i64 = 200_000;
/// Rows that one cycle deletes at most.
const DELETE_BATCH_ROWS: i64 = 50;

pub(super) async fn write(tx: &mut Tx, held: &Lease, record: &CycleRecord) -> Result<DecisionId, Fault> {
    let id = insert(tx, held.term, record).await?;
    delete_old(tx).await?;
    Ok(id)
}

/// Writes the row, and the snapshot's body where it is another one than the newest.
pub(super) async fn insert(tx: &mut Tx, term: Term, record: &CycleRecord) -> Result<DecisionId, Fault> {
    let (instant, body) =
        snapshot_body::split(&record.snapshot).map_err(|error| Fault::bad_row("the snapshot", error))?;
    let snapshot = store_body(tx, &body).await?;
    let decision =
        serde_json::to_string(&record.decision).map_err(|error| Fault::bad_row("the decision", error))?;
    let actions = record.decision.live.as_ref().map_or(0, |live| live.actions.len());
    let id = sqlx::query_scalar(
        "insert into dogwatch.decisions (boot_id, cycle, term, at, trace_id, snapshot_id, as_of, snap_cycle, database_age,
             provider_age, decision, actions)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::json, $12) returning id",
    )
    .bind(record.boot_id.0)
    .bind(record.cycle)
    .bind(term.0)
    .bind(tx.at())
    .bind(&record.trace_id)
    .bind(snapshot)
    .bind(instant.as_of.to_string())
    .bind(instant.cycle)
    .bind(instant.database_age)
    .bind(instant.provider_age)
    .bind(decision)
    .bind(i64::try_from(actions).unwrap_or(i64::MAX))
    .fetch_one(tx.db())
    .await?;
    Ok(DecisionId(id))
}

/// The row of this body: the newest one where it is the same.
async fn store_body(tx: &mut Tx, body: &[u8]) -> Result<i64, Fault> {
    let sha256: [u8; 32] = sha2::Sha256::digest(body).into();
    let newest: Option<i64> = sqlx::query_scalar(
        "select id from dogwatch.snapshots where id = (select max(id) from dogwatch.snapshots) and sha256 = $1",
    )
    .bind(sha256.as_slice())
    .fetch_optional(tx.db())
    .await?;
    if let Some(id) = newest {
        return Ok(id);
    }
    let packed = snapshot_body::pack(body).map_err(|error| Fault::bad_row("the snapshot", error))?;
    Ok(sqlx::query_scalar("insert into dogwatch.snapshots (sha256, body) values ($1, $2) returning id")
        .bind(sha256.as_slice())
        .bind(packed)
        .fetch_one(tx.db())
        .await?)
}

async fn delete_old(tx: &mut Tx) -> Result<(), Fault> {
    let oldest = workers::before(tx, DECISIONS_KEPT);
    let deleted = sqlx::query(
        "delete from dogwatch.decisions where id in (
             select id from dogwatch.decisions
             where at < $1 or id <= (select max(id) from dogwatch.decisions) - $2
             order by id limit $3)",
    )
    .bind(oldest)
    .bind(DECISIONS_ROWS_MAX)
    .bind(DELETE_BATCH_ROWS)
    .execute(tx.db())
    .await?
    .rows_affected();
    if deleted > 0 {
        sqlx::query(
            "delete from dogwatch.snapshots where id in (
                 select id from dogwatch.snapshots where id < (select min(snapshot_id) from dogwatch.decisions) order by id limit $1)",
        )
        .bind(DELETE_BATCH_ROWS)
        .execute(tx.db())
        .await?;
    }
    Ok(())
}

pub(super) async fn action_result(
    tx: &mut Tx,
    held: &Lease,
    decision: DecisionId,
    index: usize,
    result: &ActionResult,
) -> Result<(), Fault> {
    lease::guard(tx, held).await?;
    let index = i64::try_from(index).unwrap_or(i64::MAX);
    let added = sqlx::query(
        "insert into dogwatch.action_results (decision_id, idx, ok, detail, at)
         select id, $2::bigint, $3::boolean, $4::text, $5::timestamptz from dogwatch.decisions where id = $1 and actions > $2
         on conflict (decision_id, idx) do update set ok = excluded.ok, detail = excluded.detail, at = excluded.at",
    )
    .bind(decision.0)
    .bind(index)
    .bind(result.ok)
    .bind(text(&result.detail))
    .bind(tx.at())
    .execute(tx.db())
    .await?
    .rows_affected();
    if added == 0 {
        return Err(Fault::bad_row(format!("decision {}", decision.0), format!("it has no action {index}")));
    }
    Ok(())
}

pub(super) async fn read(tx: &mut Tx, query: &DecisionQuery) -> Result<Vec<DecisionRow>, Fault> {
    let mut sql = QueryBuilder::<sqlx::Postgres>::new(
        "select d.*, s.body from dogwatch.decisions d join dogwatch.snapshots s on s.id = d.snapshot_id where true",
    );
    if let Some(since) = query.since {
        sql.push(" and d.at >= ").push_bind(At(since));
    }
    if let Some(until) = query.until {
        sql.push(" and d.at <= ").push_bind(At(until));
    }
    if let Some(cycle) = query.cycle {
        sql.push(" and d.cycle = ").push_bind(cycle);
    }
    if let Some(after) = query.after {
        sql.push(" and d.id > ").push_bind(after.0);
    }
    sql.push(if query.oldest_first { " order by d.id limit " } else { " order by d.id desc limit " });
    let rows = sql.push_bind(limit(query.limit)).build().fetch_all(tx.db()).await?;
    let mut decisions = Vec::with_capacity(rows.len());
    for row in &rows {
        let row = Values("decisions", row);
        let id = DecisionId(row.int("id")?);
        let results = results(tx, id, row.int("actions")?).await?;
        decisions.push(DecisionRow {
            id,
            boot_id: BootId(row.uuid("boot_id")?),
            cycle: row.int("cycle")?,
            term: Term(row.int("term")?),
            at: row.time("at")?,
            trace_id: row.text_opt("trace_id")?,
            snapshot: snapshot(&row)?,
            decision: row.json::<Decision>("decision")?,
            results,
            imported: row.text_opt("imported")?,
        });
    }
    Ok(decisions)
}

fn snapshot(row: &Values<'_>) -> Result<Snapshot, Fault> {
    let bad = |error: &dyn std::fmt::Display| Fault::bad_row("a decision's snapshot", error);
    let instant = Instant {
        as_of: row.text("as_of")?.parse().map_err(|error| bad(&error))?,
        cycle: row.int_opt("snap_cycle")?,
        database_age: row.int_opt("database_age")?,
        provider_age: row.int_opt("provider_age")?,
    };
    let body = row.bytes_opt("body")?.unwrap_or_default();
    snapshot_body::join(&instant, &body).map_err(|error| bad(&error))
}

async fn results(tx: &mut Tx, decision: DecisionId, actions: i64) -> Result<Vec<Option<ActionResult>>, Fault> {
    let mut results = vec![None; usize::try_from(actions).unwrap_or(0)];
    if results.is_empty() {
        return Ok(results);
    }
    let rows = sqlx::query("select idx, ok, detail from dogwatch.action_results where decision_id = $1")
        .bind(decision.0)
        .fetch_all(tx.db())
        .await?;
    for row in &rows {
        let row = Values("action_results", row);
        let slot = usize::try_from(row.int("idx")?).ok().and_then(|index| results.get_mut(index));
        if let Some(slot) = slot {
            *slot = Some(ActionResult { ok: row.flag("ok")?, detail: row.text("detail")? });
        }
    }
    Ok(results)
}
