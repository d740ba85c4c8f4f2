//! Leadership, decision rows, gaps, pauses and processes.

use super::*;
use crate::store::{ActionResult, PROCESS_AWAY, Process, StoreError};

const TTL: Duration = Duration::from_secs(45);

fn boot(number: u128) -> BootId {
    BootId(Uuid::from_u128(number))
}

async fn take(rig: &Rig, number: u128) -> Result<Lease, BootId> {
    match rig.store.take_lease(LEASE, boot(number), TTL).await.unwrap() {
        LeaseAnswer::Held(lease) => {
            assert_eq!(lease.until, clock::plus(rig.now(), TTL));
            Ok(lease)
        }
        LeaseAnswer::Other { holder, .. } => Err(holder),
    }
}

pub(in crate::store) async fn one_process_leads_at_a_time(rig: Rig) {
    let first = take(&rig, 1).await.unwrap();
    assert_eq!((first.term, first.holder), (Term(1), boot(1)));
    assert_eq!(take(&rig, 2).await, Err(boot(1)));
    rig.pass(Duration::from_secs(44));
    assert_eq!(take(&rig, 1).await.unwrap().term, Term(1), "renewed");
    rig.pass(Duration::from_secs(44));
    assert_eq!(take(&rig, 2).await, Err(boot(1)));
    rig.pass(Duration::from_secs(1));
    let second = take(&rig, 2).await.unwrap();
    assert_eq!(second.term, Term(2), "expired");
    rig.store.release_lease(&first).await.unwrap();
    assert_eq!(take(&rig, 1).await, Err(boot(2)), "what is no longer held cannot be given back");
    rig.store.release_lease(&second).await.unwrap();
    assert_eq!(take(&rig, 2).await.unwrap().term, Term(3), "given back is given back");
    rig.pass(TTL);
    assert_eq!(take(&rig, 2).await.unwrap().term, Term(4), "what has expired is not renewed");
    let other = rig.store.take_lease("fleet.other", boot(1), TTL).await.unwrap();
    assert!(matches!(other, LeaseAnswer::Held(Lease { term: Term(1), .. })), "{other:?}");
}

pub(in crate::store) async fn a_stale_term_writes_nothing(rig: Rig) {
    rig.submit("ada", [1]).await;
    rig.ready("gpu-1").await.claim(1).await;
    let worker = WorkerId("gpu-1".into());
    let requested = rig.intend("gpu-2").await;
    let stale = rig.lead().await;
    rig.pass(Duration::from_secs(7_200));
    let LeaseAnswer::Held(_) = rig.store.take_lease(LEASE, boot(2), TTL).await.unwrap() else {
        panic!("not taken")
    };
    let before = rig.everything().await;
    let spawn = Intent::Spawn {
        worker: WorkerId("gpu-3".into()),
        pool: "default".into(),
        token_sha256: [3; 32],
        offer: Default::default(),
    };
    let end = WorkerEnd {
        outcome: Outcome::Stalled,
        reason: "stale".into(),
        actor: "orchestrator".into(),
        evidence: Vec::new(),
    };
    let created = SpawnAnswer::Created { pod_id: PodId("pod-2".into()) };
    let result = ActionResult { ok: true, detail: String::new() };
    let store = &rig.store;
    let answers = [
        store.commit_cycle(&stale, &cycle_record(rig.now(), 2), &[spawn]).await.map(|_| ()),
        store.spawn_answer(&stale, &requested, &created).await,
        store.pod_state(&stale, &requested, WorkerState::Provisioning).await,
        store.end_worker(&stale, &worker, &end).await.map(|_| ()),
        store.action_result(&stale, DecisionId(1), 0, &result).await,
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        assert!(matches!(answer, Err(StoreError::StaleTerm)), "{number}: {answer:?}");
    }
    assert_eq!(rig.everything().await, before);
}

pub(in crate::store) async fn a_decision_row_gives_its_snapshot_again(rig: Rig) {
    rig.submit("ada", 1..=9).await;
    rig.ready("gpu-1").await.claim(1).await;
    let lease = rig.lead().await;
    let mut written = Vec::new();
    for cycle in 2..=5 {
        rig.pass(Duration::from_secs(30));
        let read = rig.observe().await;
        let mut record = cycle_record(rig.now(), cycle);
        record.snapshot.workers = read.workers;
        record.snapshot.demand = Some(read.demand);
        record.snapshot.live = Some(live(cycle, u64::try_from(cycle).unwrap() * 3));
        let record = decided(cycle, record.snapshot);
        if cycle == 4 {
            rig.ready("gpu-2").await;
        }
        let id = rig.commit_cycle(&lease, &record, &[]).await.unwrap();
        written.push((id, rig.now(), record));
    }
    let mut rows = rig.store.decisions(None, 0).await.unwrap();
    rows.retain(|row| row.cycle > 1);
    assert_eq!(rows.len(), 4);
    for (row, (id, at, record)) in rows.iter().rev().zip(&written) {
        assert_eq!((row.id, row.at, row.term), (*id, *at, lease.term));
        assert_eq!((row.boot_id, row.cycle, &row.trace_id), (record.boot_id, record.cycle, &record.trace_id));
        assert_eq!(row.snapshot, record.snapshot);
        assert_eq!(row.decision, record.decision);
        assert_eq!(row.results, vec![None; record.decision.live.as_ref().unwrap().actions.len()]);
    }
    let since = rig.store.decisions(Some(written[2].1), 0).await.unwrap();
    assert_eq!(since.iter().map(|row| row.cycle).filter(|cycle| *cycle > 1).collect::<Vec<_>>(), [5, 4]);
}

pub(in crate::store) async fn results_of_actions_are_added(rig: Rig) {
    let lease = rig.lead().await;
    let id = rig.commit_cycle(&lease, &cycle_record(rig.now(), 1), &[]).await.unwrap();
    let result = |ok, detail: &str| ActionResult { ok, detail: detail.into() };
    rig.store.action_result(&lease, id, 0, &result(false, "refused")).await.unwrap();
    rig.store.action_result(&lease, id, 0, &result(true, "created pod-1")).await.unwrap();
    let row = rig.store.decisions(None, 1).await.unwrap().remove(0);
    assert_eq!(row.results, [Some(result(true, "created pod-1"))]);
    for (id, index) in [(id, 1), (DecisionId(id.0 + 1), 0)] {
        let answer = rig.store.action_result(&lease, id, index, &result(true, "")).await;
        assert!(matches!(answer, Err(StoreError::BadRow { .. })), "{answer:?}");
    }
}

pub(in crate::store) async fn writes_since_starts_anew_after_a_gap(rig: Rig) {
    let gap = Duration::from_secs(60);
    assert_eq!(rig.observe().await.writes_since, rig.now(), "nobody has said so yet");
    let start = rig.now();
    for _ in 0..3 {
        assert_eq!(rig.store.touch(gap).await.unwrap(), start);
        rig.pass(gap);
    }
    assert_eq!(rig.observe().await.writes_since, start);
    rig.pass(Duration::from_micros(1));
    let anew = rig.now();
    assert_eq!(rig.store.touch(gap).await.unwrap(), anew);
    assert_eq!(rig.observe().await.writes_since, anew);
}

pub(in crate::store) async fn a_pause_holds_until_it_ends(rig: Rig) {
    assert_eq!(rig.observe().await.pause, None);
    let until = clock::plus(rig.now(), Duration::from_secs(60));
    let since = rig.now();
    rig.store.pause("ada", "maintenance", Some(until)).await.unwrap();
    let pause = rig.observe().await.pause.unwrap();
    assert_eq!((pause.actor.as_str(), pause.reason.as_str()), ("ada", "maintenance"));
    assert_eq!((pause.since, pause.until), (since, Some(until)));
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.observe().await.pause, None);
    rig.store.pause("ada", "for good", None).await.unwrap();
    rig.pass(Duration::from_secs(1_000_000));
    assert!(rig.observe().await.pause.is_some());
    rig.store.resume("bob", "done").await.unwrap();
    assert_eq!(rig.observe().await.pause, None);
}

/// A rolling deploy under a fixed name: the old start lives until it says good-bye, and one that was killed has
/// ended once its name starts again and it has been away for long.
pub(in crate::store) async fn starts_of_one_name_live_beside_each_other(rig: Rig) {
    let process = |number: u128, kind: &str| Process {
        boot_id: boot(number),
        kind: kind.into(),
        source_type: "orchestrator_gpu".into(),
        source_id: "here".into(),
        version: "0.1.0".into(),
        config_hash: "abc".into(),
        host: "node".into(),
        pid: 42,
        started_at: clock::from_micros(0),
        seen_at: clock::from_micros(0),
        ended_at: None,
    };
    let start = rig.now();
    rig.store.process_started(&process(1, "orchestrator")).await.unwrap();
    rig.store.process_started(&process(2, "watch")).await.unwrap();
    rig.pass(Duration::from_secs(9));
    rig.store.process_seen(boot(1)).await.unwrap();
    let seen = rig.now();
    rig.pass(Duration::from_secs(9));
    rig.store.process_started(&process(3, "orchestrator")).await.unwrap();
    let third = rig.now();
    rig.store.process_started(&process(3, "orchestrator")).await.unwrap();
    let processes = rig.store.processes(0).await.unwrap();
    let times: Vec<_> =
        processes.iter().map(|row| (row.boot_id, row.started_at, row.seen_at, row.ended_at)).collect();
    assert_eq!(
        times,
        [(boot(3), third, third, None), (boot(2), start, start, None), (boot(1), start, seen, None),]
    );
    assert_eq!(processes[0], Process { started_at: third, seen_at: third, ..process(3, "orchestrator") });
    rig.pass(PROCESS_AWAY);
    rig.store.process_seen(boot(1)).await.unwrap();
    let last = rig.now();
    rig.store.process_started(&process(4, "orchestrator")).await.unwrap();
    rig.store.process_seen(boot(3)).await.unwrap();
    rig.pass(Duration::from_secs(1));
    rig.store.process_ended(boot(4)).await.unwrap();
    rig.store.process_seen(boot(4)).await.unwrap();
    let end = rig.now();
    let processes = rig.store.processes(0).await.unwrap();
    let times: Vec<_> = processes.iter().map(|row| (row.boot_id, row.seen_at, row.ended_at)).collect();
    assert_eq!(
        times,
        [
            (boot(4), end, Some(end)),
            // Killed: away for long when its name started again.
            (boot(3), third, Some(last)),
            (boot(2), start, None),
            (boot(1), last, None),
        ]
    );
}

pub(in crate::store) async fn ended_workers_leave_the_observation(rig: Rig) {
    rig.ready("gpu-1").await;
    rig.pass(Duration::from_secs(1));
    rig.ready("gpu-2").await;
    rig.end("gpu-1", Outcome::Planned).await;
    let names = async |within: u64| {
        let read = rig.store.observe(Duration::from_secs(within), USER_LIMIT).await.unwrap();
        assert_eq!(read.now, rig.now());
        read.workers.into_iter().map(|worker| worker.id.0).collect::<Vec<_>>()
    };
    rig.pass(Duration::from_secs(60));
    assert_eq!(names(60).await, ["gpu-1", "gpu-2"]);
    assert_eq!(names(59).await, ["gpu-2"]);
    let created =
        |rows: Vec<crate::store::WorkerRow>| rows.into_iter().map(|row| row.worker.id.0).collect::<Vec<_>>();
    assert_eq!(created(rig.store.workers(None, 0).await.unwrap()), ["gpu-2", "gpu-1"]);
    assert_eq!(created(rig.store.workers(Some(rig.now()), 0).await.unwrap()), ["gpu-2"]);
    assert_eq!(created(rig.store.workers(None, 1).await.unwrap()), ["gpu-2"]);
}
