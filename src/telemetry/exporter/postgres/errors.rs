//! What an error of Postgres means for delivery.
//!
//! By its SQLSTATE: what passes by itself is tried again, what somebody has to lift is held with
//! the remedy, and what the data itself has caused is refused, so that the poison record is found.

use sqlx::postgres::PgDatabaseError;

use super::Address;
use crate::error;
use crate::http::is_untrusted;
use crate::telemetry::exporter::ExportError;

/// The rows have no partition to go to: the housekeeping can make it.
pub(super) fn is_without_partition(error: &sqlx::Error) -> bool {
    // The code is a CHECK's, and a trigger may use it, too.
    let postgres = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    postgres.is_some_and(|error| error.code() == "23514" && error.routine() == Some("ExecFindPartition"))
}

/// A row has a key that another one has: it was written before.
pub(super) fn is_there_already(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

/// The error of work at `address`.
pub(super) fn export_error(address: &Address, error: &sqlx::Error) -> ExportError {
    let detail = format!("{address}: {}", error::chain(error));
    let blocked = |remedy: &str| ExportError::Blocked { detail: detail.clone(), remedy: remedy.to_owned() };
    let code = error.as_database_error().and_then(|error| error.code()).map(String::from);
    let Some(code) = code.as_deref() else {
        return match error {
            sqlx::Error::Tls(_) | sqlx::Error::Io(_) if is_untrusted(error) => blocked(
                "name the PEM file of the server's authority by sslrootcert in DATABASE_URL, and check the host",
            ),
            sqlx::Error::Tls(_) => blocked("set sslmode and sslrootcert in DATABASE_URL as the server wants them"),
            sqlx::Error::Configuration(_) => blocked("correct DATABASE_URL"),
            sqlx::Error::Encode(_) => ExportError::Refused { detail },
            // The connection: refused, reset, closed, timed out.
            _ => ExportError::retry(detail),
        };
    };
    match code {
        "28000" | "28P01" => blocked("correct user and password in DATABASE_URL"),
        "3D000" => blocked("create the database, or correct its name in DATABASE_URL"),
        "25006" => blocked("make the database writable, or name one that is: a standby and a full disk look so"),
        "42501" => blocked(
            "grant the role of DATABASE_URL select and insert on system_logs and usage on the sequence \
             dogwatch.system_logs_arrival, or use the role that ran `dogwatch migrate`",
        ),
        "0A000" | "3F000" => blocked("run `dogwatch migrate`"),
        "54000" | "44000" => ExportError::Refused { detail },
        _ if is_without_partition(error) => blocked("run `select public.dw_maintain_system_logs()` as the owner"),
        _ if code.starts_with("42") => blocked("run `dogwatch migrate`"),
        // The data, or a trigger that refuses it.
        _ if ["22", "23", "P0"].iter().any(|class| code.starts_with(class)) => ExportError::Refused { detail },
        // 08, 40, 53, 55, 57, 58 and whatever else may pass.
        _ => ExportError::retry(detail),
    }
}
