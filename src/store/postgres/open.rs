//! Connecting: limits on every session, and whether the schema is one that this program works with.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor as _};

use super::fault::from_sqlx;
use super::rights::RIGHTS;
use crate::store::{Result, StoreError};
use crate::telemetry::exporter::postgres::Address;
use crate::telemetry::exporter::postgres::schema::{Addition, Migration};

/// The fleet's migrations, in order; they come after those of `system_logs`. A migration that was
/// released is never changed.
const MIGRATIONS: &[Migration] = &[
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
    Migration {
        version: "20261122040000",
        name: "policy",
        sql: include_str!("../../../migrations/postgres/fleet/20261122040000_policy.sql"),
    },
    Migration {
        version: "20261128020000",
        name: "claims",
        sql: include_str!("../../../migrations/postgres/fleet/20261128020000_claims.sql"),
    },
    Migration {
        version: "20261128025000",
        name: "silence_of_the_fleet",
        sql: include_str!("../../../migrations/postgres/fleet/20261128025000_silence_of_the_fleet.sql"),
    },
    Migration {
        version: "20261128030000",
        name: "claims_together",
        sql: include_str!("../../../migrations/postgres/fleet/20261128030000_claims_together.sql"),
    },
    Migration {
        version: "20261128061000",
        name: "silence_of_the_fleet_waits_no_longer",
        sql: include_str!(
            "../../../migrations/postgres/fleet/20261128061000_silence_of_the_fleet_waits_no_longer.sql"
        ),
    },
];
/// The fleet's schema, on top of `system_logs`.
pub const SCHEMA: Addition = Addition { migrations: MIGRATIONS, rights: RIGHTS };
/// The level of the fleet's schema that this program brings a database to.
pub const SCHEMA_LEVEL: i64 = 4;
/// The oldest level that it works with: there the claims are the slower ones, and up to level 3 each is made
/// by itself. Level 1 has no orders, no pools
/// and no cells.
pub const SCHEMA_LEVEL_MIN: i64 = 2;
/// Connections a process.
pub const CONNECTIONS_MAX: u32 = 12;
/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 100;
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

/// A pool whose sessions are limited; it connects when it is first used.
pub(super) fn pool(options: PgConnectOptions) -> PgPool {
    let options = options.statement_cache_capacity(STATEMENTS_MAX);
    let limits = format!(
        "set statement_timeout = {}; set lock_timeout = {}; set idle_in_transaction_session_timeout = {}; set jit = off",
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

/// PostgREST connects as the role `authenticator`, whose settings it reads; Supabase's default is 1,000.
pub(super) async fn data_api_rows_max(pool: &PgPool) -> Result<Option<u64>> {
    let sql = "select coalesce((
             select split_part(s, '=', 2)::bigint from pg_db_role_setting r cross join unnest(r.setconfig) s
             where r.setrole = to_regrole('authenticator') and s ~ '^pgrst.db_max_rows=[0-9]{1,18}$' limit 1), 1000)
         where to_regrole('authenticator') is not null";
    let cap: Option<i64> = sqlx::query_scalar(sql)
        .fetch_optional(pool)
        .await
        .map_err(|error| from_sqlx(error, "look for a Data API"))?;
    Ok(cap.map(i64::unsigned_abs))
}

/// Whether this program works with that level.
pub(super) fn check_level(level: i64, place: &Address) -> Result<()> {
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
pub(super) async fn is_pooled_by_transaction(address: &Address) -> std::result::Result<bool, sqlx::Error> {
    const SESSION: &str = "select pg_backend_pid()";
    let mut first = address.connect().await?;
    let own = pid(&mut first, SESSION).await?;
    let mut others = Vec::with_capacity(POOLER_PROBES);
    let mut is_shared = false;
    for _ in 0..POOLER_PROBES {
        let mut other = address.connect().await?;
        other.execute(sqlx::raw_sql("begin")).await?;
        is_shared |= pid(&mut other, SESSION).await? == own;
        others.push(other);
        if is_shared {
            break;
        }
    }
    // Where the others have all there is, a pooler would let this one wait.
    is_shared = is_shared || pid(&mut first, SESSION).await? != own;
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
