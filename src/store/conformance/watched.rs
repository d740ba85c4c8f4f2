//! What the watch reads.

use super::*;
use crate::store::{TaskEnds, Windows};

const WINDOWS: Windows = Windows {
    workers_ended: Duration::from_secs(1_800),
    tasks_recent: Duration::from_secs(3_600),
    tasks_before: Duration::from_secs(86_400),
    user_task_limit: USER_LIMIT,
};

pub(in crate::store) async fn ends_of_tasks_are_counted_by_when_they_ended(rig: Rig) {
    rig.submit("ada", 1..=6).await;
    let agent = rig.ready("gpu-1").await;
    for (claim, retryable) in [(1, false), (2, false)] {
        let (task, attempt) = agent.claim(claim).await.unwrap();
        agent.fail(task, attempt, retryable).await.unwrap();
    }
    let (task, attempt) = agent.claim(3).await.unwrap();
    agent.complete(task, attempt).await.unwrap();
    rig.pass(Duration::from_secs(3_601));
    let (task, attempt) = agent.claim(4).await.unwrap();
    agent.complete(task, attempt).await.unwrap();
    assert!(rig.store.cancel_task(task_id(6)).await.unwrap());
    let read = rig.store.watched(WINDOWS).await.unwrap();
    assert_eq!(read.tasks_recent, TaskEnds { ended: 1, failed: 0 });
    assert_eq!(read.tasks_before, TaskEnds { ended: 3, failed: 2 });
    rig.pass(Duration::from_secs(86_400));
    let read = rig.store.watched(WINDOWS).await.unwrap();
    assert_eq!((read.tasks_recent, read.tasks_before.ended), (TaskEnds::default(), 1));
}

pub(in crate::store) async fn the_watch_sees_what_a_cycle_sees(rig: Rig) {
    rig.submit("ada", 1..=3).await;
    rig.ready("gpu-1").await.claim(1).await.unwrap();
    rig.ready("gpu-2").await;
    rig.end("gpu-2", Outcome::WorkerCrash).await;
    rig.intend("gpu-3").await;
    rig.pass(Duration::from_secs(20));
    let (watched, observed) = (rig.store.watched(WINDOWS).await.unwrap(), rig.observe().await);
    assert_eq!(watched.now, rig.now());
    assert_eq!(watched.workers, observed.workers);
    assert_eq!(watched.demand, observed.demand);
    assert_eq!(watched.workers.len(), 3);
}
