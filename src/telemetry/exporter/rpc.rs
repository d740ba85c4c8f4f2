//! An agent's records through `dw_ingest_logs`, the only way in that a pod has.
//!
//! A batch becomes calls of at most 1,000 rows and 1 MiB; all of them or the batch is not
//! delivered (rows have their own ids, so that repeating a call changes nothing). What to do is
//! decided by the HTTP status alone, as RPC.md says; only that a 409 before the agent's registration is
//! a matter of time. The token goes into the body and nowhere else: not into errors, not into
//! `Debug` (I17).

mod answer;
#[cfg(test)]
mod tests;

use std::time::Duration;
use std::{fmt, io};

use reqwest::header::{CONTENT_TYPE, HeaderValue};

use self::answer::Answer;
use super::web::{self, Call, Called};
use super::{ExportError, Exported, Exporter, Timed, rows_of};
use crate::clock::Time;
use crate::rpc::{Admission, Caller, Function, PATH};
use crate::telemetry::record::Stored;
use crate::telemetry::row::ingest::to_ingest;

/// Longest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long an export waits for the agent's registration.
const ADMISSION_WAIT: Duration = Duration::from_secs(2);

/// Where to, and as whom.
#[derive(Clone)]
pub struct RpcConfig {
    /// A gateway or a Supabase project, such as `http://127.0.0.1:7411`.
    pub base: String,
    /// The worker and its token.
    pub caller: Caller,
    /// Until it is granted, a base that says "superseded" is asked again.
    pub admission: Admission,
    /// The publishable key, where the base is Supabase.
    pub api_key: Option<String>,
}

impl RpcConfig {
    fn url(&self) -> String {
        format!("{}{PATH}{}", self.base.trim_end_matches('/'), Function::IngestLogs.name())
    }

    /// The text without our secrets, should the other side have echoed them.
    fn redact(&self, text: &str) -> String {
        let secrets = [Some(&self.caller.worker_token), self.api_key.as_ref()];
        secrets
            .into_iter()
            .flatten()
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

impl fmt::Debug for RpcConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcConfig")
            .field("worker_id", &self.caller.worker_id)
            .field("has_api_key", &self.api_key.is_some())
            .finish_non_exhaustive()
    }
}

/// The exporter `rpc`.
pub struct RpcExporter {
    // Dropped before the runtime that drives its connections.
    client: Option<reqwest::Client>,
    runtime: Timed,
    config: RpcConfig,
}

impl RpcExporter {
    /// An exporter to `config.base`; nothing is connected yet.
    ///
    /// # Errors
    /// The operating system gives no runtime.
    pub fn new(config: RpcConfig) -> io::Result<RpcExporter> {
        Ok(RpcExporter { client: None, runtime: Timed::new()?, config })
    }
}

impl Exporter for RpcExporter {
    fn name(&self) -> &'static str {
        "rpc"
    }

    fn export(&mut self, batch: &[Stored], now: Time, deadline: Duration) -> Result<Exported, ExportError> {
        let calls = calls(&self.config.caller, batch)?;
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(web::client(&self.config.base)?).clone(),
        };
        let admission_wait = ADMISSION_WAIT.min(deadline / 4);
        let is_admitted = self.config.admission.is_granted_within(admission_wait);
        self.runtime.run(deadline.saturating_sub(admission_wait), async {
            for call in calls {
                send(&client, &self.config, call, is_admitted, now).await?;
            }
            Ok(Exported { delivered: batch.len() as u64, rejected: 0 })
        })
    }
}

/// The batch as requests within the limits of one, in order.
fn calls(caller: &Caller, batch: &[Stored]) -> Result<Vec<Call>, ExportError> {
    let mut open = serde_json::to_vec(caller).map_err(web::not_json)?;
    // The caller's object stays open for the function's own key.
    open.pop();
    open.push(b',');
    web::calls(open, rows_of(batch)?.into_iter().map(to_ingest))
}

async fn send(
    client: &reqwest::Client,
    config: &RpcConfig,
    call: Call,
    is_admitted: bool,
    now: Time,
) -> Result<(), ExportError> {
    let mut request = client.post(config.url()).header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = &config.api_key {
        let mut key = HeaderValue::from_str(key).map_err(|_| ExportError::Blocked {
            detail: "the API key has characters that a header cannot carry".to_owned(),
            remedy: "set it again, without line ends".to_owned(),
        })?;
        key.set_sensitive(true);
        request = request.header("apikey", key);
    }
    let redact = |text: &str| config.redact(text);
    let called = Called {
        place: "the base",
        redact: &redact,
        unusable: "set the base to a URL such as http://127.0.0.1:7411",
        untrusted: web::SYSTEM_AUTHORITIES,
    };
    let response = request.body(call.body).send().await.map_err(|error| called.no_answer(error))?;
    let heard = web::hear(response, ANSWER_BYTES_MAX).await.map_err(|error| called.no_answer(error))?;
    let body = config.redact(&String::from_utf8_lossy(&heard.body));
    let retry_after = heard.retry_after.as_deref();
    Answer { status: heard.status, is_admitted, retry_after, body: &body }.check(call.rows, now)
}
