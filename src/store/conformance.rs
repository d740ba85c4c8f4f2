//! What every store must do, written once against the trait and run over each of them.
//!
//! A [`Rig`] is an empty store whose clock stands where the test put it, with the words that an
//! orchestrator and an agent say to it. [`suite!`] makes a test of every case for one kind of
//! store; a case gets a rig of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::worker_row::token_digest;
use super::{
    CycleRecord, DecisionId, FleetRead, Intent, Lease, LeaseAnswer, RpcError, SpawnAnswer, Store, TaskFilter,
    WorkerEnd, taken_again,
};
use crate::clock::{self, Time};
use crate::fleet::cell::Offer;
use crate::fleet::decision::decide;
use crate::fleet::ids::{BootId, PodId, TaskId, Term, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::policy::{Policy, PolicyLive};
use crate::fleet::snapshot::{Demand, DemandLive, Input, Inputs, Live, Quality, SCHEMA_VERSION, Snapshot, Worker};
use crate::fleet::state::WorkerState;
use crate::fleet::task::{Bucket, NewTask, Task};
use crate::rpc;

pub(super) mod attempts;
pub(super) mod concurrency;
pub(super) mod cycles;
pub(super) mod demand;
pub(super) mod orders;
pub(super) mod watched;
pub(super) mod workers;

/// Tasks in progress that one user may have, in most cases.
pub(super) const USER_LIMIT: u32 = 5;
/// The lease's name.
pub(super) const LEASE: &str = "fleet.test";

/// An empty store and its clock.
#[derive(Clone)]
pub(super) struct Rig {
    pub(super) store: Arc<dyn Store>,
    pub(super) time: Arc<AtomicI64>,
    /// The store's folder, where it has one; it lives as long as the store.
    pub(super) keep: Option<Arc<tempfile::TempDir>>,
}

/// 2025-10-16T17:35:31Z, a minute of the field's history.
pub(super) const START_MICROS: i64 = 1_760_636_131_000_000;

/// Makes a test of every case for the store that `$rig` (an async fn) makes.
macro_rules! suite {
    ($rig:path: $($module:ident { $($case:ident),+ $(,)? })+) => {
        $(mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::store::conformance::$module::$case($rig().await).await;
            })+
        })+
    };
}

/// All cases, for the store that `$rig` makes.
macro_rules! conformance {
    ($rig:path) => {
        $crate::store::conformance::suite! { $rig:
            attempts {
                a_task_is_claimed_done_and_answered_again,
                a_repeated_claim_is_the_same_attempt,
                a_failed_task_is_queued_again_until_its_attempts_are_used_up,
                a_task_that_failed_for_good_is_not_queued_again,
                an_ended_worker_gives_its_tasks_back,
                a_worker_that_dies_three_times_on_a_task_fails_it,
                a_superseded_attempt_is_refused,
                a_cancelled_task_is_told_to_its_agent,
                progress_is_written_and_repeats_are_answered,
                a_second_start_of_the_agent_does_the_first_ones_task_again,
            }
            workers {
                a_spawn_lives_and_ends,
                nobody_else_may_speak_for_a_worker,
                a_refused_call_changes_nothing,
                a_superseded_start_cannot_come_back,
                an_old_beat_changes_nothing,
                a_worker_that_never_spoke_has_no_heartbeat,
                a_draining_worker_gets_no_task_but_may_finish,
                the_first_outcome_stays,
                a_refused_spawn_has_ended,
                a_lost_answer_may_still_have_made_a_pod,
                another_pod_never_replaces_the_first,
                late_words_of_the_provider_change_nothing,
                a_ready_beat_under_way_does_not_idle_a_busy_worker,
                last_words_are_kept_and_end_the_claims,
            }
            demand {
                every_queued_task_is_in_one_bucket,
                holds_are_counted_and_respected,
                the_user_limit_is_counted_as_it_is_claimed,
                run_types_fit,
                the_oldest_task_comes_first,
                a_dependency_is_waited_for,
                a_repeated_submit_is_the_same_task,
                tasks_are_filtered,
                totals_add_up,
            }
            cycles {
                one_process_leads_at_a_time,
                a_stale_term_writes_nothing,
                a_decision_row_gives_its_snapshot_again,
                results_of_actions_are_added,
                writes_since_starts_anew_after_a_gap,
                a_pause_holds_until_it_ends,
                starts_of_one_name_live_beside_each_other,
                ended_workers_leave_the_observation,
            }
            watched {
                ends_of_tasks_are_counted_by_when_they_ended,
                the_watch_sees_what_a_cycle_sees,
            }
            orders {
                an_order_holds_until_its_end_or_somebodys,
                a_pool_takes_its_own_tasks,
                a_task_that_waits_too_long_is_set_aside_until_it_is_let_go,
                a_task_that_kills_is_known_and_set_aside,
                money_spent_today_is_counted,
                decisions_are_read_by_time_and_cycle,
            }
            concurrency {
                sixteen_clients_never_pass_the_user_limit,
                of_all_who_are_the_first_to_ask_one_leads,
                two_orchestrators_never_hold_the_same_term,
            }
        }
    };
}
pub(super) use {conformance, suite};

impl Rig {
    /// Lets time pass.
    pub(super) fn pass(&self, span: Duration) {
        self.time.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }

    pub(super) fn now(&self) -> Time {
        clock::from_micros(self.time.load(Ordering::SeqCst))
    }

    pub(super) fn folder(&self) -> std::path::PathBuf {
        self.keep.as_ref().expect("this store has a folder").path().to_owned()
    }

    // --- an owner's words ---

    pub(super) async fn submit(&self, user: &str, numbers: impl IntoIterator<Item = u128>) {
        let tasks: Vec<NewTask> = numbers.into_iter().map(|number| new_task(number, user)).collect();
        self.store.submit(&tasks).await.unwrap();
    }

    pub(super) async fn task(&self, number: u128) -> Task {
        let filter = TaskFilter { ids: vec![task_id(number)], ..TaskFilter::default() };
        let mut tasks = self.store.tasks(&filter).await.unwrap();
        assert_eq!(tasks.len(), 1, "task {number}");
        tasks.remove(0)
    }

    // --- an orchestrator's words ---

    pub(super) async fn lead(&self) -> Lease {
        match self.store.take_lease(LEASE, BootId(Uuid::from_u128(1)), Duration::from_secs(3_600)).await.unwrap() {
            LeaseAnswer::Held(lease) => lease,
            LeaseAnswer::Other { holder, .. } => panic!("{holder} leads"),
        }
    }

    /// Writes the intent of a worker.
    pub(super) async fn intend(&self, name: &str) -> WorkerId {
        let worker = WorkerId(name.to_owned());
        let spawn = Intent::Spawn {
            worker: worker.clone(),
            pool: "default".into(),
            token_sha256: token_digest(&token(name)),
            offer: Offer::default(),
        };
        self.commit(&[spawn]).await;
        worker
    }

    pub(super) async fn commit(&self, intents: &[Intent]) -> DecisionId {
        let lease = self.lead().await;
        self.commit_cycle(&lease, &cycle_record(self.now(), 1), intents).await.unwrap()
    }

    /// Writes a cycle; its row is read back and its decision taken again.
    pub(super) async fn commit_cycle(
        &self,
        lease: &Lease,
        record: &CycleRecord,
        intents: &[Intent],
    ) -> super::Result<DecisionId> {
        let written = self.store.commit_cycle(lease, record, intents).await?;
        taken_again::newest(&*self.store).await;
        Ok(written)
    }

    pub(super) async fn answer(&self, worker: &WorkerId, answer: SpawnAnswer) {
        self.store.spawn_answer(&self.lead().await, worker, &answer).await.unwrap();
    }

    /// A worker whose agent has registered and is ready.
    pub(super) async fn ready(&self, name: &str) -> Agent {
        let worker = self.intend(name).await;
        self.answer(&worker, SpawnAnswer::Created { pod_id: PodId(format!("pod-{name}")) }).await;
        let agent = Agent::new(self, name, 1);
        agent.register().await;
        agent.beat(1, rpc::Phase::Ready).await;
        agent
    }

    pub(super) async fn leave(&self, name: &str, state: WorkerState, outcome: Outcome, reason: &str) {
        let worker = WorkerId(name.to_owned());
        self.commit(&[Intent::Leave { worker, state, outcome, reason: reason.into() }]).await;
    }

    pub(super) async fn end(&self, name: &str, outcome: Outcome) -> Vec<TaskId> {
        let end = WorkerEnd {
            outcome,
            reason: format!("{} for a test", outcome.word()),
            actor: "orchestrator".into(),
            evidence: vec!["the last line".into()],
        };
        self.store.end_worker(&self.lead().await, &WorkerId(name.to_owned()), &end).await.unwrap()
    }

    pub(super) async fn observe(&self) -> FleetRead {
        self.store.observe(Duration::from_secs(1_800), USER_LIMIT).await.unwrap()
    }

    pub(super) async fn worker(&self, name: &str) -> Worker {
        let read = self.observe().await;
        read.workers.into_iter().find(|worker| worker.id.0 == name).unwrap_or_else(|| panic!("no worker {name}"))
    }

    pub(super) async fn state(&self, name: &str) -> WorkerState {
        self.worker(name).await.live.unwrap().state
    }

    /// Everything that can be read, for "nothing has changed".
    pub(super) async fn everything(&self) -> String {
        let store = &self.store;
        format!(
            "{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}",
            store.observe(Duration::from_secs(1_800), USER_LIMIT).await.unwrap(),
            store.tasks(&TaskFilter::default()).await.unwrap(),
            store.workers(None, 0).await.unwrap(),
            store.decisions(None, 0).await.unwrap(),
            store.task_totals(USER_LIMIT).await.unwrap(),
        )
    }
}

/// An agent's words.
#[derive(Clone)]
pub(super) struct Agent {
    pub(super) store: Arc<dyn Store>,
    pub(super) caller: rpc::Caller,
}

impl Agent {
    /// The `start`-th start of the agent of worker `name`.
    pub(super) fn new(rig: &Rig, name: &str, start: u128) -> Agent {
        let caller = rpc::Caller {
            worker_id: name.to_owned(),
            worker_token: token(name),
            incarnation: Uuid::from_u128(start),
        };
        Agent { store: Arc::clone(&rig.store), caller }
    }

    pub(super) async fn register(&self) -> rpc::Registered {
        self.store.register(&self.caller, &rpc::AgentInfo::default(), &PolicyLive::default()).await.unwrap()
    }

    pub(super) async fn beat(&self, seq: i64, phase: rpc::Phase) -> rpc::Orders {
        self.try_beat(seq, phase, None).await.unwrap()
    }

    pub(super) async fn try_beat(
        &self,
        seq: i64,
        phase: rpc::Phase,
        current_task: Option<Uuid>,
    ) -> Result<rpc::Orders, RpcError> {
        let beat = rpc::Heartbeat { seq, phase, progress_seq: 0, current_task, gpu: None, metrics: json!({}) };
        self.store.heartbeat(&self.caller, &beat).await
    }

    pub(super) async fn try_claim(&self, claim: u128) -> Result<Option<rpc::Claimed>, RpcError> {
        let claim = rpc::Claim { claim_id: Uuid::from_u128(claim), run_type: None };
        self.store.claim_task(&self.caller, &claim, USER_LIMIT).await
    }

    /// Number and attempt of the claimed task.
    pub(super) async fn claim(&self, claim: u128) -> Option<(u128, i64)> {
        let claimed = self.try_claim(claim).await.unwrap();
        claimed.map(|claimed| (claimed.task_id.as_u128(), claimed.attempt))
    }

    pub(super) async fn complete(&self, task: u128, attempt: i64) -> Result<rpc::TaskEnd, RpcError> {
        let task_id = Uuid::from_u128(task);
        let complete = rpc::Complete { task_id, attempt, output: json!({"exit_code": 0}) };
        self.store.complete_task(&self.caller, &complete).await
    }

    pub(super) async fn fail(&self, task: u128, attempt: i64, retryable: bool) -> Result<rpc::TaskEnd, RpcError> {
        let fail = rpc::Fail { task_id: Uuid::from_u128(task), attempt, error: "exit status 1".into(), retryable };
        self.store.fail_task(&self.caller, &fail).await
    }

    pub(super) async fn progress(&self, task: u128, attempt: i64) -> Result<rpc::ProgressReply, RpcError> {
        let task_id = Uuid::from_u128(task);
        let progress = rpc::Progress { task_id, attempt, fraction: Some(0.5), note: Some("half".into()) };
        self.store.task_progress(&self.caller, &progress).await
    }
}

/// The status of a refusal; panics where the call was granted or the store failed.
pub(super) fn refused<T: std::fmt::Debug>(answer: Result<T, RpcError>) -> u16 {
    match answer {
        Err(RpcError::Refused(refusal)) => refusal.status(),
        other => panic!("not refused: {other:?}"),
    }
}

pub(super) fn end(status: &str, attempts: i64) -> rpc::TaskEnd {
    rpc::TaskEnd { status: status.into(), attempts }
}

pub(super) fn task_id(number: u128) -> TaskId {
    TaskId(Uuid::from_u128(number))
}

pub(super) fn token(name: &str) -> String {
    format!("token of {name}")
}

pub(super) fn new_task(number: u128, user: &str) -> NewTask {
    NewTask {
        id: task_id(number),
        user: user.to_owned(),
        task_type: "command".into(),
        params: json!({"argv": ["true", number.to_string()]}),
        run_type: None,
        dependant_on: Vec::new(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
    }
}

/// A cycle of an empty fleet that is to have one worker: it decides to spawn one.
pub(super) fn cycle_record(now: Time, cycle: i64) -> CycleRecord {
    decided(
        cycle,
        Snapshot {
            schema_version: SCHEMA_VERSION,
            name: "fleet.test".into(),
            as_of: now,
            policy: Policy { live: Some(PolicyLive::default()), ..Policy::default() },
            workers: Vec::new(),
            demand: Some(Demand { live: Some(DemandLive::default()), ..Demand::default() }),
            records: Vec::new(),
            live: Some(live(cycle, 0)),
        },
    )
}

/// What a process that leads makes of the snapshot.
pub(super) fn decided(cycle: i64, snapshot: Snapshot) -> CycleRecord {
    let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
    let trace_id = Some("0af7651916cd43dd8448eb211c80319c".into());
    CycleRecord { boot_id: BootId(Uuid::from_u128(1)), cycle, trace_id, snapshot, decision }
}

/// What such a process knows of itself; its provider was listed so long ago.
pub(super) fn live(cycle: i64, age_seconds: u64) -> Live {
    let input = |age_seconds| Input { quality: Quality::Complete, age_seconds, detail: None };
    Live {
        fleet: "fleet".into(),
        env: "test".into(),
        boot_id: BootId(Uuid::from_u128(1)),
        cycle,
        term: Some(Term(1)),
        inputs: Inputs { database: input(0), provider: input(age_seconds) },
        writes_since: clock::from_micros(START_MICROS),
        pause: None,
        unknown_pods: Vec::new(),
        orders: Vec::new(),
        ended_today_usd: None,
        balance: None,
        desired_lately: None,
    }
}

/// The buckets as `word=tasks`, and that they add up to the queue.
pub(super) fn buckets(read: &FleetRead) -> String {
    let live = read.demand.live.clone().unwrap_or_default();
    let queued: u64 = read.demand.users.iter().map(|user| user.queued).sum();
    assert_eq!(live.buckets.values().sum::<u64>(), queued, "the buckets add up");
    let words: Vec<String> =
        live.buckets.iter().map(|(bucket, tasks)| format!("{}={tasks}", Bucket::word(*bucket))).collect();
    words.join(" ")
}
