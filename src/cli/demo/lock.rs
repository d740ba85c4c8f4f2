//! The cut: another process that holds an exclusive lock on logs.db.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;

use sqlx::{Connection as _, SqliteConnection};
use tokio::process::{Child, Command};

use crate::cli::args::HoldLockArgs;
use crate::cli::{Outcome, block_on, render};
use crate::error::Exit;

/// The hidden command: takes the lock, says so on stdout, and holds it until stdin ends.
pub(in crate::cli) fn hold_lock(args: &HoldLockArgs) -> Outcome {
    let file = args.file.clone();
    block_on(async move {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(&file)
            .busy_timeout(std::time::Duration::from_secs(10));
        let mut connection = SqliteConnection::connect_with(&options).await?;
        sqlx::query("begin exclusive").execute(&mut connection).await?;
        render::line("locked")?;
        let mut rest = Vec::new();
        std::io::stdin().lock().take(1_024).read_to_end(&mut rest)?;
        sqlx::query("rollback").execute(&mut connection).await?;
        connection.close().await?;
        Ok(Exit::Ok)
    })
}

/// The process that holds the lock; it is released when this value is dropped or let go.
pub(super) struct Lock(Child);

impl Lock {
    /// Starts the process and waits until it has the lock.
    pub(super) async fn take(file: &Path) -> anyhow::Result<Lock> {
        use tokio::io::AsyncBufReadExt as _;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("__hold-lock")
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow::anyhow!("the locker has no stdout"))?;
        let mut line = String::new();
        tokio::io::BufReader::new(stdout).read_line(&mut line).await?;
        anyhow::ensure!(line.trim() == "locked", "the locker could not lock {}", file.display());
        Ok(Lock(child))
    }

    /// Lets go and waits until the process has ended.
    pub(super) async fn release(mut self) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        self.0.wait().await?;
        Ok(())
    }
}
