//! Real programs under a real agent, against a base that says what the test wants.

mod base;
mod ends;
mod orders;
mod outage;
mod records;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::{AgentConfig, AgentEnd, guard};
use crate::fleet::ids::WorkerId;
use crate::provider::WorkerToken;
use crate::supervise::task::Stop;
use base::Base;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// An agent that runs commands directly, without the guard in between.
fn config(base: &Base) -> AgentConfig {
    AgentConfig {
        allow_commands: true,
        guard_program: Some(vec![]),
        ..AgentConfig::new(base.url(), WorkerId("gpu-1".into()), WorkerToken("s3cret".into()))
    }
}

/// Runs an agent until the base orders it to leave, which it does once its tasks have ended.
async fn run(config: AgentConfig) -> AgentEnd {
    let (_handle, stop) = Stop::new();
    tokio::time::timeout(LIMIT, super::run(config, stop)).await.expect("the agent left in time").unwrap()
}

fn shell(script: &str) -> Value {
    json!({ "argv": ["sh", "-c", script] })
}

/// Waits until `is_so`.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// Whether the process runs; one that nobody has reaped does not.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

/// The words of a file that the program writes; none until it is there.
fn words(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// This test binary in another role: what stands after the role's name are its arguments.
pub(super) fn as_role(role: &str) -> Vec<String> {
    let own = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    vec![own, "agent::tests::stand_in".into(), "--exact".into(), "--nocapture".into(), role.into()]
}

/// A test that does nothing, unless this binary was started in a role by [`as_role`].
#[test]
fn stand_in() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |role: &str| arguments.iter().position(|word| word == role).map(|at| arguments[at + 1..].to_vec());
    if let Some(arguments) = after("as-guard") {
        let is_done = format!("{:?}", guard::main(&arguments)) == format!("{:?}", ExitCode::SUCCESS);
        std::process::exit(if is_done { 0 } else { guard::CANNOT_START_CODE });
    }
    if let Some(arguments) = after("as-agent") {
        let config = AgentConfig {
            allow_commands: true,
            guard_program: Some(as_role("as-guard")),
            ..AgentConfig::new(&arguments[0], WorkerId("gpu-1".into()), WorkerToken("s3cret".into()))
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let _ = runtime.block_on(run(config));
    }
}
