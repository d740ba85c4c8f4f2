//! Whatever a caller sends, it is never the base's fault: no 5xx, always JSON, always answered; and
//! no other worker's row is changed by it.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::rig::{Base, Rig};
use crate::rpc::Function;
use crate::store::TaskFilter;

/// Bodies tried.
const CASES: u32 = 600;
/// The same with a database on the other side, which takes its time.
const POSTGRES_CASES: u32 = 250;

/// Any JSON, some of it of the kinds that the protocol expects.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!("\0")),
        Just(json!("ready")),
        Just(json!("ERROR")),
        Just(json!("2025-10-16T17:35:31Z")),
        Just(json!("+999999-12-31T23:59:60Z")),
        any::<u128>().prop_map(|n| json!(Uuid::from_u128(n))),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,12}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A good body of a function, without who calls.
fn good(function: Function) -> Value {
    let task = Uuid::from_u128(1);
    match function {
        Function::Register => json!({ "info": { "host": "h", "pid": 1, "version": "v", "gpu": null } }),
        Function::Heartbeat => json!({ "seq": 5, "phase": "ready", "progress_seq": 1, "current_task": task,
            "gpu": { "vram_total_mb": 1.0, "vram_used_mb": 1.0, "utilization": 0.5 }, "metrics": {} }),
        Function::ClaimTask => json!({ "claim_id": task, "run_type": "gpu" }),
        Function::TaskProgress => json!({ "task_id": task, "attempt": 1, "fraction": 0.5, "note": "n" }),
        Function::CompleteTask => json!({ "task_id": task, "attempt": 1, "output": {} }),
        Function::FailTask => json!({ "task_id": task, "attempt": 1, "error": "e", "retryable": true }),
        Function::IngestLogs => json!({ "rows": [{ "id": task, "timestamp": "2025-10-16T17:35:31Z",
            "log_level": "INFO", "message": "m", "attributes": {} }] }),
        Function::Exit => json!({ "report": { "reason": "r", "exit_code": 1, "last_lines": ["l"] } }),
    }
}

/// Replaces the value that the path of numbers leads to.
fn replace(value: &mut Value, path: &[usize], by: Value) {
    let Some((step, rest)) = path.split_first() else {
        *value = by;
        return;
    };
    let inside = match value {
        Value::Object(members) if !members.is_empty() => {
            let index = step % members.len();
            members.values_mut().nth(index)
        }
        Value::Array(items) if !items.is_empty() => {
            let index = step % items.len();
            items.get_mut(index)
        }
        _ => None,
    };
    match inside {
        Some(inside) => replace(inside, rest, by),
        None => *value = by,
    }
}

#[test]
fn no_body_makes_the_gateway_fail() {
    no_body_makes_it_fail(Base::Sqlite, CASES);
}

#[test]
fn no_body_makes_the_gateway_on_postgres_fail() {
    no_body_makes_it_fail(Base::Postgres, POSTGRES_CASES);
}

#[test]
fn no_body_makes_the_functions_fail() {
    no_body_makes_it_fail(Base::Functions, POSTGRES_CASES);
}

/// All that is known about another worker and its task.
async fn victim(rig: &Rig) -> String {
    let workers = rig.store.workers(None, 0).await.unwrap();
    let worker = workers.into_iter().find(|row| row.worker.id.0 == "gpu-2").unwrap();
    let tasks = rig.store.tasks(&TaskFilter::default()).await.unwrap();
    format!("{worker:?} {tasks:?}")
}

fn no_body_makes_it_fail(base: Base, cases: u32) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rig = runtime.block_on(Rig::on(base));
    let before = runtime.block_on(async {
        rig.submit(&["true"]).await;
        let other = rig.spawn("gpu-2").await.ready().await;
        other.claim().await;
        victim(&rig).await
    });
    let agent = runtime.block_on(async { rig.spawn("gpu-1").await.ready().await });
    let function = prop::sample::select(Function::ALL.to_vec());
    let case = (function, prop::collection::vec(any::<usize>(), 1..4), any_json(), any::<bool>());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new_with_rng(
        config.clone(),
        prop::test_runner::TestRng::deterministic_rng(config.rng_algorithm),
    )
    .run(&case, |(function, path, by, is_stranger)| {
        let mut body = if is_stranger { good(function) } else { agent.body(&good(function)) };
        replace(&mut body, &path, by);
        let (status, answer) = runtime.block_on(rig.post(function.name(), body.to_string()));
        prop_assert!(status < 500, "{} answered {status} {answer} to {body}", function.name());
        prop_assert!(status == 200 || answer["code"].is_string(), "{answer}");
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert_eq!(runtime.block_on(victim(&rig)), before);
}
