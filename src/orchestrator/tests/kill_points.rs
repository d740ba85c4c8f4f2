//! The orchestrator killed before and after every call of a spawn, a drain and a requeue; the next start
//! finds what is left and brings it to the same end.

use std::fmt::Write as _;
use std::sync::Arc;

use expect_test::expect_file;

use super::killer::{Killer, MortalProvider, MortalStore};
use super::world::{Agent, World};
use crate::fleet::outcome::Outcome;
use crate::fleet::snapshot::PodStatus;
use crate::fleet::task::TaskStatus;

/// Cycles of the next start within which everything must be repaired.
const REPAIR_CYCLES: usize = 40;
/// Time between them, seconds: shorter than what counts as a gap in writes.
const STEP_SECONDS: i64 = 12;
/// Calls of the longest cycle that is killed; one more and the cycle had ended by itself.
const CALLS_MAX: usize = 40;

/// What the killed cycle was to do.
#[derive(Debug, Clone, Copy)]
enum Scene {
    Spawn,
    Drain,
    Requeue,
}

/// A world in which the next cycle spawns, drains, or gives a dead worker's task back.
async fn before(scene: Scene) -> (World, Vec<Agent>) {
    let world = World::in_memory();
    let mut agents = Vec::new();
    if !matches!(scene, Scene::Spawn) {
        let mut orchestrator = world.orchestrator(1);
        world.submit(1).await;
        orchestrator.cycle().await.unwrap();
        agents = world.agents().await;
        assert_eq!(agents[0].claim(&world).await.unwrap().attempt, 1);
    }
    match scene {
        Scene::Spawn => {
            world.submit(1).await;
        }
        Scene::Drain => {
            agents[0].complete(&world).await;
            // Idle for long enough, in a fleet that was watched all the time.
            let mut orchestrator = world.orchestrator(1);
            for _ in 0..2 {
                world.advance(STEP_SECONDS);
                agents[0].beat(&world).await;
                orchestrator.cycle().await.unwrap();
            }
            assert_eq!(world.provider.drained(), []);
        }
        Scene::Requeue => {
            let pod = world.provider.pods()[0].id.clone();
            world.provider.change(&pod, |pod| (pod.status, pod.signal) = (PodStatus::Exited, Some(9)));
        }
    }
    world.advance(STEP_SECONDS);
    if matches!(scene, Scene::Drain) {
        agents[0].beat(&world).await;
    }
    (world, agents)
}

/// Runs one cycle, of the process that leads, that dies at the point; None where it ended before.
async fn killed(world: &World, killer: &Arc<Killer>) -> Option<String> {
    let store = MortalStore { killer: killer.clone(), store: world.store.clone() };
    let provider = MortalProvider { killer: killer.clone(), provider: world.provider.clone() };
    let mut orchestrator = world.orchestrator_on(1, Arc::new(store), Arc::new(provider));
    tokio::select! {
        _ = orchestrator.cycle() => None,
        () = world.until(|_| killer.is_dead()) => killer.point(),
    }
}

/// The next start, cycle after cycle, with agents in the pods; returns the cycles it needed.
async fn repaired(world: &World, scene: Scene, agents: &mut Vec<Agent>) -> usize {
    let mut next = world.orchestrator(3);
    for cycle in 1..=REPAIR_CYCLES {
        world.advance(STEP_SECONDS);
        drained_pods_leave(world);
        next.cycle().await.unwrap();
        let alive = world.provider.pods().iter().filter(|pod| !pod.status.is_over()).count();
        assert!(alive <= 1, "{alive} pods run for one task");
        agents.extend(world.agents().await);
        if is_repaired(world, scene).await {
            return cycle;
        }
        for agent in agents.iter_mut() {
            agent.beat_if_there(world).await;
        }
    }
    let workers = world.workers().await;
    panic!("not repaired in {REPAIR_CYCLES} cycles: {workers:#?} {:?}", world.provider.pods());
}

/// Agents that were asked to leave do.
fn drained_pods_leave(world: &World) {
    for pod in world.provider.drained() {
        world.provider.change(&pod, |pod| (pod.status, pod.exit_code) = (PodStatus::Exited, Some(0)));
    }
}

async fn is_repaired(world: &World, scene: Scene) -> bool {
    let outcomes = world.outcomes().await;
    let live = outcomes.iter().filter(|outcome| outcome.is_none()).count();
    let pods = world.provider.pods().len();
    let heard = world.workers().await.iter().filter(|row| row.worker.first_heartbeat_at.is_some()).count();
    match scene {
        // One worker that was heard of, and one pod.
        Scene::Spawn => live == 1 && pods == 1 && heard == 1,
        Scene::Drain => live == 0 && pods == 0 && outcomes == [Some(Outcome::Planned)],
        // The dead one has its blame, once, and its task another attempt before it.
        Scene::Requeue => outcomes[0] == Some(Outcome::WorkerCrash) && live == 1 && pods == 1 && heard == 2,
    }
}

/// The task can be done exactly once more.
async fn finished(world: &World, scene: Scene, agents: &mut [Agent]) {
    let last = agents.last_mut().unwrap();
    let attempt = match scene {
        Scene::Drain => {
            assert_eq!(world.task_status().await, [TaskStatus::Complete]);
            return;
        }
        Scene::Spawn => 1,
        Scene::Requeue => 2,
    };
    assert_eq!(last.claim(world).await.map(|claimed| claimed.attempt), Some(attempt), "{scene:?}");
    last.complete(world).await;
    assert_eq!(world.task_status().await, [TaskStatus::Complete]);
}

async fn table(scene: Scene) -> String {
    let mut table = String::new();
    let mut points = 0;
    for at in 0..CALLS_MAX {
        for after in [false, true] {
            let (world, mut agents) = before(scene).await;
            let killer = Killer::new(at, after);
            let Some(point) = killed(&world, &killer).await else {
                world.decisions_hold().await;
                assert!(points >= 12, "only {points} points");
                return table;
            };
            let left: Vec<_> = world.states().await.iter().map(|state| state.word()).collect();
            let pods = world.provider.pods().len();
            let cycles = repaired(&world, scene, &mut agents).await;
            finished(&world, scene, &mut agents).await;
            assert!(world.decisions_hold().await > 0);
            let _ = writeln!(
                table,
                "{scene:?} | {at:>2} {point} | workers left: {}; pods: {pods} | repaired in {cycles} cycles",
                left.join(" ")
            );
            points += 1;
        }
    }
    panic!("the cycle has more than {CALLS_MAX} calls");
}

#[tokio::test]
async fn a_spawn_that_is_killed_anywhere_is_repaired() {
    expect_file!["./kill_points_spawn.txt"].assert_eq(&table(Scene::Spawn).await);
}

#[tokio::test]
async fn a_drain_that_is_killed_anywhere_is_repaired() {
    expect_file!["./kill_points_drain.txt"].assert_eq(&table(Scene::Drain).await);
}

#[tokio::test]
async fn a_requeue_that_is_killed_anywhere_is_repaired() {
    expect_file!["./kill_points_requeue.txt"].assert_eq(&table(Scene::Requeue).await);
}
