//! The HTTP way in: the workers' protocol, health and metrics.
//!
//! Thin by design: a body is checked key by key, handed to the [`Store`] or the [`LogIngest`], and
//! the answer is written down in the shape of PostgREST, so that an agent cannot tell a gateway
//! from a Supabase project. It promises: every call is answered, also one whose handler panics;
//! nothing a caller sends makes it answer 5xx; bodies, connections and request times are limited;
//! `/livez` and `/readyz` answer without the database. It decides nothing about the fleet.

mod check;
mod ingest;
mod listener;
mod pages;
mod reply;
mod rpc;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

pub use crate::http::Token;
pub use ingest::{IngestError, LogIngest};

use crate::fleet::policy::{Policy, PolicyLive};
use crate::store::Store;
use crate::supervise::task::Stop;

/// Longest time from a request's headers to its answer.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Time that requests in hand get to end after the stop signal.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Renders the metrics page.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;
/// Says whether work can be taken, and as what; Err = why not. Must not ask the database.
pub type Ready = Arc<dyn Fn() -> Result<&'static str, String> + Send + Sync>;

/// What the gateway speaks for.
#[derive(Clone)]
pub struct Gateway {
    /// Answers the workers' calls.
    pub store: Arc<dyn Store>,
    /// Takes the workers' log rows.
    pub ingest: Arc<dyn LogIngest>,
    /// Periods told to agents, and the limit of tasks per user.
    pub policy: Policy,
    /// Text of `/metrics`.
    pub metrics: RenderMetrics,
    /// Answer of `/readyz`.
    pub ready: Ready,
    /// Bearer of `/metrics` and the pages where the gateway listens beyond loopback. Without one
    /// they are closed there.
    pub token: Option<Token>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("policy", &self.policy).field("token", &self.token).finish_non_exhaustive()
    }
}

/// Serves until `stop` is raised, then lets requests in hand end within [`STOP_LIMIT`].
///
/// # Errors
/// The listener has no address, or the operating system refused to go on.
pub async fn serve(listener: TcpListener, gateway: Gateway, stop: Stop) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let app = router(gateway, address);
    let (mut ask, mut give_up) = (stop.clone(), stop);
    let server = axum::serve(listener::Limited::new(listener), app)
        .with_graceful_shutdown(async move { ask.raised().await })
        .into_future();
    let limit = async {
        give_up.raised().await;
        tokio::time::sleep(STOP_LIMIT).await;
    };
    tokio::select! {
        ended = server => ended,
        () = limit => Ok(()),
    }
}

/// All routes. `address`: where the listener is bound; beyond loopback the pages need the token.
fn router(gateway: Gateway, address: SocketAddr) -> Router {
    let shared = Arc::new(Shared {
        live: gateway.policy.live.clone().unwrap_or_default(),
        is_loopback: address.ip().is_loopback(),
        outage: rpc::Outage::default(),
        gateway,
    });
    let guarded = Router::new()
        .route("/metrics", get(pages::metrics))
        .layer(from_fn_with_state(Arc::clone(&shared), pages::require_token));
    Router::new()
        .route("/rest/v1/rpc/{function}", post(rpc::call))
        .route("/livez", get(pages::livez))
        .route("/readyz", get(pages::readyz))
        .merge(guarded)
        .fallback(pages::not_found)
        .layer(DefaultBodyLimit::max(crate::rpc::BODY_BYTES_MAX))
        .layer(from_fn(limit_and_catch))
        .with_state(shared)
}

/// What every handler sees.
struct Shared {
    gateway: Gateway,
    live: PolicyLive,
    is_loopback: bool,
    outage: rpc::Outage,
}

type App = State<Arc<Shared>>;

/// Answers 408 after [`REQUEST_LIMIT`] and 500 where the handler panics, so that one bad request
/// costs neither a connection nor the server.
async fn limit_and_catch(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut handler = Box::pin(next.run(request));
    let caught = std::future::poll_fn(move |context| {
        match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => std::task::Poll::Ready(None),
        }
    });
    match tokio::time::timeout(REQUEST_LIMIT, caught).await {
        Ok(Some(response)) => response,
        Ok(None) => {
            tracing::error!(path, "a request's handler panicked");
            reply::failure(StatusCode::INTERNAL_SERVER_ERROR, "DW500", "this request hit a bug of the gateway")
        }
        Err(_) => reply::failure(StatusCode::REQUEST_TIMEOUT, "DW408", "the request was not complete in time")
            .into_response(),
    }
}
