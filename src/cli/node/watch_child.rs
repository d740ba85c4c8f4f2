//! `dogwatch watch` as a process of its own, kept running.
//!
//! Under `up` it outlives a killed orchestrator, since that is what it is there to notice; the next
//! `up` on the folder ends it and starts its own. Under `demo` it ends with its parent.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::Story;
use crate::config::Config;
use crate::supervise::Intensity;
use crate::supervise::task::Group;

/// Wait before a watch that has ended is started again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Time it has to end after SIGTERM.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Starts the watch as a member of `group`.
pub(super) fn start(group: &Group, config: &Config, story: Story) {
    let (data_dir, database) = (config.data_dir.clone(), config.values.text("DATABASE_URL"));
    group.start("watch", Intensity::default(), move |pulse, mut stop| {
        let (data_dir, database) = (data_dir.clone(), database.clone());
        async move {
            while !stop.is_raised() {
                pulse.beat();
                let mut command = match watch_command(&data_dir, database.as_deref(), story) {
                    Ok(command) => command,
                    Err(error) => {
                        tracing::error!(%error, "the watch cannot be started: nothing looks from outside");
                        return;
                    }
                };
                let ended = match command.spawn() {
                    Ok(mut child) => tokio::select! {
                        status = child.wait() => {
                            status.map_or_else(|error| error.to_string(), |status| status.to_string())
                        }
                        () = stop.raised() => return end(child).await,
                    },
                    Err(error) => error.to_string(),
                };
                // Ctrl-C goes to the watch as well, which then ends a moment before it is told to.
                if stop.raised_within(AGAIN_AFTER).await {
                    return;
                }
                tracing::error!(status = ended, "the watch has ended and is started again");
            }
        }
    });
}

fn watch_command(data_dir: &std::path::Path, database: Option<&str>, story: Story) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["watch", "--take-over"])
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if story == Story::Demo {
        let pid = std::process::id().to_string();
        command.args(["--demo", "--parent", &pid]).stderr(Stdio::null()).kill_on_drop(true);
        // The demo's own database, or none, whatever the environment says.
        command.env_remove("DATABASE_URL").envs(database.map(|url| ("DATABASE_URL", url)));
    }
    Ok(command)
}

async fn end(mut child: tokio::process::Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
