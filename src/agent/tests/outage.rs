//! Lost answers, slow answers, no answers.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use super::{AgentEnd, Base, LIMIT, config, eventually, run, shell};
use crate::supervise::task::Stop;

#[tokio::test]
async fn a_lost_claim_is_asked_for_again_and_its_task_runs_once() {
    let base = Base::with_commands(&[shell("echo once")]).await;
    base.script().lose.insert("dw_claim_task", VecDeque::from([503, 500]));
    run(config(&base)).await;
    let claims = base.calls("dw_claim_task");
    assert!(claims.len() >= 3);
    assert!(claims[..3].iter().all(|claim| claim["claim_id"] == claims[0]["claim_id"]));
    assert_eq!(base.ends().len(), 1);
    assert_eq!(base.ends()[0]["stdout_tail"], "once\n");
}

#[tokio::test]
async fn a_completion_is_told_until_it_is_answered() {
    let base = Base::with_commands(&[shell("echo done"), shell("exit 5")]).await;
    base.script().lose.insert("dw_complete_task", VecDeque::from([503, 429, 502]));
    base.script().lose.insert("dw_fail_task", VecDeque::from([500]));
    base.script().lose.insert("dw_register", VecDeque::from([503]));
    let admitted = config(&base);
    let admission = admitted.admission.clone();
    run(admitted).await;
    assert!(admission.is_granted_within(Duration::ZERO));
    let completions = base.calls("dw_complete_task");
    assert_eq!(completions.len(), 4);
    assert!(completions.iter().all(|call| *call == completions[0]), "the same call, again and again");
    assert_eq!(base.calls("dw_fail_task").len(), 2);
}

#[tokio::test]
async fn an_output_that_is_too_large_is_told_without_its_text() {
    let base = Base::with_commands(&[shell("echo large")]).await;
    base.script().lose.insert("dw_complete_task", VecDeque::from([413]));
    run(config(&base)).await;
    let ends = base.ends();
    assert_eq!(ends.len(), 2);
    assert_eq!((&ends[1]["truncated"], &ends[1]["stdout_tail"]), (&json!(true), &json!("")));
}

#[tokio::test]
async fn an_attempt_that_is_no_longer_ours_is_dropped_and_the_agent_goes_on() {
    let base = Base::with_commands(&[shell("exit 0"), shell("exit 6")]).await;
    base.script().lose.insert("dw_complete_task", VecDeque::from([409]));
    assert_eq!(run(config(&base)).await, AgentEnd::Ordered);
    assert_eq!(base.calls("dw_complete_task").len(), 1);
    assert_eq!(base.calls("dw_fail_task").len(), 1);
}

#[tokio::test]
async fn beats_wait_for_neither_a_claim_nor_a_program() {
    let base = Base::with_commands(&[]).await;
    base.script().drains = false;
    base.script().hang.push("dw_claim_task");
    let (handle, stop) = Stop::new();
    let agent = super::super::run(config(&base), stop);
    let seqs = || -> Vec<i64> { base.calls("dw_heartbeat").iter().filter_map(|b| b["seq"].as_i64()).collect() };
    let watch = async {
        eventually("five beats while a claim hangs", || seqs().len() >= 5).await;
        assert_eq!(base.calls("dw_claim_task").len(), 1);
        handle.raise();
        base.script().hang.clear();
    };
    let (end, ()) = tokio::join!(agent, watch);
    assert_eq!(end.unwrap(), AgentEnd::Stopped);
    assert!(seqs().is_sorted_by(|a, b| a < b), "{:?}", seqs());
}

#[tokio::test]
async fn an_agent_without_its_base_leaves_between_tasks() {
    let base = Base::with_commands(&[]).await;
    base.script().drains = false;
    base.script().dead_man_seconds = 0.3;
    base.script().refuse.extend([("dw_claim_task", 503), ("dw_heartbeat", 503)]);
    assert_eq!(run(config(&base)).await, AgentEnd::DeadMan);
}

#[tokio::test]
async fn an_unknown_worker_leaves_and_a_wrong_base_is_held() {
    let base = Base::with_commands(&[]).await;
    base.script().refuse.insert("dw_register", 401);
    let refused = config(&base);
    let admission = refused.admission.clone();
    assert!(matches!(run(refused).await, AgentEnd::Superseded { .. }));
    assert!(!admission.is_granted_within(Duration::ZERO));
    base.script().refuse.insert("dw_register", 404);
    base.script().calls.clear();
    let (handle, stop) = Stop::new();
    let watch = async {
        eventually("it has asked", || !base.calls("dw_register").is_empty()).await;
        handle.raise();
    };
    let both = async { tokio::join!(super::super::run(config(&base), stop), watch) };
    let (end, ()) = tokio::time::timeout(LIMIT.min(Duration::from_secs(10)), both).await.unwrap();
    assert_eq!(end.unwrap(), AgentEnd::Stopped);
    assert_eq!(base.calls("dw_register").len(), 1, "a held call is not repeated at once");
    assert_eq!(base.ends(), Vec::<Value>::new());
}
