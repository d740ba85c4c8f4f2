//! A project's Data API: functions of its database, called by POST with one JSON body.
//!
//! The key goes into headers and nowhere else: not into errors, not into `Debug` (I17).

use std::fmt;
use std::sync::{Arc, OnceLock};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::answer::Answer;
use super::config::SupabaseConfig;
use crate::clock::Time;
use crate::telemetry::exporter::ExportError;
use crate::telemetry::exporter::web::{self, Called};

/// See the module. Cheap to clone; one connection pool for all clones.
#[derive(Clone)]
pub struct DataApi {
    config: SupabaseConfig,
    client: Arc<OnceLock<(reqwest::Client, HeaderMap)>>,
}

impl DataApi {
    /// The API of the project of `config`; nothing is connected yet.
    pub fn new(config: SupabaseConfig) -> DataApi {
        DataApi { config, client: Arc::default() }
    }

    /// Calls a function and gives its answer, JSON of at most `bytes_max`. The caller sets the
    /// deadline; `now` is what a date in Retry-After is compared with.
    ///
    /// # Errors
    /// Retry: it does not answer, or not now. Blocked: the key, a right, a missing function. Refused:
    /// what was asked for is not understood.
    pub async fn ask(
        &self,
        function: &str,
        body: Vec<u8>,
        bytes_max: usize,
        now: Time,
    ) -> Result<String, ExportError> {
        let answer = self.call(function, body, bytes_max).await?;
        answer.given(now)?;
        Ok(answer.body)
    }

    /// Calls a function; whatever it answers, without our key.
    pub(super) async fn call(
        &self,
        function: &str,
        body: Vec<u8>,
        bytes_max: usize,
    ) -> Result<Answer, ExportError> {
        let config = &self.config;
        let redact = |text: &str| config.redact(text);
        let called = Called {
            place: config.url(),
            redact: &redact,
            unusable: "check SUPABASE_URL",
            untrusted: web::SYSTEM_AUTHORITIES,
        };
        let (client, headers) = self.client()?;
        let request = client.post(config.function_url(function)).headers(headers.clone()).body(body);
        let response = request.send().await.map_err(|error| called.no_answer(error))?;
        let heard = web::hear(response, bytes_max).await.map_err(|error| called.no_answer(error))?;
        let body = config.redact(&String::from_utf8_lossy(&heard.body));
        Ok(Answer { status: heard.status, retry_after: heard.retry_after, body, is_cut: heard.is_cut })
    }

    fn client(&self) -> Result<&(reqwest::Client, HeaderMap), ExportError> {
        if let Some(both) = self.client.get() {
            return Ok(both);
        }
        let both = (web::client(self.config.url())?, headers(&self.config)?);
        Ok(self.client.get_or_init(|| both))
    }
}

impl fmt::Debug for DataApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DataApi").field(&self.config).finish()
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
