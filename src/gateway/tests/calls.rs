//! The protocol, call by call: answers, repeats, refusals; the same on every base.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use uuid::Uuid;

use super::rig::{Agent, Base, Rig, TRACEPARENT, with};
use crate::fleet::task::TaskStatus;
use crate::rpc::Registered;

/// Makes a test of every case for every base.
macro_rules! on_every_base {
    ($($case:ident),+ $(,)?) => {
        on_every_base!(@ on_sqlite Sqlite $($case)+);
        on_every_base!(@ on_postgres Postgres $($case)+);
        on_every_base!(@ as_anon Functions $($case)+);
    };
    (@ $module:ident $base:ident $($case:ident)+) => {
        mod $module {
            use super::{Base, Rig};
            $(#[tokio::test]
            async fn $case() {
                super::$case(Rig::on(Base::$base).await).await;
            })+
        }
    };
}

on_every_base!(
    a_whole_life_and_each_call_twice,
    a_failure_is_queued_again_or_final,
    strangers_get_one_answer_for_every_reason,
    whoever_was_superseded_is_told_so,
    every_key_that_is_missing_or_malformed_is_named,
    log_rows_belong_to_the_worker_whose_token_was_shown,
);

async fn a_whole_life_and_each_call_twice(rig: Rig) {
    let task = rig.submit(&["true"]).await;
    let agent = rig.spawn("gpu-1").await;
    let twice = |function: &'static str, keys: Value| {
        let agent = agent.clone();
        async move {
            let first = agent.ok(function, keys.clone()).await;
            assert_eq!(agent.ok(function, keys).await, first, "{function}, repeated");
            first
        }
    };
    let registered = twice("dw_register", json!({ "info": { "host": "h", "pid": 7, "unknown": 1 } })).await;
    let registered: Registered = serde_json::from_value(registered).unwrap();
    assert_eq!(registered, Registered { heartbeat_seconds: 0.05, dead_man_seconds: 60.0, poll_seconds: 0.05 });
    let beat =
        json!({ "seq": 1, "phase": "ready", "progress_seq": 0, "current_task": null, "gpu": null, "metrics": {} });
    assert_eq!(twice("dw_heartbeat", beat).await, json!({ "drain": false, "stop": false, "cancel": null }));
    let claimed = twice("dw_claim_task", json!({ "claim_id": Uuid::new_v4(), "run_type": null })).await;
    assert_eq!(
        claimed,
        json!({
            "task_id": task.0, "attempt": 1, "task_type": "command", "params": { "argv": ["true"] },
            "traceparent": TRACEPARENT, "user": "ada",
        })
    );
    assert_eq!(agent.ok("dw_claim_task", json!({ "claim_id": Uuid::new_v4() })).await, Value::Null);
    let keys = json!({ "task_id": task.0, "attempt": 1 });
    let progress = with(&keys, json!({ "fraction": 0.5, "note": "half" }));
    assert_eq!(twice("dw_task_progress", progress).await, json!({ "cancel": false }));
    let complete = with(&keys, json!({ "output": { "exit_code": 0 } }));
    assert_eq!(twice("dw_complete_task", complete).await, json!({ "status": "Complete" }));
    assert_eq!(twice("dw_exit", json!({ "report": { "reason": "done" } })).await, json!({}));
    let done = rig.task(task).await;
    assert_eq!((done.status, done.output), (TaskStatus::Complete, Some(json!({ "exit_code": 0 }))));
}

async fn a_failure_is_queued_again_or_final(rig: Rig) {
    let agent = rig.spawn("gpu-1").await.ready().await;
    rig.submit(&["false"]).await;
    let first = with(&agent.claim().await, json!({ "error": "killed", "retryable": true }));
    assert_eq!(agent.ok("dw_fail_task", first.clone()).await, json!({ "status": "Queued", "attempts": 1 }));
    assert_eq!(agent.ok("dw_fail_task", first).await, json!({ "status": "Queued", "attempts": 1 }));
    let second = with(&agent.claim().await, json!({ "error": "exit code 1", "retryable": false }));
    assert_eq!(agent.ok("dw_fail_task", second).await, json!({ "status": "Failed", "attempts": 2 }));
}

/// A refused call: its status, and a body of exactly the four members.
async fn check_refused(agent: &Agent<'_>, function: &str, keys: Value, status: u16, code: &str) -> Value {
    let (found, body) = agent.call(function, keys).await;
    assert_eq!((found, body["code"].as_str()), (status, Some(code)), "{function}: {body}");
    let members: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
    assert_eq!(members.len(), 4, "{members:?}");
    assert!(["code", "message", "details", "hint"].iter().all(|member| body.get(member).is_some()), "{body}");
    body
}

async fn strangers_get_one_answer_for_every_reason(rig: Rig) {
    let agent = rig.spawn("gpu-1").await.ready().await;
    let beat = json!({ "seq": 2, "phase": "ready", "progress_seq": 0 });
    let unknown = Agent { name: "gpu-2".into(), ..agent.clone() };
    let wrong = with(&beat, json!({ "worker_token": "guessed" }));
    let first = check_refused(&unknown, "dw_heartbeat", beat, 401, "DW401").await;
    assert_eq!(check_refused(&agent, "dw_heartbeat", wrong, 401, "DW401").await, first);
    let rows = json!({ "rows": [], "worker_token": "guessed" });
    check_refused(&agent, "dw_ingest_logs", rows, 401, "DW401").await;
}

async fn whoever_was_superseded_is_told_so(rig: Rig) {
    let first = rig.spawn("gpu-1").await.ready().await;
    let task = rig.submit(&["true"]).await;
    let keys = with(&first.claim().await, json!({ "output": {} }));
    let second = Agent { incarnation: Uuid::new_v4(), ..first.clone() }.ready().await;
    check_refused(&first, "dw_complete_task", keys.clone(), 409, "DW409").await;
    check_refused(&first, "dw_claim_task", json!({ "claim_id": Uuid::new_v4() }), 409, "DW409").await;
    rig.end("gpu-1").await;
    check_refused(&second, "dw_heartbeat", json!({ "seq": 9, "phase": "ready", "progress_seq": 0 }), 409, "DW409")
        .await;
    let other = rig.spawn("gpu-2").await.ready().await;
    let theirs = with(&other.claim().await, json!({ "output": { "by": 2 } }));
    assert_eq!(theirs["task_id"], json!(task.0));
    check_refused(&other, "dw_complete_task", with(&keys, json!({})), 409, "DW409").await;
    other.ok("dw_complete_task", theirs).await;
    assert_eq!(rig.task(task).await.output, Some(json!({ "by": 2 })));
}

async fn every_key_that_is_missing_or_malformed_is_named(rig: Rig) {
    let agent = rig.spawn("gpu-1").await.ready().await;
    let task = json!({ "task_id": Uuid::nil(), "attempt": 1 });
    let calls = [
        ("dw_register", json!({ "info": {} })),
        ("dw_heartbeat", json!({ "seq": 1, "phase": "ready", "progress_seq": 0 })),
        ("dw_claim_task", json!({ "claim_id": Uuid::nil() })),
        ("dw_task_progress", task.clone()),
        ("dw_complete_task", with(&task, json!({ "output": {} }))),
        ("dw_fail_task", with(&task, json!({ "error": "e", "retryable": true }))),
        ("dw_ingest_logs", json!({ "rows": [] })),
        ("dw_exit", json!({ "report": { "reason": "r" } })),
    ];
    for (function, keys) in calls {
        for key in agent.body(&keys).as_object().unwrap().keys() {
            let mut without = agent.body(&keys);
            without.as_object_mut().unwrap().remove(key);
            let (status, body) = rig.post(function, without.to_string()).await;
            assert_eq!((status, body["details"].as_str()), (422, Some(key.as_str())), "{function}: {body}");
            if key != "output" {
                let body = check_refused(&agent, function, with(&keys, json!({ key: [[]] })), 422, "DW422").await;
                assert!(body["details"].as_str().unwrap().starts_with(key.as_str()), "{function} {key}: {body}");
            }
        }
    }
}

async fn log_rows_belong_to_the_worker_whose_token_was_shown(rig: Rig) {
    let agent = rig.spawn("gpu-1").await.ready().await;
    let row = |number: u128, level: &str| {
        json!({
            "id": Uuid::from_u128(number), "timestamp": "2025-10-16T17:35:31.5Z", "log_level": level,
            "message": "m", "attributes": { "worker_id": "gpu-9" }, "source_id": "gpu-9",
        })
    };
    let rows = json!({ "rows": [row(1, "INFO"), row(2, "DEBUG")] });
    assert_eq!(agent.ok("dw_ingest_logs", rows.clone()).await, json!({ "received": 2, "inserted": 2 }));
    assert_eq!(agent.ok("dw_ingest_logs", rows.clone()).await, json!({ "received": 2, "inserted": 0 }));
    assert_eq!(rig.log_rows(), ["worker gpu-1", "worker gpu-1"]);
    let bad = json!({ "rows": [row(3, "INFO"), row(4, "LOUD")] });
    let refusal = check_refused(&agent, "dw_ingest_logs", bad, 422, "DW422").await;
    assert_eq!(refusal["details"], "rows[1].log_level");
    assert_eq!(rig.log_rows().len(), 2, "a bad row refuses the whole call");
    if rig.functions.is_some() {
        return;
    }
    rig.rows.is_down.store(true, Ordering::SeqCst);
    assert_eq!(agent.call("dw_ingest_logs", rows).await.0, 503);
}
