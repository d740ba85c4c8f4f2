//! What an OTLP receiver's answer means; pure.
//!
//! By the OTLP specification: 429, 502, 503 and 504 are tried again, no other refusal is. A login
//! page with status 200 is no receipt: what came must be an OTLP answer, or nothing.

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message as _;
use serde_json::Value;

use crate::clock::Time;
use crate::telemetry::exporter::{ExportError, web};

/// An HTTP answer. Its body has been cleaned of our secrets where it is text.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The header, in either form.
    pub(crate) retry_after: Option<String>,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
    /// The body was longer than an answer may be.
    pub(crate) is_cut: bool,
    /// Takes our secrets out of a text.
    pub(crate) redact: Box<dyn Fn(&str) -> String + Send>,
}

/// A request that was taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Records that the receiver refused for good.
    pub(crate) rejected: u64,
    /// What it said about them.
    pub(crate) said: Option<String>,
}

impl Answer {
    /// What became of the `records` records of a request; `now` is what a date in Retry-After is
    /// compared with.
    pub(crate) fn check(&self, signal: &str, records: u64, now: Time) -> Result<Taken, ExportError> {
        match self.status {
            200..=299 => self.taken(signal, records),
            429 | 502 | 503 | 504 => {
                let after = self.retry_after.as_deref().and_then(|text| web::retry_after(text, now));
                Err(ExportError::Retry { after, detail: self.told(signal) })
            }
            401 | 403 => Err(self.blocked(signal, "check the key in OTEL_EXPORTER_OTLP_HEADERS".to_owned())),
            404 => {
                let variable = signal.to_ascii_uppercase();
                Err(self.blocked(
                    signal,
                    format!(
                        "check OTEL_EXPORTER_OTLP_ENDPOINT (/v1/{signal} is appended to it), or switch \
                         {signal} off with OTEL_{variable}_EXPORTER=none"
                    ),
                ))
            }
            100..=399 => Err(self.blocked(signal, "check the endpoint: it answers what OTLP does not".to_owned())),
            _ => Err(ExportError::Refused { detail: self.told(signal) }),
        }
    }

    fn taken(&self, signal: &str, records: u64) -> Result<Taken, ExportError> {
        let Some(partial) = self.partial_success() else {
            return Err(self.blocked(signal, "something that is not OTLP answers: check the endpoint".to_owned()));
        };
        let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0).min(records);
        let words = self.clean(&partial.error_message);
        let said = (rejected > 0 || !words.is_empty())
            .then(|| format!("the receiver rejected {rejected} of {records} records of {signal}: {words}"));
        Ok(Taken { rejected, said })
    }

    /// The answer's partial success; None: this is no answer of OTLP. Logs and traces have the same
    /// field numbers.
    fn partial_success(&self) -> Option<ExportLogsPartialSuccess> {
        if self.is_cut {
            return None;
        }
        if self.body.is_empty() {
            return Some(ExportLogsPartialSuccess::default());
        }
        if self.content_type.starts_with("application/json") || self.body.starts_with(b"{") {
            return partial_of_json(&self.body);
        }
        let response = ExportLogsServiceResponse::decode(self.body.as_slice()).ok()?;
        Some(response.partial_success.unwrap_or_default())
    }

    fn blocked(&self, signal: &str, remedy: String) -> ExportError {
        ExportError::Blocked { detail: self.told(signal), remedy }
    }

    fn told(&self, signal: &str) -> String {
        // google.rpc.Status has its code and message where a partial success has count and message.
        let is_protobuf = self.content_type.starts_with("application/x-protobuf");
        let status = is_protobuf.then(|| ExportLogsPartialSuccess::decode(self.body.as_slice()).ok()).flatten();
        let words = match status {
            Some(status) => self.clean(&status.error_message),
            None => self.clean(&String::from_utf8_lossy(&self.body)),
        };
        format!("the receiver answered {} to {signal}: {words}", self.status)
            .trim_end_matches([' ', ':'])
            .to_owned()
    }

    /// A text of the other side as it may be shown.
    fn clean(&self, text: &str) -> String {
        web::quote(&(self.redact)(text))
    }
}

fn partial_of_json(body: &[u8]) -> Option<ExportLogsPartialSuccess> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let partial = &answer.as_object()?.get("partialSuccess").unwrap_or(&Value::Null);
    let count = |name: &str| match &partial[name] {
        Value::String(text) => text.parse::<i64>().ok(),
        number => number.as_i64(),
    };
    Some(ExportLogsPartialSuccess {
        rejected_log_records: count("rejectedLogRecords").or_else(|| count("rejectedSpans")).unwrap_or(0),
        error_message: partial["errorMessage"].as_str().unwrap_or_default().to_owned(),
    })
}
