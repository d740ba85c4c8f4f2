//! A worker's life: who may speak for it, where it stands, how it ends.

use super::*;
use crate::fleet::state::Status;
use crate::store::StoreError;

pub(in crate::store) async fn a_spawn_lives_and_ends(rig: Rig) {
    let worker = rig.intend("gpu-1").await;
    let lease = rig.lead().await;
    let intent_at = rig.now();
    let check = async |state: WorkerState, status: Status| {
        let row = rig.worker("gpu-1").await;
        assert_eq!((row.live.unwrap().state, row.status), (state, status));
    };
    check(WorkerState::Requesting, Status::Spawning).await;
    rig.pass(Duration::from_secs(1));
    rig.answer(&worker, SpawnAnswer::Created { pod_id: PodId("pod-1".into()) }).await;
    check(WorkerState::Created, Status::Spawning).await;
    for state in [WorkerState::Provisioning, WorkerState::Starting] {
        rig.store.pod_state(&lease, &worker, state).await.unwrap();
        check(state, Status::Spawning).await;
    }
    let agent = Agent::new(&rig, "gpu-1", 1);
    let policy = PolicyLive { beat_ms: 2_500, claim_poll_ms: 250, dead_man_seconds: 60, ..PolicyLive::default() };
    let info = rpc::AgentInfo { host: "node".into(), capabilities: vec!["command".into()], ..Default::default() };
    let registered = rig.store.register(&agent.caller, &info, &policy).await.unwrap();
    assert_eq!(registered, rpc::Registered { heartbeat_seconds: 2.5, dead_man_seconds: 60.0, poll_seconds: 0.25 });
    assert_eq!(rig.store.authenticate(&agent.caller).await.unwrap(), worker);
    check(WorkerState::Alive, Status::Active).await;
    rig.pass(Duration::from_secs(1));
    let first_beat = rig.now();
    assert_eq!(agent.beat(1, rpc::Phase::Starting).await, rpc::Orders { drain: false, stop: false, cancel: None });
    check(WorkerState::Alive, Status::Active).await;
    assert_eq!(rig.worker("gpu-1").await.promoted_at, None);
    rig.pass(Duration::from_secs(1));
    let ready_at = rig.now();
    agent.beat(2, rpc::Phase::Ready).await;
    rig.pass(Duration::from_secs(1));
    agent.beat(3, rpc::Phase::Ready).await;
    check(WorkerState::Idle, Status::Active).await;
    let row = rig.worker("gpu-1").await;
    let live = row.live.clone().unwrap();
    assert_eq!((row.created_at, row.promoted_at), (intent_at, Some(ready_at)));
    assert_eq!((row.first_heartbeat_at, row.last_heartbeat_at), (Some(first_beat), Some(rig.now())));
    assert_eq!((live.idle_since, live.state_since), (Some(ready_at), ready_at));
    assert_eq!((live.pod_id, live.pool.as_str()), (Some(PodId("pod-1".into())), "default"));

    rig.end("gpu-1", Outcome::Stalled).await;
    check(WorkerState::Gone, Status::Terminated).await;
    let detail = rig.store.workers(None, 0).await.unwrap().remove(0);
    assert_eq!(detail.worker.ended_at, Some(rig.now()));
    assert_eq!(detail.worker.outcome(), Some(Outcome::Stalled));
    assert_eq!(detail.worker.reason.as_deref(), Some("stalled for a test"));
    assert_eq!((detail.actor.as_deref(), detail.info), (Some("orchestrator"), Some(info)));
    assert_eq!(detail.evidence, ["the last line"]);
    assert_eq!(refused(agent.try_beat(4, rpc::Phase::Ready, None).await), 409, "a beat never revives");
    assert_eq!(refused(rig.store.register(&agent.caller, &Default::default(), &policy).await), 409);
}

pub(in crate::store) async fn nobody_else_may_speak_for_a_worker(rig: Rig) {
    let agent = rig.ready("gpu-1").await;
    let mut wrong = agent.clone();
    wrong.caller.worker_token = "guessed".into();
    let unknown = Agent::new(&rig, "gpu-2", 1);
    let answer = async |agent: &Agent| format!("{:?}", agent.try_claim(1).await.unwrap_err());
    assert_eq!(answer(&wrong).await, answer(&unknown).await, "the same answer for both");
    assert_eq!(refused(rig.store.authenticate(&wrong.caller).await), 401);
    assert_eq!(refused(wrong.complete(1, 1).await), 401);
    let mut unregistered = agent.clone();
    unregistered.caller.incarnation = Uuid::from_u128(9);
    assert_eq!(refused(unregistered.try_claim(1).await), 409);
    rig.intend("gpu-3").await;
    assert_eq!(refused(Agent::new(&rig, "gpu-3", 1).try_claim(1).await), 409, "it has not registered");
}

pub(in crate::store) async fn a_refused_call_changes_nothing(rig: Rig) {
    rig.submit("ada", [1]).await;
    let agent = rig.ready("gpu-1").await;
    agent.claim(1).await;
    let mut wrong = agent.clone();
    wrong.caller.worker_token = "guessed".into();
    let mut late = agent.clone();
    late.caller.incarnation = Uuid::from_u128(9);
    rig.pass(Duration::from_secs(9));
    let before = rig.everything().await;
    for (caller, status) in [(&wrong, 401), (&late, 409)] {
        assert_eq!(refused(caller.try_beat(9, rpc::Phase::Ready, None).await), status);
        assert_eq!(refused(caller.try_claim(9).await), status);
        assert_eq!(refused(caller.progress(1, 1).await), status);
        assert_eq!(refused(caller.complete(1, 1).await), status);
        assert_eq!(refused(caller.fail(1, 1, false).await), status);
        assert_eq!(refused(rig.store.exit(&caller.caller, &rpc::ExitReport::default()).await), status);
    }
    assert_eq!(rig.everything().await, before);
}

pub(in crate::store) async fn a_superseded_start_cannot_come_back(rig: Rig) {
    let first = rig.ready("gpu-1").await;
    let second = Agent::new(&rig, "gpu-1", 2);
    second.register().await;
    second.register().await;
    assert!(!second.beat(1, rpc::Phase::Ready).await.stop, "its beats are counted anew");
    assert_eq!(refused(first.try_beat(9, rpc::Phase::Ready, None).await), 409);
    let again = rig.store.register(&first.caller, &Default::default(), &PolicyLive::default()).await;
    assert_eq!(refused(again), 409, "a late repetition of the first start");
    second.beat(2, rpc::Phase::Ready).await;
}

pub(in crate::store) async fn an_old_beat_changes_nothing(rig: Rig) {
    let agent = rig.ready("gpu-1").await;
    agent.beat(5, rpc::Phase::Busy).await;
    rig.pass(Duration::from_secs(3));
    let before = rig.everything().await;
    for seq in [5, 4, -1] {
        agent.beat(seq, rpc::Phase::Ready).await;
    }
    assert_eq!(rig.everything().await, before);
    agent.beat(6, rpc::Phase::Ready).await;
    assert_eq!(rig.worker("gpu-1").await.last_heartbeat_at, Some(rig.now()));
}

pub(in crate::store) async fn a_worker_that_never_spoke_has_no_heartbeat(rig: Rig) {
    rig.intend("gpu-1").await;
    rig.pass(Duration::from_secs(400));
    let row = rig.worker("gpu-1").await;
    assert_eq!((row.first_heartbeat_at, row.last_heartbeat_at, row.promoted_at), (None, None, None));
    let agent = Agent::new(&rig, "gpu-1", 1);
    agent.register().await;
    assert_eq!(rig.worker("gpu-1").await.last_heartbeat_at, None, "to register is not to beat");
}

pub(in crate::store) async fn a_draining_worker_gets_no_task_but_may_finish(rig: Rig) {
    rig.submit("ada", [1, 2]).await;
    let agent = rig.ready("gpu-1").await;
    assert_eq!(agent.claim(1).await, Some((1, 1)));
    rig.leave("gpu-1", WorkerState::Draining, Outcome::Planned, "scaled down").await;
    let orders = agent.beat(2, rpc::Phase::Busy).await;
    assert_eq!((orders.drain, orders.stop), (true, false));
    assert_eq!(agent.claim(2).await, None);
    assert_eq!(agent.claim(1).await, Some((1, 1)), "an answer that was lost is given again");
    assert_eq!(agent.complete(1, 1).await.unwrap(), end("Complete", 1));
    agent.beat(3, rpc::Phase::Ready).await;
    assert_eq!(rig.state("gpu-1").await, WorkerState::Draining, "a beat does not undo an order");
    rig.leave("gpu-1", WorkerState::Terminating, Outcome::Operator, "too slow").await;
    let orders = agent.beat(4, rpc::Phase::Draining).await;
    assert_eq!((orders.drain, orders.stop), (true, true));
    assert_eq!(agent.claim(3).await, None);
    assert_eq!(rig.worker("gpu-1").await.status, Status::Terminating);

    let second = rig.ready("gpu-2").await;
    second.beat(2, rpc::Phase::Draining).await;
    assert_eq!(rig.state("gpu-2").await, WorkerState::Draining, "an agent may drain by itself");
    assert_eq!(second.claim(1).await, None);
}

pub(in crate::store) async fn the_first_outcome_stays(rig: Rig) {
    rig.ready("gpu-1").await;
    rig.leave("gpu-1", WorkerState::Draining, Outcome::Planned, "scaled down").await;
    let asked_at = rig.now();
    rig.pass(Duration::from_secs(9));
    rig.leave("gpu-1", WorkerState::Terminating, Outcome::Stalled, "drained for too long").await;
    let leaving = rig.worker("gpu-1").await.live.unwrap().leaving.unwrap();
    assert_eq!((leaving.outcome, leaving.since), (Outcome::Planned, asked_at));
    rig.leave("gpu-1", WorkerState::Draining, Outcome::Operator, "again").await;
    assert_eq!(rig.state("gpu-1").await, WorkerState::Terminating, "nothing leads back");
    rig.end("gpu-1", Outcome::External).await;
    let row = rig.worker("gpu-1").await;
    assert_eq!((row.outcome(), row.reason.as_deref()), (Some(Outcome::Planned), Some("scaled down")));
    assert_eq!(row.live.unwrap().leaving, None);
    let before = rig.everything().await;
    rig.pass(Duration::from_secs(0));
    rig.end("gpu-1", Outcome::Boot).await;
    assert_eq!(rig.everything().await, before, "an ended worker stays as it is");
}

pub(in crate::store) async fn a_refused_spawn_has_ended(rig: Rig) {
    let worker = rig.intend("gpu-1").await;
    let refusal = SpawnAnswer::Rejected {
        outcome: Outcome::ProviderCapacity,
        reason: "no instances".into(),
        refusal: Some(crate::fleet::refusal::Refusal::Capacity),
    };
    rig.answer(&worker, refusal.clone()).await;
    let row = rig.worker("gpu-1").await;
    assert_eq!((row.status, row.ended_at), (Status::Terminated, Some(rig.now())));
    assert_eq!((row.outcome(), row.reason.as_deref()), (Some(Outcome::ProviderCapacity), Some("no instances")));
    assert_eq!(row.live.unwrap().state, WorkerState::Rejected);
    let before = rig.everything().await;
    rig.answer(&worker, refusal.clone()).await;
    assert_eq!(rig.everything().await, before);

    let alive = WorkerId(rig.ready("gpu-2").await.caller.worker_id);
    let answer = rig.store.spawn_answer(&rig.lead().await, &alive, &refusal).await;
    assert!(matches!(answer, Err(StoreError::BadRow { .. })), "{answer:?}: it has spoken, so there is a pod");
    assert_eq!(rig.state("gpu-2").await, WorkerState::Idle);
    let nobody = rig.store.spawn_answer(&rig.lead().await, &WorkerId("gpu-9".into()), &refusal).await;
    assert!(matches!(nobody, Err(StoreError::BadRow { .. })), "{nobody:?}");
}

pub(in crate::store) async fn a_lost_answer_may_still_have_made_a_pod(rig: Rig) {
    let worker = rig.intend("gpu-1").await;
    rig.answer(&worker, SpawnAnswer::Ambiguous { reason: "the connection was reset".into() }).await;
    assert_eq!(rig.state("gpu-1").await, WorkerState::Ambiguous);
    assert_eq!(rig.worker("gpu-1").await.status, Status::Spawning, "it counts as capacity");
    let agent = Agent::new(&rig, "gpu-1", 1);
    agent.register().await;
    assert_eq!(rig.state("gpu-1").await, WorkerState::Alive);
    rig.answer(&worker, SpawnAnswer::Ambiguous { reason: "late".into() }).await;
    rig.answer(&worker, SpawnAnswer::Created { pod_id: PodId("pod-1".into()) }).await;
    let live = rig.worker("gpu-1").await.live.unwrap();
    assert_eq!((live.state, live.pod_id), (WorkerState::Alive, Some(PodId("pod-1".into()))));
}

pub(in crate::store) async fn another_pod_never_replaces_the_first(rig: Rig) {
    let worker = rig.intend("gpu-1").await;
    let pod = |name: &str| SpawnAnswer::Created { pod_id: PodId(name.into()) };
    rig.answer(&worker, pod("pod-1")).await;
    rig.answer(&worker, pod("pod-1")).await;
    let other = rig.store.spawn_answer(&rig.lead().await, &worker, &pod("pod-2")).await;
    assert!(matches!(other, Err(StoreError::BadRow { .. })), "{other:?}");
    assert_eq!(rig.worker("gpu-1").await.live.unwrap().pod_id, Some(PodId("pod-1".into())));
}

pub(in crate::store) async fn late_words_of_the_provider_change_nothing(rig: Rig) {
    rig.ready("gpu-1").await;
    let (lease, worker) = (rig.lead().await, WorkerId("gpu-1".into()));
    let before = rig.everything().await;
    for state in [WorkerState::Provisioning, WorkerState::Starting] {
        rig.store.pod_state(&lease, &worker, state).await.unwrap();
    }
    rig.answer(&worker, SpawnAnswer::Created { pod_id: PodId("pod-gpu-1".into()) }).await;
    assert_eq!(rig.everything().await, before);
    let nonsense = rig.store.pod_state(&lease, &worker, WorkerState::Gone).await;
    assert!(matches!(nonsense, Err(StoreError::BadRow { .. })), "{nonsense:?}");
    assert_eq!(rig.state("gpu-1").await, WorkerState::Idle);
}

pub(in crate::store) async fn a_ready_beat_under_way_does_not_idle_a_busy_worker(rig: Rig) {
    rig.submit("ada", [1]).await;
    let agent = rig.ready("gpu-1").await;
    agent.claim(1).await;
    agent.beat(2, rpc::Phase::Ready).await;
    let live = rig.worker("gpu-1").await.live.unwrap();
    assert_eq!((live.state, live.idle_since), (WorkerState::Busy, None));
    rig.pass(Duration::from_secs(9));
    let beat = rpc::Heartbeat {
        seq: 3,
        phase: rpc::Phase::Busy,
        progress_seq: 4,
        current_task: Some(Uuid::from_u128(1)),
        gpu: Some(rpc::GpuState { vram_total_mb: Some(24_564.0), vram_used_mb: None, utilization: Some(0.9) }),
        metrics: json!({}),
    };
    rig.store.heartbeat(&agent.caller, &beat).await.unwrap();
    let progress_at = rig.worker("gpu-1").await.live.unwrap().progress_at;
    assert_eq!(progress_at, Some(rig.now()));
    rig.pass(Duration::from_secs(9));
    rig.store.heartbeat(&agent.caller, &rpc::Heartbeat { seq: 4, ..beat }).await.unwrap();
    assert_eq!(rig.worker("gpu-1").await.live.unwrap().progress_at, progress_at, "alive is not progressing");
}

pub(in crate::store) async fn last_words_are_kept_and_end_the_claims(rig: Rig) {
    rig.submit("ada", [1]).await;
    let agent = rig.ready("gpu-1").await;
    let report = rpc::ExitReport {
        reason: "killed".into(),
        signal: Some(9),
        oom_killed: true,
        last_lines: vec!["allocating".into()],
        ..rpc::ExitReport::default()
    };
    for _ in 0..2 {
        rig.store.exit(&agent.caller, &report).await.unwrap();
    }
    assert_eq!(agent.claim(1).await, None);
    let detail = rig.store.workers(None, 0).await.unwrap().remove(0);
    assert_eq!(detail.exit_report, Some(report));
    assert!(!detail.worker.is_ended(), "the orchestrator ends its row");
}
