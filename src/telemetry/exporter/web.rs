//! What the exporters over HTTP share: reading an answer within limits, when to come back, and
//! rows as calls of a bounded size.

use std::time::{Duration, UNIX_EPOCH};

use reqwest::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use serde::Serialize;

use super::ExportError;
use crate::clock::{self, Time};
use crate::rpc::{BODY_BYTES_MAX, INGEST_ROWS_MAX};

/// How long a connection may take to be made.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle longer is not used again: the other side may have closed it.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What to do about a certificate that the system's authorities have not signed.
pub(super) const SYSTEM_AUTHORITIES: &str = "install its authority among the system's, or name the authority's PEM file in SSL_CERT_FILE; check the host, too";
/// Most of an answer that goes into an error, bytes.
const QUOTE_BYTES: usize = 200;

/// An answer as it came.
pub(super) struct Heard {
    pub(super) status: u16,
    /// The header, in either form.
    pub(super) retry_after: Option<String>,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
    /// The body was longer than an answer may be.
    pub(super) is_cut: bool,
}

/// Reads the answer, at most `bytes_max` of its body. A refusal is one, whatever becomes of its
/// words; a receipt must be whole.
pub(super) async fn hear(mut response: reqwest::Response, bytes_max: usize) -> Result<Heard, reqwest::Error> {
    let header =
        |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (retry_after, content_type) = (header(RETRY_AFTER), header(CONTENT_TYPE).unwrap_or_default());
    let status = response.status().as_u16();
    let (mut body, mut is_cut) = (Vec::new(), false);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > bytes_max => {
                is_cut = true;
                break;
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) if status >= 300 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Heard { status, retry_after, content_type, body, is_cut })
}

/// Where a call went, for what is said when no answer comes.
pub(super) struct Called<'a> {
    /// The place, such as an URL without secrets.
    pub(super) place: &'a str,
    /// Takes our secrets out of a text.
    pub(super) redact: &'a (dyn Fn(&str) -> String + Sync),
    /// What to do where no request can be made at all.
    pub(super) unusable: &'static str,
    /// What to do where the certificate is not trusted.
    pub(super) untrusted: &'static str,
}

impl Called<'_> {
    /// What it means that no answer came: an outage, or something that waiting does not lift.
    pub(super) fn no_answer(&self, error: reqwest::Error) -> ExportError {
        let (is_ours, is_untrusted) = (error.is_builder(), crate::http::is_untrusted(&error));
        let detail = (self.redact)(&crate::error::chain(&error.without_url()));
        if is_ours {
            let detail = format!("no request can be made: {detail}");
            return ExportError::Blocked { detail, remedy: self.unusable.to_owned() };
        }
        let detail = format!("no answer from {}: {detail}", self.place);
        if is_untrusted {
            return ExportError::Blocked { detail, remedy: self.untrusted.to_owned() };
        }
        ExportError::retry(detail)
    }
}

/// What `Retry-After` asks for: seconds, or a date that is compared with `now`.
pub(super) fn retry_after(text: &str, now: Time) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(clock::age(clock::plus(Time::UNIX_EPOCH, at), now))
}

/// The beginning of the other side's words, fit for one line.
pub(super) fn quote(text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    let text = text.trim();
    text[..text.floor_char_boundary(QUOTE_BYTES)].to_owned()
}

/// Client settings of every exporter to `base`: no redirects, and the system's certificates only
/// where the base needs them, so that an image without any can still speak to a server beside it.
pub(super) fn client(base: &str) -> Result<reqwest::Client, ExportError> {
    crate::http::install_tls();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("dogwatch/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT);
    let is_plain = base.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
    let builder = if is_plain { builder.tls_certs_only([]) } else { builder };
    builder.build().map_err(|error| ExportError::Blocked {
        detail: format!("no HTTPS client: {}", crate::error::chain(&error)),
        remedy: "install the system's CA certificates".to_owned(),
    })
}

/// One request.
pub(super) struct Call {
    pub(super) rows: u64,
    pub(super) body: Vec<u8>,
}

/// Rows as calls of at most [`INGEST_ROWS_MAX`] rows and [`BODY_BYTES_MAX`], in order. `open` is the
/// beginning of a JSON object, up to the function's own key.
pub(super) fn calls<R: Serialize>(
    mut open: Vec<u8>,
    rows: impl Iterator<Item = R>,
) -> Result<Vec<Call>, ExportError> {
    open.extend_from_slice(b"\"rows\":[");
    let mut calls: Vec<Call> = Vec::new();
    for row in rows {
        let row = serde_json::to_vec(&row).map_err(not_json)?;
        let fits = |call: &Call| {
            call.rows < INGEST_ROWS_MAX as u64 && call.body.len() + row.len() + b",]}".len() <= BODY_BYTES_MAX
        };
        match calls.last_mut().filter(|call| fits(call)) {
            Some(call) => {
                call.body.push(b',');
                call.body.extend_from_slice(&row);
                call.rows += 1;
            }
            None => calls.push(Call { rows: 1, body: [&open[..], &row[..]].concat() }),
        }
    }
    calls.iter_mut().for_each(|call| call.body.extend_from_slice(b"]}"));
    Ok(calls)
}

/// What cannot be written as JSON is refused.
pub(super) fn not_json(error: serde_json::Error) -> ExportError {
    ExportError::Refused { detail: format!("no JSON: {error}") }
}
