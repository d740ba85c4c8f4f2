//! The database of a demo on Postgres: made on the server that was named, and dropped by a process
//! that outlives the demo.
//!
//! That process stands by before the database is there, and drops it when its standard input ends:
//! after the verdict, after a signal, and where the demo was killed. The URL reaches it through that
//! pipe, so that no list of processes shows a password beside the one that was typed. It drops nothing
//! but databases of a demo's name.

use std::borrow::Cow;
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::cli::{Outcome, block_on};
use crate::clock;
use crate::error::{self, BadInput, Exit, Unavailable};
use crate::store::postgres::SCHEMA;
use crate::telemetry::exporter::postgres::schema::{self, MigrateError, Mode};
use crate::telemetry::exporter::postgres::{Address, AddressError};

/// What a demo's database is called, before 8 hex digits.
const PREFIX: &str = "dogwatch_demo_";
/// Longest time for a server to let us in.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for one statement of those below.
const STATEMENT_LIMIT: Duration = Duration::from_secs(20);
/// Times that a database is tried to be dropped, and the pause between two of them.
const DROP_TRIES: u32 = 10;
const DROP_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where the demo's database is to be.
pub(super) struct Server {
    url: String,
    address: Address,
    name: String,
    own_url: String,
    own: Address,
}

/// Whether the server knew the role that a superuser's migration makes; a role belongs to the whole
/// server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It stays.
    Known,
    /// It goes with the database.
    Unknown,
}

impl Server {
    /// The server of a URL, and a name that nobody else draws.
    ///
    /// # Errors
    /// It is no URL of Postgres.
    pub(super) fn of(url: &str) -> Result<Server, BadInput> {
        let bad = |error: AddressError| {
            BadInput::new(
                format!("--postgres is {error}"),
                "name a server, such as postgres://USER:PASSWORD@HOST:5432/postgres",
            )
        };
        let address = Address::parse(url).map_err(bad)?;
        let digits = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("{PREFIX}{}", &digits[..8]);
        // Of several names in a URL the last counts.
        let own_url = format!("{url}{}dbname={name}", if url.contains('?') { '&' } else { '?' });
        let own = Address::parse(&own_url).map_err(bad)?;
        if !own.to_string().ends_with(&format!("/{name}")) {
            return Err(BadInput::new(
                "--postgres is a URL in which no other database can be named",
                "write it as postgres://USER:PASSWORD@HOST:5432/postgres",
            ));
        }
        Ok(Server { url: url.to_owned(), address, name, own_url, own })
    }

    /// The URL of the demo's own database. It holds the password.
    pub(super) fn own_url(&self) -> &str {
        &self.own_url
    }

    /// Where the demo's own database is: what may be shown.
    pub(super) fn place(&self) -> String {
        self.own.to_string()
    }

    /// Looks whether the server lets us in.
    ///
    /// # Errors
    /// It does not answer (exit 69), or refuses (exit 2).
    pub(super) async fn reach(&self) -> anyhow::Result<Role> {
        let asked = within(STATEMENT_LIMIT, async {
            let mut connection = connect(&self.address).await?;
            let known = "select exists (select from pg_roles where rolname = 'dogwatch_rpc')";
            let known: bool = sqlx::query_scalar(known).fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok(if known { Role::Known } else { Role::Unknown })
        });
        asked.await.map_err(|failure| self.explain(&failure))
    }

    /// Makes the database, with dogwatch's schema.
    ///
    /// # Errors
    /// The role may not, or the server went away.
    pub(super) async fn make(&self) -> anyhow::Result<()> {
        let made = within(STATEMENT_LIMIT, async {
            let mut connection = connect(&self.address).await?;
            let sql = format!("create database {}", self.name);
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
            connection.close().await
        });
        made.await.map_err(|failure| self.explain(&failure))?;
        let migrated = schema::migrate_with(&self.own, Some(SCHEMA), Mode::Apply, None, clock::now()).await;
        migrated.map(|_| ()).map_err(|failure| match &failure {
            MigrateError::Database { source, .. } => self.explain(source),
            MigrateError::Changed { .. } => failure.into(),
        })
    }

    /// No answer is a service that is needed; a refusal is the URL's fault, or a right that is missing.
    fn explain(&self, failure: &sqlx::Error) -> anyhow::Error {
        let text = error::chain(failure);
        let code = failure.as_database_error().and_then(|error| error.code().map(Cow::into_owned));
        let is_away =
            code.as_deref().map_or(matches!(failure, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut), |code| {
                ["08", "53", "57P"].iter().any(|class| code.starts_with(class))
            });
        if is_away {
            return Unavailable { service: format!("Postgres at {}", self.address), detail: text }.into();
        }
        BadInput::new(
            format!("--postgres: {}: {text}", self.address),
            "name a role that may make databases (alter role NAME createdb), with its password",
        )
        .into()
    }
}

/// The process that will drop the database. Dropped, it does so now, and is waited for.
pub(super) struct Dropper(Child);

impl Dropper {
    /// Starts it; the database need not be there yet.
    pub(super) fn stand_by(server: &Server, role: Role) -> std::io::Result<Dropper> {
        let mut command = Command::new(std::env::current_exe()?);
        // In a group of its own: Ctrl-C is for the demo.
        let child = command.arg("__drop-database").stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut dropper = Dropper(child.spawn()?);
        let role = if role == Role::Known { "known" } else { "unknown" };
        if let Some(stdin) = &mut dropper.0.stdin {
            writeln!(stdin, "{}\n{}\n{role}", server.url, server.name)?;
        }
        Ok(dropper)
    }

    /// Has the database dropped. Whether it is gone; why not is on stderr.
    pub(super) fn drop_now(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        drop(self.0.stdin.take());
        self.0.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        self.end();
    }
}

/// The hidden command: reads URL, database and whether the role was known, waits until stdin ends, and
/// drops.
pub(in crate::cli) fn drop_database() -> Outcome {
    let mut input = std::io::stdin().lock();
    let mut line = || {
        let mut text = String::new();
        input.read_line(&mut text).map(|_| text.trim_end().to_owned())
    };
    let (url, name, role) = (line()?, line()?, line()?);
    let is_demos =
        name.strip_prefix(PREFIX).is_some_and(|end| end.len() == 8 && end.chars().all(|c| c.is_ascii_hexdigit()));
    anyhow::ensure!(is_demos, "{name:?} is no database of a demo");
    let address = Address::parse(&url)?;
    let mut rest = Vec::new();
    input.take(1_024).read_to_end(&mut rest)?;
    block_on(async move {
        for attempt in 1..=DROP_TRIES {
            match within(STATEMENT_LIMIT, drop_from(&address, &name, role == "unknown")).await {
                Ok(()) => return Ok(Exit::Ok),
                Err(failure) if attempt == DROP_TRIES => {
                    let what = format!("database {name} at {address} is still there: {}", error::chain(&failure));
                    return Err(BadInput::new(what, format!("drop it: drop database {name}")).into());
                }
                Err(_) => tokio::time::sleep(DROP_AGAIN_AFTER).await,
            }
        }
        Ok(Exit::Problem)
    })
}

/// Drops the database, also under the feet of those who are in it.
async fn drop_from(address: &Address, name: &str, with_role: bool) -> Result<(), sqlx::Error> {
    let mut connection = connect(address).await?;
    let sql = format!("drop database if exists {name} with (force)");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    if with_role {
        // Where another fleet has come to need it in the meantime, the server refuses, and it stays.
        let _ = sqlx::raw_sql("drop role if exists dogwatch_rpc").execute(&mut connection).await;
    }
    connection.close().await
}

async fn connect(address: &Address) -> Result<PgConnection, sqlx::Error> {
    within(CONNECT_LIMIT, address.connect()).await
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(late) => Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, late))),
    }
}
