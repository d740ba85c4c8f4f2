//! Claims that wait at the same moment are one transaction.
//!
//! One claim is under way at a time; who comes meanwhile waits, and whoever has the next turn asks for
//! all who wait, itself among them, in the order in which they came. There is no task and no timer
//! behind it: each turn is carried by one of the callers, so that a claim of which there is only one is
//! asked for at once.
//!
//! It promises that each caller has its own answer. What the statement leaves open, which are all
//! refusals and whatever somebody else holds, each asks for by itself, and so does everybody whose
//! statement the database refused or whose carrier went away: a claim bears an id, so that one that was
//! granted unseen is answered with the same task. A caller that goes away before its turn is not asked
//! for. Where the database is away, all who waited for it hear of it, and nobody asks a second time.
//!
//! It knows no rule of a claim: these are in the database, for the claims of many and for that of one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::postgres::{PgPool, PgRow};
use tokio::sync::oneshot;

use super::fault::{Fault, is_everybodys};
use super::open;
use super::rows::{At, Values, text};
use crate::rpc::{Caller, Claim, Claimed};
use crate::store::{StoreError, TimeSource};

/// Claims of one transaction: what they hold, they hold until the last of them is written.
pub(super) const CLAIMS_TOGETHER_MAX: usize = 64;
/// From this level of the schema on claims can be made together.
pub(super) const LEVEL_TOGETHER: i64 = 4;
/// Claims between two looks whether a database of an older level was brought up.
pub(super) const LOOK_EVERY: u32 = 256;
/// That it was; nothing goes back.
const IS_THERE: u32 = u32::MAX;

/// Where the claims of one process meet.
#[derive(Debug, Default)]
pub(super) struct Together {
    waiting: Mutex<VecDeque<Waiting>>,
    turn: tokio::sync::Mutex<()>,
    /// Claims until the next look at the schema's level, or [`IS_THERE`].
    until_look: AtomicU32,
}

#[derive(Debug)]
struct Waiting {
    caller: Caller,
    claim: Claim,
    limit: u32,
    tell: oneshot::Sender<Told>,
}

/// What a caller is told.
#[derive(Debug)]
pub(super) enum Told {
    /// The task, or that there is none.
    Answer(Option<Claimed>),
    /// To ask by itself.
    Alone,
    /// What went wrong with the database.
    Away(String),
}

impl Together {
    /// The answer to a claim, asked for together with those of others.
    pub(super) async fn claim(
        &self,
        (pool, time): (&PgPool, &TimeSource),
        (caller, claim, limit): (&Caller, &Claim, u32),
    ) -> Result<Told, StoreError> {
        if !self.is_there(pool).await? {
            return Ok(Told::Alone);
        }
        let (tell, mut told) = oneshot::channel();
        self.waiting().push_back(Waiting { caller: caller.clone(), claim: claim.clone(), limit, tell });
        loop {
            tokio::select! {
                biased;
                told = &mut told => return Ok(told.unwrap_or(Told::Alone)),
                turn = self.turn.lock() => {
                    self.gather().await;
                    let group = self.next_group();
                    if !group.is_empty() {
                        ask(pool, time, group).await;
                    }
                    drop(turn);
                }
            }
        }
    }

    /// Lets those run who are about to ask, as those do who were told a moment ago, for as long as they come.
    async fn gather(&self) {
        let (mut before, mut now) = (0, self.many());
        while before < now && now < CLAIMS_TOGETHER_MAX {
            tokio::task::yield_now().await;
            (before, now) = (now, self.many());
        }
    }

    /// The first who still wait, under one limit.
    fn next_group(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        let mut group: Vec<Waiting> = Vec::new();
        while group.len() < CLAIMS_TOGETHER_MAX {
            let Some(next) = waiting.pop_front() else { break };
            if next.tell.is_closed() {
                continue;
            }
            if group.first().is_some_and(|first| first.limit != next.limit) {
                waiting.push_front(next);
                break;
            }
            group.push(next);
        }
        group
    }

    /// Whether the schema has the statement; asked until it has.
    async fn is_there(&self, pool: &PgPool) -> Result<bool, StoreError> {
        let count = |left: u32| (left != IS_THERE && left > 0).then(|| left - 1);
        match self.until_look.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) {
            Ok(_) => Ok(false),
            Err(IS_THERE) => Ok(true),
            Err(_) => {
                let is_there = open::level(pool).await? >= LEVEL_TOGETHER;
                self.until_look.store(if is_there { IS_THERE } else { LOOK_EVERY }, Ordering::Relaxed);
                Ok(is_there)
            }
        }
    }

    fn many(&self) -> usize {
        self.waiting().len()
    }

    /// Nobody has a turn while this is held.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// How many wait for a turn.
    #[cfg(test)]
    pub(super) fn waits(&self) -> usize {
        self.waiting().iter().filter(|waiting| !waiting.tell.is_closed()).count()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for all of them, and tells each.
async fn ask(pool: &PgPool, time: &TimeSource, group: Vec<Waiting>) {
    let mut answers: Vec<Told> = group.iter().map(|_| Told::Alone).collect();
    match rows(pool, time, &group).await {
        Ok(rows) => {
            for row in &rows {
                // What cannot be read is asked for again, and that answer is its caller's.
                if let Ok((number, task)) = read(row)
                    && let Some(answer) = answers.get_mut(number)
                {
                    *answer = Told::Answer(task);
                }
            }
        }
        Err(error) if is_everybodys(&error) => {
            let text = error.to_string();
            answers.fill_with(|| Told::Away(text.clone()));
        }
        Err(_) => {}
    }
    for (waiting, answer) in group.into_iter().zip(answers) {
        // Whoever has gone asks again under the same id, or not at all.
        let _ = waiting.tell.send(answer);
    }
}

async fn rows(pool: &PgPool, time: &TimeSource, group: &[Waiting]) -> Result<Vec<PgRow>, sqlx::Error> {
    let texts = |of: fn(&Waiting) -> &str| -> Vec<String> {
        group.iter().map(|waiting| text(of(waiting)).into_owned()).collect()
    };
    let run_types: Vec<Option<String>> =
        group.iter().map(|waiting| waiting.claim.run_type.as_deref().map(|run| text(run).into_owned())).collect();
    let starts: Vec<uuid::Uuid> = group.iter().map(|waiting| waiting.caller.incarnation).collect();
    let claims: Vec<uuid::Uuid> = group.iter().map(|waiting| waiting.claim.claim_id).collect();
    sqlx::query(
        "select n, task, attempt, task_type, params, traceparent, user_id
         from dogwatch.door_claims($1, $2, $3, $4, $5, coalesce($6, now()), $7)",
    )
    .bind(texts(|waiting| &waiting.caller.worker_id))
    .bind(texts(|waiting| &waiting.caller.worker_token))
    .bind(starts)
    .bind(claims)
    .bind(run_types)
    .bind(time.parameter().map(At::micros))
    .bind(i64::from(group.first().map_or(0, |waiting| waiting.limit)))
    .fetch_all(pool)
    .await
}

/// Whose answer it is, from 0 on, and the answer.
fn read(row: &PgRow) -> Result<(usize, Option<Claimed>), Fault> {
    let row = Values("claims", row);
    let number = usize::try_from(row.int("n")? - 1).map_err(|error| Fault::bad_row("a claim", error))?;
    let Some(task_id) = row.uuid_opt("task")? else { return Ok((number, None)) };
    let claimed = Claimed {
        task_id,
        attempt: row.int("attempt")?,
        task_type: row.text("task_type")?,
        params: row.json("params")?,
        traceparent: row.text_opt("traceparent")?,
        user: row.text("user_id")?,
    };
    Ok((number, Some(claimed)))
}
