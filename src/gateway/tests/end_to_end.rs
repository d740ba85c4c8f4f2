//! Agents, gateway and store together, with real programs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing_subscriber::layer::SubscriberExt as _;

use super::rig::{LIMIT, Rig, TRACEPARENT};
use crate::agent::{self, AgentConfig, AgentEnd};
use crate::fleet::ids::{TaskId, WorkerId};
use crate::fleet::task::{Task, TaskStatus};
use crate::provider::WorkerToken;
use crate::supervise::task::{Stop, StopHandle};

/// An agent of that worker, and what raises its stop signal.
async fn agent(rig: &Rig, name: &str) -> (impl Future<Output = AgentEnd> + use<>, StopHandle) {
    let token = WorkerToken(rig.spawn(name).await.token());
    let config = AgentConfig {
        allow_commands: true,
        guard_program: Some(vec![]),
        ..AgentConfig::new(rig.url(), WorkerId(name.into()), token)
    };
    let (handle, stop) = Stop::new();
    let run = async move { tokio::time::timeout(LIMIT, agent::run(config, stop)).await.unwrap().unwrap() };
    (run, handle)
}

/// Waits until the task is as wanted.
async fn until(rig: &Rig, task: TaskId, is_so: impl Fn(&Task) -> bool) -> Task {
    let wait = async {
        loop {
            let task = rig.task(task).await;
            if is_so(&task) {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the task got there in time")
}

fn is_final(task: &Task) -> bool {
    task.status.is_final()
}

#[tokio::test]
async fn two_agents_do_all_tasks_once() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut tasks = Vec::new();
    for number in 0..12 {
        tasks.push(rig.submit(&["sh", "-c", &format!("echo {number} >> {}; echo {number}", log.display())]).await);
    }
    let failing = rig.submit(&["sh", "-c", "echo no such model >&2; exit 3"]).await;
    let ((first, stop_first), (second, stop_second)) = (agent(&rig, "gpu-1").await, agent(&rig, "gpu-2").await);
    let watch = async {
        for (number, task) in tasks.iter().enumerate() {
            let done = until(&rig, *task, is_final).await;
            assert_eq!((done.status, done.attempts), (TaskStatus::Complete, 1));
            assert_eq!(done.output.unwrap()["stdout_tail"], format!("{number}\n"));
        }
        let failed = until(&rig, failing, is_final).await;
        assert_eq!((failed.status, failed.attempts), (TaskStatus::Failed, 1));
        assert!(failed.error.unwrap().contains("no such model"));
        stop_first.raise();
        stop_second.raise();
    };
    let (one, two, ()) = tokio::join!(first, second, watch);
    assert_eq!((one, two), (AgentEnd::Stopped, AgentEnd::Stopped));
    let mut lines: Vec<u32> =
        std::fs::read_to_string(log).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..12).collect::<Vec<_>>(), "each task ran once");
}

#[tokio::test]
async fn a_restart_of_the_gateway_costs_no_task() {
    // An address of its own: nobody else is given its port while the gateway is away.
    let mut rig = Rig::with("127.0.47.1", |_| ()).await;
    let folder = tempfile::tempdir().unwrap();
    let (began, go_on) = (folder.path().join("began"), folder.path().join("go_on"));
    let script = format!(
        "echo x > {}; while [ ! -e {} ]; do sleep 0.01; done; echo survived",
        began.display(),
        go_on.display()
    );
    let task = rig.submit(&["sh", "-c", &script]).await;
    let (run, stop) = agent(&rig, "gpu-1").await;
    let watch = async {
        while !began.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(rig.stop().await, "the gateway stopped in order");
        std::fs::write(&go_on, "").unwrap();
        let silent = rig.listen().await;
        // Two calls get no answer: one of them may be a beat, the task's end follows.
        for _ in 0..2 {
            drop(tokio::time::timeout(LIMIT, silent.accept()).await.unwrap().unwrap());
        }
        drop(silent);
        rig.start().await;
        let done = until(&rig, task, is_final).await;
        assert_eq!((done.status, done.attempts), (TaskStatus::Complete, 1));
        stop.raise();
    };
    let (end, ()) = tokio::join!(run, watch);
    assert_eq!(end, AgentEnd::Stopped);
}

#[tokio::test]
async fn a_cancelled_task_ends_its_program() {
    let rig = Rig::new().await;
    let endless = rig.submit(&["sleep", "1000"]).await;
    let (run, stop) = agent(&rig, "gpu-1").await;
    let watch = async {
        until(&rig, endless, |task| task.status == TaskStatus::InProgress).await;
        assert!(rig.store.cancel_task(endless).await.unwrap());
        let next = rig.submit(&["true"]).await;
        assert_eq!(until(&rig, next, is_final).await.status, TaskStatus::Complete, "the agent goes on");
        stop.raise();
    };
    let (end, ()) = tokio::join!(run, watch);
    assert_eq!(end, AgentEnd::Stopped);
    assert_eq!(rig.task(endless).await.status, TaskStatus::Cancelled);
}

/// Keeps ended spans.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

#[tokio::test]
async fn submit_claim_run_and_program_are_one_trace() {
    let spans = Spans::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    crate::telemetry::quiet::beside_other_tests();
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let rig = Rig::new().await;
    let task = rig.submit(&["sh", "-c", "echo $TRACEPARENT"]).await;
    let (run, stop) = agent(&rig, "gpu-1").await;
    let watch = async {
        let done = until(&rig, task, is_final).await;
        stop.raise();
        done.output.unwrap()["stdout_tail"].as_str().unwrap().trim().to_owned()
    };
    let (_, of_program) = tokio::join!(run, watch);
    let trace = &TRACEPARENT[3..35];
    let spans = spans.0.lock().unwrap();
    let of_trace = spans.iter().filter(|span| span.span_context.trace_id().to_string() == trace);
    let mut names: Vec<(String, String)> =
        of_trace.map(|span| (span.name.to_string(), span.span_context.span_id().to_string())).collect();
    names.sort();
    assert_eq!(names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["claim", "task"]);
    assert_eq!(of_program, format!("00-{trace}-{}-01", names[1].1), "the program continues the task's span");
}
