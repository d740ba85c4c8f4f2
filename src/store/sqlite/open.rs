//! Opening the file, and bringing its schema up to date.
//!
//! `pragma user_version` counts the migrations that are in; each is applied in one transaction
//! with its number. A file from a later dogwatch is refused before anything is read from it.

use std::path::Path;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use super::fault::from_sqlx;
use super::{ACQUIRE_TIMEOUT, BUSY_TIMEOUT, READERS_MAX};
use crate::store::{Result, StoreError};

/// The migrations, in order; the index + 1 is the schema's version.
/// The version that this binary brings the file to.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;
const MIGRATIONS: [&str; 2] = [
    include_str!("../../../migrations/sqlite/fleet/0001_fleet.sql"),
    include_str!("../../../migrations/sqlite/fleet/0002_policy.sql"),
];

/// Writer and readers.
pub(super) async fn open(data_dir: &Path, path: &Path) -> Result<(SqlitePool, SqlitePool)> {
    let unusable = |detail: String, remedy: &str| StoreError::Open {
        path: path.to_owned(),
        detail,
        remedy: remedy.to_owned(),
    };
    if let Err(error) = std::fs::create_dir_all(data_dir) {
        let detail = format!("the folder cannot be made: {error}");
        return Err(unusable(detail, "make it writable or set DOGWATCH_DATA_DIR to a folder that is"));
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // A record a statement would drown what the fleet has to say.
        .disable_statement_logging();
    let writer = connect(options.clone(), 1).await.map_err(|error| explain(error, &unusable))?;
    migrate(&writer).await.map_err(|error| match error {
        MigrateError::Newer { found } => unusable(
            format!("its schema is version {found}, and this dogwatch knows versions up to {}", MIGRATIONS.len()),
            "start a dogwatch that is at least as recent as the one that wrote it",
        ),
        MigrateError::Sql(error) => explain(error, &unusable),
    })?;
    let readers = connect(options.pragma("query_only", "on"), READERS_MAX)
        .await
        .map_err(|error| explain(error, &unusable))?;
    Ok((writer, readers))
}

async fn connect(options: SqliteConnectOptions, connections: u32) -> std::result::Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
}

enum MigrateError {
    Newer { found: i64 },
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for MigrateError {
    fn from(error: sqlx::Error) -> MigrateError {
        MigrateError::Sql(error)
    }
}

async fn migrate(writer: &SqlitePool) -> std::result::Result<(), MigrateError> {
    let mut tx = writer.begin_with("begin immediate").await?;
    let found: i64 = sqlx::query_scalar("pragma user_version").fetch_one(&mut *tx).await?;
    let applied = usize::try_from(found).unwrap_or(usize::MAX);
    if applied > MIGRATIONS.len() {
        return Err(MigrateError::Newer { found });
    }
    for migration in &MIGRATIONS[applied..] {
        sqlx::raw_sql(*migration).execute(&mut *tx).await?;
    }
    if applied < MIGRATIONS.len() {
        let set = format!("pragma user_version = {}", MIGRATIONS.len());
        sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

// Primary result codes of SQLite: the low byte of the extended code.
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const NOTADB: i32 = 26;

/// SQLite's answers to a file that it cannot use, with what to do about each.
fn explain(error: sqlx::Error, unusable: &dyn Fn(String, &str) -> StoreError) -> StoreError {
    let code = match &error {
        sqlx::Error::Database(database) => {
            database.code().and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff)
        }
        _ => None,
    };
    let detail = error.to_string();
    match code {
        Some(code) if [READONLY, CANTOPEN].contains(&code) => {
            unusable(detail, "make the folder and the file writable or set DOGWATCH_DATA_DIR to a folder that is")
        }
        Some(code) if [CORRUPT, NOTADB].contains(&code) => unusable(
            detail,
            "move the file away (keep it: `sqlite3 FILE .recover` can read what is left) and start again",
        ),
        Some(code) if [IOERR, FULL].contains(&code) => unusable(detail, "see that the disk has room and works"),
        _ => from_sqlx(error, "open the fleet's database"),
    }
}
