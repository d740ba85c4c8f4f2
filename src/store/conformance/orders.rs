//! Orders, pools, tasks that are set aside, and what is known of a task that kills.

use super::*;
use crate::fleet::decision::GateName;
use crate::fleet::order::{Command, NewOrder};
use crate::fleet::pool::PoolTasks;
use crate::store::DecisionQuery;

fn order(command: Command, minutes: u64) -> NewOrder {
    let lasts = Some(Duration::from_secs(minutes * 60));
    NewOrder { command, actor: "ada".into(), reason: "a test".into(), lasts }
}

pub(in crate::store) async fn an_order_holds_until_its_end_or_somebodys(rig: Rig) {
    rig.ready("gpu-1").await;
    let spawn = Command::Spawn { pool: None, count: 2, beside: 99 };
    let spawn = rig.store.order(&order(spawn, 30)).await.unwrap();
    assert_eq!(spawn.command, Command::Spawn { pool: None, count: 2, beside: 1 }, "counted by the database");
    let overruled = Command::Override { gate: GateName::FailureBreaker, cell: None };
    let second = rig.store.order(&order(overruled.clone(), 10)).await.unwrap();
    assert_eq!(rig.observe().await.orders, [spawn.clone(), second.clone()]);
    assert!(rig.store.end_order(spawn.id, "bob", "enough").await.unwrap());
    assert!(!rig.store.end_order(spawn.id, "bob", "again").await.unwrap());
    rig.pass(Duration::from_secs(599));
    assert_eq!(rig.observe().await.orders.len(), 1);
    rig.pass(Duration::from_secs(1));
    assert!(rig.observe().await.orders.is_empty(), "it ends by itself");
    let rows = rig.store.orders(0).await.unwrap();
    assert_eq!((rows.len(), rows[1].ended_by.as_deref()), (2, Some("bob")));
    for (command, lasts) in [(overruled, None), (Command::Override { gate: GateName::Max, cell: None }, Some(60))] {
        let new = NewOrder { lasts: lasts.map(Duration::from_secs), ..order(command, 1) };
        assert!(rig.store.order(&new).await.is_err(), "{new:?}");
    }
    let audit = rig.store.audit(0).await.unwrap();
    let verbs: Vec<_> = audit.iter().rev().map(|row| (row.actor.as_str(), row.verb.as_str())).collect();
    assert_eq!(verbs, [("ada", "spawn"), ("ada", "override"), ("bob", "end an order")]);
}

pub(in crate::store) async fn a_pool_takes_its_own_tasks(rig: Rig) {
    let typed = |number, task_type: &str| NewTask { task_type: task_type.into(), ..new_task(number, "ada") };
    let tasks = [typed(1, "video"), typed(2, "image"), typed(3, "sound"), typed(4, "video")];
    rig.store.submit(&tasks).await.unwrap();
    let pools = |pools: &[(&str, &[&str])]| -> Vec<PoolTasks> {
        let of = |(pool, types): &(&str, &[&str])| PoolTasks {
            pool: (*pool).to_owned(),
            task_types: types.iter().map(|word| (*word).to_owned()).collect(),
        };
        pools.iter().map(of).collect()
    };
    rig.store.set_pools(&pools(&[("default", &["image"]), ("big", &["video"])])).await.unwrap();
    let read = rig.observe().await;
    assert_eq!(buckets(&read), "wrong_type=1 claimable=3");
    let by_pool = |read: &FleetRead| format!("{:?}", read.demand.live.as_ref().unwrap().pools);
    assert_eq!(by_pool(&read), r#"{"big": 2, "default": 1}"#);
    let agent = rig.ready("gpu-1").await;
    assert_eq!(agent.claim(1).await, Some((2, 1)));
    assert_eq!(agent.claim(2).await, None, "the others are another pool's");
    rig.store.set_pools(&pools(&[("default", &[]), ("big", &["video"])])).await.unwrap();
    assert_eq!(buckets(&rig.observe().await), "claimable=3");
    assert_eq!(agent.claim(3).await, Some((3, 1)), "a pool without types takes the rest");
    let limited = rig.store.observe(Duration::from_secs(60), 3).await.unwrap();
    assert_eq!(by_pool(&limited), r#"{"big": 1}"#, "what the user's limit leaves");
    rig.store.set_pools(&[]).await.unwrap();
    assert_eq!(agent.claim(4).await, Some((1, 1)), "one pool takes everything");
}

pub(in crate::store) async fn a_task_that_waits_too_long_is_set_aside_until_it_is_let_go(rig: Rig) {
    rig.submit("ada", 1..=2).await;
    rig.pass(Duration::from_secs(500));
    rig.submit("ada", [3]).await;
    rig.pass(Duration::from_secs(101));
    let old = Intent::HoldOld { older_than: Duration::from_secs(600) };
    rig.commit(std::slice::from_ref(&old)).await;
    rig.commit(std::slice::from_ref(&old)).await;
    assert_eq!(buckets(&rig.observe().await), "too_old=2 claimable=1");
    rig.store.hold_task(task_id(1), None, "ada", "wanted after all").await.unwrap();
    rig.commit(std::slice::from_ref(&old)).await;
    assert_eq!(buckets(&rig.observe().await), "too_old=1 claimable=2");
    rig.pass(Duration::from_secs(601));
    rig.commit(&[old]).await;
    assert_eq!(buckets(&rig.observe().await), "too_old=3", "as old as it was let go");
}

pub(in crate::store) async fn a_task_that_kills_is_known_and_set_aside(rig: Rig) {
    rig.submit("ada", [1]).await;
    let first = rig.ready("gpu-1").await;
    assert_eq!(first.claim(1).await, Some((1, 1)));
    assert!(rig.worker("gpu-1").await.live.unwrap().suspects.is_empty());
    rig.pass(Duration::from_secs(2));
    first.beat(2, rpc::Phase::Busy).await;
    rig.end("gpu-1", Outcome::WorkerCrash).await;
    let second = rig.ready("gpu-2").await;
    assert_eq!(second.claim(1).await, Some((1, 2)));
    let suspects = rig.worker("gpu-2").await.live.unwrap().suspects;
    assert_eq!(
        (suspects.len(), suspects[0].task, suspects[0].deaths_after_seconds.as_slice()),
        (1, task_id(1), &[2][..])
    );
    assert_eq!(rig.end("gpu-2", Outcome::PoisonTask).await, [task_id(1)]);
    assert_eq!(buckets(&rig.observe().await), "poisoned=1");
    rig.store.hold_task(task_id(1), None, "ada", "mended").await.unwrap();
    assert_eq!(buckets(&rig.observe().await), "claimable=1");
    assert_eq!(rig.ready("gpu-3").await.claim(1).await, Some((1, 3)), "its attempts are not forgotten");
}

pub(in crate::store) async fn money_spent_today_is_counted(rig: Rig) {
    assert_eq!(rig.observe().await.ended_today_usd, None);
    let offer = Offer { cell: None, usd_per_hour: Some(0.6) };
    for (name, pod) in [("gpu-1", true), ("gpu-2", false)] {
        let worker = WorkerId(name.into());
        let spawn = Intent::Spawn {
            worker: worker.clone(),
            pool: "default".into(),
            token_sha256: token_digest(&token(name)),
            offer: offer.clone(),
        };
        rig.commit(&[spawn]).await;
        if pod {
            rig.answer(&worker, SpawnAnswer::Created { pod_id: PodId("p".into()) }).await;
        }
    }
    rig.pass(Duration::from_secs(1_800));
    assert_eq!(rig.worker("gpu-1").await.live.unwrap().usd_per_hour, Some(0.6));
    rig.end("gpu-1", Outcome::Planned).await;
    rig.end("gpu-2", Outcome::ProviderFault).await;
    assert_eq!(rig.observe().await.ended_today_usd, Some(0.3));
    rig.pass(Duration::from_secs(86_400));
    assert_eq!(rig.observe().await.ended_today_usd, None, "yesterday's money");
}

pub(in crate::store) async fn decisions_are_read_by_time_and_cycle(rig: Rig) {
    let lease = rig.lead().await;
    let start = rig.now();
    for cycle in 1..=4 {
        rig.commit_cycle(&lease, &cycle_record(rig.now(), cycle), &[]).await.unwrap();
        rig.pass(Duration::from_secs(10));
    }
    let read = async |query: DecisionQuery| {
        let rows = rig.store.decision_rows(&query).await.unwrap();
        rows.iter().map(|row| row.cycle).collect::<Vec<_>>()
    };
    let at = |seconds| Some(clock::plus(start, Duration::from_secs(seconds)));
    assert_eq!(read(DecisionQuery::default()).await, [4, 3, 2, 1]);
    assert_eq!(read(DecisionQuery { until: at(15), limit: 1, ..DecisionQuery::default() }).await, [2]);
    assert_eq!(read(DecisionQuery { cycle: Some(3), ..DecisionQuery::default() }).await, [3]);
    let query = DecisionQuery { since: at(10), oldest_first: true, limit: 2, ..DecisionQuery::default() };
    assert_eq!(read(query).await, [2, 3]);
}
