//! How a program ended, and what that means for its task. Pure but for the reading of the kernel's
//! OOM counter.
//!
//! Exit 0 is complete. Another exit code is the program's own verdict: the task failed, and another
//! attempt would fail again. A signal came from outside: another attempt may succeed.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use serde_json::{Value, json};

use super::guard;
use super::tail::Tail;
use crate::rpc::ExitReport;

/// Why the agent ended the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndWhy {
    /// The task was cancelled.
    Cancelled,
    /// The agent was ordered to stop at once.
    Stopped,
    /// The drain limit was over.
    DrainLimit,
    /// The attempt or the whole agent was superseded: nobody wants to hear of it.
    Superseded,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) is_oom: bool,
}

impl Ended {
    /// `oom_kills`: what [`oom_kills`] said before and after.
    pub(super) fn new(status: ExitStatus, oom_kills: (Option<u64>, Option<u64>)) -> Ended {
        const SIGKILL: i32 = 9;
        let rose = matches!(oom_kills, (Some(before), Some(after)) if after > before);
        Ended {
            exit_code: status.code(),
            signal: status.signal(),
            is_oom: rose && status.signal() == Some(SIGKILL),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.exit_code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => {
                write!(f, "killed by signal {signal}{}", signal_name(signal))?;
                f.write_str(if self.is_oom { ", out of memory (the kernel's OOM killer)" } else { "" })
            }
            (None, None) => f.write_str("ended in an unknown way"),
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// What is reported about an attempt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// `dw_complete_task`.
    Complete { output: Value },
    /// `dw_fail_task`.
    Fail { error: String, is_retryable: bool },
    /// Nothing: the attempt is no longer ours.
    Abandon,
}

/// The verdict on a program that ran and ended, `why` set where the agent ended it.
pub(super) fn judge(ended: Ended, why: Option<EndWhy>, tail: &Tail) -> Verdict {
    let fail = |error: String, is_retryable| Verdict::Fail { error: with_lines(error, tail), is_retryable };
    match (why, ended.exit_code) {
        (Some(EndWhy::Superseded), _) => Verdict::Abandon,
        (_, Some(0)) => Verdict::Complete {
            output: json!({ "exit_code": 0, "stdout_tail": tail.stdout_text(), "result": tail.result() }),
        },
        (Some(EndWhy::Cancelled), _) => fail(format!("cancelled; the program ended with {ended}"), false),
        (Some(EndWhy::Stopped), _) => fail(format!("the agent was ordered to stop; {ended}"), true),
        (Some(EndWhy::DrainLimit), _) => fail(format!("not done within the drain limit; {ended}"), true),
        (None, Some(code)) => match cannot_start(code, tail) {
            Some(reason) => {
                Verdict::Fail { error: format!("the program cannot be started: {reason}"), is_retryable: false }
            }
            None => fail(ended.to_string(), false),
        },
        (None, None) => fail(ended.to_string(), true),
    }
}

/// The verdict on a task whose program was not even started.
pub(super) fn not_begun(why: EndWhy) -> Verdict {
    let fail = |error: &str, is_retryable| Verdict::Fail { error: error.to_owned(), is_retryable };
    match why {
        EndWhy::Superseded => Verdict::Abandon,
        EndWhy::Cancelled => fail("cancelled before its program was started", false),
        EndWhy::Stopped | EndWhy::DrainLimit => fail("the agent had to leave before the program was started", true),
    }
}

/// The guard's own words, where it was it that ended and not the program.
fn cannot_start(code: i32, tail: &Tail) -> Option<&str> {
    if code != guard::CANNOT_START_CODE {
        return None;
    }
    tail.last_line()?.strip_prefix(guard::CANNOT_START)
}

fn with_lines(error: String, tail: &Tail) -> String {
    let lines = tail.error_text();
    if lines.is_empty() { error } else { format!("{error}; last lines:\n{lines}") }
}

/// The agent's last words about a program that did not end well.
pub(super) fn report(ended: Ended, tail: &Tail) -> ExitReport {
    ExitReport {
        reason: ended.to_string(),
        exit_code: ended.exit_code,
        signal: ended.signal,
        oom_killed: ended.is_oom,
        last_lines: tail.last_lines(),
        gpu: None,
    }
}

/// How many processes of our cgroup the kernel's OOM killer has ended; None where it cannot be read.
pub(super) fn oom_kills() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let candidates = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some(Path::new("/sys/fs/cgroup").join(path).join("memory.events")),
            "memory" => Some(Path::new("/sys/fs/cgroup/memory").join(path).join("memory.oom_control")),
            _ => None,
        }
    });
    // In a container the path is the host's, while the mount shows our own group as the root.
    let roots = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"].map(Into::into);
    candidates.chain(roots).find_map(|file| parse_oom_kills(&std::fs::read_to_string(file).ok()?))
}

fn parse_oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(raw_status: i32, why: Option<EndWhy>, stderr: &str, expected: Expect) {
        let mut tail = Tail::default();
        stderr.lines().for_each(|line| tail.line(line));
        let ended = Ended::new(ExitStatus::from_raw(raw_status), (Some(1), Some(2)));
        expected.assert_eq(&match judge(ended, why, &tail) {
            Verdict::Complete { output } => format!("complete {output}"),
            Verdict::Fail { error, is_retryable } => format!("fail, retryable {is_retryable}: {error}"),
            Verdict::Abandon => "abandon".to_owned(),
        });
    }

    #[test]
    fn the_end_of_the_program_decides() {
        check(0, None, "", expect![[r#"complete {"exit_code":0,"result":null,"stdout_tail":""}"#]]);
        check(
            3 << 8,
            None,
            "no such model",
            expect![[r#"
            fail, retryable false: exit code 3; last lines:
            no such model"#]],
        );
        check(11, None, "", expect!["fail, retryable true: killed by signal 11 (SIGSEGV)"]);
        check(
            9,
            None,
            "",
            expect!["fail, retryable true: killed by signal 9 (SIGKILL), out of memory (the kernel's OOM killer)"],
        );
        check(
            127 << 8,
            None,
            "sh: 1: x: not found",
            expect![[r#"
            fail, retryable false: exit code 127; last lines:
            sh: 1: x: not found"#]],
        );
        check(
            127 << 8,
            None,
            &format!("{}gzipp: No such file or directory", guard::CANNOT_START),
            expect!["fail, retryable false: the program cannot be started: gzipp: No such file or directory"],
        );
    }

    #[test]
    fn a_reason_of_the_agent_counts_unless_the_program_was_done() {
        check(
            0,
            Some(EndWhy::DrainLimit),
            "",
            expect![[r#"complete {"exit_code":0,"result":null,"stdout_tail":""}"#]],
        );
        check(
            15,
            Some(EndWhy::DrainLimit),
            "",
            expect!["fail, retryable true: not done within the drain limit; killed by signal 15 (SIGTERM)"],
        );
        check(
            15,
            Some(EndWhy::Cancelled),
            "",
            expect!["fail, retryable false: cancelled; the program ended with killed by signal 15 (SIGTERM)"],
        );
        check(
            1 << 8,
            Some(EndWhy::Stopped),
            "",
            expect!["fail, retryable true: the agent was ordered to stop; exit code 1"],
        );
        check(0, Some(EndWhy::Superseded), "", expect!["abandon"]);
    }

    #[test]
    fn both_versions_of_cgroups_are_read() {
        assert_eq!(parse_oom_kills("low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\n"), Some(1));
        assert_eq!(parse_oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(parse_oom_kills("nothing"), None);
    }
}
