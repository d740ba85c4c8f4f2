//! Processes as the kernel shows them: who lives, who is who, and how to end a group.
//!
//! A pid alone names nobody, since it is used again; a pid with the start time of its process does.
//! Every signal goes through [`signal`], which checks that pair first.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

/// One process, for ever: its pid and the kernel's clock ticks at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessKey {
    /// Its pid, and its group's.
    pub(super) pid: u32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub(super) start_ticks: u64,
}

/// Who a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The process alone.
    Process,
    /// All of its group.
    Group,
}

/// How a process ended, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ending {
    /// Its exit code; null after a signal, or where nobody was its parent.
    pub(super) exit_code: Option<i32>,
    /// The signal that ended it.
    pub(super) signal: Option<i32>,
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Ending {
        Ending { exit_code: status.code(), signal: status.signal() }
    }
}

impl ProcessKey {
    /// The process that has this pid at the moment; null where there is none.
    pub(super) fn of(pid: u32) -> Option<ProcessKey> {
        stat(pid).map(|stat| ProcessKey { pid, start_ticks: stat.start_ticks })
    }

    /// Whether it still runs; a zombie does not.
    pub(super) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Sends a signal, if the pid still is this process (a zombie still is: its group may live).
    pub(super) fn signal(self, signal: Signal, reach: Reach) {
        let same = ProcessKey::of(self.pid) == Some(self);
        let Some(pid) = pid_of(self.pid).filter(|_| same) else { return };
        // The only failure left is that it ended in between, which is what was wanted.
        let _ = match reach {
            Reach::Process => rustix::process::kill_process(pid, signal),
            Reach::Group => rustix::process::kill_process_group(pid, signal),
        };
    }
}

/// Collects our own child if it has ended. What is left in its group ends with it, before the pid
/// is given back: afterwards the group's number could be somebody else's.
pub(super) fn reap(child: &mut Child) -> Option<Ending> {
    let pid = pid_of(child.id())?;
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if matches!(rustix::process::waitid(WaitId::Pid(pid), peek), Ok(None)) {
        return None;
    }
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    match child.try_wait() {
        Ok(status) => status.map(Ending::from),
        Err(_) => Some(Ending::default()),
    }
}

/// The process whose environment holds `entry` (`NAME=value`) and that leads its own group: an
/// agent whose pid was never written down because we were killed in between.
pub(super) fn find_by_environment(entry: &str) -> Option<ProcessKey> {
    let pids = std::fs::read_dir("/proc").ok()?.filter_map(|dir| dir.ok()?.file_name().to_str()?.parse().ok());
    let holds = |pid: &u32| {
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
        environment.split(|byte| *byte == 0).any(|each| each == entry.as_bytes())
    };
    let leads = |pid: &u32| stat(*pid).is_some_and(|stat| stat.group == *pid);
    pids.filter(leads).filter(holds).filter_map(ProcessKey::of).min_by_key(|key| key.start_ticks)
}

/// Makes this process die (SIGKILL) with the thread that started it. False: that parent, `ppid`,
/// is gone already, and so should the caller be.
///
/// # Errors
/// The kernel refuses.
pub fn die_with_parent(ppid: u32) -> io::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(rustix::process::getppid() == pid_of(ppid))
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// What `/proc/<pid>/stat` says.
struct Stat {
    state: char,
    group: u32,
    start_ticks: u64,
}

/// The name in parentheses may hold anything, so fields are counted from the last closing one.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let group = fields.nth(GROUP_AFTER_STATE)?.parse().ok()?;
    let start_ticks = fields.nth(START_TICKS_AFTER_GROUP)?.parse().ok()?;
    Some(Stat { state, group, start_ticks })
}

/// Fields between the state (3rd) and the process group (5th).
const GROUP_AFTER_STATE: usize = 1;
/// Fields between the process group (5th) and the start time (22nd).
const START_TICKS_AFTER_GROUP: usize = 16;
