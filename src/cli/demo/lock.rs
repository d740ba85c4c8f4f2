//! The cut: another process that holds an exclusive lock on logs.db, or on the table in Postgres.

use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::cli::args::HoldLockArgs;
use crate::cli::{Outcome, block_on, render};
use crate::config::Config;
use crate::error::Exit;
use crate::telemetry::exporter::postgres::Address;

/// Longest wait for those who are writing at the moment.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// The hidden command: takes the lock, says so on stdout, and holds it until stdin ends.
pub(in crate::cli) fn hold_lock(args: &HoldLockArgs) -> Outcome {
    match args.file.clone() {
        Some(file) => block_on(hold_file(file)),
        None => block_on(hold_table()),
    }
}

async fn hold_file(file: PathBuf) -> Outcome {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).busy_timeout(LOCK_LIMIT);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::query("begin exclusive").execute(&mut connection).await?;
    locked()?;
    sqlx::query("rollback").execute(&mut connection).await?;
    connection.close().await?;
    Ok(Exit::Ok)
}

/// The first line of stdin is the database's URL: arguments can be read by everybody.
async fn hold_table() -> Outcome {
    let mut url = String::new();
    std::io::stdin().lock().read_line(&mut url)?;
    let mut connection = Address::parse(url.trim_end())?.connect().await?;
    let lock = format!(
        "begin; set local lock_timeout = {}; lock table public.system_logs in access exclusive mode",
        LOCK_LIMIT.as_millis()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut connection).await?;
    locked()?;
    sqlx::raw_sql("rollback").execute(&mut connection).await?;
    connection.close().await?;
    Ok(Exit::Ok)
}

fn locked() -> anyhow::Result<()> {
    render::line("locked")?;
    let mut rest = Vec::new();
    std::io::stdin().lock().take(1_024).read_to_end(&mut rest)?;
    Ok(())
}

/// The process that holds the lock; it is released when this value is dropped or let go.
pub(super) struct Lock(Child);

impl Lock {
    /// Locks where log rows go: starts the process and waits until it has the lock.
    pub(super) async fn take(config: &Config) -> anyhow::Result<Lock> {
        match config.values.text("DATABASE_URL") {
            Some(url) => Lock::start(None, Some(&url), "system_logs").await,
            None => {
                let file = config.logs_db();
                Lock::start(Some(&file), None, &file.display().to_string()).await
            }
        }
    }

    async fn start(file: Option<&Path>, url: Option<&str>, what: &str) -> anyhow::Result<Lock> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("__hold-lock")
            .args(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let (Some(stdin), Some(url)) = (&mut child.stdin, url) {
            stdin.write_all(format!("{url}\n").as_bytes()).await?;
        }
        let stdout = child.stdout.take().ok_or_else(|| anyhow::anyhow!("the locker has no stdout"))?;
        let mut line = String::new();
        tokio::io::BufReader::new(stdout).read_line(&mut line).await?;
        anyhow::ensure!(line.trim() == "locked", "the locker could not lock {what}");
        Ok(Lock(child))
    }

    /// Lets go and waits until the process has ended.
    pub(super) async fn release(mut self) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        self.0.wait().await?;
        Ok(())
    }
}
