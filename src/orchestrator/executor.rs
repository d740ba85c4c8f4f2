//! Act: does what was decided, and makes no choices.
//!
//! Intents are committed with the decision before the provider is asked (I7). Then the actions run
//! beside each other, a few at a time, each in a span of its own; what became of each is written to
//! the decision's row. Of the workers for one cell, one is asked for first, and the others only once
//! it was granted: a cell that is sold out says so once a cycle. Before every call to the provider the lease must still be believed in. A
//! worker is ended in the database only after the provider said that its pod is over, because its
//! tasks are queued again in that moment.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use tracing::Instrument as _;

use super::{CycleError, Scene, reconciler, token};
use crate::catalogue;
use crate::error;
use crate::fleet::cell::{Cell, Offer};
use crate::fleet::decision::{Action, Decision};
use crate::fleet::ids::{PodId, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::snapshot::{PodSeen, Snapshot, WorkerLive};
use crate::fleet::state::WorkerState;
use crate::provider::{PodRequest, ProviderError, WorkerToken};
use crate::store::{ActionResult, CycleRecord, DecisionId, Intent, Lease, SpawnAnswer, StoreError, WorkerEnd};

/// Actions that are done at the same time.
const AT_ONCE: usize = 8;
/// Lines of evidence kept of one worker.
const EVIDENCE_LINES_MAX: usize = 52;

/// What a cycle's actions came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Acted {
    /// Pods that were made.
    pub(super) spawned: u32,
    /// Workers that ended.
    pub(super) terminated: u32,
    /// Actions that were not done.
    pub(super) failed: u32,
}

/// Does the actions of one decision under one lease.
pub(super) struct Executor<'a> {
    /// What to work with.
    pub(super) scene: &'a Scene,
    /// What every write is guarded by.
    pub(super) lease: &'a Lease,
    /// Until when the lease is believed in, by the monotonic clock.
    pub(super) until: std::time::Duration,
    /// What was seen.
    pub(super) snapshot: &'a Snapshot,
    stale: Mutex<bool>,
    /// Cells in which a request of this cycle was not granted.
    not_granted: Mutex<Vec<Option<Cell>>>,
}

/// What became of one action.
struct Done {
    ok: bool,
    detail: String,
    acted: Acted,
}

impl Done {
    fn well(detail: impl Into<String>) -> Done {
        Done { ok: true, detail: detail.into(), acted: Acted::default() }
    }

    fn not(detail: impl Into<String>) -> Done {
        Done { ok: false, detail: detail.into(), acted: Acted { failed: 1, ..Acted::default() } }
    }
}

impl<'a> Executor<'a> {
    /// For one cycle.
    pub(super) fn new(
        scene: &'a Scene,
        lease: &'a Lease,
        until: std::time::Duration,
        snapshot: &'a Snapshot,
    ) -> Executor<'a> {
        Executor { scene, lease, until, snapshot, stale: Mutex::new(false), not_granted: Mutex::default() }
    }

    /// Writes the decision and its intents down, then acts.
    pub(super) async fn act(&self, record: &CycleRecord) -> Result<Acted, CycleError> {
        let actions = actions(&record.decision);
        let (mut intents, tokens) = intents(actions);
        intents.extend(hold_old(&record.snapshot));
        let database = |doing, source| CycleError::Database { doing, age_seconds: 0, source };
        let commit = self.scene.store.commit_cycle(self.lease, record, &intents);
        let decision = commit
            .instrument(tracing::info_span!("commit"))
            .await
            .map_err(|source| database("write the decision", source))?;
        reconciler::tidy(self, actions).await;
        let mut sum = Acted::default();
        for wave in waves(actions, self.scene.method.one_first) {
            // Collected by a loop: the compiler cannot see that a mapped iterator's futures are Send.
            let mut all = Vec::with_capacity(wave.len());
            for (index, action) in wave {
                let span =
                    tracing::info_span!("action", action = action.word(), worker_id = %action.worker(), index);
                all.push(self.one(decision, index, action, tokens.get(action.worker())).instrument(span));
            }
            let mut done = futures_util::stream::iter(all).buffer_unordered(AT_ONCE);
            while let Some(acted) = done.next().await {
                sum.spawned += acted.spawned;
                sum.terminated += acted.terminated;
                sum.failed += acted.failed;
            }
        }
        if *held(&self.stale) {
            return Err(database("write what became of the actions", StoreError::StaleTerm));
        }
        Ok(sum)
    }

    async fn one(&self, decision: DecisionId, index: usize, action: &Action, token: Option<&WorkerToken>) -> Acted {
        let done = match (self.may_act(), action) {
            (Err(why), _) => Done::not(why),
            (Ok(()), Action::Spawn { worker, pool, cell, .. }) => self.spawn(worker, (pool, cell), token).await,
            (Ok(()), Action::Adopt { worker, pod_id }) => self.adopt(worker, pod_id).await,
            (Ok(()), Action::Drain { worker, .. }) => self.drain(worker).await,
            (Ok(()), Action::Terminate { worker, outcome, reason } | Action::End { worker, outcome, reason }) => {
                self.end(worker, *outcome, reason).await
            }
            (Ok(()), Action::Reap { worker, pod_id, .. }) => self.reap(worker, pod_id).await,
        };
        if done.ok {
            tracing::info!(action = action.word(), worker_id = %action.worker(), "{}", done.detail);
        } else {
            tracing::warn!(action = action.word(), worker_id = %action.worker(), "{}", done.detail);
        }
        let result = ActionResult { ok: done.ok, detail: done.detail };
        self.written(self.scene.store.action_result(self.lease, decision, index, &result).await);
        done.acted
    }

    async fn spawn(
        &self,
        worker: &WorkerId,
        (pool, cell): (&str, &Option<Cell>),
        token: Option<&WorkerToken>,
    ) -> Done {
        let Some(token) = token else { return Done::not("no token was made for it") };
        if self.scene.method.one_first && held(&self.not_granted).contains(cell) {
            return self.not_asked(worker).await;
        }
        let config = &self.scene.config;
        let request = PodRequest {
            worker: worker.clone(),
            name: worker.pod_name(&config.fleet, &config.env),
            pool: pool.to_owned(),
            cell: cell.clone(),
            token: token.clone(),
        };
        let create = self.scene.provider.create(&request);
        let span = self.scene.call_span("create", Some(worker));
        let (answer, mut done) = match self.scene.within(create).instrument(span).await {
            Ok(pod_id) => {
                metrics::counter!(catalogue::WORKER_CREATED.name).increment(1);
                let done = Done::well(format!("pod {pod_id} made"));
                (SpawnAnswer::Created { pod_id }, Done { acted: Acted { spawned: 1, ..Acted::default() }, ..done })
            }
            Err(ProviderError::Ambiguous(reason)) => {
                let done = Done::not(format!("answer lost, there may be a pod: {reason}"));
                (SpawnAnswer::Ambiguous { reason }, done)
            }
            Err(refused) => {
                let outcome = match refused {
                    ProviderError::Capacity(_) => Outcome::ProviderCapacity,
                    _ => Outcome::ProviderFault,
                };
                let (reason, refusal) = (refused.to_string(), refused.refusal());
                (SpawnAnswer::Rejected { outcome, reason: reason.clone(), refusal }, Done::not(reason))
            }
        };
        if !matches!(answer, SpawnAnswer::Created { .. }) {
            held(&self.not_granted).push(cell.clone());
        }
        self.answered(worker, &answer, &mut done).await;
        done
    }

    /// Closes the row of a worker whose cell did not grant the one before it.
    async fn not_asked(&self, worker: &WorkerId) -> Done {
        let reason = "not asked for: the request before it, in the same cell, was not granted".to_owned();
        let answer = SpawnAnswer::Rejected { outcome: Outcome::Planned, reason: reason.clone(), refusal: None };
        let mut done = Done::not(reason);
        self.answered(worker, &answer, &mut done).await;
        done
    }

    /// Writes the answer into the worker's row, which ends it where it is a refusal.
    async fn answered(&self, worker: &WorkerId, answer: &SpawnAnswer, done: &mut Done) {
        if !self.written(self.scene.store.spawn_answer(self.lease, worker, answer).await) {
            done.ok = false;
            done.detail.push_str("; the answer could not be written");
        } else if let SpawnAnswer::Rejected { outcome, .. } = answer {
            count_ended(*outcome);
        }
    }

    /// Ends a pod that is nobody's; there is no row to write.
    async fn reap(&self, worker: &WorkerId, pod: &PodId) -> Done {
        let call = self.scene.provider.terminate(pod);
        let span = self.scene.call_span("terminate", Some(worker));
        match self.scene.within(call).instrument(span).await {
            Ok(()) => Done::well(format!("pod {pod} was nobody's and is over")),
            Err(refusal) => Done::not(format!("pod {pod} may still run: {refusal}")),
        }
    }

    async fn adopt(&self, worker: &WorkerId, pod_id: &PodId) -> Done {
        let answer = SpawnAnswer::Created { pod_id: pod_id.clone() };
        if self.written(self.scene.store.spawn_answer(self.lease, worker, &answer).await) {
            Done::well(format!("pod {pod_id} is its own"))
        } else {
            Done::not("its pod could not be written")
        }
    }

    async fn drain(&self, worker: &WorkerId) -> Done {
        let Some(pod) = self.pod_of(worker) else { return Done::well("draining; it has no pod that is known") };
        let call = self.scene.provider.drain(&pod);
        let span = self.scene.call_span("drain", Some(worker));
        match self.scene.within(call).instrument(span).await {
            Ok(()) => Done::well("asked to finish and leave"),
            Err(refusal) => Done::not(error::chain(&refusal)),
        }
    }

    /// Ends the pod, then the worker.
    async fn end(&self, worker: &WorkerId, outcome: Outcome, reason: &str) -> Done {
        let pod = self.pod_of(worker);
        let mut evidence = self.ending_of(worker);
        if let Some(pod) = &pod {
            evidence.extend(self.scene.last_lines(worker, pod).await);
            let call = self.scene.provider.terminate(pod);
            let span = self.scene.call_span("terminate", Some(worker));
            if let Err(refusal) = self.scene.within(call).instrument(span).await {
                return Done::not(format!("its pod may still run: {refusal}"));
            }
        }
        evidence.truncate(EVIDENCE_LINES_MAX);
        let end = WorkerEnd { outcome, reason: reason.to_owned(), actor: super::ACTOR.to_owned(), evidence };
        match self.scene.store.end_worker(self.lease, worker, &end).await {
            Ok(tasks) => {
                count_ended(outcome);
                let done = Done::well(format!("ended ({}), {} tasks given back", outcome.word(), tasks.len()));
                Done { acted: Acted { terminated: 1, ..Acted::default() }, ..done }
            }
            Err(failure) => {
                let detail = error::chain(&failure);
                self.written(Err::<(), _>(failure));
                Done::not(format!("its pod is over, its row is not: {detail}"))
            }
        }
    }

    pub(super) fn may_act(&self) -> Result<(), String> {
        if *held(&self.stale) {
            return Err("not done: another orchestrator leads".to_owned());
        }
        if self.scene.timer.monotonic() >= self.until {
            return Err("not done: the lease is too close to its end".to_owned());
        }
        Ok(())
    }

    /// Whether a write worked. A row that cannot be used is that row's trouble alone.
    pub(super) fn written<T>(&self, result: Result<T, StoreError>) -> bool {
        let Err(failure) = result else { return true };
        if matches!(failure, StoreError::StaleTerm) {
            *held(&self.stale) = true;
        }
        tracing::warn!(error = error::chain(&failure), "a write of this cycle failed");
        false
    }

    fn live_of(&self, worker: &WorkerId) -> Option<&WorkerLive> {
        self.snapshot.workers.iter().find(|each| each.id == *worker)?.live.as_ref()
    }

    /// The pod that the row knows, else the one that was seen under the worker's name.
    pub(super) fn pod_of(&self, worker: &WorkerId) -> Option<PodId> {
        let unknown = self.snapshot.live.iter().flat_map(|live| &live.unknown_pods);
        let seen = || unknown.into_iter().find(|pod| pod.worker == *worker).map(|pod| pod.pod_id.clone());
        self.live_of(worker).and_then(|live| live.pod_id.clone()).or_else(seen)
    }

    fn ending_of(&self, worker: &WorkerId) -> Vec<String> {
        let Some(PodSeen { exit_code, signal, .. }) = self.live_of(worker).and_then(|live| live.pod.clone()) else {
            return Vec::new();
        };
        let code = exit_code.map(|code| format!("agent's exit code: {code}"));
        let signal = signal.map(|signal| format!("agent ended by signal: {signal}"));
        code.into_iter().chain(signal).collect()
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The actions by their places in the decision, in the order of two waves: of the spawns in one cell, the
/// first is in the first wave and the others are in the second.
fn waves(actions: &[Action], one_first: bool) -> [Vec<(usize, &Action)>; 2] {
    let mut cells = Vec::new();
    let mut is_first = |action: &Action| {
        let Action::Spawn { cell, .. } = action else { return true };
        let is_new = !one_first || !cells.contains(cell);
        cells.push(cell.clone());
        is_new
    };
    let (first, second) = actions.iter().enumerate().partition(|(_, action)| is_first(action));
    [first, second]
}

fn actions(decision: &Decision) -> &[Action] {
    decision.live.as_ref().map_or(&[], |live| &live.actions)
}

/// What must be durable before the provider is asked, and the token of each worker to be made.
fn intents(actions: &[Action]) -> (Vec<Intent>, HashMap<WorkerId, WorkerToken>) {
    let mut tokens = HashMap::new();
    let leave = |worker: &WorkerId, state, outcome: &Outcome, reason: &String| Intent::Leave {
        worker: worker.clone(),
        state,
        outcome: *outcome,
        reason: reason.clone(),
    };
    let intents = actions.iter().filter_map(|action| match action {
        Action::Spawn { worker, pool, cell, usd_per_hour } => {
            let token = token::fresh();
            let token_sha256 = token::sha256(&token);
            tokens.insert(worker.clone(), token);
            let offer = Offer { cell: cell.clone(), usd_per_hour: *usd_per_hour };
            Some(Intent::Spawn { worker: worker.clone(), pool: pool.clone(), token_sha256, offer })
        }
        Action::Drain { worker, outcome, reason } => Some(leave(worker, WorkerState::Draining, outcome, reason)),
        Action::Terminate { worker, outcome, reason } => {
            Some(leave(worker, WorkerState::Terminating, outcome, reason))
        }
        // Once its pod is cleared away, nothing shows any more how it ended: the blame is written first.
        Action::End { worker, outcome, reason } => Some(leave(worker, WorkerState::Terminating, outcome, reason)),
        Action::Adopt { .. } | Action::Reap { .. } => None,
    });
    let intents = intents.collect();
    (intents, tokens)
}

/// Tasks that wait for too long are set aside, where the policy says so.
fn hold_old(snapshot: &Snapshot) -> Option<Intent> {
    let seconds = snapshot.policy.live.as_ref()?.task_too_old_seconds;
    (seconds > 0).then(|| Intent::HoldOld { older_than: std::time::Duration::from_secs(seconds) })
}

/// Counts an ended worker.
pub(super) fn count_ended(outcome: Outcome) {
    let counts = if outcome.counts_for_breaker() { "true" } else { "false" };
    metrics::counter!(catalogue::WORKER_ENDED.name, "outcome" => outcome.word(), "counts_for_breaker" => counts)
        .increment(1);
}
