//! Where a database is, and a connection to it.
//!
//! Nothing here keeps state in a session, so that poolers in transaction mode work, too: no
//! parameters at the start that they do not know, limits set for a transaction, statements without
//! names. The URL holds a password: it is in no error and no `Debug` (I17).

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};

/// A Postgres database: from `postgres://user:password@host:port/name?sslmode=...`.
#[derive(Clone)]
pub struct Address(Arc<PgConnectOptions>);

/// A text that is no address; it is not shown, because it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a URL such as postgres://user:password@host:5432/database: {detail}")]
pub struct AddressError {
    /// What is wrong.
    detail: String,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is none of Postgres.
    pub fn parse(url: &str) -> Result<Address, AddressError> {
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(AddressError { detail: "it begins with neither postgres:// nor postgresql://".to_owned() });
        }
        let options = PgConnectOptions::from_str(url).map_err(|error| AddressError {
            // A parser's error names the fault and not the text; to be sure, nothing that looks
            // like a part of the URL is let through.
            detail: match error {
                sqlx::Error::Configuration(source) if !url.contains(&source.to_string()) => source.to_string(),
                _ => "it cannot be read".to_owned(),
            },
        })?;
        let options = options
            .application_name("dogwatch")
            .extra_float_digits(None)
            .statement_cache_capacity(0)
            .disable_statement_logging();
        Ok(Address(Arc::new(options)))
    }

    /// What the driver needs, for a reader's pool.
    #[cfg(feature = "full")]
    pub(crate) fn options(&self) -> PgConnectOptions {
        PgConnectOptions::clone(&self.0)
    }

    /// Connects; the caller sets the deadline.
    ///
    /// # Errors
    /// As the driver tells.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        self.0.connect().await
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// `host:port/database`: what may be shown.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.0.get_host(), self.0.get_port());
        write!(f, "{host}:{port}/{}", self.0.get_database().unwrap_or_default())
    }
}

/// What the database may say beside its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notices {
    /// The driver logs it.
    Wanted,
    /// Nothing: during a COPY nobody reads, and a trigger that says much would stop both sides.
    Unread,
}

/// Begins a transaction whose statements, and waits for locks, end by themselves.
pub(super) async fn begin(
    connection: &mut PgConnection,
    statement_limit: Duration,
    lock_limit: Duration,
    notices: Notices,
) -> Result<(), sqlx::Error> {
    let quiet = if notices == Notices::Unread { "; set local client_min_messages = error" } else { "" };
    let sql = format!(
        "begin; set local statement_timeout = {}; set local lock_timeout = {}{quiet}",
        statement_limit.as_millis().max(1),
        lock_limit.as_millis().max(1)
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}
