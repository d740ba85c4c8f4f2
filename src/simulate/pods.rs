//! The simulated provider: cells with a capacity that comes and goes, and pods that boot, or do not.
//!
//! It lies as real ones do: answers are lost after the deed, listings lag behind and are cut, a
//! terminated pod runs on for a while. Foreign pods live on the same account.

use super::agents::Agent;
use super::faults::Fault;
use super::timeline::{MINUTE, SECOND};
use super::world::{ENV, Event, FLEET, Sim};
use crate::clock::Time;
use crate::fleet::cell::Offer;
use crate::fleet::ids::{PodId, WorkerId};
use crate::fleet::snapshot::PodStatus;
use crate::provider::{self, Listing, PodRequest, ProviderError};

/// A GPU type in a region, with an image.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    /// Its name in a trace.
    pub(super) name: String,
    /// What a request for it says, and what it costs; the cell of a fleet that names none has no name.
    pub(super) offer: Offer,
    /// Pods that may run there at the same time.
    pub(super) capacity: u32,
    /// No more than so many may until `few_until`; those that run go on.
    pub(super) few: u32,
    pub(super) few_until: i64,
    /// Its image crashes at boot before this instant.
    pub(super) broken_until: i64,
}

impl Cell {
    /// A cell in which nothing is wrong.
    pub(super) fn new(name: String, offer: Offer, capacity: u32) -> Cell {
        Cell { name, offer, capacity, few: 0, few_until: 0, broken_until: 0 }
    }

    /// Pods that may run there now.
    fn room(&self, now: i64) -> u32 {
        if self.few_until > now { self.few.min(self.capacity) } else { self.capacity }
    }
}

/// What a pod's boot will come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its agent speaks in time.
    Good,
    /// It never does, or late, or the image crashes.
    Bad,
}

/// A machine.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) id: PodId,
    pub(super) name: String,
    /// The worker it is for; none for a foreign pod.
    pub(super) worker: Option<WorkerId>,
    pub(super) cell: usize,
    pub(super) created: i64,
    pub(super) created_at: Time,
    pub(super) status: PodStatus,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    /// Not listed before this instant.
    pub(super) shown_from: i64,
    /// Not listed any more.
    pub(super) is_hidden: bool,
    /// When it stopped running.
    pub(super) over: Option<i64>,
    pub(super) fate: Fate,
    /// Whether whoever asked for it got its id, or found it again.
    pub(super) is_answered: bool,
    pub(super) agent: Agent,
}

/// What becomes of a create.
pub(super) struct Made {
    /// What is answered.
    pub(super) answer: Result<PodId, ProviderError>,
    /// Time until the answer, microseconds.
    pub(super) wait: i64,
}

impl Made {
    fn at_once(answer: Result<PodId, ProviderError>) -> Made {
        Made { answer, wait: 0 }
    }
}

impl Sim {
    /// A create arrives at the provider.
    pub(super) fn create(&mut self, request: &PodRequest) -> Made {
        self.facts.create_calls += 1;
        let cell = self.cell_of(request);
        let in_cell = self.pods.values().filter(|pod| pod.cell == cell && pod.over.is_none());
        let used = u32::try_from(in_cell.filter(|pod| pod.worker.is_some()).count()).unwrap_or(u32::MAX);
        if used >= self.cells[cell].room(self.now) {
            let words = "There are no longer any instances available with the requested specifications.";
            return Made::at_once(Err(ProviderError::Capacity(words.into())));
        }
        if self.strikes(Fault::CreateRefused) {
            let words = "the simulated provider does not want to".to_owned();
            let refusal = match self.rng.below(3) {
                0 => ProviderError::Capacity(words),
                1 => ProviderError::Unreachable(words),
                _ => ProviderError::Refused(words),
            };
            return Made::at_once(Err(refusal));
        }
        let lost = |words: &str| Err(ProviderError::Ambiguous(words.to_owned()));
        if self.strikes(Fault::CreateRequestLost) {
            self.struck(Fault::AmbiguousCreate);
            return Made::at_once(lost("the request was lost"));
        }
        let id = self.make(request, cell);
        for (fault, words) in [
            (Fault::CreateErrorButMade, "500 Internal Server Error"),
            (Fault::CreateAnswerLost, "connection reset"),
        ] {
            if self.strikes(fault) {
                self.struck(Fault::AmbiguousCreate);
                return Made::at_once(lost(words));
            }
        }
        if self.strikes(Fault::CreateHangs) {
            self.struck(Fault::AmbiguousCreate);
            return Made { answer: lost("it took too long"), wait: 10 * MINUTE };
        }
        Made::at_once(Ok(id))
    }

    /// The cell that a request names; one that names none gets the first.
    fn cell_of(&self, request: &PodRequest) -> usize {
        self.cells.iter().position(|cell| cell.offer.cell == request.cell).unwrap_or(0)
    }

    fn make(&mut self, request: &PodRequest, cell: usize) -> PodId {
        let number = self.new_pod(request.name.clone(), Some(request.worker.clone()), cell);
        let (boot, fate) = self.boot(number, cell);
        let incarnation = self.rng.uuid();
        let lags = self.strikes(Fault::ListLags);
        let lag = if lags { self.rng.between(0, 60 * SECOND) } else { 0 };
        let machine = self.rng.between(10 * SECOND, 50 * SECOND).min(boot);
        let now = self.now;
        let Some(pod) = self.pods.get_mut(&number) else { return PodId(String::new()) };
        pod.fate = fate;
        pod.shown_from = now + lag;
        pod.agent = Agent::new(request.worker.clone(), request.token.0.clone(), incarnation);
        let id = pod.id.clone();
        self.plan(machine, Event::PodRuns(number));
        self.facts.pods_made += 1;
        id
    }

    /// How long a pod boots, and whether that comes to anything.
    fn boot(&mut self, number: u32, cell: usize) -> (i64, Fate) {
        let boot = match self.boots.get(usize::try_from(self.facts.pods_made).unwrap_or(usize::MAX)) {
            Some(boot) => *boot,
            None => self.rng.between(3 * MINUTE, 7 * MINUTE),
        };
        let broken = self.cells[cell].broken_until > self.now;
        if broken || self.strikes(Fault::PodCrashesAtBoot) {
            let after = self.rng.between(MINUTE, 4 * MINUTE);
            self.plan(after, Event::BootCrash(number));
            return (boot, Fate::Bad);
        }
        if self.strikes(Fault::PodNeverBoots) {
            let machine_runs = self.rng.chance(0.5);
            return (if machine_runs { boot } else { i64::MAX / 4 }, Fate::Bad);
        }
        if self.strikes(Fault::PodBootsSlowly) {
            let boot = self.rng.between(15 * MINUTE, 40 * MINUTE);
            self.plan(boot, Event::AgentStarts(number));
            return (boot, Fate::Bad);
        }
        self.plan(boot, Event::AgentStarts(number));
        (boot, Fate::Good)
    }

    fn new_pod(&mut self, name: String, worker: Option<WorkerId>, cell: usize) -> u32 {
        self.pods_ever += 1;
        let number = self.pods_ever;
        let pod = Pod {
            id: PodId(format!("pod-{number}")),
            name,
            worker,
            cell,
            created: self.now,
            created_at: self.provider_time(),
            status: PodStatus::Provisioning,
            exit_code: None,
            signal: None,
            shown_from: self.now,
            is_hidden: false,
            over: None,
            fate: Fate::Good,
            is_answered: false,
            agent: Agent::absent(),
        };
        self.pods.insert(number, pod);
        number
    }

    /// Somebody else makes a pod on the same account.
    pub(super) fn foreign_pod(&mut self) {
        let of_other_fleets =
            [format!("{FLEET}.{ENV}x.gpu-1"), format!("{FLEET}.prod.gpu-2"), "gpu-3".into(), "notebook".into()];
        let which = usize::try_from(self.rng.below(4)).unwrap_or(0);
        let number = self.new_pod(of_other_fleets[which].clone(), None, 0);
        if let Some(pod) = self.pods.get_mut(&number) {
            pod.status = PodStatus::Running;
        }
    }

    pub(super) fn pod_runs(&mut self, number: u32) {
        if let Some(pod) = self.pods.get_mut(&number).filter(|pod| pod.over.is_none()) {
            pod.status = PodStatus::Running;
        }
    }

    /// The process in the pod has ended; the pod stays listed until it is ended, and costs no more.
    pub(super) fn pod_over(&mut self, number: u32, exit_code: Option<i32>, signal: Option<i32>) {
        let now = self.now;
        let Some(pod) = self.pods.get_mut(&number).filter(|pod| pod.over.is_none()) else { return };
        pod.over = Some(now);
        (pod.status, pod.exit_code, pod.signal) = (PodStatus::Exited, exit_code, signal);
        pod.agent.stop_work(now);
        pod.agent.is_gone = true;
        let price = self.cells[pod.cell].offer.usd_per_hour.unwrap_or(0.0);
        if pod.worker.is_some() {
            self.facts.paid(now - pod.created, price, pod.agent.completed, pod.agent.busy_micros);
        }
        self.waiting.retain(|each| *each != number);
    }

    /// The pod is gone.
    pub(super) fn pod_gone(&mut self, number: u32) {
        self.pod_over(number, None, Some(9));
        if let Some(pod) = self.pods.get_mut(&number) {
            pod.is_hidden = true;
            self.plan(0, Event::Unlisted(number));
        }
    }

    /// A terminate arrives at the provider.
    pub(super) fn terminate(&mut self, id: &PodId) -> Result<(), ProviderError> {
        let Some((number, is_foreign)) = self.find(id) else { return Ok(()) };
        if is_foreign {
            self.broke("foreign", format!("{id} is somebody else's and was terminated"));
        }
        if self.strikes(Fault::TerminateFails) {
            return Err(ProviderError::Unreachable("the simulated provider is away".into()));
        }
        if self.strikes(Fault::TerminateLies) {
            let after = self.rng.between(MINUTE, 20 * MINUTE);
            self.plan(after, Event::LieEnds(number));
            if let Some(pod) = self.pods.get_mut(&number) {
                pod.is_hidden = true;
            }
            return Ok(());
        }
        self.pod_gone(number);
        if self.strikes(Fault::TerminateAnswerLost) {
            return Err(ProviderError::Ambiguous("connection reset".into()));
        }
        Ok(())
    }

    /// A drain arrives at the provider: the agent gets its signal.
    pub(super) fn drain(&mut self, id: &PodId) {
        if let Some((number, _)) = self.find(id) {
            self.agent_drains(number);
        }
    }

    fn find(&self, id: &PodId) -> Option<(u32, bool)> {
        let number: u32 = id.0.strip_prefix("pod-")?.parse().ok()?;
        Some((number, self.pods.get(&number)?.worker.is_none()))
    }

    /// What a listing shows that process.
    pub(super) fn list(&mut self, process: usize) -> Result<Listing, ProviderError> {
        self.processes[process].listed_at = self.now;
        if self.strikes(Fault::ListFails) {
            if self.has(super::bugs::Bug::FailedIsEmpty) {
                return Ok(Listing::default());
            }
            return Err(ProviderError::Unreachable("the simulated provider is away".into()));
        }
        let shown = self.pods.values().filter(|pod| !pod.is_hidden && pod.shown_from <= self.now);
        let mut pods: Vec<provider::Pod> = shown.map(listed).collect();
        let mut missing = None;
        if self.strikes(Fault::ListPartial) {
            let keep = usize::try_from(self.rng.below(pods.len() as u64 + 1)).unwrap_or(0);
            pods.truncate(keep);
            if !self.has(super::bugs::Bug::PartialIsWhole) {
                missing = Some("the second page did not come".to_owned());
            }
        }
        Ok(Listing { pods, missing })
    }

    /// The newest pod of that worker.
    pub(super) fn pod_of(&self, worker: &WorkerId) -> Option<(u32, &Pod)> {
        let own = self.pods.iter().rev().find(|(_, pod)| pod.worker.as_ref() == Some(worker));
        own.map(|(number, pod)| (*number, pod))
    }
}

fn listed(pod: &Pod) -> provider::Pod {
    provider::Pod {
        id: pod.id.clone(),
        name: pod.name.clone(),
        status: pod.status,
        exit_code: pod.exit_code,
        signal: pod.signal,
        created_at: Some(pod.created_at),
    }
}
