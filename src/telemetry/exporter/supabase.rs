//! Rows into a Supabase project's `system_logs`, through its Data API.
//!
//! A batch becomes calls of `POST {url}/rest/v1/rpc/dw_insert_logs` with at most 1,000 rows and
//! 1 MiB each; all of them are taken or the batch is not delivered. The function inserts with
//! `on conflict do nothing` and says how many rows it received and how many were not there before,
//! so that a call which is made again gives each row once. A receipt is the function's own answer
//! and nothing else. What an answer means is decided by the SQLSTATE in PostgREST's error body, and
//! by the status where there is none ([`answer`]).
//!
//! The key goes into headers and nowhere else: not into errors, not into `Debug` (I17). The table
//! and the function are made by `dogwatch migrate`, never here.

mod answer;
pub mod config;
mod row;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};

use self::answer::Answer;
pub use self::config::{SupabaseConfig, SupabaseConfigError};
use super::web::{self, Call};
use super::{ExportError, Exported, Exporter, Timed, rows_of};
use crate::clock::Time;
use crate::error;
use crate::telemetry::record::Stored;

/// Longest answer that is read, bytes: pages of the edge are longer than the function's.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The exporter `supabase`.
pub struct SupabaseExporter {
    // Dropped before the runtime that drives its connections.
    client: Option<(reqwest::Client, HeaderMap)>,
    runtime: Timed,
    config: SupabaseConfig,
}

impl SupabaseExporter {
    /// An exporter to the project of `config`; nothing is connected yet.
    ///
    /// # Errors
    /// The operating system gives no runtime.
    pub fn new(config: SupabaseConfig) -> io::Result<SupabaseExporter> {
        Ok(SupabaseExporter { client: None, runtime: Timed::new()?, config })
    }
}

impl Exporter for SupabaseExporter {
    fn name(&self) -> &'static str {
        "supabase"
    }

    fn export(&mut self, batch: &[Stored], now: Time, deadline: Duration) -> Result<Exported, ExportError> {
        let calls = web::calls(vec![b'{'], rows_of(batch)?.iter().map(row::to_insert))?;
        let (client, headers) = match &self.client {
            Some(both) => both.clone(),
            None => self.client.insert((web::client(self.config.url())?, headers(&self.config)?)).clone(),
        };
        self.runtime.run(deadline, async {
            for call in calls {
                send(&client, &headers, &self.config, call, now).await?;
            }
            Ok(Exported { delivered: batch.len() as u64, rejected: 0 })
        })
    }
}

/// The headers that Supabase's gateway wants for this kind of key.
fn headers(config: &SupabaseConfig) -> Result<HeaderMap, ExportError> {
    let secret = |text: &str| -> Result<HeaderValue, ExportError> {
        let mut value = HeaderValue::from_str(text).map_err(|_| ExportError::Blocked {
            detail: "the Supabase key has characters that a header cannot carry".to_owned(),
            remedy: "set it again, without line ends".to_owned(),
        })?;
        value.set_sensitive(true);
        Ok(value)
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("content-profile", HeaderValue::from_static("public"));
    headers.insert("apikey", secret(config.key())?);
    if config.is_jwt() {
        headers.insert(AUTHORIZATION, secret(&format!("Bearer {}", config.key()))?);
    }
    Ok(headers)
}

async fn send(
    client: &reqwest::Client,
    headers: &HeaderMap,
    config: &SupabaseConfig,
    call: Call,
    now: Time,
) -> Result<(), ExportError> {
    let no_answer = |error: reqwest::Error| {
        let is_ours = error.is_builder();
        let detail = config.redact(&error::chain(&error.without_url()));
        if is_ours {
            let remedy = "check SUPABASE_URL".to_owned();
            return ExportError::Blocked { detail: format!("no request can be made: {detail}"), remedy };
        }
        ExportError::retry(format!("no answer from {}: {detail}", config.url()))
    };
    let request = client.post(config.function_url()).headers(headers.clone()).body(call.body);
    let response = request.send().await.map_err(no_answer)?;
    let heard = web::hear(response, ANSWER_BYTES_MAX).await.map_err(no_answer)?;
    let body = config.redact(&String::from_utf8_lossy(&heard.body));
    Answer { status: heard.status, retry_after: heard.retry_after.as_deref(), body: &body }.check(call.rows, now)
}
