//! The workers' way in; refusals are found before anything is changed.

use uuid::Uuid;

use super::state::{Attempt, State};
use crate::clock::Time;
use crate::fleet::ids::{TaskId, WorkerId};
use crate::fleet::task::{ATTEMPTS_MAX, TaskStatus};
use crate::rpc;
use crate::store::task_rules::{AttemptNow, Ending, TaskNow, Verdict, is_to_be_cancelled, judge, released};
use crate::store::worker_row::{WorkerData, clamp};

type Answer<T> = Result<T, rpc::Refusal>;

impl State {
    /// The caller's worker, checked.
    pub(super) fn admit(&self, caller: &rpc::Caller) -> Answer<WorkerData> {
        let id = WorkerId(caller.worker_id.clone());
        let row = self.workers.get(&id).ok_or_else(rpc::Refusal::unknown_caller)?;
        row.admit(caller)?;
        Ok(row.clone())
    }

    /// The caller's row, checked, to be changed in place by what changes neither its beginning nor its end.
    fn admit_mut(&mut self, caller: &rpc::Caller) -> Answer<&mut WorkerData> {
        let id = WorkerId(caller.worker_id.clone());
        let row = self.workers.get_mut(&id).ok_or_else(rpc::Refusal::unknown_caller)?;
        row.admit(caller)?;
        Ok(row)
    }

    pub(super) fn register(&mut self, caller: &rpc::Caller, info: &rpc::AgentInfo, now: Time) -> Answer<()> {
        let incarnation = (WorkerId(caller.worker_id.clone()), caller.incarnation);
        let row = self.workers.get_mut(&incarnation.0).ok_or_else(rpc::Refusal::unknown_caller)?;
        row.register(caller, info, self.incarnations.contains(&incarnation), now)?;
        self.incarnations.insert(incarnation);
        Ok(())
    }

    pub(super) fn heartbeat(
        &mut self,
        caller: &rpc::Caller,
        beat: &rpc::Heartbeat,
        now: Time,
    ) -> Answer<rpc::Orders> {
        let id = WorkerId(caller.worker_id.clone());
        let in_hand = self.in_hand(&id);
        self.admit_mut(caller)?.beat(beat, in_hand, now);
        let cancel = beat.current_task.filter(|task| {
            let newest = self.tasks.get(&TaskId(*task)).map(|row| row.task.attempts);
            let rows = newest.and_then(|attempt| self.rows(*task, attempt));
            is_to_be_cancelled(&id, rows.as_ref().map(|(task, attempt)| (task, attempt)))
        });
        Ok(self.workers[&id].orders(cancel))
    }

    pub(super) fn claim(
        &mut self,
        caller: &rpc::Caller,
        claim: &rpc::Claim,
        user_task_limit: u32,
        now: Time,
    ) -> Answer<Option<rpc::Claimed>> {
        let mut row = self.admit(caller)?;
        let key = (row.id.clone(), claim.claim_id);
        if let Some((task, attempt)) = self.claims.get(&key) {
            return Ok(Some(self.claimed(*task, *attempt)));
        }
        if !row.may_claim() {
            return Ok(None);
        }
        let left = self.left_by_the_start_before(&row.id, caller.incarnation, now);
        let pool = &row.pool;
        let oldest = || self.oldest_claimable(claim.run_type.as_deref(), pool, user_task_limit);
        let Some(task) = left.or_else(oldest) else {
            return Ok(None);
        };
        let mut attempt = 0;
        self.change_task(task, |task| {
            task.status = TaskStatus::InProgress;
            task.worker = Some(row.id.clone());
            task.attempts += 1;
            task.started_at = Some(now);
            attempt = task.attempts;
        });
        let made = Attempt {
            worker: row.id.clone(),
            incarnation: caller.incarnation,
            answer: None,
            claimed_at: now,
            ended_at: None,
        };
        self.attempts.insert((task, attempt), made);
        self.claims.insert(key, (task, attempt));
        row.claimed(now);
        self.save_worker(row);
        Ok(Some(self.claimed(task, attempt)))
    }

    fn claimed(&self, task: TaskId, attempt: i64) -> rpc::Claimed {
        let task = &self.tasks[&task].task;
        rpc::Claimed {
            task_id: task.id.0,
            attempt,
            task_type: task.task_type.clone(),
            params: task.params.clone(),
            traceparent: task.traceparent.clone(),
            user: task.user.clone(),
        }
    }

    /// A task that an earlier start of the same agent took with it; those without attempts left fail.
    fn left_by_the_start_before(&mut self, worker: &WorkerId, incarnation: Uuid, now: Time) -> Option<TaskId> {
        for id in self.hands(worker) {
            let attempts = self.tasks[&id].task.attempts;
            if self.attempts[&(id, attempts)].incarnation == incarnation {
                continue;
            }
            if attempts < ATTEMPTS_MAX {
                return Some(id);
            }
            let (status, error) = released(attempts, "the agent was started again");
            self.release(id, status, error, now);
        }
        None
    }

    pub(super) fn progress(
        &mut self,
        caller: &rpc::Caller,
        progress: &rpc::Progress,
        now: Time,
    ) -> Answer<rpc::ProgressReply> {
        let mut row = self.admit(caller)?;
        match self.judge(&row.id, progress.task_id, progress.attempt, Ending::Complete)? {
            Verdict::Answer(end) => Ok(rpc::ProgressReply { cancel: end.status == TaskStatus::Cancelled.word() }),
            Verdict::End(_) => {
                row.progress_at = Some(now);
                self.save_worker(row);
                Ok(rpc::ProgressReply { cancel: false })
            }
        }
    }

    pub(super) fn complete(
        &mut self,
        caller: &rpc::Caller,
        complete: &rpc::Complete,
        now: Time,
    ) -> Answer<rpc::TaskEnd> {
        let rpc::Complete { task_id, attempt, output } = complete;
        let (end, accepted) = self.over(caller, (*task_id, *attempt), Ending::Complete, None, now)?;
        if accepted {
            self.change_task(TaskId(*task_id), |task| task.output = Some(output.clone()));
        }
        Ok(end)
    }

    pub(super) fn fail(&mut self, caller: &rpc::Caller, fail: &rpc::Fail, now: Time) -> Answer<rpc::TaskEnd> {
        let ending = if fail.retryable { Ending::FailRetryable } else { Ending::FailForGood };
        let error = clamp(&fail.error);
        Ok(self.over(caller, (fail.task_id, fail.attempt), ending, Some(error), now)?.0)
    }

    /// An attempt says that it is over: the answer, and whether this call did it.
    fn over(
        &mut self,
        caller: &rpc::Caller,
        (id, number): (Uuid, i64),
        ending: Ending,
        error: Option<String>,
        now: Time,
    ) -> Answer<(rpc::TaskEnd, bool)> {
        let mut row = self.admit(caller)?;
        let status = match self.judge(&row.id, id, number, ending)? {
            Verdict::Answer(end) => return Ok((end, false)),
            Verdict::End(status) => status,
        };
        self.release(TaskId(id), status, error, now);
        if let Some(attempt) = self.attempts.get_mut(&(TaskId(id), number)) {
            attempt.answer = Some(status);
        }
        row.task_over(self.in_hand(&row.id), now);
        self.save_worker(row);
        Ok((rpc::TaskEnd { status: status.word().into(), attempts: number }, true))
    }

    pub(super) fn exit(&mut self, caller: &rpc::Caller, report: &rpc::ExitReport, now: Time) -> Answer<()> {
        self.admit_mut(caller)?.exit(report, now);
        Ok(())
    }

    fn in_hand(&self, worker: &WorkerId) -> u32 {
        u32::try_from(self.hands(worker).len()).unwrap_or(u32::MAX)
    }

    fn judge(&self, worker: &WorkerId, task: Uuid, number: i64, ending: Ending) -> Answer<Verdict> {
        let rows = self.rows(task, number);
        judge(TaskId(task), number, worker, rows.as_ref().map(|(task, attempt)| (task, attempt)), ending)
    }

    fn rows(&self, task: Uuid, number: i64) -> Option<(TaskNow, AttemptNow)> {
        let task = &self.tasks.get(&TaskId(task))?.task;
        let attempt = self.attempts.get(&(task.id, number))?;
        let now = TaskNow { status: task.status, attempts: task.attempts, worker: task.worker.clone() };
        Some((now, AttemptNow { worker: attempt.worker.clone(), answer: attempt.answer }))
    }
}
