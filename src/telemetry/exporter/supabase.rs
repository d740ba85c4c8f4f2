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
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};

use self::answer::Answer;
pub use self::config::{SupabaseConfig, SupabaseConfigError};
use super::web::{self, Call};
use super::{ExportError, Exported, Exporter, Timed, rows_of};
use crate::clock::Time;
use crate::error;
use crate::rpc::Ingested;
use crate::telemetry::record::Stored;
use crate::telemetry::row::Row;

/// Longest answer that is read, bytes: pages of the edge are longer than the function's.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Puts rows into a project's `system_logs`. Cheap to clone; one connection pool for all clones.
#[derive(Clone)]
pub struct RowPoster {
    config: SupabaseConfig,
    client: Arc<OnceLock<(reqwest::Client, HeaderMap)>>,
}

impl RowPoster {
    /// A poster to the project of `config`; nothing is connected yet.
    pub fn new(config: SupabaseConfig) -> RowPoster {
        RowPoster { config, client: Arc::default() }
    }

    /// Puts all rows there, in calls of a bounded size; how many were not there before. Rows that
    /// are there already are left as they are, so that the whole may be repeated after an error.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub async fn insert(&self, rows: &[Row], now: Time) -> Result<Ingested, ExportError> {
        let calls = web::calls(vec![b'{'], rows.iter().map(row::to_insert))?;
        let mut sum = Ingested { received: 0, inserted: 0 };
        for call in calls {
            let taken = self.call(call, now).await?;
            sum = Ingested { received: sum.received + taken.received, inserted: sum.inserted + taken.inserted };
        }
        Ok(sum)
    }

    fn client(&self) -> Result<&(reqwest::Client, HeaderMap), ExportError> {
        if let Some(both) = self.client.get() {
            return Ok(both);
        }
        let both = (web::client(self.config.url())?, headers(&self.config)?);
        Ok(self.client.get_or_init(|| both))
    }

    async fn call(&self, call: Call, now: Time) -> Result<Ingested, ExportError> {
        let config = &self.config;
        let no_answer = |error: reqwest::Error| {
            let is_ours = error.is_builder();
            let detail = config.redact(&error::chain(&error.without_url()));
            if is_ours {
                let remedy = "check SUPABASE_URL".to_owned();
                return ExportError::Blocked { detail: format!("no request can be made: {detail}"), remedy };
            }
            ExportError::retry(format!("no answer from {}: {detail}", config.url()))
        };
        let (client, headers) = self.client()?;
        let request = client.post(config.function_url()).headers(headers.clone()).body(call.body);
        let response = request.send().await.map_err(no_answer)?;
        let heard = web::hear(response, ANSWER_BYTES_MAX).await.map_err(no_answer)?;
        let body = config.redact(&String::from_utf8_lossy(&heard.body));
        Answer { status: heard.status, retry_after: heard.retry_after.as_deref(), body: &body }
            .check(call.rows, now)
    }
}

/// The exporter `supabase`.
pub struct SupabaseExporter {
    // Dropped before the runtime that drives its connections.
    poster: RowPoster,
    runtime: Timed,
}

impl SupabaseExporter {
    /// An exporter to the project of `config`; nothing is connected yet.
    ///
    /// # Errors
    /// The operating system gives no runtime.
    pub fn new(config: SupabaseConfig) -> io::Result<SupabaseExporter> {
        Ok(SupabaseExporter { poster: RowPoster::new(config), runtime: Timed::new()? })
    }
}

impl Exporter for SupabaseExporter {
    fn name(&self) -> &'static str {
        "supabase"
    }

    fn export(&mut self, batch: &[Stored], now: Time, deadline: Duration) -> Result<Exported, ExportError> {
        let rows = rows_of(batch)?;
        let taken = self.runtime.run(deadline, self.poster.insert(&rows, now))?;
        Ok(Exported { delivered: taken.received, rejected: 0 })
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
