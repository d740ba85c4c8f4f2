//! The ring on real file systems, and the recorder on a disk that is really full.
//!
//! Mounts are made in a mount namespace of a process of its own (this binary under `unshare`), so
//! that they end with it. As root, loop devices give ext4 and xfs; otherwise a user namespace gives
//! what it may. A kind that this machine cannot mount is printed; its rule is tested with an
//! injected `statfs` by the ring's own tests (`telemetry/ring/tests/places.rs`), and a full disk
//! with an injected disk by those of the spool (`telemetry/spool/room/tests.rs`).

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a test that fails")]

mod full;
mod killed;
mod kinds;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tells the process under `unshare` what to do.
const SCENE: &str = "DOGWATCH_TEST_MOUNTS";
/// Tells it, or a process that it starts, where.
const DIR: &str = "DOGWATCH_TEST_MOUNTS_DIR";
/// Seconds after which that process is ended.
const LIMIT_S: &str = "120";

/// Does nothing by itself: the tests below start it in a process of its own.
#[test]
fn process_with_mounts() {
    match (setting(SCENE).as_deref(), setting(DIR).map(PathBuf::from)) {
        (Some("kinds"), Some(dir)) => kinds::all(&dir),
        (Some("full"), Some(dir)) => full::run(&dir),
        (Some("killed"), Some(dir)) => killed::run(&dir),
        (Some("fallback"), Some(dir)) => killed::emit_until_killed(&dir),
        (Some("records"), Some(dir)) => kinds::records_until_killed(&dir),
        _ => {}
    }
}

#[test]
fn a_ring_on_each_kind_of_file_system_keeps_its_promise_or_says_what_it_keeps() {
    check("kinds");
}

#[test]
fn a_full_disk_costs_nothing_that_the_ring_has_room_for() {
    check("full");
}

#[test]
fn a_kill_while_records_go_to_stdout_loses_nothing_and_counts_each_once() {
    check("killed");
}

#[expect(clippy::disallowed_methods, reason = "how a test process tells the one it starts what to do")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs a scene in a mount namespace of its own, and shows what it says.
fn check(scene: &str) {
    let dir = tempfile::tempdir().unwrap();
    let Some(flags) = namespace(dir.path()) else {
        return tell(&format!(
            "filesystems: NOT SHOWN HERE ({scene}): this machine lets nobody mount; only the injected variants ran"
        ));
    };
    let output = Command::new("timeout")
        .args(["--signal=KILL", LIMIT_S, "unshare", flags])
        .arg(std::env::current_exe().unwrap())
        .args(["filesystems::process_with_mounts", "--exact", "--nocapture", "--test-threads=1"])
        .env(SCENE, scene)
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> =
        said.lines().filter_map(|line| line.split_once("filesystems: ")).map(|(_, line)| line).collect();
    assert!(output.status.success() && !lines.is_empty(), "{scene}: {}\n{said}\n{told}", output.status);
    for line in lines {
        tell(&format!("filesystems: {line}"));
    }
}

/// With which flags `unshare` gives a namespace in which a tmpfs can be mounted.
fn namespace(dir: &Path) -> Option<&'static str> {
    let works = |flags: &&str| {
        let mut command = Command::new("unshare");
        command.arg(flags).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(dir);
        command.output().is_ok_and(|output| output.status.success())
    };
    ["-m", "-rm"].into_iter().find(works)
}

/// Mounts; the text says why not.
pub(crate) fn mount(arguments: &[&str], on: &Path) -> Result<(), String> {
    std::fs::create_dir_all(on).unwrap();
    run(Command::new("mount").args(arguments).arg(on))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(told.lines().next().unwrap_or("no reason given").to_owned()) }
}

/// A line that the test runner does not swallow.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
