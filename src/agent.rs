//! The process beside the user's program: registers, beats, claims, runs, reports.
//!
//! A session speaks RPC.md with its base; a runner owns one program at a time, as a process group
//! of its own, and turns its output into records from exec on. It promises: heartbeats never wait
//! for a program, a claim or a slow answer; an outage of the base never stops a program that runs;
//! a completion is reported until it is answered; the program dies with the agent, also when the
//! agent is killed; the worker's token reaches neither the program nor a log. It does not decide
//! who may run: the base does, and 401 or 409 end the agent.

mod capture;
mod client;
mod cpu;
mod crash;
mod group;
pub mod guard;
mod heartbeat;
mod launcher;
mod lines;
mod program;
mod runner;
mod session;
mod shared;
mod tail;
#[cfg(test)]
mod tests;

use std::time::Duration;

use uuid::Uuid;

use crate::fleet::ids::WorkerId;
use crate::provider::WorkerToken;
use crate::rpc::Admission;
use crate::supervise::task::Stop;

/// Time a program gets between SIGTERM and SIGKILL.
pub const KILL_GRACE: Duration = Duration::from_secs(5);
/// What a draining agent gives its program, where nothing else is set: RunPod's longest notice.
pub const DRAIN_LIMIT_DEFAULT: Duration = Duration::from_secs(3_600);
/// Variables that a program never inherits: our rights are not its rights.
pub const HIDDEN_ENV: [&str; 11] = [
    "DOGWATCH_WORKER_TOKEN",
    "DOGWATCH_API_KEY",
    "DOGWATCH_TOKEN",
    "DATABASE_URL",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "RUNPOD_API_KEY",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
];

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Where RPC.md is spoken: a gateway or a Supabase project, such as `http://127.0.0.1:7411`.
    pub base_url: String,
    /// The publishable key that Supabase wants beside the worker's token.
    pub api_key: Option<ApiKey>,
    /// The worker's row.
    pub worker_id: WorkerId,
    /// The worker's only right.
    pub token: WorkerToken,
    /// This start of the agent; its records go the same way under the same name.
    pub incarnation: Uuid,
    /// Granted once this start is registered.
    pub admission: Admission,
    /// Run tasks of type `command`, whose argv comes from the queue. Off: an INSERT into tasks
    /// would otherwise be a remote shell.
    pub allow_commands: bool,
    /// The program of every other task type; it gets the task as JSON on stdin.
    pub program: Option<Vec<String>>,
    /// What kind of run this worker is for, or any.
    pub run_type: Option<String>,
    /// How long a program may go on after the stop signal.
    pub drain_limit: Duration,
    /// What starts [`guard::main`] with the arguments after it. None: this very executable with
    /// the hidden subcommand `__exec`.
    pub guard_program: Option<Vec<String>>,
    /// Variables that programs do not inherit.
    pub hidden_env: Vec<String>,
}

impl AgentConfig {
    /// The defaults around what every agent needs.
    pub fn new(base_url: impl Into<String>, worker_id: WorkerId, token: WorkerToken) -> AgentConfig {
        AgentConfig {
            base_url: base_url.into(),
            api_key: None,
            worker_id,
            token,
            incarnation: Uuid::new_v4(),
            admission: Admission::default(),
            allow_commands: false,
            program: None,
            run_type: None,
            drain_limit: DRAIN_LIMIT_DEFAULT,
            guard_program: None,
            hidden_env: HIDDEN_ENV.map(str::to_owned).to_vec(),
        }
    }

    /// What this agent can run.
    fn capabilities(&self) -> Vec<String> {
        let command = self.allow_commands.then(|| "command".to_owned());
        let program = self.program.as_ref().map(|_| "program".to_owned());
        command.into_iter().chain(program).collect()
    }
}

/// A publishable key. Its text never appears in Debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(pub String);

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

/// Why an agent left in good order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEnd {
    /// The stop signal was raised.
    Stopped,
    /// The base ordered it to leave.
    Ordered,
    /// The base does not know it (any more): 401 or 409. Another has its place.
    Superseded {
        /// The base's words.
        detail: String,
    },
    /// The base did not answer for longer than `dead_man_seconds`.
    DeadMan,
}

impl std::fmt::Display for AgentEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AgentEnd::Stopped => f.write_str("stop signal"),
            AgentEnd::Ordered => f.write_str("ordered to leave"),
            AgentEnd::Superseded { detail } => write!(f, "superseded: {detail}"),
            AgentEnd::DeadMan => f.write_str("the base did not answer for too long"),
        }
    }
}

/// Why an agent could not work at all.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The base is no URL that can be called.
    #[error("the base URL {url:?} cannot be used: {detail}")]
    BadBase {
        /// What was given.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The operating system gave no thread or HTTP client.
    #[error("the agent cannot start")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Works until `stop` is raised or the base ends it.
///
/// # Errors
/// The configuration cannot be used, or the operating system refused what an agent needs.
pub async fn run(config: AgentConfig, stop: Stop) -> Result<AgentEnd, AgentError> {
    session::Session::start(config)?.run(stop).await
}
