//! Claims from a queue so long that its head says nothing of the rest.

use super::*;
use crate::store::conformance::{new_task, task_id};

/// More than a claim looks at one by one.
const LONG: u128 = 1_200;

/// `LONG` tasks of one user, and behind them one of each of two others.
async fn a_queue_whose_head_is_one_users(rig: &Rig) {
    rig.submit("ada", 1..=LONG).await;
    rig.pass(Duration::from_secs(1));
    rig.submit("cyd", [LONG + 1]).await;
    rig.pass(Duration::from_secs(1));
    rig.submit("bob", [LONG + 2]).await;
}

#[tokio::test]
async fn behind_a_user_at_the_limit_the_oldest_of_the_others_come_first() {
    let rig = rig().await;
    a_queue_whose_head_is_one_users(&rig).await;
    let agent = rig.ready("gpu-1").await;
    for claim in 1..=5 {
        assert_eq!(agent.claim(claim).await, Some((claim, 1)));
    }
    assert_eq!(agent.claim(6).await, Some((LONG + 1, 1)));
    assert_eq!(agent.claim(7).await, Some((LONG + 2, 1)));
    assert_eq!(agent.claim(8).await, None, "all are at their limit, or have nothing more");
}

/// What ends, is queued again or is new is claimed at once, also where heads are kept.
#[tokio::test]
async fn whoever_may_have_one_again_is_not_forgotten() {
    let rig = rig().await;
    a_queue_whose_head_is_one_users(&rig).await;
    let agent = rig.ready("gpu-1").await;
    for claim in 1..=8 {
        agent.claim(claim).await;
    }
    agent.complete(2, 1).await.unwrap();
    assert_eq!(agent.claim(9).await, Some((6, 1)), "a task has ended");
    agent.fail(LONG + 1, 1, true).await.unwrap();
    agent.complete(3, 1).await.unwrap();
    assert_eq!(agent.claim(10).await, Some((7, 1)), "the older first");
    assert_eq!(agent.claim(11).await, Some((LONG + 1, 2)), "a task is queued again");
    rig.submit("eve", [LONG + 3]).await;
    assert_eq!(agent.claim(12).await, Some((LONG + 3, 1)), "a task is new");
    rig.store.set_user("fay", Some(0.0), None).await.unwrap();
    rig.submit("fay", [LONG + 4]).await;
    assert_eq!(agent.claim(13).await, None);
    rig.store.set_user("fay", Some(1.0), None).await.unwrap();
    assert_eq!(agent.claim(14).await, Some((LONG + 4, 1)), "a user has credits");
}

/// A task that a head names and that was set aside since is passed over; its user's next is taken.
#[tokio::test]
async fn a_head_is_looked_at_again_before_it_is_taken() {
    let rig = rig().await;
    a_queue_whose_head_is_one_users(&rig).await;
    rig.submit("bob", [LONG + 5, LONG + 6]).await;
    let agent = rig.ready("gpu-1").await;
    for claim in 1..=6 {
        agent.claim(claim).await;
    }
    rig.store.hold_task(task_id(LONG + 2), Some(Bucket::Paused), "ada", "a test").await.unwrap();
    rig.store.cancel_task(task_id(LONG + 5)).await.unwrap();
    assert_eq!(agent.claim(7).await, Some((LONG + 6, 1)));
    assert_eq!(agent.claim(8).await, None);
}

/// What nobody tells a claim of is seen after a second; a queue that has become short is looked at whole.
#[tokio::test]
async fn heads_are_a_second_old_at_most() {
    let database = database();
    let rig = rig_on(&database).await;
    a_queue_whose_head_is_one_users(&rig).await;
    let agent = rig.ready("gpu-1").await;
    for claim in 1..=8 {
        agent.claim(claim).await;
    }
    assert_eq!(database.count("dogwatch.claim_scans"), 1);
    database.run("update dogwatch.tasks set user_id = 'eve' where id = '00000000-0000-0000-0000-000000000320'");
    rig.pass(Duration::from_millis(1_001));
    assert_eq!(agent.claim(9).await, Some((0x320, 1)));
    database
        .run("delete from dogwatch.tasks where status = 'Queued' and id > '00000000-0000-0000-0000-000000000100'");
    rig.pass(Duration::from_millis(1_001));
    assert_eq!(agent.claim(10).await, None);
    assert_eq!(database.count("dogwatch.claim_scans"), 0, "the head is enough again");
}

/// Pools and run types have heads of their own.
#[tokio::test]
async fn heads_keep_to_the_run_type() {
    let rig = rig().await;
    a_queue_whose_head_is_one_users(&rig).await;
    let video = NewTask { run_type: Some("video".into()), ..new_task(LONG + 7, "eve") };
    rig.store.submit(&[video]).await.unwrap();
    let agent = rig.ready("gpu-1").await;
    for claim in 1..=5 {
        agent.claim(claim).await;
    }
    let claim = async |number: u128, run_type: &str| {
        let claim = rpc::Claim { claim_id: uuid::Uuid::from_u128(number), run_type: Some(run_type.to_owned()) };
        let claimed = rig.store.claim_task(&agent.caller, &claim, 5).await.unwrap();
        claimed.map(|claimed| claimed.task_id.as_u128())
    };
    assert_eq!(claim(6, "image").await, Some(LONG + 1));
    assert_eq!(claim(7, "image").await, Some(LONG + 2));
    assert_eq!(claim(8, "image").await, None);
    assert_eq!(claim(9, "video").await, Some(LONG + 7));
}

/// A run type is the caller's word, and there are as many as somebody likes to ask for.
#[tokio::test]
async fn heads_of_many_run_types_are_bounded() {
    let database = database();
    let rig = rig_on(&database).await;
    a_queue_whose_head_is_one_users(&rig).await;
    let agent = rig.ready("gpu-1").await;
    for claim in 1..=5 {
        agent.claim(claim).await;
    }
    for number in 6..=80 {
        let run_type = Some(format!("of my own making {number}"));
        let claim = rpc::Claim { claim_id: uuid::Uuid::from_u128(number), run_type };
        rig.store.claim_task(&agent.caller, &claim, 5).await.unwrap();
    }
    assert_eq!(database.count("dogwatch.claim_scans"), 64);
    assert_eq!(database.count("dogwatch.claim_heads where kind not in (select kind from dogwatch.claim_scans)"), 0);
}

/// Sixteen at once where only heads lead to a task: as many as the limits allow, none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_clients_share_the_heads() {
    let database = database();
    let rig = rig_on(&database).await;
    for user in 0..8_u128 {
        rig.submit(&format!("user-{user}"), user * 300 + 1..=(user + 1) * 300).await;
        rig.pass(Duration::from_secs(1));
    }
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..16 {
        let agent = rig.ready(&format!("gpu-{number}")).await;
        clients.spawn(async move {
            let mut got = Vec::new();
            for claim in 0..40 {
                got.extend(agent.claim(claim).await);
            }
            got
        });
    }
    let mut got: Vec<(u128, i64)> = clients.join_all().await.into_iter().flatten().collect();
    let granted = got.len();
    got.sort_unstable();
    got.dedup();
    assert_eq!((granted, got.len()), (40, 40), "five of each user");
    let most = "select max(n) from (
        select count(*) as n from dogwatch.tasks where status = 'In Progress' group by user_id) of_user";
    assert_eq!(database.ask(most), "5");
    let oldest = "select count(*) from dogwatch.tasks t where status = 'In Progress' and 5 <= (
        select count(*) from dogwatch.tasks o where o.user_id = t.user_id and o.id < t.id)";
    assert_eq!(database.ask(oldest), "0", "each user's oldest");
}
