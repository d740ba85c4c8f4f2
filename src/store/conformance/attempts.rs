//! A task's way through attempts: claimed, done, failed, given back.

use super::*;
use crate::fleet::task::TaskStatus;

pub(in crate::store) async fn a_task_is_claimed_done_and_answered_again(rig: Rig) {
    rig.submit("ada", [7]).await;
    let agent = rig.ready("gpu-1").await;
    let claimed = agent.try_claim(1).await.unwrap().unwrap();
    let task = new_task(7, "ada");
    assert_eq!(
        claimed,
        rpc::Claimed {
            task_id: task.id.0,
            attempt: 1,
            task_type: task.task_type,
            params: task.params,
            traceparent: task.traceparent,
            user: "ada".into(),
        }
    );
    let started = rig.task(7).await;
    assert_eq!((started.status, started.attempts), (TaskStatus::InProgress, 1));
    assert_eq!(started.worker, Some(WorkerId("gpu-1".into())));
    assert_eq!(started.started_at, Some(rig.now()));
    assert_eq!(rig.state("gpu-1").await, WorkerState::Busy);
    assert_eq!(rig.worker("gpu-1").await.live.unwrap().tasks, [task_id(7)]);
    assert_eq!(rig.worker("gpu-1").await.tasks_claimed, Some(1));

    rig.pass(Duration::from_secs(5));
    assert_eq!(agent.complete(7, 1).await.unwrap(), end("Complete", 1));
    let done = rig.task(7).await;
    assert_eq!((done.status, done.ended_at), (TaskStatus::Complete, Some(rig.now())));
    assert_eq!(done.output, Some(json!({"exit_code": 0})));
    let live = rig.worker("gpu-1").await.live.unwrap();
    assert_eq!((live.state, live.idle_since), (WorkerState::Idle, Some(rig.now())));

    rig.pass(Duration::from_secs(5));
    let before = rig.everything().await;
    assert_eq!(agent.complete(7, 1).await.unwrap(), end("Complete", 1));
    assert_eq!(agent.fail(7, 1, true).await.unwrap(), end("Complete", 1), "the first word counts");
    assert_eq!(rig.everything().await, before);
    assert_eq!(agent.claim(2).await, None);
}

pub(in crate::store) async fn a_repeated_claim_is_the_same_attempt(rig: Rig) {
    rig.submit("ada", [1, 2]).await;
    let agent = rig.ready("gpu-1").await;
    let first = agent.try_claim(10).await.unwrap();
    assert_eq!(agent.try_claim(10).await.unwrap(), first);
    assert_eq!(rig.task(1).await.attempts, 1);
    agent.complete(1, 1).await.unwrap();
    assert_eq!(agent.try_claim(10).await.unwrap(), first, "also once it is done");
    assert_eq!(agent.claim(11).await, Some((2, 1)));
    let other = rig.ready("gpu-2").await;
    assert_eq!(other.claim(10).await, None, "another worker's claim id is another claim");
}

pub(in crate::store) async fn a_failed_task_is_queued_again_until_its_attempts_are_used_up(rig: Rig) {
    rig.submit("ada", [1]).await;
    let agent = rig.ready("gpu-1").await;
    for attempt in 1..=2 {
        assert_eq!(agent.claim(attempt.try_into().unwrap()).await, Some((1, attempt)));
        assert_eq!(agent.fail(1, attempt, true).await.unwrap(), end("Queued", attempt));
        let task = rig.task(1).await;
        assert_eq!((task.status, task.worker, task.started_at), (TaskStatus::Queued, None, None));
        assert_eq!(task.error.as_deref(), Some("exit status 1"));
    }
    assert_eq!(agent.claim(3).await, Some((1, 3)));
    assert_eq!(agent.fail(1, 1, true).await.unwrap(), end("Queued", 1), "repeated by the attempt that ended it");
    assert_eq!(rig.task(1).await.status, TaskStatus::InProgress, "which changed nothing");
    assert_eq!(agent.fail(1, 3, true).await.unwrap(), end("Failed", 3));
    let task = rig.task(1).await;
    assert_eq!((task.status, task.ended_at), (TaskStatus::Failed, Some(rig.now())));
    assert_eq!(agent.claim(4).await, None);
}

pub(in crate::store) async fn a_task_that_failed_for_good_is_not_queued_again(rig: Rig) {
    rig.submit("ada", [1]).await;
    let agent = rig.ready("gpu-1").await;
    agent.claim(1).await;
    assert_eq!(agent.fail(1, 1, false).await.unwrap(), end("Failed", 1));
    assert_eq!(agent.fail(1, 1, false).await.unwrap(), end("Failed", 1));
    assert_eq!(agent.claim(2).await, None);
}

pub(in crate::store) async fn an_ended_worker_gives_its_tasks_back(rig: Rig) {
    rig.submit("ada", [1, 2]).await;
    let first = rig.ready("gpu-1").await;
    assert_eq!(first.claim(1).await, Some((1, 1)));
    assert_eq!(first.claim(2).await, Some((2, 1)));
    let second = rig.ready("gpu-2").await;
    assert_eq!(second.claim(1).await, None, "a task stays with its worker until that has ended");
    assert_eq!(rig.end("gpu-1", Outcome::WorkerCrash).await, [task_id(1), task_id(2)]);
    let task = rig.task(1).await;
    assert_eq!((task.status, task.worker, task.attempts), (TaskStatus::Queued, None, 1));
    assert_eq!(second.claim(2).await, Some((1, 2)));
    assert_eq!(rig.end("gpu-1", Outcome::WorkerCrash).await, [], "an ended worker stays as it is");
    assert_eq!(rig.task(1).await.attempts, 2);
}

pub(in crate::store) async fn a_worker_that_dies_three_times_on_a_task_fails_it(rig: Rig) {
    rig.submit("ada", [1]).await;
    for attempt in 1..=3 {
        let name = format!("gpu-{attempt}");
        let agent = rig.ready(&name).await;
        assert_eq!(agent.claim(1).await, Some((1, attempt)));
        rig.end(&name, Outcome::WorkerCrash).await;
    }
    let task = rig.task(1).await;
    assert_eq!((task.status, task.attempts), (TaskStatus::Failed, 3));
    assert_eq!(
        task.error.as_deref(),
        Some("no attempts left: worker gpu-3 ended (worker_crash: worker_crash for a test) in attempt 3 of 3")
    );
    assert_eq!(rig.ready("gpu-4").await.claim(1).await, None);
}

pub(in crate::store) async fn a_superseded_attempt_is_refused(rig: Rig) {
    rig.submit("ada", [1]).await;
    let agent = rig.ready("gpu-1").await;
    agent.claim(1).await;
    agent.fail(1, 1, true).await.unwrap();
    let other = rig.ready("gpu-2").await;
    assert_eq!(other.claim(1).await, Some((1, 2)));
    let before = rig.everything().await;
    assert_eq!(refused(agent.complete(1, 2).await), 409, "another worker's attempt");
    assert_eq!(refused(other.complete(1, 1).await), 409, "another worker's attempt");
    assert_eq!(refused(other.complete(1, 3).await), 409, "an attempt that never was");
    assert_eq!(refused(other.complete(99, 1).await), 409, "no such task");
    assert_eq!(refused(agent.progress(1, 2).await), 409);
    assert_eq!(rig.everything().await, before);
    let orders = agent.try_beat(2, rpc::Phase::Busy, Some(Uuid::from_u128(1))).await.unwrap();
    assert_eq!(orders.cancel, Some(Uuid::from_u128(1)), "another worker has it");
}

pub(in crate::store) async fn a_cancelled_task_is_told_to_its_agent(rig: Rig) {
    rig.submit("ada", [1, 2]).await;
    let agent = rig.ready("gpu-1").await;
    agent.claim(1).await;
    let task = Some(Uuid::from_u128(1));
    assert_eq!(agent.try_beat(2, rpc::Phase::Busy, task).await.unwrap().cancel, None);
    assert!(rig.store.cancel_task(task_id(1)).await.unwrap());
    assert!(!rig.store.cancel_task(task_id(1)).await.unwrap(), "it had ended");
    assert!(!rig.store.cancel_task(task_id(9)).await.unwrap(), "there is none");
    assert_eq!(agent.try_beat(3, rpc::Phase::Busy, task).await.unwrap().cancel, task);
    assert!(agent.progress(1, 1).await.unwrap().cancel);
    assert_eq!(agent.complete(1, 1).await.unwrap(), end("Cancelled", 1));
    assert_eq!(rig.task(1).await.status, TaskStatus::Cancelled);
    assert_eq!(rig.task(1).await.output, None);
    assert!(rig.store.cancel_task(task_id(2)).await.unwrap());
    assert_eq!(agent.claim(2).await, None);
}

pub(in crate::store) async fn progress_is_written_and_repeats_are_answered(rig: Rig) {
    rig.submit("ada", [1]).await;
    let agent = rig.ready("gpu-1").await;
    agent.claim(1).await;
    rig.pass(Duration::from_secs(60));
    for _ in 0..2 {
        assert!(!agent.progress(1, 1).await.unwrap().cancel);
    }
    assert_eq!(rig.worker("gpu-1").await.live.unwrap().progress_at, Some(rig.now()));
    agent.complete(1, 1).await.unwrap();
    let before = rig.everything().await;
    assert!(!agent.progress(1, 1).await.unwrap().cancel);
    assert_eq!(rig.everything().await, before);
}

pub(in crate::store) async fn a_second_start_of_the_agent_does_the_first_ones_task_again(rig: Rig) {
    rig.submit("ada", [1]).await;
    rig.ready("gpu-1").await.claim(1).await;
    let other = rig.ready("gpu-2").await;
    for start in 2..=3_u128 {
        let again = Agent::new(&rig, "gpu-1", start);
        again.register().await;
        assert_eq!(other.claim(start).await, None, "it stays with its worker");
        assert_eq!(again.claim(start).await, Some((1, i64::try_from(start).unwrap())));
        assert_eq!(again.claim(start + 10).await, None, "only once a start");
    }
    let last = Agent::new(&rig, "gpu-1", 4);
    last.register().await;
    assert_eq!(last.claim(4).await, None);
    let task = rig.task(1).await;
    assert_eq!((task.status, task.attempts), (TaskStatus::Failed, 3));
    assert_eq!(task.error.as_deref(), Some("no attempts left: the agent was started again in attempt 3 of 3"));
}
