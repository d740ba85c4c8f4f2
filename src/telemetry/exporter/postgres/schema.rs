//! The migrations of `system_logs` in Postgres, embedded, and how `dogwatch migrate` applies them.
//!
//! All that are missing go in as one transaction, under a lock, so that two at once do no harm and
//! a failure leaves the database as it was. What was applied stands with its checksum in
//! `dogwatch.migrations`; a project that keeps Supabase's history has it there, too, and what
//! Supabase's own tools have applied is not applied again. Rights that were revoked since are granted
//! again each time ([`rights`]).

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, Row as _};

use super::connect::{self, Address, Notices};
use super::rights::{self, LOGS};
use crate::clock::{self, Time};

/// One migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// `YYYYMMDDHHMMSS`: the order.
    pub version: &'static str,
    /// What it makes.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

/// In order; a migration that was released is never changed.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: "20261101000000",
        name: "system_logs",
        sql: include_str!("../../../../migrations/postgres/logs/20261101000000_system_logs.sql"),
    },
    Migration {
        version: "20261101000100",
        name: "dw_insert_logs",
        sql: include_str!("../../../../migrations/postgres/logs/20261101000100_dw_insert_logs.sql"),
    },
    Migration {
        version: "20261122000000",
        name: "telemetry_silence",
        sql: include_str!("../../../../migrations/postgres/logs/20261122000000_telemetry_silence.sql"),
    },
    Migration {
        version: "20261128010000",
        name: "read_logs",
        sql: include_str!("../../../../migrations/postgres/logs/20261128010000_read_logs.sql"),
    },
    Migration {
        version: "20261128060000",
        name: "silence_waits_no_longer",
        sql: include_str!("../../../../migrations/postgres/logs/20261128060000_silence_waits_no_longer.sql"),
    },
];

/// A schema that builds on `system_logs`.
#[derive(Debug, Clone, Copy)]
pub struct Addition {
    /// In order.
    pub migrations: &'static [Migration],
    /// What is due to whom, see [`rights`].
    pub rights: &'static str,
}

/// Longest time one statement may take: an index over a table that is there already.
const STATEMENT_LIMIT: Duration = Duration::from_secs(600);
/// Longest wait for another's lock, the lock of another migration included.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// Only one migration at a time has this lock.
const LOCK: i64 = 4_920_017_734_120_860;

/// What is to become of the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They stay.
    Apply,
    /// They are made, to see that they can be, and taken back.
    DryRun,
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Migrated {
    /// Migrations (`version_name`) that were there before.
    pub present: Vec<String>,
    /// Migrations that are there since.
    pub applied: Vec<String>,
    /// The name that a table `system_logs` of others got.
    pub renamed_to: Option<&'static str>,
    /// Rights that were missing without a migration's doing, and were granted again.
    pub granted: Vec<String>,
    /// Rights that are missing still: the role that migrates may not grant them.
    pub ungranted: Vec<String>,
    /// Whether pg_cron runs the housekeeping; else exporters do.
    pub by_pg_cron: bool,
}

/// Why a database was not migrated; nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// It does not answer, or refuses.
    #[error("{database} was not migrated ({doing})")]
    Database {
        /// Where it is.
        database: String,
        /// What was being done.
        doing: String,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// A migration was applied that is not the one of this program.
    #[error("{database} has a migration {migration} that is not this program's; use the dogwatch that applied it")]
    Changed {
        /// Where it is.
        database: String,
        /// Which.
        migration: String,
    },
}

/// Brings `system_logs` at `address` to this program's schema. `keep` is how long rows are kept
/// from now on, None leaves that as it is.
///
/// # Errors
/// See [`MigrateError`].
pub async fn migrate(
    address: &Address,
    mode: Mode,
    keep: Option<Duration>,
    now: Time,
) -> Result<Migrated, MigrateError> {
    migrate_with(address, None, mode, keep, now).await
}

/// The same, and then the `addition`: all of it or nothing.
///
/// # Errors
/// See [`MigrateError`].
pub async fn migrate_with(
    address: &Address,
    addition: Option<Addition>,
    mode: Mode,
    keep: Option<Duration>,
    now: Time,
) -> Result<Migrated, MigrateError> {
    let failed = |doing: &str| {
        let (database, doing) = (address.to_string(), doing.to_owned());
        move |source| MigrateError::Database { database, doing, source }
    };
    let mut connection = address.connect().await.map_err(failed("connecting"))?;
    connect::begin(&mut connection, STATEMENT_LIMIT, LOCK_LIMIT, Notices::Wanted)
        .await
        .map_err(failed("beginning"))?;
    let mut history = History::open(&mut connection).await.map_err(failed("reading its history"))?;
    let renames = is_others_table(&mut connection).await.map_err(failed("looking for system_logs"))?;
    let (mut present, mut applied) = (Vec::new(), Vec::new());
    for migration in MIGRATIONS.iter().chain(addition.map_or(&[][..], |more| more.migrations)) {
        let name = format!("{}_{}", migration.version, migration.name);
        match history.find(&mut connection, migration).await.map_err(failed("reading its history"))? {
            Found::Same => present.push(name),
            Found::Other => {
                return Err(MigrateError::Changed { database: address.to_string(), migration: name });
            }
            Found::None => {
                sqlx::raw_sql(migration.sql).execute(&mut connection).await.map_err(failed(&name))?;
                history.add(&mut connection, migration, now).await.map_err(failed("writing its history"))?;
                applied.push(name);
            }
        }
    }
    let by_pg_cron = finish(&mut connection, keep).await.map_err(failed("setting up the housekeeping"))?;
    let due: Vec<&str> = [LOGS].into_iter().chain(addition.map(|more| more.rights)).collect();
    let (granted, ungranted) =
        rights::restore(&mut connection, &due).await.map_err(failed("granting rights again"))?;
    let last = if mode == Mode::Apply { "commit" } else { "rollback" };
    sqlx::raw_sql(last).execute(&mut connection).await.map_err(failed(last))?;
    Ok(Migrated { present, applied, renamed_to: renames.then_some(RENAMED), granted, ungranted, by_pg_cron })
}

/// The name that a table of others gets.
const RENAMED: &str = "system_logs_before_dogwatch";

async fn is_others_table(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let statement = "select to_regclass('public.system_logs') is not null and not exists ( \
                     select from pg_attribute where attrelid = to_regclass('public.system_logs') \
                     and attname = 'arrival' and not attisdropped)";
    sqlx::query_scalar(statement).persistent(false).fetch_one(connection).await
}

async fn finish(connection: &mut PgConnection, keep: Option<Duration>) -> Result<bool, sqlx::Error> {
    if let Some(keep) = keep {
        let statement = "update dogwatch.log_settings set keep = $1 * interval '1 second' \
                         where keep <> $1 * interval '1 second'";
        let seconds = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
        sqlx::query(statement).persistent(false).bind(seconds).execute(&mut *connection).await?;
    }
    let statement = "select dogwatch.schedule_log_maintenance()";
    sqlx::query_scalar(statement).persistent(false).fetch_one(connection).await
}

/// What was applied before.
struct History {
    /// Whether Supabase's own history is kept here.
    is_supabase: bool,
}

enum Found {
    None,
    Same,
    Other,
}

impl History {
    /// Takes the lock of migrations and makes the history's table.
    async fn open(connection: &mut PgConnection) -> Result<History, sqlx::Error> {
        let lock = sqlx::query("select pg_advisory_xact_lock($1)").persistent(false).bind(LOCK);
        lock.execute(&mut *connection).await?;
        let table = "create schema if not exists dogwatch; \
                     create table if not exists dogwatch.migrations ( \
                     version text primary key, name text not null, sha256 text not null, \
                     applied_at timestamptz not null)";
        sqlx::raw_sql(table).execute(&mut *connection).await?;
        let supabase = "select to_regclass('supabase_migrations.schema_migrations') is not null";
        let is_supabase = sqlx::query_scalar(supabase).persistent(false).fetch_one(connection).await?;
        Ok(History { is_supabase })
    }

    async fn find(&mut self, connection: &mut PgConnection, migration: &Migration) -> Result<Found, sqlx::Error> {
        let own = "select sha256 from dogwatch.migrations where version = $1";
        let own =
            sqlx::query(own).persistent(false).bind(migration.version).fetch_optional(&mut *connection).await?;
        if let Some(row) = own {
            let sha256: String = row.try_get(0)?;
            return Ok(if sha256 == checksum(migration) { Found::Same } else { Found::Other });
        }
        if self.is_supabase {
            // Supabase's tools cut a file into statements, so that there is no checksum to compare.
            let theirs = "select 1 from supabase_migrations.schema_migrations where version = $1";
            let theirs = sqlx::query(theirs).persistent(false).bind(migration.version);
            if theirs.fetch_optional(connection).await?.is_some() {
                return Ok(Found::Same);
            }
        }
        Ok(Found::None)
    }

    async fn add(
        &mut self,
        connection: &mut PgConnection,
        migration: &Migration,
        now: Time,
    ) -> Result<(), sqlx::Error> {
        let own = "insert into dogwatch.migrations (version, name, sha256, applied_at) \
                   values ($1, $2, $3, to_timestamp($4))";
        sqlx::query(own)
            .persistent(false)
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum(migration))
            .bind(clock::age(now, clock::from_micros(0)).as_secs_f64())
            .execute(&mut *connection)
            .await?;
        if self.is_supabase {
            let theirs = "insert into supabase_migrations.schema_migrations (version, name, statements) \
                          values ($1, $2, array[$3]) on conflict do nothing";
            let theirs = sqlx::query(theirs).persistent(false);
            theirs.bind(migration.version).bind(migration.name).bind(migration.sql).execute(connection).await?;
        }
        Ok(())
    }
}

fn checksum(migration: &Migration) -> String {
    Sha256::digest(migration.sql).iter().map(|byte| format!("{byte:02x}")).collect()
}
