//! The workers' way in: each call is one statement, the function `dogwatch.door_*` that also answers
//! those who call the database by themselves. Every rule of the protocol is there and not here.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;

use super::fault::Fault;
use super::rows::{At, kept};
use crate::rpc::{self, Function, Refusal};

type Answer<T> = Result<T, Fault>;

/// The statement of a call: body, clock, and for a claim the limit of tasks per user.
fn statement(function: Function) -> Option<&'static str> {
    Some(match function {
        Function::Register => {
            "select dogwatch.noted('dw_register', $1, dogwatch.door_register($1, coalesce($2, now())), \
             coalesce($2, now()))"
        }
        Function::Heartbeat => {
            "select dogwatch.noted('dw_heartbeat', $1, dogwatch.door_heartbeat($1, coalesce($2, now())), \
             coalesce($2, now()))"
        }
        Function::ClaimTask => {
            "select dogwatch.noted('dw_claim_task', $1, dogwatch.door_claim($1, coalesce($2, now()), $3), \
             coalesce($2, now()))"
        }
        Function::TaskProgress => {
            "select dogwatch.noted('dw_task_progress', $1, dogwatch.door_progress($1, coalesce($2, now())), \
             coalesce($2, now()))"
        }
        Function::CompleteTask => {
            "select dogwatch.noted('dw_complete_task', $1, dogwatch.door_complete($1, coalesce($2, now())), \
             coalesce($2, now()))"
        }
        Function::FailTask => {
            "select dogwatch.noted('dw_fail_task', $1, dogwatch.door_fail($1, coalesce($2, now())), \
             coalesce($2, now()))"
        }
        Function::Exit => {
            "select dogwatch.noted('dw_exit', $1, dogwatch.door_exit($1, coalesce($2, now())), coalesce($2, now()))"
        }
        Function::IngestLogs => return None,
    })
}

/// Who calls, with the keys of the call.
pub(super) fn body(caller: &rpc::Caller, keys: Value) -> Value {
    let mut body = json!(caller);
    if let (Value::Object(body), Value::Object(keys)) = (&mut body, keys) {
        body.extend(keys);
    }
    kept(body)
}

/// One call. `limit` is asked for by a claim only.
pub(super) async fn call<T: DeserializeOwned>(
    pool: &PgPool,
    function: Function,
    body: Value,
    (now, limit): (Option<At>, Option<i64>),
) -> Answer<T> {
    let Some(sql) = statement(function) else {
        return Err(Fault::bad_row(function.name(), "the log half answers it"));
    };
    let mut query = sqlx::query_scalar::<_, Option<Value>>(sql).bind(body).bind(now);
    if let Some(limit) = limit {
        query = query.bind(limit);
    }
    read(function.name(), query.fetch_one(pool).await?)
}

/// The worker of a caller, checked.
pub(super) async fn authenticate(pool: &PgPool, body: Value, now: Option<At>) -> Answer<String> {
    let sql = "select dogwatch.noted('authenticate', $1, dogwatch.door_authenticate($1), coalesce($2, now()))";
    let answer = sqlx::query_scalar::<_, Option<Value>>(sql).bind(body).bind(now).fetch_one(pool).await?;
    read("authenticate", answer)
}

fn read<T: DeserializeOwned>(function: &'static str, answer: Option<Value>) -> Answer<T> {
    let answer = answer.unwrap_or(Value::Null);
    if answer.get("code").is_some_and(Value::is_string) {
        let refusal: Refusal = serde_json::from_value(answer).map_err(|error| Fault::bad_row(function, error))?;
        return Err(Fault::Refused(refusal));
    }
    serde_json::from_value(answer).map_err(|error| Fault::bad_row(function, error))
}
