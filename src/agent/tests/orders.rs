//! Orders, the stop signal and death.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::{AgentConfig, AgentEnd, Base, LIMIT, as_role, config, eventually, is_running, run, shell, words};
use crate::supervise::task::Stop;

/// A script that writes its own pid and that of a child to a file, then waits for ever.
fn endless(file: &std::path::Path) -> Value {
    shell(&format!("sleep 1000 & echo $$ $! > {}; wait", file.display()))
}

struct Running {
    base: Base,
    _folder: tempfile::TempDir,
    pids: std::path::PathBuf,
}

impl Running {
    /// A base whose only task never ends.
    async fn new() -> Running {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        Running { base: Base::with_commands(&[endless(&pids)]).await, _folder: folder, pids }
    }

    async fn has_started(&self) {
        eventually("the program has started", || words(&self.pids).len() == 2).await;
    }

    async fn is_gone(&self) {
        eventually("the program and its child are gone", || !words(&self.pids).iter().any(|pid| is_running(pid)))
            .await;
    }
}

#[tokio::test]
async fn a_cancel_ends_the_whole_group_and_the_agent_goes_on() {
    let running = Running::new().await;
    let task_of_beat = || {
        let beats = running.base.calls("dw_heartbeat");
        beats.into_iter().find(|beat| beat["phase"] == "busy").map(|beat| beat["current_task"].clone())
    };
    let cancel = async {
        running.has_started().await;
        eventually("a beat names the task", || task_of_beat().is_some()).await;
        let orders = json!({ "drain": false, "stop": false, "cancel": task_of_beat() });
        running.base.script().orders = orders;
    };
    let (end, ()) = tokio::join!(run(config(&running.base)), cancel);
    assert_eq!(end, AgentEnd::Ordered);
    let ends = running.base.ends();
    assert_eq!(ends[0]["retryable"], false);
    assert!(ends[0]["error"].as_str().unwrap().starts_with("cancelled"), "{ends:?}");
    running.is_gone().await;
}

#[tokio::test]
async fn an_order_to_stop_ends_the_program_and_the_task_may_be_tried_again() {
    let running = Running::new().await;
    let order = async {
        running.has_started().await;
        running.base.script().orders = json!({ "drain": true, "stop": true, "cancel": null });
    };
    let (end, ()) = tokio::join!(run(config(&running.base)), order);
    assert_eq!(end, AgentEnd::Ordered);
    assert_eq!(running.base.ends()[0]["retryable"], true);
    assert_eq!(running.base.calls("dw_exit").len(), 1);
    running.is_gone().await;
}

#[tokio::test]
async fn a_superseded_agent_ends_its_program_and_says_nothing_more() {
    let running = Running::new().await;
    let supersede = async {
        running.has_started().await;
        running.base.script().refuse.insert("dw_heartbeat", 409);
    };
    let (end, ()) = tokio::join!(run(config(&running.base)), supersede);
    assert!(matches!(end, AgentEnd::Superseded { .. }), "{end:?}");
    assert_eq!(running.base.ends(), Vec::<Value>::new());
    assert_eq!(running.base.calls("dw_exit").len(), 0);
    running.is_gone().await;
}

#[tokio::test]
async fn after_the_stop_signal_the_program_may_finish_and_no_task_is_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let (began, go_on) = (folder.path().join("began"), folder.path().join("go_on"));
    let script = format!("echo x > {}; while [ ! -e {} ]; do sleep 0.01; done", began.display(), go_on.display());
    let base = Base::with_commands(&[shell(&script), shell("exit 0")]).await;
    let (handle, stop) = Stop::new();
    let order = async {
        eventually("the program has begun", || began.exists()).await;
        handle.raise();
        eventually("a beat says draining", || {
            base.calls("dw_heartbeat").iter().any(|beat| beat["phase"] == "draining")
        })
        .await;
        std::fs::write(&go_on, "").unwrap();
    };
    let (end, ()) = tokio::join!(super::super::run(config(&base), stop), order);
    assert_eq!(end.unwrap(), AgentEnd::Stopped);
    assert_eq!(base.ends().len(), 1);
    assert_eq!(base.ends()[0]["exit_code"], 0);
    assert_eq!(base.calls("dw_claim_task").len(), 1);
    assert_eq!(base.calls("dw_exit")[0]["report"]["reason"], "stop signal");
}

#[tokio::test]
async fn the_drain_limit_ends_the_program_and_the_task_may_be_tried_again() {
    let running = Running::new().await;
    let (handle, stop) = Stop::new();
    let config = AgentConfig { drain_limit: Duration::from_millis(50), ..config(&running.base) };
    let order = async {
        running.has_started().await;
        handle.raise();
    };
    let (end, ()) = tokio::join!(super::super::run(config, stop), order);
    assert_eq!(end.unwrap(), AgentEnd::Stopped);
    let ends = running.base.ends();
    assert_eq!(ends[0]["retryable"], true);
    assert!(ends[0]["error"].as_str().unwrap().contains("drain limit"), "{ends:?}");
    assert_eq!(running.base.calls("dw_exit")[0]["report"]["signal"], 15);
    running.is_gone().await;
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let began = folder.path().join("began");
    let script = format!("trap '' TERM; echo $$ > {}; while :; do sleep 0.01; done", began.display());
    let base = Base::with_commands(&[shell(&script)]).await;
    let order = async {
        eventually("the program has begun", || words(&began).len() == 1).await;
        base.script().orders = json!({ "drain": true, "stop": true, "cancel": null });
    };
    let (end, ()) = tokio::join!(run(config(&base)), order);
    assert_eq!(end, AgentEnd::Ordered);
    assert!(base.ends()[0]["error"].as_str().unwrap().contains("SIGKILL"));
    eventually("it is gone", || !is_running(&words(&began)[0])).await;
}

#[tokio::test]
async fn a_killed_agent_takes_the_program_and_its_children_with_it() {
    let running = Running::new().await;
    let role = as_role("as-agent");
    let mut agent = tokio::process::Command::new(&role[0])
        .args(&role[1..])
        .arg(running.base.url())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    running.has_started().await;
    agent.start_kill().unwrap();
    tokio::time::timeout(LIMIT, agent.wait()).await.unwrap().unwrap();
    running.is_gone().await;
}
