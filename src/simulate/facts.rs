//! What must never be, compared with what the world knows.
//!
//! The checks look at what the database took and what the provider was asked, from outside: they
//! know which agents are well, which pods run and who really failed. They use none of the judgements
//! they check, but where the statement is that two answers of the same rule agree (I6, the instants at
//! which gates open).

mod cells;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use uuid::Uuid;

use super::bugs::Bug;
use super::faults::Fault;
use super::hands::Side;
use super::load::short;
use super::pods::{Fate, Pod};
use super::timeline::{HOUR, MINUTE, SECOND};
use super::world::Sim;
use super::{at_once, decisions};
use crate::clock;
use crate::fleet::decision::{Action, GateName, Verdict};
use crate::fleet::demand;
use crate::fleet::ids::{PodId, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::snapshot::Pause;
use crate::fleet::task::ATTEMPTS_MAX;
use crate::provider::PodRequest;
use crate::rpc;
use crate::store::memory::MemoryStore;
use crate::store::{CycleRecord, Lease, RpcError, SpawnAnswer, WorkerDoor as _};
use cells::Cells;

/// True failures are remembered this long.
const FAILURES_KEPT: i64 = 3 * HOUR;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    /// Which.
    pub(super) invariant: &'static str,
    /// When, microseconds since the world began.
    pub(super) at: i64,
    /// What was seen.
    pub(super) detail: String,
}

/// What the world remembers.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) create_calls: u64,
    pub(super) pods_made: u64,
    pub(super) productive: u64,
    pub(super) paid_micros: i64,
    pub(super) busy_micros: i64,
    pub(super) usd: f64,
    pub(super) submitted: u64,
    pub(super) cycles: u64,
    /// Processes killed, by call and side.
    pub(super) kills: BTreeMap<(&'static str, Side), u64>,
    /// Spells of calm at whose end everything was as it should be.
    pub(super) calms: u64,
    /// Whether the newest committed decision did anything.
    pub(super) is_acting: bool,
    /// A hash over everything that was decided: two runs of a seed have the same.
    pub(super) history: u64,
    /// Until when an operator holds spawning, at most.
    pub(super) paused_until: i64,
    /// What a planted bug remembers.
    pub(super) pause_for_ever: Option<Pause>,
    asked: HashSet<WorkerId>,
    /// Workers that were given up when nobody could see a pod of theirs.
    given_up: HashSet<WorkerId>,
    claims: HashMap<(Uuid, i64), String>,
    attempts: HashMap<Uuid, i64>,
    completions: HashMap<Uuid, i64>,
    newest_claim: Option<(i64, rpc::Claimed)>,
    failures: VecDeque<i64>,
    cells: Cells,
    breaker_blocks: bool,
    term: i64,
    published: Vec<Option<clock::Time>>,
}

impl Facts {
    /// A pod stopped costing money.
    pub(super) fn paid(&mut self, micros: i64, usd_per_hour: f64, completed: u32, busy: i64) {
        self.paid_micros += micros;
        self.busy_micros += busy;
        self.usd += micros as f64 / HOUR as f64 * usd_per_hour;
        self.productive += u64::from(completed > 0);
    }

    /// Tasks whose completion was accepted.
    pub(super) fn completed(&self) -> u64 {
        self.completions.len() as u64
    }
}

impl Sim {
    // --- the provider is asked ---

    /// The provider is asked for a pod: its intent is durable, and it is asked once (I7).
    pub(super) fn asked_for(&mut self, request: &PodRequest, store: &MemoryStore) {
        let worker = &request.worker;
        if store.peek(worker).is_none() {
            self.broke("I7 intent before the provider", format!("{worker} has no row and is asked for"));
        }
        if !self.facts.asked.insert(worker.clone()) {
            self.broke("I7 intent before the provider", format!("{worker} is asked for twice"));
        }
    }

    /// Whoever asked for a pod, or looked for it, has its id.
    pub(super) fn answered(&mut self, id: &PodId, store: &MemoryStore) {
        if let Some(pod) = self.pods.values_mut().find(|pod| pod.id == *id) {
            pod.is_answered = true;
        }
        self.check_ceiling(store);
    }

    /// Live pods of ours <= max + ambiguous (I12): those whose id is known and whose row has not ended.
    fn check_ceiling(&mut self, store: &MemoryStore) {
        let is_ours = |pod: &&Pod| {
            let row = pod.worker.as_ref().and_then(|worker| store.peek(worker));
            pod.over.is_none() && pod.is_answered && row.is_some_and(|row| !row.is_ended())
        };
        let live = self.pods.values().filter(is_ours).count();
        let max = self.policy.max_workers as usize;
        if live > max {
            self.broke("I12 live pods <= max + ambiguous", format!("{live} known pods run, at most {max} may"));
        }
    }

    // --- the database has taken something ---

    /// A decision of that process and its intents are written.
    pub(super) fn committed(&mut self, process: usize, held: &Lease, record: &CycleRecord, store: &MemoryStore) {
        self.facts.cycles += 1;
        if held.term.0 != self.facts.term {
            self.facts.term = held.term.0;
            self.struck(Fault::LeaderChanged);
            self.facts.published.clear();
        }
        let live = record.decision.live.as_ref();
        let sentence = live.map_or("", |live| live.sentence.as_str());
        for byte in sentence.bytes() {
            self.facts.history = (self.facts.history ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if let Some(demand) = &record.snapshot.demand
            && !demand::tally(demand, &record.snapshot.policy).adds_up
        {
            self.broke("I15 the buckets add up", format!("{demand:?}"));
        }
        let actions = live.map_or(&[][..], |live| &live.actions[..]);
        self.facts.is_acting = !actions.is_empty();
        for action in actions {
            self.check_action(process, action, record);
        }
        self.check_breaker(record);
        // A trace may be played under rules that promise nothing of the rest.
        if self.load.trace.is_some() {
            return;
        }
        self.check_etas(record);
        self.check_cells(record);
        if !self.has(Bug::EtaOneWindowOff) && !store.newest_is_reproduced() {
            self.broke("I6 decide is pure", format!("decided again, {sentence:?} is something else"));
        }
    }

    /// Each block that says when it ends: blocked just before, open at that instant.
    fn check_etas(&mut self, record: &CycleRecord) {
        let lifts = |gate: &crate::fleet::decision::Gate| gate.lifts_at.filter(|_| gate.verdict == Verdict::Block);
        let published: Vec<_> = record.decision.gates.iter().map(lifts).collect();
        for (index, at) in published.iter().enumerate() {
            let Some(at) = at.filter(|at| self.facts.published.get(index) != Some(&Some(*at))) else { continue };
            let word = record.decision.gates[index].gate.word();
            if let Some(wrong) = decisions::is_not_its_end(record, index, at) {
                self.broke("a block ends when it says", format!("{word} says {at}: {wrong}"));
            }
        }
        self.facts.published = published;
    }

    /// Planned stops, refusals and our own errors never move the breaker (I14).
    fn check_breaker(&mut self, record: &CycleRecord) {
        let is_blocked_by =
            |name| record.decision.gates.iter().any(|gate| gate.gate == name && gate.verdict == Verdict::Block);
        if is_blocked_by(GateName::Pause) && self.now > self.facts.paused_until + 5 * MINUTE {
            self.broke("an operator's order ends", "the pause is over and still blocks");
        }
        let blocks = is_blocked_by(GateName::FailureBreaker);
        if blocks && !self.facts.breaker_blocks {
            self.struck(Fault::BreakerOpened);
        }
        self.facts.breaker_blocks = blocks;
        let now = self.now;
        self.facts.failures.retain(|at| now - at < FAILURES_KEPT);
        if blocks && self.facts.failures.len() < decisions::BREAKER_FAILURES_MIN {
            let detail = format!("it blocks after {} true failures", self.facts.failures.len());
            self.broke("I14 planned stops never move the breaker", detail);
        }
    }

    fn check_action(&mut self, process: usize, action: &Action, record: &CycleRecord) {
        let (Action::Terminate { worker, outcome, reason } | Action::End { worker, outcome, reason }) = action
        else {
            return;
        };
        // A leader that is stopped between its last look at the lease and its call asks for a pod when
        // another one leads that has waited, as it must, and found nothing. No lease can stop that call, and
        // no rule can tell a pod that is not shown yet from one that was never made: the row is closed, the
        // pod is nobody's, and the reaper ends it (`no orphan stays`). So this is right exactly where the
        // listing that was decided by could not show the pod; one that was shown must be adopted. Where that
        // leader is killed before it has closed the row, the next one carries out what the row says.
        let pod = self.pod_of(worker).map(|(_, pod)| pod);
        let listed_at = self.processes[process].listed_at;
        let seen = record.snapshot.workers.iter().find(|each| each.id == *worker);
        let leaving = seen.and_then(|worker| worker.live.as_ref()?.leaving.as_ref());
        if *outcome == Outcome::ProviderFault {
            let carries_on = leaving.is_some_and(|leaving| leaving.outcome == Outcome::ProviderFault);
            if pod.is_none_or(|pod| pod.shown_from > listed_at) {
                self.facts.given_up.insert(worker.clone());
                return;
            } else if carries_on && self.facts.given_up.contains(worker) {
                return;
            }
        }
        let Some(pod) = pod.filter(|pod| pod.over.is_none()) else { return };
        if pod.fate != Fate::Good || pod.agent.is_impaired {
            return;
        }
        let busy_since = pod.agent.task().map(|(_, since)| since);
        let (age, listed) = ((self.now - pod.created) / SECOND, (pod.shown_from - pod.created) / SECOND);
        let pod = format!("its pod is {age} s old, listed after {listed} s, answered: {}", pod.is_answered);
        let text = format!("{worker} is well and is ended as {} ({reason}); {pod}", outcome.word());
        match outcome {
            Outcome::Operator => {}
            Outcome::Planned => {
                let drained =
                    leaving.map_or(0, |leaving| clock::age(record.snapshot.as_of, leaving.since).as_secs());
                let limit = record.snapshot.policy.live.clone().unwrap_or_default().drain_timeout_seconds;
                if busy_since.is_some_and(|since| self.now - since > 2 * MINUTE) && drained + 300 < limit {
                    self.broke("no busy worker is ended as planned", text);
                }
            }
            _ => self.broke("I8 missing evidence never terminates", text),
        }
    }

    /// A worker's row was ended, or a spawn answered.
    pub(super) fn ended(&mut self, worker: &WorkerId, store: &MemoryStore) {
        let Some(row) = store.peek(worker).filter(crate::fleet::snapshot::Worker::is_ended) else { return };
        self.facts.given_up.remove(worker);
        let Some(outcome) = row.live.as_ref().and_then(|live| live.outcome) else {
            return self.broke("I18 every ended worker has an outcome", format!("{worker} has none"));
        };
        if outcome.counts_for_breaker() {
            self.facts.failures.push_back(self.now);
            self.facts.cells.failed(&row, self.now);
        }
        self.queue_changed();
    }

    /// The answer to a spawn is written.
    pub(super) fn spawn_answered(&mut self, worker: &WorkerId, answer: &SpawnAnswer, store: &MemoryStore) {
        if let Some(row) = store.peek(worker) {
            self.facts.cells.answered(&row, answer);
        }
        match answer {
            SpawnAnswer::Created { pod_id } => self.answered(pod_id, store),
            SpawnAnswer::Rejected { .. } => {
                if self.pod_of(worker).is_some_and(|(_, pod)| pod.over.is_none()) {
                    let detail = format!("{worker} is closed as refused, and its pod runs");
                    self.broke("a lost answer is no refusal", detail);
                }
                self.ended(worker, store);
            }
            SpawnAnswer::Ambiguous { .. } => {}
        }
    }

    // --- the agents' calls ---

    /// A claim arrives at the database.
    pub(super) fn claim_at_store(
        &mut self,
        caller: &rpc::Caller,
        claim: &rpc::Claim,
        limit: u32,
        store: &MemoryStore,
    ) -> Result<Option<rpc::Claimed>, RpcError> {
        if self.has(Bug::ClaimUnchecked)
            && let Some((at, task)) = self.facts.newest_claim.clone()
            && self.now - at < 5 * SECOND
        {
            return Ok(self.claimed(caller, task));
        }
        let Some(task) = at_once(store.claim_task(caller, claim, limit))? else { return Ok(None) };
        Ok(self.claimed(caller, task))
    }

    fn claimed(&mut self, caller: &rpc::Caller, task: rpc::Claimed) -> Option<rpc::Claimed> {
        let (id, attempt) = (task.task_id, task.attempt);
        let before = self.facts.claims.insert((id, attempt), caller.worker_id.clone());
        let newest = self.facts.attempts.insert(id, attempt).unwrap_or(0);
        let detail = |what: &str| format!("task {} attempt {attempt} {what}", short(id));
        if before.as_ref().is_some_and(|worker| *worker != caller.worker_id) {
            self.broke("I13 one worker an attempt", detail(&format!("is handed out twice, first to {before:?}")));
        } else if before.is_none() && attempt != newest + 1 {
            self.broke("I13 attempts rise", detail(&format!("follows attempt {newest}")));
        } else if attempt > ATTEMPTS_MAX {
            self.broke("a poison task ends", detail("is one too many"));
        }
        self.facts.newest_claim = Some((self.now, task.clone()));
        Some(task)
    }

    /// A completion arrives at the database.
    pub(super) fn complete_at_store(
        &mut self,
        caller: &rpc::Caller,
        complete: &rpc::Complete,
        store: &MemoryStore,
    ) -> Result<rpc::TaskEnd, RpcError> {
        let mut answer = at_once(store.complete_task(caller, complete));
        if self.has(Bug::TwoCompletions) && matches!(answer, Err(RpcError::Refused(_))) {
            answer = Ok(rpc::TaskEnd { status: "Complete".into(), attempts: complete.attempt });
        }
        if answer.as_ref().is_ok_and(|end| end.status == "Complete") {
            let (task, attempt) = (complete.task_id, complete.attempt);
            let before = self.facts.completions.insert(task, attempt);
            if before.is_some_and(|before| before != attempt) {
                let detail = format!("task {} was completed by attempts {before:?} and {attempt}", short(task));
                self.broke("I13 one accepted completion", detail);
            }
        }
        answer
    }
}
