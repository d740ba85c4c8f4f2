//! Health and metrics, and the token that guards pages beyond loopback.
//!
//! `/livez` says that the process answers; `/readyz` that it can take work (a standby does, too),
//! from what it knows already: asking the database there would let a slow database take the gateway out of service.

use std::sync::Arc;

use super::{App, Shared, reply};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

pub(super) async fn livez() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(shared): App) -> Response {
    match (shared.gateway.ready)() {
        Ok(standing) => format!("ready: {standing}\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

pub(super) async fn metrics(State(shared): App) -> Response {
    let mut response = (shared.gateway.metrics)().into_response();
    let prometheus = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, prometheus);
    response
}

pub(super) async fn not_found() -> Response {
    reply::failure(StatusCode::NOT_FOUND, "DW404", "there is nothing here; see /livez, /readyz, /metrics")
}

/// Lets a request through on loopback, or with the token as bearer.
pub(super) async fn require_token(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if shared.is_loopback || shared.gateway.token.as_ref().is_some_and(|token| token.is_in(authorization(&request)))
    {
        return next.run(request).await;
    }
    let message = "this gateway listens beyond loopback: send DOGWATCH_TOKEN as bearer";
    let mut response = reply::failure(StatusCode::UNAUTHORIZED, "DW401", message);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn authorization(request: &Request) -> Option<&str> {
    request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok())
}
