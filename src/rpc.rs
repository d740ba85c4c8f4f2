//! The workers' protocol: names and types of every function.
//!
//! `POST {base}/rest/v1/rpc/<function>`, one JSON object in, JSON out: the shape of PostgREST, so
//! that the base may be a Supabase project or dogwatch's own gateway. Types, which the agent
//! sends and the gateway and the stores answer, and what tells an agent's exporter that the agent is
//! registered. Every call may be repeated (I19).

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Path under the base before a function's name.
pub const PATH: &str = "/rest/v1/rpc/";
/// Most rows in one `dw_ingest_logs`.
pub const INGEST_ROWS_MAX: usize = 1_000;
/// Largest body of one call, bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Who calls: keys that stand in every body beside the function's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The worker's row.
    pub worker_id: String,
    /// Its only right; compared as SHA-256.
    pub worker_token: String,
    /// This start of the agent; a later one supersedes it.
    pub incarnation: Uuid,
}

/// Whether a start of an agent is registered: nothing of it is taken before. The agent grants it, and whoever
/// sends its records waits for that.
#[derive(Debug, Clone, Default)]
pub struct Admission(Arc<(Mutex<bool>, Condvar)>);

impl Admission {
    /// The base has registered this start.
    pub fn grant(&self) {
        let (is_granted, changed) = &*self.0;
        *is_granted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Whether it has, at the latest after `limit`.
    pub fn is_granted_within(&self, limit: Duration) -> bool {
        let (is_granted, changed) = &*self.0;
        let is_granted = is_granted.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(is_granted, limit, |is_granted| !*is_granted);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A function of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    /// First call of an agent.
    Register,
    /// Liveness, phase, progress.
    Heartbeat,
    /// Take one task.
    ClaimTask,
    /// The task moves on.
    TaskProgress,
    /// The task is done.
    CompleteTask,
    /// The task failed.
    FailTask,
    /// Rows for `system_logs`.
    IngestLogs,
    /// The agent leaves, with its last words.
    Exit,
}

impl Function {
    /// All functions, in the order of the protocol.
    pub const ALL: [Function; 8] = [
        Function::Register,
        Function::Heartbeat,
        Function::ClaimTask,
        Function::TaskProgress,
        Function::CompleteTask,
        Function::FailTask,
        Function::IngestLogs,
        Function::Exit,
    ];

    /// The SQL function's name.
    pub fn name(self) -> &'static str {
        match self {
            Function::Register => "dw_register",
            Function::Heartbeat => "dw_heartbeat",
            Function::ClaimTask => "dw_claim_task",
            Function::TaskProgress => "dw_task_progress",
            Function::CompleteTask => "dw_complete_task",
            Function::FailTask => "dw_fail_task",
            Function::IngestLogs => "dw_ingest_logs",
            Function::Exit => "dw_exit",
        }
    }

    /// The function of that name.
    pub fn from_name(name: &str) -> Option<Function> {
        Function::ALL.into_iter().find(|function| function.name() == name)
    }
}

/// What an agent says of itself once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Host name.
    #[serde(default)]
    pub host: String,
    /// Process id.
    #[serde(default)]
    pub pid: u32,
    /// dogwatch's version.
    #[serde(default)]
    pub version: String,
    /// The GPU as its driver describes it, or null.
    #[serde(default)]
    pub gpu: Option<Value>,
    /// What it can run, such as `command`.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// `dw_register`'s keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// The agent's description.
    pub info: AgentInfo,
}

/// How the agent is to behave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// Period of `dw_heartbeat`, seconds.
    pub heartbeat_seconds: f64,
    /// The agent stops between tasks after this long without its base, seconds.
    pub dead_man_seconds: f64,
    /// Mean period of `dw_claim_task` while idle, seconds.
    pub poll_seconds: f64,
}

/// Where an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not yet able to work.
    Starting,
    /// Able to work, no task.
    Ready,
    /// Running a task.
    Busy,
    /// Finishing; claims no more.
    Draining,
}

impl Phase {
    /// The word on the wire and in the database.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Busy => "busy",
            Phase::Draining => "draining",
        }
    }
}

/// A GPU's state, as far as the agent can see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuState {
    /// Memory, MB.
    pub vram_total_mb: Option<f64>,
    /// Memory in use, MB.
    pub vram_used_mb: Option<f64>,
    /// Share in use, 0 to 1.
    pub utilization: Option<f64>,
}

/// `dw_heartbeat`'s keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Number of this beat; one that is not above the last changes nothing.
    pub seq: i64,
    /// Where the agent stands.
    pub phase: Phase,
    /// Raised by every sign of progress of the program.
    pub progress_seq: i64,
    /// The task in hand.
    pub current_task: Option<Uuid>,
    /// The GPU, where there is one.
    pub gpu: Option<GpuState>,
    /// Current values of the agent's own metrics.
    #[serde(default)]
    pub metrics: Value,
}

/// What the fleet wants of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Orders {
    /// Claim no more.
    pub drain: bool,
    /// End the program and leave.
    pub stop: bool,
    /// The task whose program is to be ended.
    pub cancel: Option<Uuid>,
}

/// `dw_claim_task`'s keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The same id answers the same task again.
    pub claim_id: Uuid,
    /// What kind of run this worker is for, or null for any.
    pub run_type: Option<String>,
}

/// A task in hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claimed {
    /// The task.
    pub task_id: Uuid,
    /// Number of this attempt; every later call on the task carries it.
    pub attempt: i64,
    /// What the task is, such as `command`.
    pub task_type: String,
    /// Its parameters.
    pub params: Value,
    /// W3C trace context of the submit.
    pub traceparent: Option<String>,
    /// Whose task it is.
    pub user: String,
}

/// `dw_task_progress`'s keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The task.
    pub task_id: Uuid,
    /// The attempt.
    pub attempt: i64,
    /// Share done, 0 to 1, where known.
    pub fraction: Option<f64>,
    /// What is being done.
    pub note: Option<String>,
}

/// Whether to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressReply {
    /// The task is to be ended.
    pub cancel: bool,
}

/// `dw_complete_task`'s keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Complete {
    /// The task.
    pub task_id: Uuid,
    /// The attempt.
    pub attempt: i64,
    /// {exit_code, stdout_tail, result}.
    pub output: Value,
}

/// `dw_fail_task`'s keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fail {
    /// The task.
    pub task_id: Uuid,
    /// The attempt.
    pub attempt: i64,
    /// What went wrong, for humans.
    pub error: String,
    /// Whether another attempt may be made.
    pub retryable: bool,
}

/// What became of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// `Complete`, `Failed`, or `Queued` for another attempt.
    pub status: String,
    /// Attempts made.
    pub attempts: i64,
}

/// One row of `dw_ingest_logs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IngestRow {
    /// The record's own id; a row already there is received, not inserted.
    pub id: Uuid,
    /// When it was made, RFC 3339, whole microseconds.
    pub timestamp: String,
    /// DEBUG, INFO, WARNING, ERROR or CRITICAL.
    pub log_level: String,
    /// The text.
    pub message: String,
    /// The task it is about.
    #[serde(default)]
    pub task_id: Option<Uuid>,
    /// 32 hex digits.
    #[serde(default)]
    pub trace_id: Option<String>,
    /// 16 hex digits.
    #[serde(default)]
    pub span_id: Option<String>,
    /// Everything else; goes to column `metadata`.
    #[serde(default)]
    pub attributes: Value,
}

/// `dw_ingest_logs`'s keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ingest {
    /// At most [`INGEST_ROWS_MAX`].
    pub rows: Vec<IngestRow>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingested {
    /// Rows in the call.
    pub received: u64,
    /// Rows that were not there before.
    pub inserted: u64,
}

/// The last words of an agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Why it leaves, for humans.
    pub reason: String,
    /// The program's exit code.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The signal that ended the program.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether the kernel's OOM killer did it.
    #[serde(default)]
    pub oom_killed: bool,
    /// The program's last lines.
    #[serde(default)]
    pub last_lines: Vec<String>,
    /// The GPU's state.
    #[serde(default)]
    pub gpu: Option<GpuState>,
}

/// `dw_exit`'s keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitCall {
    /// The report.
    pub report: ExitReport,
}

/// A call that was not granted; it changed nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// `DW401`, `DW409` or `DW422`.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// Which key or number.
    pub details: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl Refusal {
    /// Unknown worker or wrong token: the same answer for both.
    pub fn unknown_caller() -> Refusal {
        Refusal {
            code: "DW401".into(),
            message: "unknown worker or wrong token".into(),
            details: None,
            hint: Some("start the agent with the worker id and token it was spawned with".into()),
        }
    }

    /// Superseded incarnation or attempt, or an ended worker.
    pub fn superseded(message: impl Into<String>) -> Refusal {
        Refusal {
            code: "DW409".into(),
            message: message.into(),
            details: None,
            hint: Some("stop: another attempt or incarnation has taken over".into()),
        }
    }

    /// A key that is missing or malformed.
    pub fn malformed(key: &str, expected: &str) -> Refusal {
        Refusal {
            code: "DW422".into(),
            message: format!("key `{key}` is missing or malformed: expected {expected}"),
            details: Some(key.to_owned()),
            hint: None,
        }
    }

    /// The HTTP status that goes with the code.
    pub fn status(&self) -> u16 {
        match self.code.as_str() {
            "DW401" => 401,
            "DW409" => 409,
            _ => 422,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_found_by_its_name() {
        for function in Function::ALL {
            assert_eq!(Function::from_name(function.name()), Some(function));
        }
        assert_eq!(Function::from_name("dw_drop_tables"), None);
    }

    #[test]
    fn a_refusal_carries_its_status() {
        assert_eq!(Refusal::unknown_caller().status(), 401);
        assert_eq!(Refusal::superseded("attempt 1 ended").status(), 409);
        assert_eq!(Refusal::malformed("seq", "an integer").status(), 422);
    }
}
