//! Many callers at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use tokio::task::JoinSet;

use super::*;

const CLIENTS: u128 = 16;
const TASKS: u128 = 48;

pub(in crate::store) async fn sixteen_clients_never_pass_the_user_limit(rig: Rig) {
    clients_never_pass_the_user_limit(&[rig]).await;
}

/// Round after round, all clients claim at once and hold what they got: exactly as many tasks as the
/// limit allows, none twice. The clients are spread over several doors to one database.
pub(in crate::store) async fn clients_never_pass_the_user_limit(doors: &[Rig]) {
    let rig = &doors[0];
    rig.submit("ada", 1..=TASKS).await;
    let mut agents = Vec::new();
    for (client, door) in (0..CLIENTS).zip(doors.iter().cycle()) {
        let agent = rig.ready(&format!("gpu-{client}")).await;
        agents.push(Agent { store: Arc::clone(&door.store), ..agent });
    }
    let mut done = BTreeSet::new();
    for round in 0..TASKS {
        let mut claims = JoinSet::new();
        for agent in agents.iter().cloned() {
            claims.spawn(async move { (agent.claim(round).await, agent) });
        }
        let mut held = Vec::new();
        for (claimed, agent) in claims.join_all().await {
            held.extend(claimed.map(|claimed| (claimed, agent)));
        }
        let left = usize::try_from(TASKS).unwrap() - done.len();
        assert_eq!(held.len(), left.min(USER_LIMIT as usize), "tasks of one user in progress in round {round}");
        let mut ends = JoinSet::new();
        for ((task, attempt), agent) in held {
            assert!(done.insert(task), "task {task} was claimed twice");
            ends.spawn(async move { agent.complete(task, attempt).await.unwrap() });
        }
        assert!(ends.join_all().await.iter().all(|answer| *answer == end("Complete", 1)));
        if done.len() as u128 == TASKS {
            return;
        }
    }
    panic!("the tasks never ended");
}

/// Nobody has ever led when they all begin: round after round under a name that no row holds yet.
pub(in crate::store) async fn of_all_who_are_the_first_to_ask_one_leads(rig: Rig) {
    for round in 0..50 {
        let name = format!("fleet-{round}");
        let mut processes = JoinSet::new();
        for number in 1..=4_u128 {
            let (store, name) = (Arc::clone(&rig.store), name.clone());
            let holder = BootId(Uuid::from_u128(number));
            processes.spawn(async move { store.take_lease(&name, holder, Duration::from_secs(1)).await.unwrap() });
        }
        let answers = processes.join_all().await;
        let held = answers.iter().filter(|answer| matches!(answer, LeaseAnswer::Held(_))).count();
        assert_eq!(held, 1, "who lead in round {round}: {answers:?}");
    }
}

pub(in crate::store) async fn two_orchestrators_never_hold_the_same_term(rig: Rig) {
    let terms: Arc<Mutex<BTreeMap<i64, BootId>>> = Arc::default();
    let mut processes = JoinSet::new();
    for number in 1..=4_u128 {
        let (rig, terms) = (rig.clone(), Arc::clone(&terms));
        processes.spawn(async move {
            let holder = BootId(Uuid::from_u128(number));
            for _ in 0..25 {
                let answer = rig.store.take_lease(LEASE, holder, Duration::from_secs(1)).await.unwrap();
                if let LeaseAnswer::Held(lease) = answer {
                    let first = *terms.lock().unwrap().entry(lease.term.0).or_insert(holder);
                    assert_eq!(first, holder, "term {} was held twice", lease.term.0);
                    rig.store.release_lease(&lease).await.unwrap();
                }
            }
        });
    }
    while let Some(process) = processes.join_next().await {
        process.unwrap();
    }
    assert!(!terms.lock().unwrap().is_empty());
}
