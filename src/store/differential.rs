//! All stores, the same random words: every answer and everything that can be read is the same.

use std::fmt::Debug;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use serde_json::json;
use uuid::Uuid;

use super::conformance::{Agent, LEASE, Rig, cycle_record, new_task, task_id, token};
use super::worker_row::token_digest;
use super::{ActionResult, DecisionId, Intent, Lease, LeaseAnswer, RpcError, SpawnAnswer, StoreError, WorkerEnd};
use crate::fleet::cell::Offer;
use crate::fleet::ids::{BootId, PodId, TaskId, Term, WorkerId};
use crate::fleet::order::{Command, NewOrder, OrderId};
use crate::fleet::outcome::Outcome;
use crate::fleet::pool::PoolTasks;
use crate::fleet::state::WorkerState;
use crate::fleet::task::{Bucket, NewTask};
use crate::rpc;

/// Random lists that are tried.
const CASES: u32 = 32;
/// The same with a database on the other side, which takes its time; and on demand.
const POSTGRES_CASES: u32 = 6;
const POSTGRES_CASES_LONG: u32 = 1_000;
/// Words in the longest list.
const WORDS_MAX: usize = 160;

/// Something that somebody says to a store. Few names, so that the words meet each other.
#[derive(Debug, Clone)]
enum Word {
    Pass {
        seconds: u64,
    },
    Submit {
        task: u8,
        user: u8,
        run_type: u8,
        waits_for: Option<u8>,
    },
    Cancel {
        task: u8,
    },
    Hold {
        task: u8,
        bucket: Option<Bucket>,
    },
    SetUser {
        user: u8,
        credits: Option<i8>,
        cloud: Option<bool>,
    },
    Register {
        worker: u8,
        start: u8,
    },
    Beat {
        worker: u8,
        start: u8,
        seq: i64,
        phase: rpc::Phase,
        task: Option<u8>,
    },
    Claim {
        worker: u8,
        start: u8,
        claim: u8,
        run_type: u8,
    },
    /// About the `pick`-th claim that was granted; `later` is added to its attempt.
    Task {
        pick: u8,
        later: i64,
        say: Say,
    },
    Exit {
        worker: u8,
        start: u8,
    },
    Lead {
        process: u8,
        seconds: u64,
    },
    GiveBack,
    Spawn {
        worker: u8,
    },
    Leave {
        worker: u8,
        state: WorkerState,
        outcome: Outcome,
    },
    Answer {
        worker: u8,
        answer: u8,
    },
    Pod {
        worker: u8,
        state: WorkerState,
    },
    End {
        worker: u8,
        outcome: Outcome,
    },
    Result {
        decision: i64,
        index: usize,
    },
    Touch {
        seconds: u64,
    },
    Pause {
        seconds: Option<u64>,
    },
    Resume,
    HoldOld {
        seconds: u64,
    },
    Pools {
        which: u8,
    },
    Order {
        count: u32,
        seconds: u64,
    },
    EndOrder {
        order: i64,
    },
}

/// What an agent says of a task.
#[derive(Debug, Clone, Copy)]
enum Say {
    Progress,
    Complete,
    Fail { retryable: bool },
}

fn word() -> impl Strategy<Value = Word> {
    use proptest::option::of;
    use proptest::sample::select;

    let (worker, start, task) = (0..4_u8, select(vec![1_u8, 1, 1, 1, 1, 2]), 0..6_u8);
    let phases = select(vec![rpc::Phase::Starting, rpc::Phase::Ready, rpc::Phase::Busy, rpc::Phase::Draining]);
    let later = select(vec![0_i64, 0, 0, 0, 0, 0, 1, -1]);
    let fail = |retryable| Say::Fail { retryable };
    let say = select(vec![Say::Progress, Say::Complete, fail(true), fail(true), fail(true), fail(false)]);
    let outcome = || select(Outcome::ALL.to_vec());
    prop_oneof![
        2 => (0..400_u64).prop_map(|seconds| Word::Pass { seconds }),
        4 => (task.clone(), 0..3_u8, 0..3_u8, of(task.clone()))
            .prop_map(|(task, user, run_type, waits_for)| Word::Submit { task, user, run_type, waits_for }),
        1 => task.clone().prop_map(|task| Word::Cancel { task }),
        1 => (task.clone(), of(select(Bucket::ALL.to_vec()))).prop_map(|(task, bucket)| Word::Hold { task, bucket }),
        1 => (0..3_u8, of(-1..3_i8), of(any::<bool>()))
            .prop_map(|(user, credits, cloud)| Word::SetUser { user, credits, cloud }),
        4 => (worker.clone(), start.clone()).prop_map(|(worker, start)| Word::Register { worker, start }),
        4 => (worker.clone(), start.clone(), 0..20_i64, phases, of(task.clone()))
            .prop_map(|(worker, start, seq, phase, task)| Word::Beat { worker, start, seq, phase, task }),
        8 => (worker.clone(), start.clone(), any::<u8>(), 0..3_u8)
            .prop_map(|(worker, start, claim, run_type)| Word::Claim { worker, start, claim, run_type }),
        8 => (any::<u8>(), later, say).prop_map(|(pick, later, say)| Word::Task { pick, later, say }),
        1 => (worker.clone(), start).prop_map(|(worker, start)| Word::Exit { worker, start }),
        4 => (select(vec![0_u8, 0, 0, 1]), 1..5_000_u64).prop_map(|(process, seconds)| Word::Lead { process, seconds }),
        1 => Just(Word::GiveBack),
        6 => worker.clone().prop_map(|worker| Word::Spawn { worker }),
        1 => (worker.clone(), select(WorkerState::ALL.to_vec()), outcome())
            .prop_map(|(worker, state, outcome)| Word::Leave { worker, state, outcome }),
        2 => (worker.clone(), 0..7_u8).prop_map(|(worker, answer)| Word::Answer { worker, answer }),
        1 => (worker.clone(), select(WorkerState::ALL.to_vec()))
            .prop_map(|(worker, state)| Word::Pod { worker, state }),
        2 => (worker, outcome()).prop_map(|(worker, outcome)| Word::End { worker, outcome }),
        1 => (0..4_i64, 0..2_usize).prop_map(|(decision, index)| Word::Result { decision, index }),
        1 => (0..400_u64).prop_map(|seconds| Word::Touch { seconds }),
        1 => of(0..400_u64).prop_map(|seconds| Word::Pause { seconds }),
        1 => Just(Word::Resume),
        1 => (600..6_000_u64).prop_map(|seconds| Word::HoldOld { seconds }),
        1 => select(vec![0_u8, 0, 0, 1, 1, 1, 2, 3]).prop_map(|which| Word::Pools { which }),
        1 => (0..3_u32, 0..900_u64).prop_map(|(count, seconds)| Word::Order { count, seconds }),
        1 => (1..6_i64).prop_map(|order| Word::EndOrder { order }),
    ]
}

/// A store that is spoken to, and the lease that was given last.
struct Listener {
    rig: Rig,
    lease: Lease,
    /// Worker, start, task and attempt of every claim that was granted.
    claims: Vec<(u8, u8, u128, i64)>,
}

impl Listener {
    fn new(rig: Rig) -> Listener {
        let lease = Lease { name: LEASE.into(), holder: BootId(Uuid::nil()), term: Term(1), until: rig.now() };
        Listener { rig, lease, claims: Vec::new() }
    }

    /// The answer in words. Errors are compared by what a caller does differently.
    async fn hear(&mut self, word: &Word) -> String {
        let store = self.rig.store.clone();
        let now = self.rig.now();
        match word {
            Word::Pass { seconds } => {
                self.rig.pass(Duration::from_secs(*seconds));
                String::new()
            }
            Word::Submit { task, user, run_type, waits_for } => {
                let task = NewTask {
                    run_type: kind(*run_type),
                    dependant_on: waits_for.iter().map(|task| id(*task)).collect(),
                    ..new_task(u128::from(*task), &format!("user-{user}"))
                };
                said(store.submit(&[task]).await)
            }
            Word::Cancel { task } => said(store.cancel_task(id(*task)).await),
            Word::Hold { task, bucket } => said(store.hold_task(id(*task), *bucket, "a", "b").await),
            Word::SetUser { user, credits, cloud } => {
                said(store.set_user(&format!("user-{user}"), credits.map(f64::from), *cloud).await)
            }
            Word::Lead { process, seconds } => {
                let holder = BootId(Uuid::from_u128(u128::from(*process)));
                let answer = store.take_lease(LEASE, holder, Duration::from_secs(*seconds)).await;
                if let Ok(LeaseAnswer::Held(lease)) = &answer {
                    self.lease = lease.clone();
                }
                said(answer)
            }
            Word::GiveBack => said(store.release_lease(&self.lease).await),
            Word::Touch { seconds } => said(store.touch(Duration::from_secs(*seconds)).await),
            Word::Pause { seconds } => {
                let until = seconds.map(|seconds| crate::clock::plus(now, Duration::from_secs(seconds)));
                said(store.pause("a", "b", until).await)
            }
            Word::Resume => said(store.resume("a", "b").await),
            Word::Pools { which } => said(store.set_pools(&pools(*which)).await),
            Word::Order { count, seconds } => {
                let command = Command::Spawn { pool: None, count: *count, beside: 0 };
                let lasts = Some(Duration::from_secs(*seconds));
                let order = NewOrder { command, actor: "a".into(), reason: "b".into(), lasts };
                said(store.order(&order).await)
            }
            Word::EndOrder { order } => said(store.end_order(OrderId(*order), "a", "b").await),
            Word::Task { pick, later, say } => self.hear_of_a_task(*pick, *later, *say).await,
            agent if agent.caller().is_some() => self.hear_agent(agent).await,
            orchestrator => self.hear_orchestrator(orchestrator).await,
        }
    }

    async fn hear_of_a_task(&self, pick: u8, later: i64, say: Say) -> String {
        let claims = &self.claims;
        let newest_first = claims.iter().rev().nth(usize::from(pick) % claims.len().max(1));
        let (worker, start, task, attempt) = newest_first.copied().unwrap_or((0, 1, 0, 1));
        let agent = Agent::new(&self.rig, &name(worker), u128::from(start));
        match say {
            Say::Progress => answered(agent.progress(task, attempt + later).await),
            Say::Complete => answered(agent.complete(task, attempt + later).await),
            Say::Fail { retryable } => answered(agent.fail(task, attempt + later, retryable).await),
        }
    }

    async fn hear_agent(&mut self, word: &Word) -> String {
        let (worker, start) = word.caller().unwrap();
        let agent = Agent::new(&self.rig, &name(worker), u128::from(start));
        match word {
            Word::Register { .. } => {
                let info = rpc::AgentInfo { pid: u32::from(start), ..rpc::AgentInfo::default() };
                answered(agent.store.register(&agent.caller, &info, &Default::default()).await)
            }
            Word::Beat { seq, phase, task, .. } => {
                let beat = rpc::Heartbeat {
                    seq: *seq,
                    phase: *phase,
                    progress_seq: *seq / 3,
                    current_task: task.map(|task| id(task).0),
                    gpu: None,
                    metrics: json!({}),
                };
                answered(agent.store.heartbeat(&agent.caller, &beat).await)
            }
            Word::Claim { claim, run_type, .. } => {
                let claim = rpc::Claim { claim_id: Uuid::from_u128(u128::from(*claim)), run_type: kind(*run_type) };
                let answer = agent.store.claim_task(&agent.caller, &claim, 2).await;
                if let Ok(Some(claimed)) = &answer {
                    self.claims.push((worker, start, claimed.task_id.as_u128(), claimed.attempt));
                }
                answered(answer)
            }
            _ => answered(agent.store.exit(&agent.caller, &rpc::ExitReport::default()).await),
        }
    }

    async fn hear_orchestrator(&self, word: &Word) -> String {
        let (store, lease) = (&self.rig.store, &self.lease);
        let of = |worker: &u8| WorkerId(name(*worker));
        let record = cycle_record(self.rig.now(), 1);
        match word {
            Word::Spawn { worker } => {
                let token_sha256 = token_digest(&token(&name(*worker)));
                let spawn = Intent::Spawn {
                    worker: of(worker),
                    pool: "default".into(),
                    token_sha256,
                    offer: Offer { cell: None, usd_per_hour: Some(0.37) },
                };
                said(self.rig.commit_cycle(lease, &record, &[spawn]).await)
            }
            Word::HoldOld { seconds } => {
                let old = Intent::HoldOld { older_than: Duration::from_secs(*seconds) };
                said(self.rig.commit_cycle(lease, &record, &[old]).await)
            }
            Word::Leave { worker, state, outcome } => {
                let leave = Intent::Leave {
                    worker: of(worker),
                    state: *state,
                    outcome: *outcome,
                    reason: "a reason".into(),
                };
                said(self.rig.commit_cycle(lease, &record, &[leave]).await)
            }
            Word::Answer { worker, answer } => {
                let reason = "words".to_owned();
                let answer = match answer {
                    0 => SpawnAnswer::Ambiguous { reason },
                    1 => SpawnAnswer::Rejected { outcome: Outcome::ProviderFault, reason, refusal: None },
                    pod => SpawnAnswer::Created { pod_id: PodId(format!("pod-{}", pod / 3)) },
                };
                said(store.spawn_answer(lease, &of(worker), &answer).await)
            }
            Word::Pod { worker, state } => said(store.pod_state(lease, &of(worker), *state).await),
            Word::End { worker, outcome } => {
                let end = WorkerEnd {
                    outcome: *outcome,
                    reason: "over".into(),
                    actor: "test".into(),
                    evidence: vec!["a line".into()],
                };
                said(store.end_worker(lease, &of(worker), &end).await)
            }
            Word::Result { decision, index } => {
                let result = ActionResult { ok: true, detail: "done".into() };
                said(store.action_result(lease, DecisionId(*decision), *index, &result).await)
            }
            other => panic!("nobody says {other:?}"),
        }
    }
}

impl Word {
    /// The worker and start of the agent that says it.
    fn caller(&self) -> Option<(u8, u8)> {
        match self {
            Word::Register { worker, start }
            | Word::Exit { worker, start }
            | Word::Beat { worker, start, .. }
            | Word::Claim { worker, start, .. } => Some((*worker, *start)),
            _ => None,
        }
    }
}

fn said<T: Debug>(answer: super::Result<T>) -> String {
    match answer {
        Err(StoreError::BadRow { .. }) => "bad row".into(),
        Err(error @ StoreError::Unavailable { .. }) => panic!("{}", crate::error::chain(&error)),
        answer => format!("{answer:?}"),
    }
}

fn answered<T: Debug>(answer: super::RpcResult<T>) -> String {
    match answer {
        Err(RpcError::Store(error)) => said::<()>(Err(error)),
        answer => format!("{answer:?}"),
    }
}

fn name(worker: u8) -> String {
    format!("gpu-{worker}")
}

fn id(task: u8) -> TaskId {
    task_id(u128::from(task))
}

/// Pools that take everything, nothing that is there, or the tasks away from the workers.
fn pools(which: u8) -> Vec<PoolTasks> {
    let pool = |name: &str, types: &[&str]| PoolTasks {
        pool: name.into(),
        task_types: types.iter().map(|word| (*word).to_owned()).collect(),
    };
    match which {
        0 => Vec::new(),
        1 => vec![pool("default", &[]), pool("big", &["video"])],
        2 => vec![pool("default", &["video"])],
        _ => vec![pool("default", &["video"]), pool("big", &[])],
    }
}

fn kind(number: u8) -> Option<String> {
    (number > 0).then(|| format!("run-{number}"))
}

/// Says every word to each, and compares with what the first says. Returns how many claims were
/// granted.
async fn compare(words: &[Word], rigs: Vec<Rig>) -> Result<usize, TestCaseError> {
    let mut listeners: Vec<Listener> = rigs.into_iter().map(Listener::new).collect();
    let Some((first, others)) = listeners.split_first_mut() else { return Ok(0) };
    for (number, word) in words.iter().enumerate() {
        let expected = first.hear(word).await;
        let look = number % 16 == 0 || number + 1 == words.len();
        let everything = if look { first.rig.everything().await } else { String::new() };
        for other in &mut *others {
            prop_assert_eq!(&expected, &other.hear(word).await, "answers to word {}: {:?}", number, word);
            if look {
                let found = other.rig.everything().await;
                prop_assert_eq!(&everything, &found, "what can be read after word {}: {:?}", number, word);
            }
        }
    }
    Ok(first.claims.len())
}

/// A fleet to talk about: a leader, tasks, and two workers whose agents have registered; the first of
/// them has claimed, so that each history has a task in hand.
fn and_a_fleet(words: Vec<Word>) -> Vec<Word> {
    let mut all = vec![Word::Lead { process: 0, seconds: 3_000 }];
    for worker in 0..2 {
        all.push(Word::Spawn { worker });
        all.push(Word::Register { worker, start: 1 });
        all.push(Word::Submit { task: worker, user: worker, run_type: 0, waits_for: None });
    }
    all.push(Word::Claim { worker: 0, start: 1, claim: 0, run_type: 0 });
    all.extend(words);
    all
}

#[test]
fn memory_and_sqlite_say_the_same() {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let claims = std::cell::Cell::new(0);
    proptest!(config, |(words in prop::collection::vec(word(), 1..WORDS_MAX))| {
        let said = async {
            let rigs = vec![super::memory::tests::rig().await, super::sqlite::tests::rig().await];
            compare(&and_a_fleet(words), rigs).await
        };
        claims.set(claims.get() + runtime.block_on(said)?);
    });
    assert!(claims.get() > 0, "the words never met");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the long version is asked for by a variable")]
fn memory_and_postgres_say_the_same() {
    let cases = if std::env::var_os("DOGWATCH_TEST_LONG").is_some() { POSTGRES_CASES_LONG } else { POSTGRES_CASES };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let claims = std::cell::Cell::new(0);
    proptest!(config, |(words in prop::collection::vec(word(), 1..WORDS_MAX))| {
        let said = async {
            let rigs = vec![super::memory::tests::rig().await, super::postgres::tests::rig().await];
            compare(&and_a_fleet(words), rigs).await
        };
        claims.set(claims.get() + runtime.block_on(said)?);
    });
    assert!(claims.get() > 0, "the words never met");
}
