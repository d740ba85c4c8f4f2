//! Rows of `workers`: loaded whole, saved whole, in the same transaction.

use std::collections::HashMap;

use sqlx::postgres::PgRow;

use super::fault::Fault;
use super::rows::{At, Values, json, text};
use super::{Tx, limit};
use crate::clock::{self, Time};
use crate::fleet::cell::Offer;
use crate::fleet::ids::{PodId, TaskId, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::refusal::Refusal;
use crate::fleet::snapshot::Leaving;
use crate::fleet::state::{Status, WorkerState};
use crate::store::WorkerRow;
use crate::store::worker_row::WorkerData;

/// The worker, if there is one; its row is locked until the transaction ends.
pub(super) async fn load(tx: &mut Tx, id: &str) -> Result<Option<WorkerData>, Fault> {
    let row = sqlx::query("select * from dogwatch.workers where id = $1 for no key update")
        .bind(id)
        .fetch_optional(tx.db())
        .await?;
    row.as_ref().map(decode).transpose()
}

/// Newest first: those that have not ended, and those created since.
pub(super) async fn newest(tx: &mut Tx, since: Option<Time>, most: usize) -> Result<Vec<WorkerRow>, Fault> {
    let rows = sqlx::query(
        "select * from dogwatch.workers where ended_at is null or $1::timestamptz is null or created_at >= $1
         order by created_at desc, id desc limit $2",
    )
    .bind(since.map(At))
    .bind(limit(most))
    .fetch_all(tx.db())
    .await?;
    let mut hands = tasks_in_hand(tx).await?;
    rows.iter()
        .map(|row| {
            let worker = decode(row)?;
            let tasks = hands.remove(&worker.id).unwrap_or_default();
            Ok(worker.detail(tasks))
        })
        .collect()
}

/// Tasks in progress by worker, oldest claim first. Bounded by what workers can hold.
pub(super) async fn tasks_in_hand(tx: &mut Tx) -> Result<HashMap<WorkerId, Vec<TaskId>>, Fault> {
    let rows = sqlx::query(
        "select worker_id, id from dogwatch.dw_tasks where status = 'In Progress' order by started_at, id limit $1",
    )
    .bind(TASKS_IN_HAND_MAX)
    .fetch_all(tx.db())
    .await?;
    let mut hands: HashMap<WorkerId, Vec<TaskId>> = HashMap::new();
    for row in &rows {
        let row = Values("tasks", row);
        hands.entry(WorkerId(row.text("worker_id")?)).or_default().push(TaskId(row.uuid("id")?));
    }
    Ok(hands)
}

/// Most tasks in progress in one fleet.
const TASKS_IN_HAND_MAX: i64 = 1_000_000;

/// A row's values.
pub(super) fn decode(row: &PgRow) -> Result<WorkerData, Fault> {
    let row = Values("workers", row);
    let token = row.bytes_opt("token_sha256")?;
    let leaving_outcome = row.word_opt("leaving_outcome", Outcome::from_word)?;
    let leaving = match (leaving_outcome, row.time_opt("leaving_since")?) {
        (Some(outcome), Some(since)) => {
            Some(Leaving { outcome, reason: row.text_opt("leaving_reason")?.unwrap_or_default(), since })
        }
        _ => None,
    };
    Ok(WorkerData {
        id: WorkerId(row.text("id")?),
        status: row.word("status", Status::from_word)?,
        state: row.word("state", WorkerState::from_word)?,
        state_since: row.time("state_since")?,
        created_at: row.time("created_at")?,
        pool: row.text("pool")?,
        token_sha256: token.and_then(|bytes| bytes.try_into().ok()),
        pod_id: row.text_opt("pod_id")?.map(PodId),
        incarnation: row.uuid_opt("incarnation")?,
        beat_seq: row.int_opt("beat_seq")?,
        progress_seq: row.int_opt("progress_seq")?,
        promoted_at: row.time_opt("promoted_at")?,
        first_heartbeat_at: row.time_opt("first_heartbeat_at")?,
        last_heartbeat_at: row.time_opt("last_heartbeat")?,
        progress_at: row.time_opt("progress_at")?,
        idle_since: row.time_opt("idle_since")?,
        tasks_claimed: u32::try_from(row.int("tasks_claimed")?).unwrap_or(u32::MAX),
        leaving,
        ended_at: row.time_opt("ended_at")?,
        outcome: row.word_opt("outcome", Outcome::from_word)?,
        reason: row.text_opt("reason")?,
        actor: row.text_opt("actor")?,
        evidence: row.json("evidence")?,
        info: row.json_opt("info")?,
        exited_at: row.time_opt("exited_at")?,
        exit_report: row.json_opt("exit_report")?,
        quarantine: row.text_opt("quarantine")?,
        offer: Offer { cell: row.json_opt("cell")?, usd_per_hour: row.number_opt("usd_per_hour")? },
        refusal: row.word_opt("refusal", Refusal::from_word)?,
    })
}

/// Writes the whole row; it is made where it is not there.
pub(super) async fn save(tx: &mut Tx, worker: &WorkerData) -> Result<(), Fault> {
    let at = |time: Option<Time>| time.map(At);
    let leaving = worker.leaving.as_ref();
    sqlx::query(SAVE)
        .bind(&worker.id.0)
        .bind(worker.status.word())
        .bind(worker.state.word())
        .bind(At(worker.state_since))
        .bind(At(worker.created_at))
        .bind(&worker.pool)
        .bind(worker.token_sha256.as_ref().map(<[u8; 32]>::as_slice))
        .bind(worker.pod_id.as_ref().map(|pod| &pod.0))
        .bind(worker.incarnation)
        .bind(worker.beat_seq)
        .bind(worker.progress_seq)
        .bind(at(worker.promoted_at))
        .bind(at(worker.first_heartbeat_at))
        .bind(at(worker.last_heartbeat_at))
        .bind(at(worker.progress_at))
        .bind(at(worker.idle_since))
        .bind(i64::from(worker.tasks_claimed))
        .bind(leaving.map(|leaving| leaving.outcome.word()))
        .bind(leaving.map(|leaving| text(&leaving.reason)))
        .bind(leaving.map(|leaving| At(leaving.since)))
        .bind(at(worker.ended_at))
        .bind(worker.outcome.map(Outcome::word))
        .bind(worker.reason.as_deref().map(text))
        .bind(worker.actor.as_deref().map(text))
        .bind(json(&worker.evidence)?)
        .bind(worker.info.as_ref().map(json).transpose()?)
        .bind(at(worker.exited_at))
        .bind(worker.exit_report.as_ref().map(json).transpose()?)
        .bind(worker.quarantine.as_deref().map(text))
        .bind(worker.offer.cell.as_ref().map(json).transpose()?)
        .bind(worker.offer.usd_per_hour)
        .bind(worker.refusal.map(Refusal::word))
        .execute(tx.db())
        .await?;
    Ok(())
}

const SAVE: &str = "
insert into dogwatch.workers (
    id, status, state, state_since, created_at, pool, token_sha256, pod_id, incarnation, beat_seq, progress_seq,
    promoted_at, first_heartbeat_at, last_heartbeat, progress_at, idle_since, tasks_claimed, leaving_outcome,
    leaving_reason, leaving_since, ended_at, outcome, reason, actor, evidence, info, exited_at, exit_report, quarantine,
    cell, usd_per_hour, refusal)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
    $24, $25, $26, $27, $28, $29, $30, $31, $32)
on conflict (id) do update set
    status = excluded.status, state = excluded.state, state_since = excluded.state_since,
    token_sha256 = excluded.token_sha256, pod_id = excluded.pod_id, incarnation = excluded.incarnation,
    beat_seq = excluded.beat_seq, progress_seq = excluded.progress_seq, promoted_at = excluded.promoted_at,
    first_heartbeat_at = excluded.first_heartbeat_at, last_heartbeat = excluded.last_heartbeat,
    progress_at = excluded.progress_at, idle_since = excluded.idle_since, tasks_claimed = excluded.tasks_claimed,
    leaving_outcome = excluded.leaving_outcome, leaving_reason = excluded.leaving_reason,
    leaving_since = excluded.leaving_since, ended_at = excluded.ended_at, outcome = excluded.outcome,
    reason = excluded.reason, actor = excluded.actor, evidence = excluded.evidence, info = excluded.info,
    exited_at = excluded.exited_at, exit_report = excluded.exit_report, quarantine = excluded.quarantine,
    refusal = excluded.refusal";

/// The instant that many microseconds before the transaction's.
pub(super) fn before(tx: &Tx, span: std::time::Duration) -> At {
    At(clock::minus(tx.now, span))
}
