//! What a SQLite error means for delivery.

use std::path::Path;

use crate::error;
use crate::telemetry::exporter::ExportError;

// Primary result codes (the low byte of an extended code): sqlite.org/rescode.html.
const GENERIC: u32 = 1;
const READ_ONLY: u32 = 8;
const CORRUPT: u32 = 11;
const CANNOT_OPEN: u32 = 14;
const TOO_BIG: u32 = 18;
const CONSTRAINT: u32 = 19;
const MISMATCH: u32 = 20;
const NOT_A_DATABASE: u32 = 26;

/// The error of an export into the file at `path`.
pub(super) fn export_error(path: &Path, error: &sqlx::Error) -> ExportError {
    let detail = format!("{}: {}", path.display(), error::chain(error));
    let blocked = |remedy: &str| ExportError::Blocked { detail: detail.clone(), remedy: remedy.to_owned() };
    match primary_code(error) {
        Some(READ_ONLY | CANNOT_OPEN) => blocked("make the file and its folder writable for this user"),
        Some(CORRUPT | NOT_A_DATABASE) => {
            blocked("move the file away; a fresh one is made and delivery goes on by itself")
        }
        // A table or column is missing: somebody changed the schema.
        Some(GENERIC) => blocked("the table was changed by hand: move the file away, a fresh one is made"),
        Some(TOO_BIG | CONSTRAINT | MISMATCH) => ExportError::Refused { detail },
        // Busy, locked, full, I/O, out of memory, and whatever else may pass.
        _ => ExportError::Retry { after: None, detail },
    }
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}
