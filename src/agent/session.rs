//! The life of an agent: register, then claim and work until an order, the stop signal or the dead
//! man's limit ends it; then good-bye.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::Instrument as _;
use uuid::Uuid;

use super::client::{CallError, Client, random};
use super::crash::{EndWhy, Verdict};
use super::heartbeat::Beats;
use super::runner::{Attempt, Runner};
use super::shared::{DEAD_MAN_DEFAULT, Shared};
use super::{AgentConfig, AgentEnd, AgentError};
use crate::rpc::{
    AgentInfo, Claim, Claimed, Complete, ExitCall, ExitReport, Fail, Function, Phase, Register, Registered,
};
use crate::supervise::Intensity;
use crate::supervise::task::{Group, Stop};
use crate::telemetry::propagation;

/// How long reports of the last task are tried once the agent must be gone.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(10);
/// How long helpers get to end.
const HELPERS_LIMIT: Duration = Duration::from_secs(2);
/// Bounds of the periods that the base may ask for.
const PERIOD_MIN: Duration = Duration::from_millis(50);
const PERIOD_MAX: Duration = Duration::from_secs(300);
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(20);
const POLL_DEFAULT: Duration = Duration::from_secs(1);

/// One start of an agent.
pub(super) struct Session {
    config: Arc<AgentConfig>,
    client: Arc<Client>,
    shared: Arc<Shared>,
    runner: Runner,
    helpers: Group,
}

impl Session {
    /// Checks the configuration and gets what the operating system has to give.
    pub(super) fn start(config: AgentConfig) -> Result<Session, AgentError> {
        let client = Arc::new(Client::new(&config)?);
        let runner = Runner::start(&config).map_err(|error| AgentError::Start(Box::new(error)))?;
        Ok(Session { config: Arc::new(config), client, shared: Arc::default(), runner, helpers: Group::new() })
    }

    /// The whole life.
    pub(super) async fn run(self, stop: Stop) -> Result<AgentEnd, AgentError> {
        self.watch_stop(stop);
        let (end, report) = match self.register().await {
            Err(end) => (end, None),
            Ok(registered) => {
                let period = within(registered.heartbeat_seconds, HEARTBEAT_DEFAULT);
                let beats = Arc::new(Beats::new(Arc::clone(&self.client), Arc::clone(&self.shared), period));
                self.helpers.start("heartbeat", Intensity::default(), move |pulse, stop| {
                    let beats = Arc::clone(&beats);
                    async move { beats.run(&pulse, stop).await }
                });
                self.work(within(registered.poll_seconds, POLL_DEFAULT)).await
            }
        };
        self.say_goodbye(&end, report).await;
        self.runner.finish().await;
        self.helpers.stop(HELPERS_LIMIT).await;
        Ok(end)
    }

    /// The stop signal: claim no more, and after the drain limit end the program.
    fn watch_stop(&self, stop: Stop) {
        let (shared, limit) = (Arc::clone(&self.shared), self.config.drain_limit);
        self.helpers.start("stop signal", Intensity::default(), move |_, mut ended| {
            let (shared, mut stop) = (Arc::clone(&shared), stop.clone());
            async move {
                tokio::select! {
                    () = ended.raised() => return,
                    () = stop.raised() => {}
                }
                tracing::info!("stop signal: no more claims");
                shared.leave(AgentEnd::Stopped);
                if !ended.raised_within(limit).await {
                    shared.end_program(EndWhy::DrainLimit);
                }
            }
        });
    }

    async fn register(&self) -> Result<Registered, AgentEnd> {
        let info = AgentInfo {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gpu: None,
            capabilities: self.config.capabilities(),
        };
        let registered: Registered = self.until_answered(Function::Register, &Register { info }).await?;
        let dead_man = Duration::try_from_secs_f64(registered.dead_man_seconds).unwrap_or(DEAD_MAN_DEFAULT);
        self.shared.set_dead_man(dead_man);
        self.shared.set_doing(Phase::Ready, None);
        self.config.admission.grant();
        tracing::info!(worker_id = self.config.worker_id.0, "registered");
        Ok(registered)
    }

    /// Claims and works until there is a reason to leave; the report of the last program that did
    /// not end well goes with it.
    async fn work(&self, poll: Duration) -> (AgentEnd, Option<ExitReport>) {
        let mut last_report = None;
        loop {
            let claim = Claim { claim_id: Uuid::new_v4(), run_type: self.config.run_type.clone() };
            match self.until_answered::<_, Option<Claimed>>(Function::ClaimTask, &claim).await {
                Err(end) => return (end, last_report),
                Ok(Some(task)) => last_report = self.attempt(&task).await.or(last_report),
                Ok(None) => {
                    if let Some(end) = self.pause(poll.mul_f64(0.5 + random())).await {
                        return (end, last_report);
                    }
                }
            }
        }
    }

    /// One task from claim to answer, in the trace of its submit.
    async fn attempt(&self, task: &Claimed) -> Option<ExitReport> {
        let (task_id, attempt) = (task.task_id.to_string(), task.attempt);
        let worker_id = &self.config.worker_id.0;
        let span = tracing::info_span!("task", otel.kind = "CONSUMER", task_id, worker_id, attempt);
        propagation::join(&span, task.traceparent.as_deref());
        let work = async {
            self.shared.set_doing(Phase::Busy, Some(task.task_id));
            let Attempt { verdict, report } = self.runner.run(task, &self.config, &self.shared, &self.client).await;
            self.shared.progress();
            if let Verdict::Fail { error, is_retryable } = &verdict {
                tracing::warn!(task_id, worker_id, attempt, error, retryable = is_retryable, "task failed");
            }
            self.settle(task, verdict).await;
            self.shared.set_doing(Phase::Ready, None);
            report
        };
        work.instrument(span).await
    }

    /// Reports the verdict until it is answered, refused for good, or the agent must be gone.
    async fn settle(&self, task: &Claimed, mut verdict: Verdict) {
        let mut tries = 0;
        let mut deadline = None;
        loop {
            let error = match self.report(task, &verdict).await {
                Ok(()) => return self.shared.in_contact(),
                Err(error) => error,
            };
            match &error {
                CallError::Stop { detail, .. } => {
                    tracing::warn!(task_id = %task.task_id, detail, "the attempt is no longer ours");
                    return;
                }
                CallError::TooLarge if shrink(&mut verdict) => continue,
                CallError::Retry { .. } => tracing::debug!(%error, "end of the task not told"),
                _ => tracing::error!(task_id = %task.task_id, %error, "the base does not take the task's end"),
            }
            let control = self.shared.control().borrow().clone();
            if control.end.is_some() && deadline.is_none() {
                deadline = Some(tokio::time::Instant::now() + LAST_WORDS_LIMIT);
            }
            let is_late = deadline.is_some_and(|deadline| tokio::time::Instant::now() >= deadline);
            if is_late || control.end == Some(EndWhy::Superseded) || self.shared.is_cut_off() {
                tracing::error!(task_id = %task.task_id, %error, "gave up telling the task's end");
                return;
            }
            self.wait(error.wait(tries)).await;
            tries += 1;
        }
    }

    async fn report(&self, task: &Claimed, verdict: &Verdict) -> Result<(), CallError> {
        let (task_id, attempt) = (task.task_id, task.attempt);
        match verdict.clone() {
            Verdict::Abandon => Ok(()),
            Verdict::Complete { output } => {
                let complete = Complete { task_id, attempt, output };
                self.client.call::<_, Value>(Function::CompleteTask, &complete).await.map(drop)
            }
            Verdict::Fail { error, is_retryable } => {
                let fail = Fail { task_id, attempt, error, retryable: is_retryable };
                self.client.call::<_, Value>(Function::FailTask, &fail).await.map(drop)
            }
        }
    }

    /// Makes the same call until it is answered; a lost answer is asked for again with the same
    /// keys. Err: the agent is to leave.
    async fn until_answered<B: Serialize, R: DeserializeOwned>(
        &self,
        function: Function,
        keys: &B,
    ) -> Result<R, AgentEnd> {
        let mut tries = 0;
        loop {
            if let Some(end) = self.reason_to_leave() {
                return Err(end);
            }
            let error = match self.client.call(function, keys).await {
                Ok(answer) => {
                    self.shared.in_contact();
                    return Ok(answer);
                }
                Err(CallError::Stop { detail, .. }) => {
                    self.shared.leave(AgentEnd::Superseded { detail });
                    continue;
                }
                Err(error) => error,
            };
            match &error {
                CallError::Retry { .. } => tracing::debug!(function = function.name(), %error, "no answer"),
                _ => tracing::error!(function = function.name(), %error, "refused: is the base URL right?"),
            }
            self.pause(error.wait(tries)).await;
            tries += 1;
        }
    }

    /// Waits, unless there is a reason to leave.
    async fn pause(&self, duration: Duration) -> Option<AgentEnd> {
        let mut control = self.shared.control();
        let leave = control.wait_for(|control| control.leave.is_some());
        let _ = tokio::time::timeout(duration, leave).await;
        self.reason_to_leave()
    }

    /// Waits, unless the program is to end.
    async fn wait(&self, duration: Duration) {
        let mut control = self.shared.control();
        let had = control.borrow().end;
        let _ = tokio::time::timeout(duration, control.wait_for(|control| control.end != had)).await;
    }

    fn reason_to_leave(&self) -> Option<AgentEnd> {
        let ordered = self.shared.control().borrow().leave.clone();
        ordered.or_else(|| self.shared.is_cut_off().then_some(AgentEnd::DeadMan))
    }

    async fn say_goodbye(&self, end: &AgentEnd, report: Option<ExitReport>) {
        tracing::info!(reason = %end, "the agent leaves");
        if matches!(end, AgentEnd::Superseded { .. } | AgentEnd::DeadMan) {
            return;
        }
        let report = ExitReport { reason: end.to_string(), ..report.unwrap_or_default() };
        let last_words = ExitCall { report };
        let call = self.client.call::<_, Value>(Function::Exit, &last_words);
        match tokio::time::timeout(LAST_WORDS_LIMIT, call).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the base did not hear the good-bye"),
            Err(_) => tracing::warn!("the base did not hear the good-bye"),
        }
    }
}

/// A period that the base asked for, within bounds.
fn within(seconds: f64, default: Duration) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(default).clamp(PERIOD_MIN, PERIOD_MAX)
}

/// Leaves out what the base did not take for its size. False: nothing is left to leave out.
fn shrink(verdict: &mut Verdict) -> bool {
    let Verdict::Complete { output } = verdict else { return false };
    if output.get("truncated").is_some() {
        return false;
    }
    *output = json!({ "exit_code": 0, "stdout_tail": "", "result": null, "truncated": true });
    true
}
