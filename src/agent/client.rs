//! The agent's HTTP client. It decides by the status alone, as RPC.md says.
//!
//! One call, one answer or one [`CallError`] whose variants are what the caller does next. The
//! token goes into the body and nowhere else: no redirect is followed, errors carry no URL.

use std::time::Duration;

use reqwest::{StatusCode, Url, header, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{AgentConfig, AgentError};
use crate::backoff::Backoff;
use crate::error;
use crate::rpc::{self, Caller, Function, Refusal};
use crate::telemetry::propagation;

/// Longest wait for one answer.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Longest answer that is read, bytes: a task's parameters are the largest part of any.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Most of an answer's text that an error keeps, characters.
const DETAIL_CHARS_MAX: usize = 300;
/// Waits between tries.
const RETRY: Backoff = Backoff { base: Duration::from_millis(200), ceiling: Duration::from_secs(10), jitter: 0.5 };
/// Wait before a held call is tried again: nobody but a human changes the answer.
const HOLD: Backoff = Backoff { base: Duration::from_secs(30), ceiling: Duration::from_secs(30), jitter: 0.5 };

/// Why there is no result, and so what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    /// 401, 409: this worker or attempt is over.
    #[error("{status}: {detail}")]
    Stop { status: u16, detail: String },
    /// Our bug or a wrong base: a human has to look.
    #[error("{status}: {detail}")]
    Hold { status: u16, detail: String },
    /// 413: send less at once.
    #[error("413: the body is too large")]
    TooLarge,
    /// No answer, or "not now".
    #[error("{detail}")]
    Retry { after: Option<Duration>, detail: String },
}

impl CallError {
    /// How long to wait before try number `attempt` (0 = the first repetition).
    pub(super) fn wait(&self, attempt: u32) -> Duration {
        match self {
            CallError::Retry { after, .. } => RETRY.delay(attempt, random()).max(after.unwrap_or_default()),
            _ => HOLD.delay(0, random()),
        }
    }
}

/// Calls the base as one incarnation of one worker.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    api_key: Option<super::ApiKey>,
    caller: Identity,
}

/// Who calls, without a Debug output that shows the token.
struct Identity(Caller);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0.worker_id, self.0.incarnation)
    }
}

#[derive(Serialize)]
struct Body<'a, B> {
    #[serde(flatten)]
    caller: &'a Caller,
    #[serde(flatten)]
    keys: &'a B,
}

impl Client {
    pub(super) fn new(config: &AgentConfig) -> Result<Client, AgentError> {
        let bad = |detail: String| AgentError::BadBase { url: config.base_url.clone(), detail };
        let mut base = Url::parse(&config.base_url).map_err(|error| bad(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(bad("expected http://host:port or https://host".into()));
        }
        base.set_path(&format!("{}{}", base.path().trim_end_matches('/'), rpc::PATH));
        let host = base.host_str().unwrap_or_default();
        let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        crate::http::install_tls();
        let mut builder = reqwest::Client::builder()
            .timeout(CALL_LIMIT)
            .connect_timeout(CONNECT_LIMIT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("dogwatch-agent/", env!("CARGO_PKG_VERSION")));
        if is_local {
            builder = builder.no_proxy();
        }
        if base.scheme() == "http" {
            // No certificates are needed, and an image without any must not stop the agent.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| AgentError::Start(Box::new(error)))?;
        let caller = Caller {
            worker_id: config.worker_id.0.clone(),
            worker_token: config.token.0.clone(),
            incarnation: config.incarnation,
        };
        Ok(Client { http, base, api_key: config.api_key.clone(), caller: Identity(caller) })
    }

    /// One call, one try.
    pub(super) async fn call<B: Serialize, R: DeserializeOwned>(
        &self,
        function: Function,
        keys: &B,
    ) -> Result<R, CallError> {
        let url = self.base.join(function.name()).map_err(|error| hold(0, &error.to_string()))?;
        let mut request = self.http.post(url).json(&Body { caller: &self.caller.0, keys });
        if let Some(key) = &self.api_key {
            request = request.header("apikey", &key.0);
        }
        if let Some(traceparent) = propagation::traceparent(&tracing::Span::current()) {
            request = request.header("traceparent", traceparent);
        }
        let response = request.send().await.map_err(no_answer)?;
        let (status, after) = (response.status(), retry_after(&response));
        let body = read(response).await;
        if status.is_success() {
            return serde_json::from_slice(&body?).map_err(|error| {
                let text = format!("an answer that is not the protocol's: {error}");
                hold(status.as_u16(), &self.redact(&text))
            });
        }
        let detail = detail(&self.redact(&String::from_utf8_lossy(&body.unwrap_or_default())));
        Err(by_status(status, after, detail))
    }

    /// The text without our secrets, should the other side have echoed them.
    fn redact(&self, text: &str) -> String {
        let secrets = [Some(&self.caller.0.worker_token), self.api_key.as_ref().map(|key| &key.0)];
        let secrets = secrets.into_iter().flatten().filter(|secret| !secret.is_empty());
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// The answer's body, up to its limit: a wrong base may say anything at any length.
async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(hold(response.status().as_u16(), "an answer that is longer than any of the protocol's"));
        }
    }
    Ok(body)
}

/// What a status means to a worker.
fn by_status(status: StatusCode, after: Option<Duration>, detail: String) -> CallError {
    match status.as_u16() {
        status @ (401 | 409) => CallError::Stop { status, detail },
        413 => CallError::TooLarge,
        status @ (408 | 429 | 500..=599) => CallError::Retry { after, detail: format!("{status}: {detail}") },
        status => CallError::Hold { status, detail },
    }
}

fn hold(status: u16, detail: &str) -> CallError {
    CallError::Hold { status, detail: detail.to_owned() }
}

fn no_answer(failed: reqwest::Error) -> CallError {
    CallError::Retry { after: None, detail: error::chain(&failed.without_url()) }
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The refusal's own words, or the beginning of whatever the server in front said.
fn detail(body: &str) -> String {
    let text = serde_json::from_str::<Refusal>(body).map_or_else(|_| body.trim().to_owned(), |r| r.to_string());
    text.chars().take(DETAIL_CHARS_MAX).collect()
}

/// Uniform in 0..1, for jitter.
pub(super) fn random() -> f64 {
    let bits = Uuid::new_v4().as_u128() as u32;
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::ids::WorkerId;
    use crate::provider::WorkerToken;

    #[test]
    fn the_status_alone_decides() {
        let kind = |status: u16| match by_status(StatusCode::from_u16(status).unwrap(), None, String::new()) {
            CallError::Stop { .. } => "stop",
            CallError::Hold { .. } => "hold",
            CallError::TooLarge => "split",
            CallError::Retry { .. } => "retry",
        };
        for (expected, statuses) in [
            ("stop", &[401, 409][..]),
            ("hold", &[301, 400, 403, 404, 405, 422]),
            ("split", &[413]),
            ("retry", &[408, 429, 500, 502, 503, 504]),
        ] {
            for status in statuses {
                assert_eq!(kind(*status), expected, "{status}");
            }
        }
    }

    #[test]
    fn a_base_that_is_no_url_is_named_and_the_token_is_never_shown() {
        let config = |base: &str| AgentConfig::new(base, WorkerId("w".into()), WorkerToken("s3cret".into()));
        for bad in ["", "127.0.0.1:7411", "ftp://x", "http://"] {
            assert!(matches!(Client::new(&config(bad)), Err(AgentError::BadBase { .. })), "{bad}");
        }
        let good = config("https://project.supabase.co/");
        let client = Client::new(&good).unwrap();
        assert_eq!(client.base.as_str(), "https://project.supabase.co/rest/v1/rpc/");
        assert!(!format!("{client:?} {good:?}").contains("s3cret"));
    }

    #[test]
    fn waits_grow_and_a_server_may_ask_for_more() {
        let retry = |after| CallError::Retry { after, detail: String::new() };
        assert!(retry(None).wait(0) <= Duration::from_millis(200));
        assert!(retry(None).wait(9) >= Duration::from_secs(5));
        assert_eq!(retry(Some(Duration::from_secs(30))).wait(0), Duration::from_secs(30));
        assert!(hold(404, "x").wait(0) >= Duration::from_secs(15));
    }
}
