//! `POST /rest/v1/rpc/<function>`: one call of the workers' protocol.
//!
//! Read, hand over, write down; counted by function and status. A body that is no JSON and a name
//! that is no function are answered as PostgREST answers them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{App, IngestError, Shared, check, ingest, reply};
use crate::rpc::{Caller, Claim, Claimed, ExitCall, Function, Register};
use crate::store::RpcError;
use crate::telemetry::propagation;
use crate::{catalogue, rpc};
use crate::{clock, error};

/// Shortest time between two lines about a failing store.
const OUTAGE_LINE_PERIOD: Duration = Duration::from_secs(5);

/// The handler: every answer is counted, also those to bodies that could not be read.
pub(super) async fn call(
    State(shared): App,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let function = Function::from_name(&name);
    let response = match function {
        Some(function) => answer(&shared, function, body).await,
        None => no_such_function(&name),
    };
    metrics::counter!(
        catalogue::RPC_CALLS.name,
        "function" => function.map_or("unknown", Function::name),
        "status" => response.status().as_str().to_owned(),
    )
    .increment(1);
    response
}

async fn answer(shared: &Arc<Shared>, function: Function, body: Result<Bytes, BytesRejection>) -> Response {
    let bytes = match body {
        Ok(bytes) => bytes,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is larger than {} bytes", rpc::BODY_BYTES_MAX);
            return reply::failure(StatusCode::PAYLOAD_TOO_LARGE, "DW413", &message);
        }
        Err(_) => return bad_json("the body could not be read to its end"),
    };
    let body: Value = match serde_json::from_slice(&bytes) {
        Ok(body) => body,
        Err(error) => return bad_json(&format!("not JSON: {error}")),
    };
    match dispatch(shared, function, &body).await {
        Ok(value) => reply::json(StatusCode::OK, &value),
        Err(error) => {
            note(&shared.outage, function, &body, &error);
            reply::error(&error)
        }
    }
}

async fn dispatch(shared: &Arc<Shared>, function: Function, body: &Value) -> Result<Value, RpcError> {
    let caller: Caller = check::read(body)?;
    let store = &shared.gateway.store;
    Ok(match function {
        Function::Register => {
            let Register { info } = check::read(body)?;
            json!(store.register(&caller, &info, &shared.live).await?)
        }
        Function::Heartbeat => json!(store.heartbeat(&caller, &check::read(body)?).await?),
        Function::ClaimTask => json!(claim(shared, &caller, &check::read(body)?).await?),
        Function::TaskProgress => json!(store.task_progress(&caller, &check::read_progress(body)?).await?),
        Function::CompleteTask => {
            let end = store.complete_task(&caller, &check::read(body)?).await?;
            json!({ "status": end.status })
        }
        Function::FailTask => {
            json!(store.fail_task(&caller, &check::read(body)?).await?)
        }
        Function::IngestLogs => ingest_logs(shared, &caller, body).await?,
        Function::Exit => {
            let ExitCall { report } = check::read(body)?;
            store.exit(&caller, &report).await?;
            json!({})
        }
    })
}

/// A granted claim is one step of the task's own trace: submit, claim, run, complete.
async fn claim(shared: &Arc<Shared>, caller: &Caller, claim: &Claim) -> Result<Option<Claimed>, RpcError> {
    let limit = shared.gateway.policy.user_task_limit;
    let claimed = shared.gateway.store.claim_task(caller, claim, limit).await?;
    if let Some(task) = &claimed {
        let (task_id, attempt) = (task.task_id.to_string(), task.attempt);
        let span = tracing::info_span!("claim", task_id, worker_id = caller.worker_id, attempt);
        propagation::join(&span, task.traceparent.as_deref());
        span.in_scope(|| tracing::info!(task_id, worker_id = caller.worker_id, attempt, "task claimed"));
    }
    Ok(claimed)
}

async fn ingest_logs(shared: &Arc<Shared>, caller: &Caller, body: &Value) -> Result<Value, RpcError> {
    let rows = ingest::read_rows(body, &crate::fleet::ids::WorkerId(caller.worker_id.clone()))?;
    shared.gateway.store.authenticate(caller).await?;
    match shared.gateway.ingest.ingest(rows).await {
        Ok(ingested) => Ok(json!(ingested)),
        Err(IngestError::Unavailable(source)) => {
            Err(crate::store::StoreError::Unavailable { doing: "writing log rows", source }.into())
        }
        Err(IngestError::BadRow { index, detail }) => {
            Err(rpc::Refusal::malformed(&format!("rows[{index}]"), &detail).into())
        }
    }
}

/// A refused caller is one line at DEBUG (the store keeps refusals); a failing store is our
/// trouble, told at most once in [`OUTAGE_LINE_PERIOD`] whatever the number of agents.
fn note(outage: &Outage, function: Function, body: &Value, error: &RpcError) {
    let worker_id = body.get("worker_id").and_then(Value::as_str).unwrap_or_default();
    match error {
        RpcError::Refused(refusal) => {
            tracing::debug!(function = function.name(), worker_id, refusal = %refusal, "call refused");
        }
        RpcError::Store(failed) => {
            let Some(untold) = outage.tell(clock::monotonic()) else { return };
            let error = error::chain(failed);
            tracing::error!(function = function.name(), worker_id, error, untold, "call failed in the store");
        }
    }
}

/// Failures of the store, and when the last one was told.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<(Option<Duration>, u64)>);

impl Outage {
    /// How many failures were not told since the last line, if it is time for another.
    fn tell(&self, now: Duration) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|told| now.saturating_sub(told) < OUTAGE_LINE_PERIOD) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}

fn bad_json(detail: &str) -> Response {
    let body = json!({ "code": "PGRST102", "message": "Empty or invalid json", "details": detail, "hint": null });
    reply::json(StatusCode::BAD_REQUEST, &body)
}

fn no_such_function(name: &str) -> Response {
    let known = Function::ALL.map(Function::name).join(", ");
    let shown: String = name.chars().take(64).collect();
    let body = json!({
        "code": "PGRST202",
        "message": format!("Could not find the function public.{shown} in the schema cache"),
        "details": null,
        "hint": format!("the functions are {known}"),
    });
    reply::json(StatusCode::NOT_FOUND, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_one_line_a_period_and_the_others_are_counted() {
        let (outage, at) = (Outage::default(), Duration::from_secs);
        let told: Vec<_> = [0, 1, 4, 5, 6, 20].iter().map(|second| outage.tell(at(*second))).collect();
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
