//! The simulated agents: they register, beat, claim, work and report, over a network that loses calls.
//!
//! What they do is what `agent` does, without processes: a call that failed is made again with the
//! same keys; a completion is reported until it is answered; a refusal ends the agent, or the attempt.
//! An idle agent that found nothing asks again when something has changed and at its beats, not each
//! second: the answers in between would be the same.

use serde_json::Value;
use uuid::Uuid;

use super::at_once;
use super::faults::Fault;
use super::pods::Fate;
use super::timeline::{MINUTE, SECOND};
use super::world::{Event, Sim};
use crate::fleet::ids::{TaskId, WorkerId};
use crate::rpc;
use crate::store::memory::MemoryStore;
use crate::store::{RpcError, WorkerDoor as _};

/// Period of a beat.
const BEAT: i64 = 20 * SECOND;
/// Longest wait before an idle agent sees what has changed.
const POLL: i64 = 2 * SECOND;
/// An agent that has had no answer for this long leaves between tasks.
const DEAD_MAN: i64 = 30 * MINUTE;

/// The process in a pod.
#[derive(Debug)]
pub(super) struct Agent {
    caller: rpc::Caller,
    seq: i64,
    progress: i64,
    doing: Doing,
    /// Tells parts of its life apart: work that was planned in an earlier one is off.
    part: u32,
    is_draining: bool,
    last_contact: i64,
    /// It does not run any more.
    pub(super) is_gone: bool,
    /// It hangs: no beats, no work.
    is_hung: bool,
    /// Its program hangs: beats, no progress.
    is_stuck: bool,
    /// Something happened to it for which it may be ended.
    pub(super) is_impaired: bool,
    /// Tasks whose completion was accepted.
    pub(super) completed: u32,
    /// Time spent on tasks.
    pub(super) busy_micros: i64,
}

#[derive(Debug, Clone, PartialEq)]
enum Doing {
    /// It has not registered.
    Starting,
    /// It has no task, and asks for one by this id.
    Idle(Uuid),
    /// It has one.
    Working { task: Uuid, attempt: i64, since: i64 },
    /// It is done and has not been answered.
    Telling { task: Uuid, attempt: i64 },
}

/// What became of a call.
enum Call<T> {
    Done(T),
    Refused,
    Failed,
}

impl Agent {
    /// Nobody: a foreign pod's.
    pub(super) fn absent() -> Agent {
        let mut agent = Agent::new(WorkerId(String::new()), String::new(), Uuid::nil());
        agent.is_gone = true;
        agent
    }

    /// Before its first words.
    pub(super) fn new(worker: WorkerId, token: String, incarnation: Uuid) -> Agent {
        Agent {
            caller: rpc::Caller { worker_id: worker.0, worker_token: token, incarnation },
            seq: 0,
            progress: 0,
            doing: Doing::Starting,
            part: 0,
            is_draining: false,
            last_contact: 0,
            is_gone: false,
            is_hung: false,
            is_stuck: false,
            is_impaired: false,
            completed: 0,
            busy_micros: 0,
        }
    }

    /// The task it works on, and since when.
    pub(super) fn task(&self) -> Option<(Uuid, i64)> {
        match self.doing {
            Doing::Working { task, since, .. } if !self.is_gone => Some((task, since)),
            _ => None,
        }
    }

    /// Whether it speaks.
    pub(super) fn has_registered(&self) -> bool {
        self.doing != Doing::Starting && !self.is_gone
    }

    /// Its work is over, for whatever reason.
    pub(super) fn stop_work(&mut self, now: i64) {
        if let Doing::Working { since, .. } = self.doing {
            self.busy_micros += now - since;
        }
        self.doing = Doing::Idle(Uuid::nil());
        self.part += 1;
    }

    fn phase(&self) -> rpc::Phase {
        match self.doing {
            Doing::Working { .. } | Doing::Telling { .. } => rpc::Phase::Busy,
            _ if self.is_draining => rpc::Phase::Draining,
            Doing::Starting => rpc::Phase::Starting,
            Doing::Idle(_) => rpc::Phase::Ready,
        }
    }
}

impl Sim {
    fn agent(&mut self, pod: u32) -> Option<&mut Agent> {
        let agent = self.pods.get_mut(&pod).map(|pod| &mut pod.agent);
        agent.filter(|agent| !agent.is_gone && !agent.is_hung)
    }

    /// Makes a call for an agent, over the network.
    fn call<T>(&mut self, pod: u32, call: impl FnOnce(&mut Sim, &rpc::Caller) -> Result<T, RpcError>) -> Call<T> {
        let Some(agent) = self.agent(pod) else { return Call::Failed };
        let caller = agent.caller.clone();
        if self.outage_until > self.now || self.strikes(Fault::CallFails) {
            return Call::Failed;
        }
        let answer = call(self, &caller);
        if self.strikes(Fault::CallAnswerLost) {
            return Call::Failed;
        }
        let now = self.now;
        if let Some(agent) = self.agent(pod) {
            agent.last_contact = now;
        }
        match answer {
            Ok(done) => Call::Done(done),
            Err(RpcError::Refused(_)) => Call::Refused,
            Err(RpcError::Store(_)) => Call::Failed,
        }
    }

    /// The agent of a pod speaks for the first time, or tries to.
    pub(super) fn agent_starts(&mut self, pod: u32, store: &MemoryStore) {
        let now = self.now;
        let Some(agent) = self.agent(pod) else { return };
        if agent.last_contact == 0 {
            agent.last_contact = now;
        }
        let policy = self.policy.live.clone().unwrap_or_default();
        match self.call(pod, |_, caller| at_once(store.register(caller, &rpc::AgentInfo::default(), &policy))) {
            Call::Done(_) => {
                let claim = self.rng.uuid();
                if let Some(agent) = self.agent(pod) {
                    agent.doing = Doing::Idle(claim);
                }
                self.plan(0, Event::Beat(pod));
                self.go_on(pod, 0);
            }
            Call::Refused => self.agent_exits(pod, store),
            Call::Failed => self.plan(5 * SECOND, Event::AgentStarts(pod)),
        }
    }

    /// A beat is due.
    pub(super) fn beat(&mut self, pod: u32, store: &MemoryStore) {
        let Some(agent) = self.agent(pod) else { return };
        agent.seq += 1;
        if agent.task().is_some() && !agent.is_stuck {
            agent.progress += 1;
        }
        let beat = rpc::Heartbeat {
            seq: agent.seq,
            phase: agent.phase(),
            progress_seq: agent.progress,
            current_task: agent.task().map(|(task, _)| task),
            gpu: None,
            metrics: Value::Null,
        };
        match self.call(pod, |_, caller| at_once(store.heartbeat(caller, &beat))) {
            Call::Done(orders) => self.obey(pod, &orders, store),
            Call::Refused => return self.agent_exits(pod, store),
            Call::Failed => {
                let now = self.now;
                let cut_off = |agent: &&mut Agent| now - agent.last_contact > DEAD_MAN && agent.task().is_none();
                if self.agent(pod).filter(cut_off).is_some() {
                    return self.agent_exits(pod, store);
                }
            }
        }
        self.plan(BEAT, Event::Beat(pod));
        if self.waiting.contains(&pod) {
            self.go_on(pod, 0);
        }
    }

    fn obey(&mut self, pod: u32, orders: &rpc::Orders, store: &MemoryStore) {
        let now = self.now;
        let Some(agent) = self.agent(pod) else { return };
        if orders.stop {
            return self.agent_exits(pod, store);
        }
        if orders.cancel.is_some() && orders.cancel == agent.task().map(|(task, _)| task) {
            agent.stop_work(now);
            self.next_task(pod);
        }
        if orders.drain {
            self.agent_drains(pod);
        }
    }

    /// The agent is asked to finish and leave.
    pub(super) fn agent_drains(&mut self, pod: u32) {
        if let Some(agent) = self.agent(pod) {
            agent.is_draining = true;
            if matches!(agent.doing, Doing::Idle(_)) {
                self.go_on(pod, SECOND);
            }
        }
    }

    /// Plans the agent's next piece of work.
    fn go_on(&mut self, pod: u32, after: i64) {
        self.waiting.retain(|each| *each != pod);
        if let Some(agent) = self.agent(pod) {
            agent.part += 1;
            let part = agent.part;
            self.plan(after, Event::Work(pod, part));
        }
    }

    fn next_task(&mut self, pod: u32) {
        let claim = self.rng.uuid();
        if let Some(agent) = self.agent(pod) {
            agent.doing = Doing::Idle(claim);
            self.go_on(pod, 0);
        }
    }

    /// An agent goes on: claims, or is done with its task, or tells so.
    pub(super) fn work(&mut self, pod: u32, part: u32, store: &MemoryStore) {
        let Some(agent) = self.agent(pod).filter(|agent| agent.part == part) else { return };
        match agent.doing.clone() {
            Doing::Starting => {}
            Doing::Idle(_) if agent.is_draining => self.agent_exits(pod, store),
            Doing::Idle(claim) => self.claim(pod, claim, store),
            Doing::Working { task, attempt, .. } => self.task_ends(pod, task, attempt, store),
            Doing::Telling { task, attempt } => self.tell(pod, task, attempt, store),
        }
    }

    fn claim(&mut self, pod: u32, claim_id: Uuid, store: &MemoryStore) {
        let claim = rpc::Claim { claim_id, run_type: None };
        let limit = self.policy.user_task_limit;
        match self.call(pod, |sim, caller| sim.claim_at_store(caller, &claim, limit, store)) {
            Call::Refused => self.agent_exits(pod, store),
            Call::Failed => {
                let wait = self.rng.between(SECOND, 5 * SECOND);
                self.go_on(pod, wait);
            }
            Call::Done(None) => self.waiting.push(pod),
            Call::Done(Some(task)) => self.begins(pod, task.task_id, task.attempt),
        }
    }

    fn begins(&mut self, pod: u32, task: Uuid, attempt: i64) {
        let now = self.now;
        let (duration, is_poison) = self.load.begins(TaskId(task), now);
        let is_good = |pod: &super::pods::Pod| pod.fate == Fate::Good;
        if self.pods.get(&pod).is_some_and(is_good)
            && self.strikes(Fault::TaskHangs)
            && let Some(agent) = self.agent(pod)
        {
            (agent.is_stuck, agent.is_impaired) = (true, true);
        }
        let crashes = is_poison || self.strikes(Fault::CrashAtClaim);
        let Some(agent) = self.agent(pod) else { return };
        agent.doing = Doing::Working { task, attempt, since: now };
        agent.is_impaired |= crashes;
        let is_stuck = agent.is_stuck;
        if crashes {
            self.plan(SECOND, Event::BootCrash(pod));
        } else if !is_stuck {
            self.go_on(pod, duration);
        }
    }

    fn task_ends(&mut self, pod: u32, task: Uuid, attempt: i64, store: &MemoryStore) {
        let now = self.now;
        if let Some(agent) = self.agent(pod) {
            agent.stop_work(now);
            agent.doing = Doing::Telling { task, attempt };
        }
        self.tell(pod, task, attempt, store);
    }

    fn tell(&mut self, pod: u32, task: Uuid, attempt: i64, store: &MemoryStore) {
        let complete = rpc::Complete { task_id: task, attempt, output: Value::Null };
        match self.call(pod, |sim, caller| sim.complete_at_store(caller, &complete, store)) {
            Call::Done(end) => {
                if end.status == "Complete"
                    && let Some(agent) = self.agent(pod)
                {
                    agent.completed += 1;
                }
                self.next_task(pod);
                self.queue_changed();
            }
            Call::Refused => self.next_task(pod),
            Call::Failed => {
                let wait = self.rng.between(SECOND, 10 * SECOND);
                self.go_on(pod, wait);
            }
        }
    }

    /// Something may have become claimable.
    pub(super) fn queue_changed(&mut self) {
        for pod in std::mem::take(&mut self.waiting) {
            let after = self.rng.between(0, POLL);
            self.go_on(pod, after);
        }
    }

    fn agent_exits(&mut self, pod: u32, store: &MemoryStore) {
        let report = rpc::ExitReport { reason: "simulated".into(), ..rpc::ExitReport::default() };
        // A good-bye that does not arrive changes nothing.
        let _ = self.call(pod, |_, caller| at_once(store.exit(caller, &report)));
        self.pod_over(pod, Some(0), None);
    }

    // --- what befalls agents ---

    /// One of the agents that run well, or none.
    pub(super) fn some_agent(&mut self) -> Option<u32> {
        let runs = |agent: &Agent| agent.has_registered() && !agent.is_hung;
        let running: Vec<u32> = self.pods.iter().filter(|(_, pod)| runs(&pod.agent)).map(|(n, _)| *n).collect();
        let which = usize::try_from(self.rng.below(running.len() as u64)).unwrap_or(0);
        running.get(which).copied()
    }

    /// The agent hangs, for good or for a while.
    pub(super) fn agent_hangs(&mut self, pod: u32, wakes: bool) {
        if let Some(agent) = self.agent(pod) {
            (agent.is_hung, agent.is_impaired) = (true, true);
        }
        self.waiting.retain(|each| *each != pod);
        if wakes {
            let after = self.rng.between(4 * MINUTE, 15 * MINUTE);
            self.plan(after, Event::AgentWakes(pod));
        }
    }

    pub(super) fn agent_wakes(&mut self, pod: u32) {
        if let Some(pod) = self.pods.get_mut(&pod) {
            pod.agent.is_hung = false;
        }
        // Every other one says what has become of its task before it hears that nobody waits for it.
        let (beat, work) = if pod.is_multiple_of(2) { (SECOND, 0) } else { (0, SECOND) };
        self.plan(beat, Event::Beat(pod));
        self.go_on(pod, work);
    }
}
