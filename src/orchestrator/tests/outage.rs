//! Ten minutes without a database, in the store's virtual time: when it is back, nobody is ended for
//! what could not be said meanwhile, and every task is done once. On each store.

use std::sync::Arc;

use super::killer::{Killer, MortalStore};
use super::*;
use crate::store::TaskFilter;

/// The heartbeat limit of these worlds, seconds.
const LIMIT: i64 = 30;

/// One cycle of each. A lease that is over in the store's time, of which these processes' own clocks
/// know nothing, is found out by the first write.
async fn turn(both: &mut [Orchestrator]) -> Vec<CycleReport> {
    let mut reports = Vec::new();
    for orchestrator in both {
        reports.push(match orchestrator.cycle().await {
            Err(CycleError::Database { source: StoreError::StaleTerm, .. }) => orchestrator.cycle().await.unwrap(),
            other => other.unwrap(),
        });
    }
    reports
}

async fn ten_minutes_away(world: World) {
    let killer = Killer::new(usize::MAX, false);
    let store = || Arc::new(MortalStore { killer: Arc::clone(&killer), store: Arc::clone(&world.store) });
    let mut both = [1, 2].map(|boot| world.orchestrator_on(boot, store(), world.provider.clone()));
    world.submit(4).await;
    both[0].cycle().await.unwrap();
    let mut agents = world.agents().await;
    assert_eq!(agents.len(), 3);
    for agent in &mut agents {
        agent.claim(&world).await.unwrap();
    }
    // Both lead and stand by as before; everybody was heard of a moment ago.
    turn(&mut both).await;

    killer.set_away(true);
    for _ in 0..20 {
        world.advance(30);
        for orchestrator in &mut both {
            let error = orchestrator.cycle().await.unwrap_err();
            assert!(error::chain(&error).contains("connection refused"), "{error}");
        }
    }
    killer.set_away(false);

    // The first evidence: everybody's last word is ten minutes old. For one heartbeat limit of
    // uninterrupted writes that is held against nobody, whoever leads now.
    for _ in 0..3 {
        for report in turn(&mut both).await {
            assert_eq!((report.terminated, report.spawned), (0, 0), "{:?}", report.decision);
        }
        world.advance(LIMIT / 3 - 1);
    }
    let (silent, heard) = agents.split_last_mut().unwrap();
    for _ in 0..4 {
        for agent in &mut *heard {
            agent.beat(&world).await;
        }
        turn(&mut both).await;
        world.advance(LIMIT / 3);
    }
    let ended: Vec<_> = world.workers().await.into_iter().filter(|row| row.worker.outcome().is_some()).collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0].worker.id.0, silent.id(), "who says nothing also after it is ended as before");
    for agent in &mut *heard {
        agent.complete(&world).await;
        agent.claim(&world).await.unwrap();
        agent.complete(&world).await;
    }
    let tasks = world.store.tasks(&TaskFilter::default()).await.unwrap();
    let mut attempts: Vec<_> = tasks.iter().map(|task| (task.status, task.attempts)).collect();
    attempts.sort_by_key(|(_, attempts)| *attempts);
    assert_eq!(attempts[..3], [(TaskStatus::Complete, 1); 3]);
    assert_eq!(attempts[3], (TaskStatus::Complete, 2), "that of the one who was ended");
    assert_eq!(world.provider.terminated().len(), 1);
    let rows = world.decisions().await.len();
    world.check_decisions(rows).await;
}

#[tokio::test]
async fn ten_minutes_without_sqlite_end_nobody_who_comes_back() {
    ten_minutes_away(World::new().await).await;
}

#[tokio::test]
async fn ten_minutes_without_postgres_end_nobody_who_comes_back() {
    ten_minutes_away(World::in_postgres().await).await;
}

#[tokio::test]
async fn ten_minutes_without_the_memory_store_end_nobody_who_comes_back() {
    ten_minutes_away(World::in_memory()).await;
}
