//! What an answer of the Data API means; pure.
//!
//! PostgREST forwards the database's error with its SQLSTATE, and has codes of its own (PGRSTnnn);
//! these say more than the status that they are mapped to. What comes without such a body comes
//! from the edge or the gateway in front, and only its status counts.

use std::time::Duration;

use serde::Deserialize;

use crate::clock::Time;
use crate::rpc::Ingested;
use crate::telemetry::exporter::{ExportError, web};

/// What to do where the table or the function is missing or old.
const MIGRATE: &str = "run `dogwatch migrate` on the project's database; if that is done, let PostgREST read the \
                       schema anew: notify pgrst, 'reload schema'";
/// What to do where the key does not open.
const KEY: &str = "check SUPABASE_SECRET_KEY: it must be a secret or service_role key of this project";
/// What to do where something else answers.
const URL: &str = "check SUPABASE_URL: something that is not a project's Data API answers";
/// What to do where the role lacks a right.
const GRANT: &str = "give the service role its rights again: run `dogwatch migrate` on the project's database";

/// An HTTP answer, already without our secrets.
pub(super) struct Answer {
    pub(super) status: u16,
    /// The header, in either form.
    pub(super) retry_after: Option<String>,
    pub(super) body: String,
    /// The body was longer than what was to be read.
    pub(super) is_cut: bool,
}

/// PostgREST's error.
#[derive(Deserialize)]
struct Failed {
    code: String,
    message: String,
}

impl Answer {
    /// Whether all `rows` rows of the call are there; `now` is what a date in Retry-After is
    /// compared with.
    pub(super) fn check(&self, rows: u64, now: Time) -> Result<Ingested, ExportError> {
        match serde_json::from_str::<Ingested>(self.given(now)?) {
            Ok(taken) if taken.received == rows && taken.inserted <= rows => Ok(taken),
            _ => Err(self.blocked(URL)),
        }
    }

    /// What the function gave, whatever that is.
    pub(super) fn given(&self, now: Time) -> Result<&str, ExportError> {
        match self.status {
            // No function of ours gives so much.
            200..=299 if self.is_cut => Err(self.blocked(URL)),
            200..=299 => Ok(&self.body),
            _ => {
                let failed: Option<Failed> = serde_json::from_str(&self.body).ok();
                let by_code = failed.as_ref().and_then(|failed| self.by_code(failed, now));
                Err(by_code.unwrap_or_else(|| self.by_status(now)))
            }
        }
    }

    /// None: the code says nothing that the status does not.
    fn by_code(&self, failed: &Failed, now: Time) -> Option<ExportError> {
        let code = failed.code.as_str();
        Some(match code {
            // No partition takes the row: its data is fine.
            "23514" if failed.message.starts_with("no partition of relation") => self.blocked(MIGRATE),
            "42501" => self.blocked(GRANT),
            "42883" | "42P01" | "42703" | "42704" | "3F000" | "PGRST106" | "PGRST202" | "PGRST203" | "PGRST205" => {
                self.blocked(MIGRATE)
            }
            // The body is not what it should be, or a trigger of the project's own objects to a row.
            "PGRST102" | "P0001" => self.refused(),
            "PGRST300" | "PGRST301" | "PGRST302" | "PGRST303" => self.blocked(KEY),
            // A database that is read-only, is being shut down, restored or is out of room.
            "25006" | "57014" => self.retry(now),
            _ => match code.get(..2) {
                Some("22" | "23" | "54") if code.len() == 5 => self.refused(),
                Some("08" | "40" | "53" | "55" | "57" | "58" | "XX") if code.len() == 5 => self.retry(now),
                Some("28" | "0P") if code.len() == 5 => self.blocked(KEY),
                _ => return None,
            },
        })
    }

    fn by_status(&self, now: Time) -> ExportError {
        match self.status {
            413 => self.refused(),
            401 | 403 => self.blocked(KEY),
            402 | 540 => self.blocked("the project is paused or over its quota: see its dashboard"),
            408 | 429 | 500..=599 => self.retry(now),
            404 => self.blocked(URL),
            _ => self.blocked("check SUPABASE_URL, and that the function is this version's (`dogwatch migrate`)"),
        }
    }

    fn retry(&self, now: Time) -> ExportError {
        let after: Option<Duration> = self.retry_after.as_deref().and_then(|text| web::retry_after(text, now));
        ExportError::Retry { after, detail: self.told() }
    }

    fn refused(&self) -> ExportError {
        ExportError::Refused { detail: self.told() }
    }

    fn blocked(&self, remedy: &str) -> ExportError {
        ExportError::Blocked { detail: self.told(), remedy: remedy.to_owned() }
    }

    fn told(&self) -> String {
        let words = match serde_json::from_str::<Failed>(&self.body) {
            Ok(Failed { code, message }) => format!("{code}: {message}"),
            // The edge's pages say it in their title.
            Err(_) => title(&self.body).unwrap_or(&self.body).to_owned(),
        };
        format!("Supabase answered {} {}", self.status, web::quote(&words)).trim_end().to_owned()
    }
}

/// The title of a page.
fn title(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("<title>")?;
    rest.split_once("</title>").map(|(title, _)| title)
}
