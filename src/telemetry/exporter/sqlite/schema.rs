//! The migrations of `logs.db`, embedded; `pragma user_version` counts those that were applied.

use std::path::Path;

use sqlx::{Connection as _, SqliteConnection};

use super::errors::export_error;
use crate::telemetry::exporter::ExportError;

/// In order; a migration that was released is never changed.
const MIGRATIONS: &[&str] = &[include_str!("../../../../migrations/sqlite/logs/0001_system_logs.sql")];

/// The version that this program brings the file to.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Brings the file to the newest version, in one transaction.
pub(super) async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), ExportError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let seen = |error: sqlx::Error| export_error(path, &error);
    if version(connection).await.map_err(seen)? == known {
        return Ok(());
    }
    let mut transaction = connection.begin_with("begin immediate").await.map_err(seen)?;
    // Read again under the lock: another process may have been faster.
    let applied = version(&mut transaction).await.map_err(seen)?;
    if applied > known {
        return Err(ExportError::Blocked {
            detail: format!("{} has version {applied}, and this program knows {known}", path.display()),
            remedy: "use the dogwatch that made it, or move the file away".to_owned(),
        });
    }
    for (number, migration) in (1_i64..).zip(MIGRATIONS) {
        if number > applied {
            sqlx::raw_sql(*migration).execute(&mut *transaction).await.map_err(seen)?;
        }
    }
    let set_version = sqlx::AssertSqlSafe(format!("pragma user_version = {known}"));
    sqlx::raw_sql(set_version).execute(&mut *transaction).await.map_err(seen)?;
    transaction.commit().await.map_err(seen)
}

async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("pragma user_version").fetch_one(connection).await
}
