//! What an answer to `dw_ingest_logs` means, by its status and whether the agent is registered; pure.

use crate::clock::Time;
use crate::rpc::{Ingested, Refusal};
use crate::telemetry::exporter::{ExportError, web};

/// An HTTP answer.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    /// Whether the agent was registered when the call was made.
    pub(super) is_admitted: bool,
    /// The header, both forms.
    pub(super) retry_after: Option<&'a str>,
    pub(super) body: &'a str,
}

impl Answer<'_> {
    /// Whether all `rows` rows of the call are there; `now` is what a date in Retry-After is
    /// compared with.
    pub(super) fn check(&self, rows: u64, now: Time) -> Result<(), ExportError> {
        match self.status {
            200..=299 => self.taken(rows),
            408 | 429 | 500..=599 => {
                let after = self.retry_after.and_then(|text| web::retry_after(text, now));
                Err(ExportError::Retry { after, detail: self.told() })
            }
            413 => Err(ExportError::Refused { detail: self.told() }),
            422 if self.names_a_row() => Err(ExportError::Refused { detail: self.told() }),
            401 | 403 => self.blocked("the worker's token or the API key is not accepted: spawn the worker anew"),
            409 if !self.is_admitted => Err(ExportError::retry(self.told())),
            409 => self.blocked("this agent was superseded or its worker has ended: let it leave"),
            _ => self.blocked("check the base URL, and that both sides run the same version of dogwatch"),
        }
    }

    /// A proxy's friendly page is no receipt: only the function's own answer is.
    fn taken(&self, rows: u64) -> Result<(), ExportError> {
        match serde_json::from_str::<Ingested>(self.body) {
            Ok(ingested) if ingested.received == rows => Ok(()),
            _ => self.blocked("something that is not dogwatch answers: check the base URL"),
        }
    }

    fn blocked(&self, remedy: &str) -> Result<(), ExportError> {
        Err(ExportError::Blocked { detail: self.told(), remedy: remedy.to_owned() })
    }

    fn names_a_row(&self) -> bool {
        let Ok(refusal) = serde_json::from_str::<Refusal>(self.body) else { return false };
        let is_named = |text: &str| {
            let index = text.split_once("rows[").and_then(|(_, rest)| rest.split_once(']'));
            index.is_some_and(|(index, _)| index.parse::<u32>().is_ok())
        };
        refusal.details.as_deref().is_some_and(is_named) || is_named(&refusal.message)
    }

    fn told(&self) -> String {
        let quoted = match serde_json::from_str::<Refusal>(self.body) {
            Ok(refusal) => refusal.to_string(),
            Err(_) => self.body.to_owned(),
        };
        format!("dw_ingest_logs answered {} {}", self.status, web::quote(&quoted)).trim_end().to_owned()
    }
}
