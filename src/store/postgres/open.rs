//! Connecting: limits on every session, and whether the schema is one that this program works with.
//!
//! A URL holds a password: neither it nor what a parser makes of it is in any error.

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};

use super::fault::from_sqlx;
use crate::store::{Result, StoreError};
use crate::telemetry::exporter::postgres::schema::Migration;

/// The fleet's migrations, in order; they come after those of `system_logs`. A migration that was
/// released is never changed.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: "20261122030000",
        name: "fleet",
        sql: include_str!("../../../migrations/postgres/fleet/20261122030000_fleet.sql"),
    },
    Migration {
        version: "20261122030100",
        name: "rpc",
        sql: include_str!("../../../migrations/postgres/fleet/20261122030100_rpc.sql"),
    },
    Migration {
        version: "20261122030200",
        name: "logs_door",
        sql: include_str!("../../../migrations/postgres/fleet/20261122030200_logs_door.sql"),
    },
];
/// The level of the fleet's schema that this program brings a database to.
pub const SCHEMA_LEVEL: i64 = 1;
/// The oldest level that it works with: its own, and the one before.
pub const SCHEMA_LEVEL_MIN: i64 = if SCHEMA_LEVEL > 1 { SCHEMA_LEVEL - 1 } else { 1 };
/// Connections a process.
pub const CONNECTIONS_MAX: u32 = 12;
/// Longest a call waits for a connection: this process's own, or a new one.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(10);
/// Longest one statement takes.
const STATEMENT_LIMIT: Duration = Duration::from_secs(15);
/// Longest a statement waits for a lock.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// Longest a transaction does nothing, before the database ends it: a process that was stopped in the
/// middle of one holds its locks no longer.
const IDLE_IN_TRANSACTION_LIMIT: Duration = Duration::from_secs(10);
/// Connections that look whether they share sessions.
const POOLER_PROBES: usize = 3;

/// Where a database is, without what is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Host, or the folder of the socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Its name.
    pub database: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// The options of a URL, and what may be shown of it.
pub(super) fn options(url: &str) -> Result<(PgConnectOptions, Place)> {
    let bad = || StoreError::Address {
        detail:
            "expected postgres://USER:PASSWORD@HOST:5432/DATABASE (the text is not shown: it may hold a password)"
                .to_owned(),
    };
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(bad());
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| bad())?;
    let place = Place {
        host: options.get_socket().map_or_else(|| options.get_host().to_owned(), |path| path.display().to_string()),
        port: options.get_port(),
        database: options.get_database().unwrap_or(options.get_username()).to_owned(),
    };
    // A pooler refuses parameters at the start that it does not know.
    Ok((options.application_name("dogwatch").extra_float_digits(None).disable_statement_logging(), place))
}

/// A pool whose sessions are limited; it connects when it is first used.
pub(super) fn pool(options: PgConnectOptions) -> PgPool {
    let limits = format!(
        "set statement_timeout = {}; set lock_timeout = {}; set idle_in_transaction_session_timeout = {}",
        STATEMENT_LIMIT.as_millis(),
        LOCK_LIMIT.as_millis(),
        IDLE_IN_TRANSACTION_LIMIT.as_millis(),
    );
    PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_LIMIT)
        .idle_timeout(Duration::from_secs(60))
        .max_lifetime(None)
        .test_before_acquire(true)
        .after_connect(move |connection, _| {
            let limits = AssertSqlSafe(limits.clone());
            Box::pin(async move {
                connection.execute(sqlx::raw_sql(limits)).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options)
}

/// The level of the fleet's schema; 0 where there is none.
pub(super) async fn level(pool: &PgPool) -> Result<i64> {
    let there: bool = sqlx::query_scalar("select to_regprocedure('dogwatch.fleet_level()') is not null")
        .fetch_one(pool)
        .await
        .map_err(|error| from_sqlx(error, "connect"))?;
    if !there {
        return Ok(0);
    }
    sqlx::query_scalar("select dogwatch.fleet_level()")
        .fetch_one(pool)
        .await
        .map_err(|error| from_sqlx(error, "read the schema's level"))
}

/// Whether this program works with that level.
pub(super) fn check_level(level: i64, place: &Place) -> Result<()> {
    if level == 0 {
        return Err(StoreError::Schema { detail: format!("{place} has no tables of dogwatch's") });
    }
    if level < SCHEMA_LEVEL_MIN {
        let detail =
            format!("{place} is at level {level}, and this dogwatch works with {SCHEMA_LEVEL_MIN} and later");
        return Err(StoreError::Schema { detail });
    }
    Ok(())
}

/// Whether a pooler hands each transaction to another session: then what a session is set to is
/// somebody else's, and a prepared statement is not there when it is needed.
///
/// One connection asks which session it has, and asks again while the others keep theirs busy.
pub(super) async fn is_pooled_by_transaction(options: &PgConnectOptions) -> std::result::Result<bool, sqlx::Error> {
    const SESSION: &str = "select pg_backend_pid()";
    let mut first = options.clone().statement_cache_capacity(0).connect().await?;
    let own = pid(&mut first, SESSION).await?;
    let mut others = Vec::with_capacity(POOLER_PROBES);
    let mut is_shared = false;
    for _ in 0..POOLER_PROBES {
        let mut other = options.clone().statement_cache_capacity(0).connect().await?;
        other.execute(sqlx::raw_sql("begin")).await?;
        is_shared |= pid(&mut other, SESSION).await? == own;
        others.push(other);
        if is_shared {
            break;
        }
    }
    is_shared |= pid(&mut first, SESSION).await? != own;
    for mut other in others {
        other.execute(sqlx::raw_sql("rollback")).await?;
        let _ = sqlx::Connection::close(other).await;
    }
    let _ = sqlx::Connection::close(first).await;
    Ok(is_shared)
}

/// The session's process, asked for without a prepared statement.
async fn pid(connection: &mut sqlx::PgConnection, sql: &'static str) -> std::result::Result<String, sqlx::Error> {
    use sqlx::Row as _;
    let row = connection.fetch_one(sqlx::raw_sql(sql)).await?;
    Ok(row.try_get_unchecked::<i32, _>(0)?.to_string())
}
