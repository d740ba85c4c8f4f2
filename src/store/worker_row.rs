//! A worker's row, and what each event makes of it.
//!
//! Pure: the stores load a row, let it happen here, and save it; so that two databases cannot
//! follow two state machines. A change that the table of `fleet::state` forbids leaves the row as
//! it is and says so in `quarantine`; it never stops anybody else.

use uuid::Uuid;

use super::{SpawnAnswer, WorkerEnd, WorkerRow};
use crate::clock::Time;
use crate::fleet::cell::Offer;
use crate::fleet::ids::{PodId, TaskId, WorkerId};
use crate::fleet::outcome::Outcome;
use crate::fleet::refusal::Refusal;
use crate::fleet::snapshot::{Leaving, Worker, WorkerLive};
use crate::fleet::state::{Status, WorkerState};
use crate::rpc;

/// Most lines of evidence that a row keeps; the last ones.
pub(super) const EVIDENCE_LINES_MAX: usize = 200;
/// Longest line of evidence, and longest reason, bytes.
pub(super) const TEXT_BYTES_MAX: usize = 4_096;

/// A worker's row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WorkerData {
    pub(super) id: WorkerId,
    /// The old word; follows the state, but for ended rows of an old system.
    pub(super) status: Status,
    pub(super) state: WorkerState,
    pub(super) state_since: Time,
    pub(super) created_at: Time,
    pub(super) pool: String,
    pub(super) token_sha256: Option<[u8; 32]>,
    pub(super) pod_id: Option<PodId>,
    pub(super) incarnation: Option<Uuid>,
    pub(super) beat_seq: Option<i64>,
    pub(super) progress_seq: Option<i64>,
    pub(super) promoted_at: Option<Time>,
    pub(super) first_heartbeat_at: Option<Time>,
    pub(super) last_heartbeat_at: Option<Time>,
    pub(super) progress_at: Option<Time>,
    pub(super) idle_since: Option<Time>,
    pub(super) tasks_claimed: u32,
    pub(super) leaving: Option<Leaving>,
    pub(super) ended_at: Option<Time>,
    pub(super) outcome: Option<Outcome>,
    pub(super) reason: Option<String>,
    pub(super) actor: Option<String>,
    pub(super) evidence: Vec<String>,
    pub(super) info: Option<rpc::AgentInfo>,
    pub(super) exited_at: Option<Time>,
    pub(super) exit_report: Option<rpc::ExitReport>,
    pub(super) quarantine: Option<String>,
    pub(super) offer: Offer,
    pub(super) refusal: Option<Refusal>,
}

impl WorkerData {
    /// The row of a worker that is to be asked for.
    pub(super) fn requesting(
        id: WorkerId,
        pool: String,
        token_sha256: [u8; 32],
        offer: Offer,
        now: Time,
    ) -> WorkerData {
        WorkerData {
            id,
            status: Status::Spawning,
            state: WorkerState::Requesting,
            state_since: now,
            created_at: now,
            pool,
            token_sha256: Some(token_sha256),
            pod_id: None,
            incarnation: None,
            beat_seq: None,
            progress_seq: None,
            promoted_at: None,
            first_heartbeat_at: None,
            last_heartbeat_at: None,
            progress_at: None,
            idle_since: None,
            tasks_claimed: 0,
            leaving: None,
            ended_at: None,
            outcome: None,
            reason: None,
            actor: None,
            evidence: Vec::new(),
            info: None,
            exited_at: None,
            exit_report: None,
            quarantine: None,
            offer,
            refusal: None,
        }
    }

    /// A worker that a file names, seen at `as_of`. Nobody can speak for it.
    pub(super) fn imported(worker: &Worker, as_of: Time) -> WorkerData {
        let live = worker.live.as_ref();
        let state = live.map_or(by_status(worker), |live| live.state);
        let ended = worker.is_ended() || state.is_ended();
        let mut row = WorkerData::requesting(
            worker.id.clone(),
            live.map_or_else(|| "default".to_owned(), |live| live.pool.clone()),
            [0; 32],
            Offer { cell: worker.cell().cloned(), usd_per_hour: live.and_then(|live| live.usd_per_hour) },
            worker.created_at,
        );
        row.token_sha256 = None;
        row.state = if ended { WorkerState::Gone } else { state };
        row.status = if ended { worker.status } else { row.state.status() };
        row.state_since = live.map_or(worker.promoted_at.unwrap_or(worker.created_at), |live| live.state_since);
        row.pod_id = live.and_then(|live| live.pod_id.clone());
        row.promoted_at = worker.promoted_at;
        row.first_heartbeat_at = worker.first_heartbeat_at.or(worker.last_heartbeat_at);
        row.last_heartbeat_at = worker.last_heartbeat_at.or(worker.first_heartbeat_at);
        row.progress_at = live.and_then(|live| live.progress_at);
        row.idle_since = live.and_then(|live| live.idle_since);
        row.tasks_claimed = worker.tasks_claimed.unwrap_or(0);
        row.leaving = live.and_then(|live| live.leaving.clone());
        row.reason = worker.reason.clone();
        if ended {
            row.ended_at = Some(worker.ended_at.unwrap_or(as_of));
            row.outcome = Some(worker.outcome().unwrap_or(Outcome::Unknown));
            row.actor = Some("import".into());
            if !row.status.is_ended() {
                row.status = Status::Terminated;
            }
        }
        row
    }

    /// Its intent once more: while its agent has not spoken, a pod may carry the later token.
    pub(super) fn requested_again(&mut self, token_sha256: [u8; 32]) {
        if self.state == WorkerState::Requesting && self.incarnation.is_none() {
            self.token_sha256 = Some(token_sha256);
        }
    }

    // --- what its agent says ---

    /// The start of an agent. `known`: this incarnation was here before.
    pub(super) fn register(
        &mut self,
        caller: &rpc::Caller,
        info: &rpc::AgentInfo,
        known: bool,
        now: Time,
    ) -> Result<(), rpc::Refusal> {
        self.admit_token(caller)?;
        if self.incarnation != Some(caller.incarnation) {
            if known {
                return Err(rpc::Refusal::superseded("a later start of this agent has taken over"));
            }
            self.incarnation = Some(caller.incarnation);
            self.beat_seq = None;
            self.progress_seq = None;
            self.exited_at = None;
        }
        self.info = Some(info.clone());
        if self.state.may_become(WorkerState::Alive) {
            self.enter(WorkerState::Alive, now);
        } else if self.state == WorkerState::Planned {
            self.refuse(WorkerState::Alive, "its agent spoke before the provider was asked");
        }
        Ok(())
    }

    /// Whether the caller is this worker's agent, as it was started last.
    pub(super) fn admit(&self, caller: &rpc::Caller) -> Result<(), rpc::Refusal> {
        self.admit_token(caller)?;
        match self.incarnation {
            Some(incarnation) if incarnation == caller.incarnation => Ok(()),
            Some(_) => Err(rpc::Refusal::superseded("a later start of this agent has taken over")),
            None => Err(rpc::Refusal::superseded("this start of the agent has not registered")),
        }
    }

    fn admit_token(&self, caller: &rpc::Caller) -> Result<(), rpc::Refusal> {
        if self.token_sha256 != Some(token_digest(&caller.worker_token)) {
            return Err(rpc::Refusal::unknown_caller());
        }
        if self.state.is_ended() {
            return Err(rpc::Refusal::superseded("this worker has ended"));
        }
        Ok(())
    }

    /// A beat. `in_hand`: tasks in progress that are its own. False: an old beat, nothing changed.
    pub(super) fn beat(&mut self, beat: &rpc::Heartbeat, in_hand: u32, now: Time) -> bool {
        if self.beat_seq.is_some_and(|seq| beat.seq <= seq) {
            return false;
        }
        self.beat_seq = Some(beat.seq);
        self.first_heartbeat_at.get_or_insert(now);
        self.last_heartbeat_at = Some(now);
        if beat.progress_seq > self.progress_seq.unwrap_or(0) {
            self.progress_at = Some(now);
        }
        self.progress_seq = Some(beat.progress_seq);
        match beat.phase {
            rpc::Phase::Starting => self.reach(WorkerState::Alive, now),
            // A claim that was answered while this beat was under way makes the worker busy.
            rpc::Phase::Ready if in_hand == 0 => self.reach(WorkerState::Idle, now),
            rpc::Phase::Ready | rpc::Phase::Busy => self.reach(WorkerState::Busy, now),
            rpc::Phase::Draining => self.reach(WorkerState::Draining, now),
        }
        if matches!(beat.phase, rpc::Phase::Ready | rpc::Phase::Busy) {
            self.promoted_at.get_or_insert(now);
        }
        true
    }

    /// What the fleet wants of its agent; `cancel` is the task whose program is to be ended.
    pub(super) fn orders(&self, cancel: Option<Uuid>) -> rpc::Orders {
        let stop = self.state == WorkerState::Terminating;
        rpc::Orders { drain: stop || self.state == WorkerState::Draining, stop, cancel }
    }

    /// Whether it may be given a task.
    pub(super) fn may_claim(&self) -> bool {
        self.exited_at.is_none() && matches!(self.state, WorkerState::Alive | WorkerState::Idle | WorkerState::Busy)
    }

    /// It has been given a task.
    pub(super) fn claimed(&mut self, now: Time) {
        self.reach(WorkerState::Busy, now);
        self.promoted_at.get_or_insert(now);
        self.progress_at = Some(now);
        self.tasks_claimed = self.tasks_claimed.saturating_add(1);
    }

    /// A task has left its hands; `in_hand` are still there.
    pub(super) fn task_over(&mut self, in_hand: u32, now: Time) {
        self.progress_at = Some(now);
        if in_hand == 0 && self.state == WorkerState::Busy {
            self.reach(WorkerState::Idle, now);
        }
    }

    /// Its agent's last words.
    pub(super) fn exit(&mut self, report: &rpc::ExitReport, now: Time) {
        let mut report = report.clone();
        report.reason = clamp(&report.reason);
        report.last_lines = clamp_lines(&report.last_lines);
        self.exit_report = Some(report);
        self.exited_at.get_or_insert(now);
    }

    // --- what the orchestrator says ---

    /// It is asked to leave. An ended worker stays as it is; the first outcome stays.
    pub(super) fn leave(&mut self, state: WorkerState, outcome: Outcome, reason: &str, now: Time) {
        if self.state.is_ended() {
            return;
        }
        let known = matches!(state, WorkerState::Draining | WorkerState::Terminating);
        if !known || !self.state.may_become(state) {
            // Asked to drain while it is being terminated: it is leaving already.
            if self.state != WorkerState::Terminating {
                self.refuse(state, "it was asked to leave");
            }
            return;
        }
        self.leaving.get_or_insert(Leaving { outcome, reason: clamp(reason), since: now });
        self.enter(state, now);
    }

    /// The provider's answer to its spawn; the error is what cannot be.
    pub(super) fn spawn_answer(&mut self, answer: &SpawnAnswer, now: Time) -> Result<(), String> {
        match answer {
            SpawnAnswer::Created { pod_id } => {
                if let Some(known) = self.pod_id.as_ref().filter(|known| *known != pod_id) {
                    let text = format!("its pod is {known}; {pod_id} is another one");
                    self.quarantine = Some(text.clone());
                    return Err(text);
                }
                self.pod_id = Some(pod_id.clone());
                if self.state.may_become(WorkerState::Created) {
                    self.enter(WorkerState::Created, now);
                }
                Ok(())
            }
            SpawnAnswer::Rejected { outcome, reason, refusal } => {
                if self.state.is_ended() {
                    return Ok(());
                }
                if !self.state.may_become(WorkerState::Rejected) && self.state != WorkerState::Ambiguous {
                    return Err(self.refuse(WorkerState::Rejected, "the provider refused"));
                }
                let state =
                    if self.state == WorkerState::Ambiguous { WorkerState::Gone } else { WorkerState::Rejected };
                let end = WorkerEnd {
                    outcome: *outcome,
                    reason: reason.clone(),
                    actor: "provider".into(),
                    evidence: Vec::new(),
                };
                self.refusal = *refusal;
                self.close(state, &end, now);
                Ok(())
            }
            SpawnAnswer::Ambiguous { reason } => {
                if self.state.may_become(WorkerState::Ambiguous) {
                    self.enter(WorkerState::Ambiguous, now);
                    self.evidence.push(clamp(reason));
                }
                Ok(())
            }
        }
    }

    /// The provider shows its pod; what is known to be past already is no error.
    pub(super) fn pod_state(&mut self, state: WorkerState, now: Time) -> Result<(), String> {
        if !matches!(state, WorkerState::Provisioning | WorkerState::Starting) {
            return Err(format!("a provider does not show the state {}", state.word()));
        }
        if self.state == WorkerState::Planned {
            return Err(self.refuse(state, "a pod was seen before the provider was asked"));
        }
        if self.state.may_become(state) {
            self.enter(state, now);
        }
        Ok(())
    }

    /// Its end. False: it had ended before.
    pub(super) fn end(&mut self, end: &WorkerEnd, now: Time) -> bool {
        if self.state.is_ended() {
            return false;
        }
        self.close(WorkerState::Gone, end, now);
        true
    }

    /// How it ended, for the error of a task that ended with it.
    pub(super) fn end_in_words(&self) -> String {
        let outcome = self.outcome.map_or("unknown", Outcome::word);
        format!("worker {} ended ({outcome}: {})", self.id, self.reason.as_deref().unwrap_or_default())
    }

    fn close(&mut self, state: WorkerState, end: &WorkerEnd, now: Time) {
        self.enter(state, now);
        self.ended_at = Some(now);
        let (outcome, reason) = match &self.leaving {
            Some(leaving) => (leaving.outcome, leaving.reason.clone()),
            None => (end.outcome, clamp(&end.reason)),
        };
        self.outcome = Some(outcome);
        self.reason = Some(reason);
        self.actor = Some(clamp(&end.actor));
        self.evidence.extend_from_slice(&end.evidence);
        self.evidence = clamp_lines(&self.evidence);
        self.idle_since = None;
    }

    // --- the table ---

    /// Goes on to `state`; what lies behind already is normal (words arrive late and twice).
    fn reach(&mut self, state: WorkerState, now: Time) {
        if self.state.may_become(state) {
            self.enter(state, now);
        } else if self.state == WorkerState::Planned {
            self.refuse(state, "its agent spoke before the provider was asked");
        } else if self.state != WorkerState::Alive && self.state.may_become(WorkerState::Alive) {
            // The first words of an agent that beats before it has registered.
            self.enter(WorkerState::Alive, now);
            self.reach(state, now);
        }
    }

    fn enter(&mut self, state: WorkerState, now: Time) {
        if self.state == state {
            return;
        }
        self.state = state;
        self.status = state.status();
        self.state_since = now;
        self.idle_since = (state == WorkerState::Idle).then_some(now);
    }

    fn refuse(&mut self, state: WorkerState, why: &str) -> String {
        let text = format!("{} cannot become {}: {why}", self.state.word(), state.word());
        self.quarantine = Some(text.clone());
        text
    }

    // --- reading ---

    /// The row as a snapshot has it.
    pub(super) fn worker(&self, tasks: Vec<TaskId>) -> Worker {
        Worker {
            id: self.id.clone(),
            created_at: self.created_at,
            status: self.status,
            promoted_at: self.promoted_at,
            first_heartbeat_at: self.first_heartbeat_at,
            last_heartbeat_at: self.last_heartbeat_at,
            ended_at: self.ended_at,
            reason: self.reason.clone(),
            running_tasks: u32::try_from(tasks.len()).unwrap_or(u32::MAX),
            tasks_claimed: Some(self.tasks_claimed),
            live: Some(WorkerLive {
                state: self.state,
                state_since: self.state_since,
                outcome: self.outcome,
                leaving: self.leaving.clone().filter(|_| self.ended_at.is_none()),
                pool: self.pool.clone(),
                pod_id: self.pod_id.clone(),
                pod: None,
                progress_at: self.progress_at,
                idle_since: self.idle_since,
                tasks,
                cell: self.offer.cell.clone(),
                usd_per_hour: self.offer.usd_per_hour,
                refusal: self.refusal,
                suspects: Vec::new(),
                unlisted: None,
            }),
        }
    }

    /// The row as a detail page has it.
    pub(super) fn detail(&self, tasks: Vec<TaskId>) -> WorkerRow {
        WorkerRow {
            worker: self.worker(tasks),
            actor: self.actor.clone(),
            evidence: self.evidence.clone(),
            info: self.info.clone(),
            exit_report: self.exit_report.clone(),
        }
    }
}

/// What the old word says of a worker that is shown without its state.
fn by_status(worker: &Worker) -> WorkerState {
    match worker.status {
        Status::Spawning => WorkerState::Starting,
        Status::Active if worker.running_tasks > 0 => WorkerState::Busy,
        Status::Active => WorkerState::Alive,
        Status::Terminating => WorkerState::Terminating,
        Status::Error | Status::Terminated | Status::Crashed => WorkerState::Gone,
    }
}

/// SHA-256 of a worker's token: what is stored and compared.
pub(super) fn token_digest(token: &str) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(token.as_bytes()).into()
}

/// The text, cut to [`TEXT_BYTES_MAX`] at a character's border.
pub(super) fn clamp(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

fn clamp_lines(lines: &[String]) -> Vec<String> {
    let skipped = lines.len().saturating_sub(EVIDENCE_LINES_MAX);
    lines.iter().skip(skipped).map(|line| clamp(line)).collect()
}
