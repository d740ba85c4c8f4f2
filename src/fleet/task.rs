//! A task: a row of the queue, and the bucket that says why it waits.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::{TaskId, WorkerId};
use crate::clock::Time;

/// A task that was claimed this often is not queued again.
pub const ATTEMPTS_MAX: i64 = 3;

/// Where a task stands. The words are those of the operators' own table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskStatus {
    /// Waiting.
    Queued,
    /// Claimed by a worker.
    #[serde(rename = "In Progress")]
    InProgress,
    /// Done.
    Complete,
    /// Ended without success.
    Failed,
    /// Ended by its owner.
    Cancelled,
}

impl TaskStatus {
    /// All, in the order of a task's life.
    pub const ALL: [TaskStatus; 5] = [
        TaskStatus::Queued,
        TaskStatus::InProgress,
        TaskStatus::Complete,
        TaskStatus::Failed,
        TaskStatus::Cancelled,
    ];

    /// The word in the database.
    pub fn word(self) -> &'static str {
        match self {
            TaskStatus::Queued => "Queued",
            TaskStatus::InProgress => "In Progress",
            TaskStatus::Complete => "Complete",
            TaskStatus::Failed => "Failed",
            TaskStatus::Cancelled => "Cancelled",
        }
    }

    /// The status of that word.
    pub fn from_word(word: &str) -> Option<TaskStatus> {
        TaskStatus::ALL.into_iter().find(|status| status.word() == word)
    }

    /// Whether nothing more will happen to the task.
    pub fn is_final(self) -> bool {
        matches!(self, TaskStatus::Complete | TaskStatus::Failed | TaskStatus::Cancelled)
    }
}

/// Why a queued task waits: exactly one a task, the first that fits in the order of
/// [`Bucket::ALL`], so that the buckets add up to the queue (I15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bucket {
    /// An operator holds this task.
    Paused,
    /// It killed its workers.
    Poisoned,
    /// Too old to be worth money without a look.
    TooOld,
    /// Its owner has no credits.
    NoCredits,
    /// Its owner does not allow cloud workers.
    CloudDisabled,
    /// A task it depends on is not complete.
    Dependency,
    /// No pool runs its kind.
    WrongType,
    /// Its owner has as many tasks in progress as the limit allows.
    UserLimit,
    /// A worker may take it at once.
    Claimable,
}

impl Bucket {
    /// All buckets, in the order in which they are tried.
    pub const ALL: [Bucket; 9] = [
        Bucket::Paused,
        Bucket::Poisoned,
        Bucket::TooOld,
        Bucket::NoCredits,
        Bucket::CloudDisabled,
        Bucket::Dependency,
        Bucket::WrongType,
        Bucket::UserLimit,
        Bucket::Claimable,
    ];

    /// The word in documents and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Bucket::Paused => "paused",
            Bucket::Poisoned => "poisoned",
            Bucket::TooOld => "too_old",
            Bucket::NoCredits => "no_credits",
            Bucket::CloudDisabled => "cloud_disabled",
            Bucket::Dependency => "dependency",
            Bucket::WrongType => "wrong_type",
            Bucket::UserLimit => "user_limit",
            Bucket::Claimable => "claimable",
        }
    }
}

/// A task to be queued.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Its id, made by whoever submits it, so that a repeated submit is the same task.
    pub id: TaskId,
    /// Whose it is.
    pub user: String,
    /// What it is, such as `command`.
    pub task_type: String,
    /// Its parameters.
    pub params: Value,
    /// What kind of worker it needs, or none.
    pub run_type: Option<String>,
    /// Tasks that must be complete before.
    pub dependant_on: Vec<TaskId>,
    /// W3C trace context of the submit.
    pub traceparent: Option<String>,
}

/// A task as it stands in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Whose it is.
    pub user: String,
    /// What it is.
    pub task_type: String,
    /// Its parameters.
    pub params: Value,
    /// What kind of worker it needs.
    pub run_type: Option<String>,
    /// Where it stands.
    pub status: TaskStatus,
    /// The worker of the newest attempt.
    pub worker: Option<WorkerId>,
    /// Claims so far.
    pub attempts: i64,
    /// What went wrong the last time.
    pub error: Option<String>,
    /// {exit_code, stdout_tail, result}.
    pub output: Option<Value>,
    /// When it was queued first.
    pub created_at: Time,
    /// When the newest attempt claimed it.
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// W3C trace context of the submit.
    pub traceparent: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lead_back_to_their_status() {
        for status in TaskStatus::ALL {
            assert_eq!(TaskStatus::from_word(status.word()), Some(status));
            let json = serde_json::to_value(status).unwrap();
            assert_eq!(json, status.word());
        }
    }
}
