//! Leadership, and since when writes have arrived.

use std::time::Duration;

use super::Tx;
use super::fault::Fault;
use super::rows::{At, Values};
use crate::clock::{self, Time};
use crate::fleet::ids::{BootId, Term};
use crate::store::{Lease, LeaseAnswer, StoreError};

/// Every write of an orchestrator begins with this, in the same transaction: nobody can take the
/// lease over before that has ended.
pub(super) async fn guard(tx: &mut Tx, held: &Lease) -> Result<(), Fault> {
    let row = sqlx::query("select 1 from dogwatch.lease where name = $1 and term = $2 and holder = $3 for share")
        .bind(&held.name)
        .bind(held.term.0)
        .bind(held.holder.0)
        .fetch_optional(tx.db())
        .await?;
    row.map(|_| ()).ok_or(Fault::Store(StoreError::StaleTerm))
}

pub(super) async fn take(tx: &mut Tx, name: &str, holder: BootId, ttl: Duration) -> Result<LeaseAnswer, Fault> {
    let until = clock::plus(tx.now, ttl);
    // A row that is not there cannot be locked: of two who are the first ever, one makes it, and the
    // other waits here until it is there and is then answered by it.
    let made = sqlx::query(
        "insert into dogwatch.lease (name, holder, term, until) values ($1, $2, 1, $3) on conflict (name) do nothing",
    )
    .bind(name)
    .bind(holder.0)
    .bind(At(until))
    .execute(tx.db())
    .await?;
    if made.rows_affected() == 1 {
        return Ok(LeaseAnswer::Held(Lease { name: name.to_owned(), holder, term: Term(1), until }));
    }
    let row = sqlx::query("select holder, term, until from dogwatch.lease where name = $1 for update")
        .bind(name)
        .fetch_one(tx.db())
        .await?;
    let row = Values("lease", &row);
    let (other, held_until) = (row.uuid_opt("holder")?.map(BootId), row.time("until")?);
    let mut term = row.int("term")?;
    match other.filter(|_| held_until > tx.now) {
        Some(other) if other != holder => {
            return Ok(LeaseAnswer::Other { holder: other, term: Term(term), until: held_until });
        }
        Some(_) => {}
        None => term += 1,
    }
    sqlx::query("update dogwatch.lease set holder = $2, term = $3, until = $4 where name = $1")
        .bind(name)
        .bind(holder.0)
        .bind(term)
        .bind(At(until))
        .execute(tx.db())
        .await?;
    Ok(LeaseAnswer::Held(Lease { name: name.to_owned(), holder, term: Term(term), until }))
}

pub(super) async fn release(tx: &mut Tx, held: &Lease) -> Result<(), Fault> {
    sqlx::query(
        "update dogwatch.lease set holder = null, until = $4 where name = $1 and term = $2 and holder = $3",
    )
    .bind(&held.name)
    .bind(held.term.0)
    .bind(held.holder.0)
    .bind(tx.at())
    .execute(tx.db())
    .await?;
    Ok(())
}

pub(super) async fn touch(tx: &mut Tx, gap: Duration) -> Result<Time, Fault> {
    let oldest = At(clock::minus(tx.now, gap));
    let since: At = sqlx::query_scalar(
        "insert into dogwatch.writes as w (since, last) values ($1, $1)
         on conflict (one) do update set
             since = case when w.last < $2 then excluded.since else w.since end,
             last = greatest(w.last, excluded.last)
         returning since",
    )
    .bind(tx.at())
    .bind(oldest)
    .fetch_one(tx.db())
    .await?;
    Ok(since.0)
}

/// Since when writes have arrived; this instant where nobody has said so yet.
pub(super) async fn writes_since(tx: &mut Tx) -> Result<Time, Fault> {
    let since: Option<At> = sqlx::query_scalar("select since from dogwatch.writes").fetch_optional(tx.db()).await?;
    Ok(since.map_or(tx.now, |at| at.0))
}
