//! Cycles on a real store and a scripted provider, in the store's virtual time; tests speak for the
//! agents. After each test every decision row is decided again and must come out the same.

mod kill_points;
mod killer;
mod outage;
mod world;

use std::time::Duration;

use self::world::World;
use super::*;
use crate::fleet::outcome::Outcome;
use crate::fleet::snapshot::{PodStatus, Quality};
use crate::fleet::state::WorkerState;
use crate::fleet::task::TaskStatus;
use crate::provider::fake::{OnCreate, OnList};
use crate::supervise::task::Stop;

#[tokio::test]
async fn tasks_bring_workers_and_idleness_ends_them() {
    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    let tasks = world.submit(2).await;
    let report = orchestrator.cycle().await.unwrap();
    assert_eq!((report.leads, report.decision.desired, report.spawned), (true, 2, 2), "{:?}", report.decision);
    assert_eq!(orchestrator.cycle().await.unwrap().spawned, 0, "workers on their way cover the tasks");

    let mut agents = world.agents().await;
    for (agent, task) in agents.iter_mut().zip(&tasks) {
        assert_eq!(agent.claim(&world).await.map(|claimed| claimed.task_id), Some(task.0));
        agent.complete(&world).await;
    }
    assert_eq!(world.task_status().await, [TaskStatus::Complete; 2]);
    for _ in 0..3 {
        assert_eq!(world.provider.drained(), [], "nobody goes within the first heartbeat limit");
        world.advance(12);
        for agent in &mut agents {
            agent.beat(&world).await;
        }
        orchestrator.cycle().await.unwrap();
    }
    assert_eq!(world.provider.drained().len(), 2);
    for pod in world.provider.drained() {
        world.provider.change(&pod, |pod| (pod.status, pod.exit_code) = (PodStatus::Exited, Some(0)));
    }
    let report = orchestrator.cycle().await.unwrap();
    assert_eq!(report.terminated, 2, "{:?}", report.decision);
    assert_eq!(world.outcomes().await, [Some(Outcome::Planned); 2]);
    assert!(world.provider.pods().is_empty(), "a pod that is over is cleared away");
    world.check_decisions(6).await;
}

#[tokio::test]
async fn a_dead_workers_task_is_done_by_another() {
    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    world.submit(1).await;
    orchestrator.cycle().await.unwrap();
    let mut first = world.agents().await.remove(0);
    assert_eq!(first.claim(&world).await.unwrap().attempt, 1);
    world.provider.set_last_lines(&["CUDA error", "aborted"]);
    let pod = world.provider.pods()[0].id.clone();
    world.provider.change(&pod, |pod| (pod.status, pod.signal) = (PodStatus::Exited, Some(9)));

    let report = orchestrator.cycle().await.unwrap();
    assert_eq!(report.terminated, 1, "{:?}", report.decision);
    assert_eq!(world.task_status().await, [TaskStatus::Queued]);
    let ended = world.workers().await.remove(0);
    assert_eq!(ended.worker.outcome(), Some(Outcome::WorkerCrash));
    assert_eq!(ended.actor.as_deref(), Some("orchestrator"));
    assert_eq!(ended.evidence, ["agent ended by signal: 9", "CUDA error", "aborted"]);

    world.advance(5);
    orchestrator.cycle().await.unwrap();
    let mut second = world.agents().await.remove(0);
    assert_ne!(second.id(), first.id());
    assert_eq!(second.claim(&world).await.unwrap().attempt, 2);
    second.complete(&world).await;
    assert_eq!(world.task_status().await, [TaskStatus::Complete]);
    world.check_decisions(3).await;
}

#[tokio::test]
async fn a_lost_answer_is_never_asked_for_twice_and_its_pod_is_found() {
    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    world.submit(1).await;
    world.provider.on_create([OnCreate::LoseAnswer]);
    world.provider.on_list([OnList::Work, OnList::Lag(1), OnList::Lag(1)]);
    let report = orchestrator.cycle().await.unwrap();
    assert_eq!((report.spawned, report.failed), (0, 1));
    assert_eq!(world.states().await, [WorkerState::Ambiguous]);
    for _ in 0..2 {
        world.advance(30);
        orchestrator.cycle().await.unwrap();
        assert_eq!(world.states().await, [WorkerState::Ambiguous], "a listing that lags is no proof");
    }
    orchestrator.cycle().await.unwrap();
    assert_eq!(world.provider.requests().len(), 1);
    let worker = world.workers().await.remove(0).worker.live.unwrap();
    assert_eq!(worker.pod_id, Some(world.provider.pods()[0].id.clone()));
    world.check_decisions(4).await;
}

#[tokio::test]
async fn a_lost_request_is_given_up_after_a_while_and_asked_for_anew() {
    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    world.submit(1).await;
    world.provider.on_create([OnCreate::LoseRequest]);
    orchestrator.cycle().await.unwrap();
    world.advance(60);
    orchestrator.cycle().await.unwrap();
    assert_eq!(world.states().await, [WorkerState::Ambiguous]);
    world.advance(90);
    orchestrator.cycle().await.unwrap();
    assert_eq!(world.outcomes().await[0], None, "two complete lists are not enough");
    world.advance(1);
    orchestrator.cycle().await.unwrap();
    assert_eq!(world.outcomes().await[0], Some(Outcome::ProviderFault));
    world.advance(59);
    orchestrator.cycle().await.unwrap();
    assert_eq!(world.provider.requests().len(), 1, "a lost answer is not refilled at once");
    world.advance(1);
    orchestrator.cycle().await.unwrap();
    assert_eq!((world.provider.requests().len(), world.provider.pods().len()), (2, 1));
    world.check_decisions(6).await;
}

#[tokio::test]
async fn a_killed_orchestrators_intent_is_neither_lost_nor_doubled() {
    let world = World::new().await;
    let mut killed = world.orchestrator(1);
    world.submit(1).await;
    world.provider.on_create([OnCreate::Hang]);
    tokio::select! {
        _ = killed.cycle() => panic!("the provider never answers"),
        () = world.until(|world| !world.provider.requests().is_empty()) => {}
    }
    drop(killed);
    assert_eq!(
        world.states().await,
        [WorkerState::Requesting],
        "the intent is durable before the provider is asked"
    );

    world.advance(60);
    let mut next = world.orchestrator(2);
    next.cycle().await.unwrap();
    assert_eq!(world.states().await, [WorkerState::Ambiguous]);
    assert_eq!(world.provider.requests().len(), 1);
    world.check_decisions(2).await;
}

#[tokio::test]
async fn a_failed_or_partial_listing_ends_nobody() {
    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    world.submit(2).await;
    orchestrator.cycle().await.unwrap();
    let mut agents = world.agents().await;
    for agent in &mut agents {
        agent.claim(&world).await.unwrap();
    }
    let unreachable = ProviderError::Unreachable("connection refused".to_owned());
    for (answer, quality) in [(OnList::Fail(unreachable), Quality::Failed), (OnList::Lack(2), Quality::Partial)] {
        for _ in 0..3 {
            world.advance(20);
            for agent in &mut agents {
                agent.beat(&world).await;
            }
            world.provider.on_list([answer.clone()]);
            let report = orchestrator.cycle().await.unwrap();
            let provider = report.snapshot.live.unwrap().inputs.provider;
            assert_eq!(provider.quality, quality);
            assert!(provider.detail.is_some());
            assert_eq!(report.decision.live.unwrap().actions, []);
        }
    }
    assert_eq!(world.states().await, [WorkerState::Busy; 2]);
    assert_eq!(world.provider.terminated(), []);
    world.check_decisions(7).await;
}

#[tokio::test]
async fn a_refused_worker_ends_without_blame() {
    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    world.submit(1).await;
    world.provider.on_create([OnCreate::Fail(ProviderError::Capacity("no RTX 4090".to_owned()))]);
    let report = orchestrator.cycle().await.unwrap();
    assert_eq!((report.spawned, report.failed), (0, 1));
    assert_eq!(world.outcomes().await, [Some(Outcome::ProviderCapacity)]);
    assert!(world.workers().await[0].worker.reason.as_deref().unwrap().contains("no RTX 4090"));
    world.check_decisions(1).await;
}

#[tokio::test]
async fn a_cell_that_is_sold_out_is_asked_once_a_cycle() {
    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    world.submit(3).await;
    world.provider.on_create([OnCreate::Fail(ProviderError::Capacity("no RTX 4090".to_owned()))]);
    let report = orchestrator.cycle().await.unwrap();
    assert_eq!((report.spawned, report.failed, world.provider.requests().len()), (0, 3, 1));
    let mut outcomes = world.outcomes().await;
    outcomes.sort();
    assert_eq!(outcomes, [Outcome::Planned, Outcome::Planned, Outcome::ProviderCapacity].map(Some));
    world.advance(59);
    orchestrator.cycle().await.unwrap();
    assert_eq!(world.provider.requests().len(), 1, "a minute after the first refusal");
    world.advance(1);
    orchestrator.cycle().await.unwrap();
    assert_eq!(world.provider.requests().len(), 2, "one is tried");
    world.advance(30);
    orchestrator.cycle().await.unwrap();
    assert_eq!(
        (world.provider.requests().len(), world.provider.pods().len()),
        (4, 3),
        "it came, and the others follow"
    );
    world.check_decisions(4).await;
}

#[tokio::test]
async fn a_worker_whose_pod_does_not_end_keeps_its_row_and_its_task() {
    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    world.submit(1).await;
    orchestrator.cycle().await.unwrap();
    let mut agent = world.agents().await.remove(0);
    agent.claim(&world).await.unwrap();
    for _ in 0..20 {
        // Writes go on, but this agent says nothing.
        world.advance(5);
        world.provider.on_terminate([ProviderError::Unreachable("connection refused".to_owned())]);
        orchestrator.cycle().await.unwrap();
    }
    assert_eq!(world.states().await, [WorkerState::Terminating]);
    assert_eq!(world.task_status().await, [TaskStatus::InProgress], "it may still be running");
    world.provider.clear_script();
    orchestrator.cycle().await.unwrap();
    assert_eq!(world.outcomes().await[0], Some(Outcome::Stalled));
    assert_eq!(world.task_status().await, [TaskStatus::Queued]);
    world.check_decisions(22).await;
}

#[tokio::test]
async fn a_standby_observes_and_decides_and_writes_nothing() {
    let world = World::new().await;
    let (mut leader, mut standby) = (world.orchestrator(1), world.orchestrator(2));
    leader.cycle().await.unwrap();
    world.submit(1).await;
    let report = standby.cycle().await.unwrap();
    assert!(!report.leads);
    assert_eq!(report.decision.live.unwrap().actions, []);
    assert!(world.provider.requests().is_empty());
    assert!(world.workers().await.is_empty());
    world.check_decisions(1).await;

    world.advance(60);
    assert!(standby.cycle().await.unwrap().leads, "an expired lease is free");
    world.check_decisions(2).await;
}

#[tokio::test]
async fn a_stale_leader_writes_nothing_and_steps_down() {
    let world = World::new().await;
    let (mut old, mut new) = (world.orchestrator(1), world.orchestrator(2));
    old.cycle().await.unwrap();
    world.advance(60);
    new.cycle().await.unwrap();
    world.submit(1).await;
    let error = old.cycle().await.unwrap_err();
    let CycleError::Database { source, .. } = error;
    assert!(matches!(source, StoreError::StaleTerm), "{source}");
    assert!(world.provider.requests().is_empty());
    assert!(world.workers().await.is_empty());
    assert!(!old.cycle().await.unwrap().leads);
    world.check_decisions(2).await;
}

#[tokio::test]
async fn a_stop_with_drain_ends_all_workers_and_frees_the_lease() {
    let world = World::new().await;
    world.submit(1).await;
    let orchestrator = world.orchestrator(1);
    let (stop, stopped) = Stop::new();
    let end = async {
        world.until(|world| !world.provider.pods().is_empty()).await;
        stop.raise();
    };
    tokio::join!(orchestrator.run(stopped), end);
    assert_eq!(world.provider.terminated().len(), 1);
    assert_eq!(world.outcomes().await, [Some(Outcome::Operator)]);
    assert!(world.store.processes(10).await.unwrap()[0].ended_at.is_some());
    assert!(world.orchestrator(2).cycle().await.unwrap().leads);
    assert!(world.decisions_hold().await > 0);
}

#[tokio::test]
async fn a_cycle_is_one_trace_and_its_id_is_in_the_decision() {
    use opentelemetry::trace::TracerProvider as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    orchestrator.cycle().await.unwrap();
    let tracer = opentelemetry_sdk::trace::SdkTracerProvider::builder().build().tracer("test");
    // Beside a second one `tracing` asks both whether an event is wanted, whichever test comes by it first.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let subscriber = tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer));
    let guard = tracing::subscriber::set_default(subscriber);
    for _ in 0..2 {
        orchestrator.cycle().await.unwrap();
    }
    drop(guard);
    let traces: Vec<_> = world.decisions().await.into_iter().map(|row| row.trace_id).collect();
    let [Some(newest), Some(before), None] = &traces[..] else { panic!("{traces:?}") };
    assert_eq!(newest.len(), 32);
    assert_ne!(newest, before);
    world.check_decisions(3).await;
}

#[tokio::test]
async fn a_failed_cycle_ends_nothing_and_the_wait_is_bounded() {
    let world = World::new().await;
    let mut orchestrator = world.orchestrator(1);
    for _ in 0..100 {
        orchestrator.failures += 1;
        let wait = orchestrator.wait_after_failure();
        assert!(wait <= FAILED_WAIT_MAX && wait >= Duration::from_millis(8), "{wait:?}");
    }
    world.check_decisions(0).await;
}
