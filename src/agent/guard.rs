//! Makes programs die with their agent, also when the agent is killed by SIGKILL.
//!
//! Two helpers, both this executable started again (`unsafe` code between fork and exec is not
//! ours to write). `exec`: sets the parent-death signal and becomes the program. The signal
//! follows the *thread* that forked, so the launcher's thread lives as long as the agent.
//! `bury`: lives beside the agent and reads its process groups from a pipe; when the pipe ends,
//! however the agent ended, it kills what is left of them, which reaches the program's own
//! children, too. It never outlives that.

use std::collections::BTreeSet;
use std::io::{BufRead, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};

/// Word that begins the line on stderr when the program cannot be started.
pub(super) const CANNOT_START: &str = "dogwatch: the program cannot be started: ";
/// Exit code that goes with it, as in shells.
pub(super) const CANNOT_START_CODE: i32 = 127;
/// The link that leads to this very executable, also after another was put in its place.
pub(super) const OWN_EXECUTABLE: &str = "/proc/self/exe";
/// The hidden subcommand whose arguments [`main`] gets.
pub const SUBCOMMAND: &str = "__exec";

/// What starts [`main`] in this executable.
pub(super) fn own() -> Vec<String> {
    vec![OWN_EXECUTABLE.to_owned(), SUBCOMMAND.to_owned()]
}

/// First argument that makes the guard an undertaker.
pub(super) const BURY: &str = "bury";

/// The hidden subcommand: `<parent pid> -- argv...` becomes that program, `bury` waits for the
/// agent's end. Returns only where there is nothing (more) to become.
pub fn main(arguments: &[String]) -> ExitCode {
    match arguments {
        [word] if word == BURY => {
            bury(std::io::stdin().lock(), |group| {
                let _ = kill_process_group(group, Signal::KILL);
            });
            ExitCode::SUCCESS
        }
        [parent, dashes, argv @ ..] if dashes == "--" && !argv.is_empty() => exec(parent, argv),
        _ => refuse("this subcommand is for dogwatch's own use"),
    }
}

fn exec(parent: &str, argv: &[String]) -> ExitCode {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return refuse(&format!("no parent-death signal: {error}"));
    }
    // Only from here on the kernel watches; a parent that died before would never be noticed.
    let is_orphan = parent.parse().ok() != getppid().map(|pid| pid.as_raw_nonzero().get());
    if is_orphan {
        return refuse("its agent is gone");
    }
    let error = Command::new(&argv[0]).args(&argv[1..]).exec();
    refuse(&format!("{}: {error}", argv[0]))
}

fn refuse(why: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{CANNOT_START}{why}");
    ExitCode::from(CANNOT_START_CODE as u8)
}

/// Reads `+<group>` and `-<group>` lines to their end, then kills the groups that are left.
fn bury(orders: impl BufRead, kill: impl Fn(Pid)) {
    let mut groups = BTreeSet::new();
    for order in orders.lines().map_while(Result::ok) {
        let parse = |text: &str| text.parse().ok().filter(|group| *group > 1);
        match (order.strip_prefix('+').and_then(parse), order.strip_prefix('-').and_then(parse)) {
            (Some(group), _) => drop(groups.insert(group)),
            (_, Some(group)) => drop(groups.remove(&group)),
            _ => {}
        }
    }
    groups.into_iter().filter_map(Pid::from_raw).for_each(kill);
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn only_groups_that_are_left_are_buried() {
        let killed = RefCell::new(Vec::new());
        bury(&b"+100\n+200\n-100\n+1\n+0\n-7\nrubbish\n+300"[..], |pid| {
            killed.borrow_mut().push(pid.as_raw_nonzero().get());
        });
        assert_eq!(*killed.borrow(), [200, 300]);
    }

    /// Starts `sleep` behind the guard from a thread that then waits on `hold`, and returns the
    /// process. `parent`: what the guard is told.
    fn guarded_sleep(parent: u32, hold: crossbeam_channel::Receiver<()>) -> std::process::Child {
        let (started, child) = crossbeam_channel::bounded(1);
        let _thread = crate::supervise::thread::Child::start(
            "starter",
            crate::supervise::Intensity::default(),
            |_| (),
            move |_, _| {
                let role = super::super::tests::as_role("as-guard");
                let mut command = Command::new(&role[0]);
                command.args(&role[1..]).args([&parent.to_string(), "--", "sleep", "1000"]);
                started.send(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()).unwrap();
                let _ = hold.recv();
            },
        );
        child.recv().unwrap()
    }

    #[test]
    fn the_program_dies_with_the_thread_that_started_it() {
        let (release, hold) = crossbeam_channel::bounded(0);
        let mut child = guarded_sleep(std::process::id(), hold);
        let name = format!("/proc/{}/comm", child.id());
        while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
            let _ = crossbeam_channel::after(std::time::Duration::from_millis(5)).recv();
        }
        drop(release);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn nothing_is_started_for_a_parent_that_is_gone() {
        let (_release, hold) = crossbeam_channel::bounded(0);
        let mut child = guarded_sleep(1, hold);
        assert_eq!(child.wait().unwrap().code(), Some(CANNOT_START_CODE));
    }

    #[test]
    fn wrong_use_becomes_nothing() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for wrong in ["", "1", "1 --", "-- true", "bury 1"] {
            assert_ne!(format!("{:?}", main(&words(wrong))), format!("{:?}", ExitCode::SUCCESS), "{wrong}");
        }
    }
}
