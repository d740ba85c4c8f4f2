//! The queue: every waiting task in one bucket, and the claim of the same mind as the count.

use super::*;
use crate::fleet::task::TaskStatus;

pub(in crate::store) async fn every_queued_task_is_in_one_bucket(rig: Rig) {
    assert_eq!(buckets(&rig.observe().await), "");
    rig.store.set_user("broke", Some(0.0), Some(false)).await.unwrap();
    rig.store.set_user("local", Some(3.5), Some(false)).await.unwrap();
    rig.store.set_user("rich", Some(0.25), None).await.unwrap();
    rig.submit("broke", [1, 2]).await;
    rig.submit("local", [3]).await;
    rig.submit("rich", 10..18).await;
    let oldest = rig.now();
    rig.pass(Duration::from_secs(1));
    rig.submit("unknown", [20]).await;
    let waiting = NewTask { dependant_on: vec![task_id(10)], ..new_task(21, "unknown") };
    let waiting_and_broke = NewTask { dependant_on: vec![task_id(10)], ..new_task(22, "broke") };
    rig.store.submit(&[waiting, waiting_and_broke]).await.unwrap();
    let read = rig.observe().await;
    assert_eq!(buckets(&read), "no_credits=3 cloud_disabled=1 dependency=1 user_limit=3 claimable=6");
    let rich = read.demand.users.iter().find(|user| user.user == "rich").unwrap();
    assert_eq!((rich.queued, rich.in_progress, rich.credits, rich.cloud_enabled), (8, 0, Some(0.25), None));
    let broke = read.demand.users.iter().find(|user| user.user == "broke").unwrap();
    assert_eq!((broke.credits, broke.cloud_enabled, broke.dependency_blocked), (Some(0.0), Some(false), 1));
    assert_eq!(read.demand.live.unwrap().oldest_claimable_at, Some(oldest));

    let agent = rig.ready("gpu-1").await;
    let mut claimed = Vec::new();
    for claim in 0..20 {
        claimed.extend(agent.claim(claim).await.map(|(task, _)| task));
    }
    assert_eq!(claimed, [10, 11, 12, 13, 14, 20], "what was counted as claimable, and nothing else");
    assert_eq!(buckets(&rig.observe().await), "no_credits=3 cloud_disabled=1 dependency=1 user_limit=3");
    assert_eq!(rig.observe().await.demand.live.unwrap().oldest_claimable_at, None);
}

pub(in crate::store) async fn holds_are_counted_and_respected(rig: Rig) {
    rig.submit("ada", 1..=5).await;
    let held = [(1, Bucket::Paused), (2, Bucket::Poisoned), (3, Bucket::TooOld), (4, Bucket::WrongType)];
    for (task, bucket) in held {
        rig.store.hold_task(task_id(task), Some(bucket), "an operator", "a test").await.unwrap();
    }
    assert!(rig.store.hold_task(task_id(5), Some(Bucket::NoCredits), "an operator", "a test").await.is_err());
    let all = "paused=1 poisoned=1 too_old=1 wrong_type=1 claimable=1";
    assert_eq!(buckets(&rig.observe().await), all);
    let agent = rig.ready("gpu-1").await;
    assert_eq!(agent.claim(1).await, Some((5, 1)));
    assert_eq!(agent.claim(2).await, None);
    rig.store.hold_task(task_id(1), None, "an operator", "it may go on").await.unwrap();
    assert_eq!(agent.claim(3).await, Some((1, 1)));
}

pub(in crate::store) async fn the_user_limit_is_counted_as_it_is_claimed(rig: Rig) {
    rig.submit("ada", 1..=7).await;
    rig.pass(Duration::from_secs(1));
    rig.submit("bob", [100]).await;
    let agent = rig.ready("gpu-1").await;
    for claim in 1..=5 {
        assert_eq!(agent.claim(claim).await, Some((claim, 1)));
    }
    assert_eq!(buckets(&rig.observe().await), "user_limit=2 claimable=1");
    assert_eq!(agent.claim(6).await, Some((100, 1)), "another user's younger task");
    assert_eq!(agent.claim(7).await, None);
    agent.complete(3, 1).await.unwrap();
    assert_eq!(buckets(&rig.observe().await), "user_limit=1 claimable=1");
    assert_eq!(agent.claim(7).await, Some((6, 1)), "a claim id that got nothing may be used again");
    let nobody = rig.store.observe(Duration::ZERO, 0).await.unwrap();
    assert_eq!(buckets(&nobody), "user_limit=1");
    let claim = rpc::Claim { claim_id: Uuid::from_u128(8), run_type: None };
    agent.complete(100, 1).await.unwrap();
    rig.submit("bob", [101]).await;
    assert_eq!(rig.store.claim_task(&agent.caller, &claim, 0).await.unwrap(), None, "a limit of none");
}

pub(in crate::store) async fn run_types_fit(rig: Rig) {
    let typed = |number, run_type: &str| NewTask { run_type: Some(run_type.into()), ..new_task(number, "ada") };
    rig.store.submit(&[typed(1, "video"), typed(2, "image"), new_task(3, "ada")]).await.unwrap();
    let agent = rig.ready("gpu-1").await;
    let claim = async |number: u128, run_type: Option<&str>| {
        let claim = rpc::Claim { claim_id: Uuid::from_u128(number), run_type: run_type.map(str::to_owned) };
        let claimed = rig.store.claim_task(&agent.caller, &claim, USER_LIMIT).await.unwrap();
        claimed.map(|claimed| claimed.task_id.as_u128())
    };
    assert_eq!(claim(1, Some("image")).await, Some(2));
    assert_eq!(claim(2, Some("image")).await, Some(3), "a task without a run type fits every worker");
    assert_eq!(claim(3, Some("image")).await, None);
    assert_eq!(claim(4, None).await, Some(1), "a worker without a run type fits every task");
}

pub(in crate::store) async fn the_oldest_task_comes_first(rig: Rig) {
    rig.submit("ada", [9, 4, 7]).await;
    rig.pass(Duration::from_secs(1));
    rig.submit("bob", [1]).await;
    let agent = rig.ready("gpu-1").await;
    assert_eq!(agent.claim(1).await, Some((9, 1)));
    agent.fail(9, 1, true).await.unwrap();
    let mut order = Vec::new();
    for claim in 2..=5 {
        order.extend(agent.claim(claim).await.map(|(task, _)| task));
    }
    assert_eq!(order, [9, 4, 7, 1], "in the order they were given; a second attempt keeps its place");
}

pub(in crate::store) async fn a_dependency_is_waited_for(rig: Rig) {
    let task = NewTask { dependant_on: vec![task_id(2), task_id(3)], ..new_task(1, "ada") };
    rig.store.submit(&[task, new_task(2, "ada")]).await.unwrap();
    let agent = rig.ready("gpu-1").await;
    assert_eq!(agent.claim(1).await, Some((2, 1)));
    agent.complete(2, 1).await.unwrap();
    assert_eq!(buckets(&rig.observe().await), "dependency=1", "a task that is not there is not complete");
    rig.submit("ada", [3]).await;
    assert_eq!(agent.claim(2).await, Some((3, 1)));
    assert_eq!(agent.claim(3).await, None);
    agent.complete(3, 1).await.unwrap();
    assert_eq!(agent.claim(4).await, Some((1, 1)));
}

pub(in crate::store) async fn a_repeated_submit_is_the_same_task(rig: Rig) {
    rig.submit("ada", [1]).await;
    let agent = rig.ready("gpu-1").await;
    agent.claim(1).await;
    let before = rig.task(1).await;
    rig.pass(Duration::from_secs(1));
    rig.submit("eve", [1, 2]).await;
    assert_eq!(rig.task(1).await, before);
    assert_eq!(rig.task(2).await.user, "eve");
}

pub(in crate::store) async fn tasks_are_filtered(rig: Rig) {
    rig.submit("ada", [1, 2]).await;
    rig.pass(Duration::from_secs(60));
    rig.submit("bob", [3]).await;
    let start = clock::from_micros(START_MICROS);
    let minute = clock::plus(start, Duration::from_secs(60));
    let all = TaskFilter::default;
    let check = async |filter: TaskFilter, expected: &[u128]| {
        let tasks = rig.store.tasks(&filter).await.unwrap();
        let numbers: Vec<u128> = tasks.iter().map(|task| task.id.0.as_u128()).collect();
        assert_eq!(numbers, expected, "{filter:?}");
    };
    check(all(), &[3, 2, 1]).await;
    check(TaskFilter { limit: 2, ..all() }, &[3, 2]).await;
    check(TaskFilter { user: Some("ada".into()), ..all() }, &[2, 1]).await;
    check(TaskFilter { since: Some(minute), ..all() }, &[3]).await;
    check(TaskFilter { until: Some(minute), ..all() }, &[2, 1]).await;
    check(TaskFilter { ids: vec![task_id(1), task_id(9)], ..all() }, &[1]).await;
    rig.store.cancel_task(task_id(2)).await.unwrap();
    check(TaskFilter { status: Some(TaskStatus::Cancelled), ..all() }, &[2]).await;
}

pub(in crate::store) async fn totals_add_up(rig: Rig) {
    rig.store.set_user("bob", Some(-1.0), None).await.unwrap();
    rig.submit("ada", 1..=8).await;
    rig.submit("bob", [20]).await;
    let agent = rig.ready("gpu-1").await;
    agent.claim(1).await;
    agent.complete(1, 1).await.unwrap();
    agent.claim(2).await;
    let totals = rig.store.task_totals(USER_LIMIT).await.unwrap();
    let words: Vec<String> =
        totals.iter().map(|user| format!("{}: {:?} {:?}", user.user, user.by_status, user.by_bucket)).collect();
    assert_eq!(
        words,
        [
            r#"ada: {"Complete": 1, "In Progress": 1, "Queued": 6} {"claimable": 4, "user_limit": 2}"#,
            r#"bob: {"Queued": 1} {"no_credits": 1}"#,
        ]
    );
}
