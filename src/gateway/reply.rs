//! Answers in PostgREST's shape: `{code, message, details, hint}` with the status that goes with
//! it. A worker decides by the status alone; the text is for whoever reads its log.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::rpc::Refusal;
use crate::store::{RpcError, StoreError};

/// What a client is told to wait when the store does not answer, seconds.
const RETRY_AFTER_SECONDS: &str = "2";

/// A JSON body with a status.
pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    let mut response = (status, value.to_string()).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

/// A failure of the gateway or of the request as a whole.
pub(super) fn failure(status: StatusCode, code: &str, message: &str) -> Response {
    json(status, &json!({ "code": code, "message": message, "details": null, "hint": null }))
}

/// A refusal of the protocol.
pub(super) fn refusal(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
    let Refusal { code, message, details, hint } = refusal;
    json(status, &json!({ "code": code, "message": message, "details": details, "hint": hint }))
}

/// The store said no, or nothing.
pub(super) fn error(error: &RpcError) -> Response {
    match error {
        RpcError::Refused(refused) => refusal(refused),
        RpcError::Store(store) => store_error(store),
    }
}

/// "Not now": the caller keeps its call and comes again.
pub(super) fn not_now(message: &str) -> Response {
    let mut response = failure(StatusCode::SERVICE_UNAVAILABLE, "DW503", message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    response
}

fn store_error(error: &StoreError) -> Response {
    match error {
        StoreError::Unavailable { .. } => not_now("the database does not answer"),
        StoreError::Schema { .. } | StoreError::Open { .. } => not_now("the database is not usable"),
        StoreError::StaleTerm | StoreError::BadRow { .. } => {
            failure(StatusCode::INTERNAL_SERVER_ERROR, "DW500", "the stored row cannot be used")
        }
    }
}
