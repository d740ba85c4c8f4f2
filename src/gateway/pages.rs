//! Health and metrics, and the token that guards pages beyond loopback.
//!
//! `/livez` says that the process answers; `/readyz` that it can take work, from what it knows
//! already: asking the database there would let a slow database take the gateway out of service.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::{App, Shared, reply};

/// The token of pages. Its text never appears in Debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl Token {
    /// Whether `shown` is this token, in a time that does not depend on where they differ:
    /// digests are compared, every byte of them.
    pub fn is(&self, shown: &str) -> bool {
        let (ours, theirs) = (Sha256::digest(self.0.as_bytes()), Sha256::digest(shown.as_bytes()));
        ours.iter().zip(theirs.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

pub(super) async fn livez() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(shared): App) -> Response {
    match (shared.gateway.ready)() {
        Ok(()) => "ready\n".into_response(),
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
    if shared.is_loopback || shared.gateway.token.as_ref().is_some_and(|token| has(request.headers(), token)) {
        return next.run(request).await;
    }
    let message = "this gateway listens beyond loopback: send DOGWATCH_TOKEN as bearer";
    let mut response = reply::failure(StatusCode::UNAUTHORIZED, "DW401", message);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn has(headers: &HeaderMap, token: &Token) -> bool {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value
        .and_then(|value| value.split_once(' '))
        .is_some_and(|(scheme, shown)| scheme.eq_ignore_ascii_case("bearer") && token.is(shown.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_opens() {
        let token = Token("s3cret".into());
        let shown = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(text).unwrap());
            has(&headers, &token)
        };
        assert!(shown("Bearer s3cret") && shown("bearer s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer", "Bearer "] {
            assert!(!shown(wrong), "{wrong}");
        }
        assert!(!has(&HeaderMap::new(), &token));
        assert!(!format!("{token:?}").contains("s3cret"));
    }
}
