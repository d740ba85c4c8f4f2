//! One program at a time: started, fed, listened to, ended, judged.
//!
//! The program leads a process group of its own, so that an order reaches all of it and nothing
//! of it stays behind. Its output is read from exec on until both pipes end; a grandchild that
//! holds a pipe open after the program's end gets [`LEFTOVER_GRACE`] and is then killed.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::capture::{Capture, Stream};
use super::client::{CallError, Client};
use super::crash::{self, EndWhy, Ended, Verdict};
use super::group::{Group, Undertaker};
use super::launcher::Launcher;
use super::program::{self, Program};
use super::shared::Shared;
use super::{AgentConfig, KILL_GRACE, cpu, guard};
use crate::rpc::{Claimed, ExitReport, Function, Progress, ProgressReply};
use crate::telemetry::propagation;

/// Shortest time between two `dw_task_progress`, and between two looks at the CPU time.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);
/// Time that grandchildren get to close the program's pipes after its end.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// Time that the kernel gets to end a killed process.
const REAP_LIMIT: Duration = Duration::from_secs(30);

/// What came of an attempt.
pub(super) struct Attempt {
    pub(super) verdict: Verdict,
    /// How the program ended, where it did not end well.
    pub(super) report: Option<ExitReport>,
}

impl Attempt {
    fn failed(error: String, is_retryable: bool) -> Attempt {
        Attempt { verdict: Verdict::Fail { error, is_retryable }, report: None }
    }
}

/// Runs programs.
pub(super) struct Runner {
    launcher: Launcher,
    undertaker: Undertaker,
    guard: Vec<String>,
}

impl Runner {
    /// To be called on a tokio runtime.
    pub(super) fn start(config: &AgentConfig) -> io::Result<Runner> {
        let guard = config.guard_program.clone().unwrap_or_else(guard::own);
        let undertaker = Undertaker::new(guard.clone(), config.hidden_env.clone());
        Ok(Runner { launcher: Launcher::start()?, undertaker, guard })
    }

    /// Lets helpers end.
    pub(super) async fn finish(&self) {
        self.undertaker.dismiss().await;
    }

    /// Runs the task's program to its end and judges it.
    pub(super) async fn run(
        &self,
        task: &Claimed,
        config: &AgentConfig,
        shared: &Shared,
        client: &Client,
    ) -> Attempt {
        let program = match program::of(task, config) {
            Ok(program) => program,
            Err(reason) => return Attempt::failed(reason, false),
        };
        if let Some(why) = shared.control().borrow().must_end(task.task_id) {
            return Attempt { verdict: crash::not_begun(why), report: None };
        }
        let oom_before = crash::oom_kills();
        let mut child = match self.launcher.spawn(self.command(task, config, &program)).await {
            Ok(child) => child,
            Err(error) => return cannot_start(&program, &error),
        };
        let mut group = Group::of(&child);
        let pid = group.pid();
        self.undertaker.watch(&self.launcher, &group).await;
        let capture = Capture::new(shared, &config.worker_id.0, task);
        let pumps = pump(&capture, &mut child, program.stdin);
        let ended = drive(&mut child, &mut group, pumps, ends(task, shared, client, pid)).await;
        group.kill_rest();
        self.undertaker.forget(&self.launcher, pid).await;
        match ended {
            Ok((status, why)) => judge(Ended::new(status, (oom_before, crash::oom_kills())), why, &capture),
            Err(error) => Attempt::failed(format!("the program's end could not be seen: {error}"), true),
        }
    }

    fn command(&self, task: &Claimed, config: &AgentConfig, program: &Program) -> Command {
        let parent = std::process::id().to_string();
        let guard = self.guard.iter().map(String::as_str);
        let separator = if self.guard.is_empty() { vec![] } else { vec![parent.as_str(), "--"] };
        let argv: Vec<&str> = guard.chain(separator).chain(program.argv.iter().map(String::as_str)).collect();
        let mut command = Command::new(argv[0]);
        if argv[0] == guard::OWN_EXECUTABLE {
            command.arg0("dogwatch");
        }
        command.args(&argv[1..]).process_group(0).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if program.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        if let Some(cwd) = &program.cwd {
            command.current_dir(cwd);
        }
        for name in &config.hidden_env {
            command.env_remove(name);
        }
        command.env("DOGWATCH_TASK_ID", task.task_id.to_string());
        command.env("DOGWATCH_TASK_ATTEMPT", task.attempt.to_string());
        command.env("DOGWATCH_WORKER_ID", &config.worker_id.0);
        // Python's lines come at once, and a crash in native code names where it was.
        command.env("PYTHONUNBUFFERED", "1").env("PYTHONFAULTHANDLER", "1");
        let own_context = propagation::traceparent(&tracing::Span::current());
        match own_context.or_else(|| task.traceparent.clone()) {
            Some(traceparent) => command.env("TRACEPARENT", traceparent),
            None => command.env_remove("TRACEPARENT"),
        };
        command
    }
}

fn judge(ended: Ended, why: Option<EndWhy>, capture: &Capture<'_>) -> Attempt {
    capture.with_tail(|tail| Attempt {
        verdict: crash::judge(ended, why, tail),
        report: (ended.exit_code != Some(0)).then(|| crash::report(ended, tail)),
    })
}

fn cannot_start(program: &Program, error: &io::Error) -> Attempt {
    use io::ErrorKind::{OutOfMemory, WouldBlock};
    let name = &program.argv[0];
    let cwd = program.cwd.as_ref().map_or(String::new(), |cwd| format!(" in {cwd}"));
    let is_passing = matches!(error.kind(), OutOfMemory | WouldBlock);
    Attempt::failed(format!("the program cannot be started: {name}{cwd}: {error}"), is_passing)
}

/// Feeds stdin and reads both outputs until all three have ended.
fn pump<'a>(capture: &'a Capture<'_>, child: &mut Child, stdin: Option<Vec<u8>>) -> impl Future<Output = ()> + 'a {
    let (pipe, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    async move {
        let feed = async {
            if let (Some(mut pipe), Some(bytes)) = (pipe, stdin) {
                // A program need not read all that it is given.
                let _ = pipe.write_all(&bytes).await;
            }
        };
        let out = async {
            if let Some(out) = out {
                capture.read(Stream::Stdout, out).await;
            }
        };
        let err = async {
            if let Some(err) = err {
                capture.read(Stream::Stderr, err).await;
            }
        };
        tokio::join!(feed, out, err);
    }
}

/// Waits for the program and its output, ending it when `ends` says why.
async fn drive(
    child: &mut Child,
    group: &mut Group,
    pumps: impl Future<Output = ()>,
    ends: impl Future<Output = EndWhy>,
) -> io::Result<(ExitStatus, Option<EndWhy>)> {
    tokio::pin!(pumps);
    let mut has_ended = false;
    let ended = {
        let wait = wait_or_end(child, group, ends);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                ended = &mut wait => break ended,
                () = &mut pumps, if !has_ended => has_ended = true,
            }
        }
    };
    if !has_ended && tokio::time::timeout(LEFTOVER_GRACE, &mut pumps).await.is_err() {
        tracing::warn!("processes of the program outlived it and are killed");
        group.kill_rest();
        let _ = tokio::time::timeout(LEFTOVER_GRACE, &mut pumps).await;
    }
    ended
}

/// SIGTERM to the group, [`KILL_GRACE`], SIGKILL.
async fn wait_or_end(
    child: &mut Child,
    group: &Group,
    ends: impl Future<Output = EndWhy>,
) -> io::Result<(ExitStatus, Option<EndWhy>)> {
    let why = tokio::select! {
        status = child.wait() => return status.map(|status| (status, None)),
        why = ends => why,
    };
    group.signal(Signal::TERM);
    let status = match tokio::time::timeout(KILL_GRACE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            group.signal(Signal::KILL);
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the kernel has not ended it");
            tokio::time::timeout(REAP_LIMIT, child.wait()).await.map_err(late)?
        }
    };
    status.map(|status| (status, Some(why)))
}

/// Waits for a reason to end the program: an order, or the base's answer to its progress.
async fn ends(task: &Claimed, shared: &Shared, client: &Client, group: Option<i32>) -> EndWhy {
    let mut control = shared.control();
    let ordered = async {
        loop {
            if let Some(why) = control.borrow_and_update().must_end(task.task_id) {
                break why;
            }
            if control.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        why = ordered => why,
        why = report_progress(task, shared, client, group) => why,
    }
}

/// Looks for progress and tells the base, until it says that the program is to end.
async fn report_progress(task: &Claimed, shared: &Shared, client: &Client, group: Option<i32>) -> EndWhy {
    let (mut told, mut ticks) = (shared.progress_seq(), None);
    loop {
        tokio::time::sleep(PROGRESS_PERIOD).await;
        let used = group.and_then(cpu::group_ticks);
        if used.is_some() && used != ticks {
            shared.progress();
        }
        ticks = used;
        let seen = shared.progress_seq();
        if seen == told {
            continue;
        }
        let progress = Progress { task_id: task.task_id, attempt: task.attempt, fraction: None, note: None };
        match client.call::<_, ProgressReply>(Function::TaskProgress, &progress).await {
            Ok(ProgressReply { cancel: true }) => return EndWhy::Cancelled,
            Ok(_) => {
                shared.in_contact();
                told = seen;
            }
            Err(CallError::Stop { detail, .. }) => {
                tracing::warn!(detail, "the attempt is no longer ours");
                return EndWhy::Superseded;
            }
            // The next period tries again; the program goes on.
            Err(error) => tracing::debug!(%error, "progress not told"),
        }
    }
}
