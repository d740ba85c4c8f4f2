//! The watch's own two pages: `/livez` says whether rounds still run, `/metrics` what they found.
//!
//! The listener comes from the caller, who chose the address; so does the text of the metrics,
//! since the recorder is the process's.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::http::Token;
use crate::supervise::Pulse;
use crate::supervise::task::Stop;

/// Gives the text of all metrics.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// The pages. `/livez` answers 503 once no round has ended for `silent_max`. `/metrics` wants
/// `token` where there is one, which is wherever the listener is not on loopback.
pub fn router(pulse: Pulse, silent_max: Duration, render: Render, token: Option<Token>) -> Router {
    let livez = move || async move {
        let silent = pulse.silent_for();
        let text = format!("rounds {}, newest {:.1} s ago\n", pulse.progress_count(), silent.as_secs_f64());
        (if silent >= silent_max { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, text)
    };
    let metrics = move |headers: HeaderMap| async move {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match token.is_none_or(|token| token.is_in(shown)) {
            true => (StatusCode::OK, render()),
            false => (StatusCode::UNAUTHORIZED, "send DOGWATCH_TOKEN as bearer\n".to_owned()),
        }
    };
    Router::new().route("/livez", get(livez)).route("/metrics", get(metrics))
}

/// Serves until the stop.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, router: Router, mut stop: Stop) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.raised().await }).await
}
