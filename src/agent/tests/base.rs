//! A base over real HTTP that hands out given tasks, loses answers on demand and remembers every call.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::rpc;
use crate::supervise::Intensity;
use crate::supervise::task::Group;

/// The trace of every task's submit.
pub(super) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What the base does and has seen.
#[derive(Default)]
pub(super) struct Script {
    queue: VecDeque<(String, Value)>,
    claims: HashMap<String, Value>,
    open: usize,
    /// Statuses for the next calls of a function, after it has been done: lost answers.
    pub(super) lose: HashMap<&'static str, VecDeque<u16>>,
    /// The status of every call of a function, which is then not done.
    pub(super) refuse: HashMap<&'static str, u16>,
    /// Functions that do not answer while they stand here.
    pub(super) hang: Vec<&'static str>,
    /// Answer of the next heartbeats.
    pub(super) orders: Value,
    /// Whether the agent is ordered to leave once all tasks have ended.
    pub(super) drains: bool,
    pub(super) dead_man_seconds: f64,
    pub(super) calls: Vec<(String, Value)>,
}

/// The base.
pub(super) struct Base {
    address: std::net::SocketAddr,
    script: Arc<Mutex<Script>>,
    _server: Group,
}

impl Base {
    /// A base with these tasks in its queue, first one first.
    pub(super) async fn with(tasks: &[(&str, Value)]) -> Base {
        let queue = tasks.iter().map(|(kind, params)| ((*kind).to_owned(), params.clone())).collect();
        let orders = json!({ "drain": false, "stop": false, "cancel": null });
        let script = Script { queue, orders, drains: true, dead_man_seconds: 1_800.0, ..Script::default() };
        let script = Arc::new(Mutex::new(script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/rest/v1/rpc/{name}", post(answer)).with_state(Arc::clone(&script));
        let server = Group::new();
        let listener = Mutex::new(Some(listener));
        server.start("base", Intensity::default(), move |_, _| {
            let (listener, app) = (listener.lock().unwrap().take().unwrap(), app.clone());
            async move { axum::serve(listener, app).await.unwrap() }
        });
        Base { address, script, _server: server }
    }

    pub(super) async fn with_commands(params: &[Value]) -> Base {
        let tasks: Vec<_> = params.iter().map(|params| ("command", params.clone())).collect();
        Base::with(&tasks).await
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Bodies of all calls of a function, in order.
    pub(super) fn calls(&self, function: &str) -> Vec<Value> {
        let script = self.script();
        script.calls.iter().filter(|(name, _)| name == function).map(|(_, body)| body.clone()).collect()
    }

    /// Ends of tasks in order: output of a completion, or error and retryable of a failure.
    pub(super) fn ends(&self) -> Vec<Value> {
        let script = self.script();
        let ends = script.calls.iter().filter_map(|(name, body)| match name.as_str() {
            "dw_complete_task" => Some(body["output"].clone()),
            "dw_fail_task" => Some(json!({ "error": body["error"], "retryable": body["retryable"] })),
            _ => None,
        });
        ends.collect()
    }
}

async fn answer(
    State(script): State<Arc<Mutex<Script>>>,
    Path(name): Path<String>,
    body: axum::Json<Value>,
) -> (StatusCode, String) {
    {
        let mut script = script.lock().unwrap();
        assert_eq!(body["worker_token"], "s3cret");
        script.calls.push((name.clone(), body.0.clone()));
    }
    let hangs = || script.lock().unwrap().hang.iter().any(|hangs| *hangs == name);
    while hangs() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (status, value) = script.lock().unwrap().answer(&name, &body);
    (StatusCode::from_u16(status).unwrap(), value.to_string())
}

impl Script {
    fn answer(&mut self, name: &str, body: &Value) -> (u16, Value) {
        if let Some(status) = self.refuse.get(name) {
            return (*status, json!(rpc::Refusal::superseded("as the test wants")));
        }
        let value = self.done(name, body);
        let lost = self.lose.get_mut(name).and_then(VecDeque::pop_front);
        lost.map_or((200, value), |status| (status, Value::Null))
    }

    fn done(&mut self, name: &str, body: &Value) -> Value {
        match name {
            "dw_register" => {
                json!({ "heartbeat_seconds": 0.05, "dead_man_seconds": self.dead_man_seconds, "poll_seconds": 0.05 })
            }
            "dw_heartbeat" if self.drains && self.queue.is_empty() && self.open == 0 => {
                json!({ "drain": true, "stop": false, "cancel": null })
            }
            "dw_heartbeat" => self.orders.clone(),
            "dw_claim_task" => self.claim(body["claim_id"].as_str().unwrap()),
            "dw_task_progress" => json!({ "cancel": false }),
            "dw_complete_task" | "dw_fail_task" => {
                self.open = self.open.saturating_sub(1);
                json!({ "status": "Complete", "attempts": 1 })
            }
            _ => json!({}),
        }
    }

    fn claim(&mut self, claim_id: &str) -> Value {
        if let Some(known) = self.claims.get(claim_id) {
            return known.clone();
        }
        let Some((task_type, params)) = self.queue.pop_front() else { return Value::Null };
        self.open += 1;
        let claimed = json!({
            "task_id": Uuid::new_v4(), "attempt": 1, "task_type": task_type, "params": params,
            "traceparent": TRACEPARENT, "user": "u",
        });
        self.claims.insert(claim_id.to_owned(), claimed.clone());
        claimed
    }
}
