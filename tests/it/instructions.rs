//! A kill after every single instruction: of a push, a release, the making of a ring, its recovery.
//!
//! A child is traced (`ptrace`) and stepped one machine instruction at a time. Two looks are taken:
//!
//! - **observed**: one child is stepped from mark to mark. After each instruction its files are
//!   compared with what they were; whenever they differ, the ring is recovered and judged. A kill
//!   leaves the files as they are, so this covers the kill after every instruction.
//! - **killed**: fresh children are really killed after n instructions; their files must be among
//!   those observed, and are recovered and judged again. n is every instruction in an optimised
//!   build; where there are too many, both sides of every change and every k-th instruction from an
//!   offset that differs from run to run; `DOGWATCH_TEST_LONG=1` takes every instruction.
//!
//! Recovery and adoption map nothing that outlives them, so between two of their system calls a
//! kill finds the same files: they are killed at entries into and exits from system calls, and of
//! the instructions of recovery the first [`survey::OBSERVED_MAX`] are stepped (all in long runs).
//!
//! What judges: everything acknowledged is found with its bytes, at most the one record in flight
//! beside it; accepted = taken + recovered + half-written = what the tail counts. The numbers are
//! printed. The work is done in a process of its own (this binary, started anew), because only a
//! process with one thread may fork and go on.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a test that fails")]

mod adoption;
mod judge;
mod scenes;
mod stepper;
mod survey;

use std::io::Write as _;
use std::process::Command;

use self::survey::{Scene, Watch, survey, survey_calls};

/// Names the scene in the environment of the process that steps.
const SCENE: &str = "DOGWATCH_TEST_STEPS";
/// Asks for every instruction.
const LONG: &str = "DOGWATCH_TEST_LONG";
/// Of the system calls of adoption, after so many there is a kill, unless all are asked for.
const ADOPTION_EVERY: usize = 4;
/// Seconds after which a process that steps is ended.
const LIMIT_S: &str = "240";
const LONG_LIMIT_S: &str = "7200";

/// Does nothing by itself: the tests below start it in a process of its own.
#[test]
fn stepping_process() {
    let Some(scene) = setting(SCENE) else { return };
    stepper::stay_on_one_processor();
    match scene.as_str() {
        "create" => survey(&scenes::CREATE, is_long()),
        "push" => survey(&scenes::PUSH, is_long()),
        "overtaken" => survey(&scenes::OVERTAKEN, is_long()),
        "release" => survey(&scenes::RELEASE, is_long()),
        "recover" => {
            survey(&scenes::RECOVER, is_long());
            survey_calls(&scenes::RECOVER, 1, 0);
        }
        "adopt" => {
            let every = if is_long() { 1 } else { ADOPTION_EVERY };
            survey_calls(&adoption::ADOPT, every, std::process::id() as usize % every);
        }
        other => panic!("no scene {other}"),
    }
}

#[test]
fn a_kill_after_any_instruction_of_making_a_ring_leaves_none_or_a_sound_one() {
    check("create");
}

#[test]
fn a_kill_after_any_instruction_of_push_loses_nothing_acknowledged() {
    check("push");
}

#[test]
fn a_kill_after_any_instruction_of_push_costs_no_record_behind_it() {
    check("overtaken");
}

#[test]
fn a_kill_after_any_instruction_of_read_and_release_loses_nothing() {
    check("release");
}

#[test]
fn a_kill_after_any_instruction_of_recovery_can_be_recovered() {
    check("recover");
}

#[test]
fn a_kill_at_any_system_call_of_adoption_can_be_adopted() {
    check("adopt");
}

#[expect(clippy::disallowed_methods, reason = "how a test process tells the one it starts what to do")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn is_long() -> bool {
    setting(LONG).is_some_and(|value| value == "1")
}

/// Runs a scene in a process of its own, and shows what it says.
fn check(scene: &str) {
    let limit = if is_long() { LONG_LIMIT_S } else { LIMIT_S };
    let output = Command::new("timeout")
        .args(["--signal=KILL", limit])
        .arg(std::env::current_exe().unwrap())
        .args(["instructions::stepping_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(SCENE, scene)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    // The first line stands behind what the test runner says.
    let lines: Vec<&str> =
        said.lines().filter_map(|line| line.split_once("instructions: ")).map(|(_, line)| line).collect();
    assert!(output.status.success() && !lines.is_empty(), "{scene}: {}\n{said}\n{told}", output.status);
    for line in lines {
        tell(&format!("instructions: {line}"));
    }
}

/// A line that the test runner does not swallow.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
