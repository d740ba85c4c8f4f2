//! What becomes of a task when an attempt says it is over, or its worker ends.
//!
//! Pure, and the same for every store: a task never has two accepted completions (I13), and a
//! repeated call is answered as it was the first time (I19).

use crate::fleet::ids::{TaskId, WorkerId};
use crate::fleet::task::{ATTEMPTS_MAX, TaskStatus};
use crate::rpc::{Refusal, TaskEnd};

/// What a task's row says now.
#[derive(Debug, Clone)]
pub(super) struct TaskNow {
    pub(super) status: TaskStatus,
    pub(super) attempts: i64,
    pub(super) worker: Option<WorkerId>,
}

/// What an attempt's row says.
#[derive(Debug, Clone)]
pub(super) struct AttemptNow {
    pub(super) worker: WorkerId,
    /// The status that this attempt itself gave the task, once it has.
    pub(super) answer: Option<TaskStatus>,
}

/// What an attempt says of its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is done.
    Complete,
    /// It failed, and another attempt may help.
    FailRetryable,
    /// It failed for good.
    FailForGood,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Write this status, then answer with it.
    End(TaskStatus),
    /// Write nothing.
    Answer(TaskEnd),
}

/// The verdict on attempt `number` of `task`, called by `worker`.
pub(super) fn judge(
    task: TaskId,
    number: i64,
    worker: &WorkerId,
    rows: Option<(&TaskNow, &AttemptNow)>,
    ending: Ending,
) -> Result<Verdict, Refusal> {
    let superseded =
        || Refusal::superseded(format!("attempt {number} of task {task} is not this worker's any more"));
    let (now, attempt) = rows.ok_or_else(superseded)?;
    if attempt.worker != *worker {
        return Err(superseded());
    }
    if let Some(answer) = attempt.answer {
        return Ok(Verdict::Answer(TaskEnd { status: answer.word().into(), attempts: number }));
    }
    if now.attempts != number || now.worker.as_ref() != Some(worker) {
        return Err(superseded());
    }
    match now.status {
        TaskStatus::InProgress => Ok(Verdict::End(match ending {
            Ending::Complete => TaskStatus::Complete,
            Ending::FailRetryable if number < ATTEMPTS_MAX => TaskStatus::Queued,
            Ending::FailRetryable | Ending::FailForGood => TaskStatus::Failed,
        })),
        // Its owner ended it first; the agent has done nothing wrong and goes on.
        TaskStatus::Cancelled => {
            Ok(Verdict::Answer(TaskEnd { status: TaskStatus::Cancelled.word().into(), attempts: number }))
        }
        TaskStatus::Queued | TaskStatus::Complete | TaskStatus::Failed => Err(superseded()),
    }
}

/// Whether the program of the task in `worker`'s hands is to be ended: it was cancelled, or
/// another worker has it. None: no such task, or never claimed.
pub(super) fn is_to_be_cancelled(worker: &WorkerId, rows: Option<(&TaskNow, &AttemptNow)>) -> bool {
    rows.is_none_or(|(now, newest)| now.status == TaskStatus::Cancelled || newest.worker != *worker)
}

/// What becomes of a task in the hands of a worker that ends: the status, and the error of a
/// task that has no attempts left.
pub(super) fn released(attempts: i64, why: &str) -> (TaskStatus, Option<String>) {
    if attempts < ATTEMPTS_MAX {
        return (TaskStatus::Queued, None);
    }
    let error = format!("no attempts left: {why} in attempt {attempts} of {ATTEMPTS_MAX}");
    (TaskStatus::Failed, Some(error))
}
