//! A program's process group: signalled as a whole, buried with the agent.
//!
//! Dropping a [`Group`] kills what is left of it. The undertaker (see [`guard`]) knows every group
//! that is alive, so that a SIGKILL of the agent leaves none behind; where it cannot be had, the
//! parent-death signal still ends the program itself.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

use super::guard;
use super::launcher::Launcher;

/// How long the undertaker may take to end once its pipe is closed.
const UNDERTAKER_LIMIT: Duration = Duration::from_secs(2);

/// A process group that this agent started.
#[derive(Debug)]
pub(super) struct Group(Option<Pid>);

impl Group {
    /// The group that `child` leads.
    pub(super) fn of(child: &Child) -> Group {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Group(pid.and_then(Pid::from_raw))
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.0.map(|pid| pid.as_raw_nonzero().get())
    }

    /// Sends a signal to every process of the group; one that has ended is no error.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Kills what is left, and forgets the number before the kernel gives it to somebody else.
    pub(super) fn kill_rest(&mut self) {
        if let Some(pid) = self.0.take()
            && test_kill_process_group(pid).is_ok()
        {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill_rest();
    }
}

/// Tells the undertaker about groups; starts it again where it has died.
pub(super) struct Undertaker {
    guard: Vec<String>,
    hidden_env: Vec<String>,
    process: Mutex<Option<(Child, ChildStdin)>>,
}

impl Undertaker {
    /// `guard`: the command in front of [`guard::main`]'s arguments.
    pub(super) fn new(guard: Vec<String>, hidden_env: Vec<String>) -> Undertaker {
        Undertaker { guard, hidden_env, process: Mutex::default() }
    }

    /// The group lives.
    pub(super) async fn watch(&self, launcher: &Launcher, group: &Group) {
        if let Some(pid) = group.pid() {
            self.tell(launcher, &format!("+{pid}\n")).await;
        }
    }

    /// The group of that number has ended.
    pub(super) async fn forget(&self, launcher: &Launcher, pid: Option<i32>) {
        if let Some(pid) = pid {
            self.tell(launcher, &format!("-{pid}\n")).await;
        }
    }

    async fn tell(&self, launcher: &Launcher, order: &str) {
        let mut process = self.process.lock().await;
        if let Some((_, stdin)) = process.as_mut()
            && stdin.write_all(order.as_bytes()).await.is_ok()
        {
            return;
        }
        // One program at a time: an undertaker that is new knows all there is to know.
        let started = self.start(launcher).await;
        if let Err(error) = &started {
            tracing::warn!(%error, "no undertaker: children of a program may outlive a killed agent");
        }
        *process = started.ok();
        if let Some((_, stdin)) = process.as_mut() {
            let _ = stdin.write_all(order.as_bytes()).await;
        }
    }

    async fn start(&self, launcher: &Launcher) -> std::io::Result<(Child, ChildStdin)> {
        let Some((program, arguments)) = self.guard.split_first() else {
            return Err(std::io::Error::other("no guard program"));
        };
        let mut command = Command::new(program);
        if program == guard::OWN_EXECUTABLE {
            command.arg0("dogwatch");
        }
        command.args(arguments).arg(guard::BURY).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        for name in &self.hidden_env {
            command.env_remove(name);
        }
        let mut child = launcher.spawn(command).await?;
        let stdin = child.stdin.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
        Ok((child, stdin))
    }

    /// Lets the undertaker end.
    pub(super) async fn dismiss(&self) {
        if let Some((mut child, stdin)) = self.process.lock().await.take() {
            drop(stdin);
            let _ = tokio::time::timeout(UNDERTAKER_LIMIT, child.wait()).await;
        }
    }
}
