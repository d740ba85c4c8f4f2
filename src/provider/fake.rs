//! A provider of tests and the simulator: pods in memory, and a script of everything that goes
//! wrong with real ones.
//!
//! Without a script each call works. Scripted answers are used up in order, one a call. Nothing
//! runs inside a pod: tests speak for the agents, with the tokens that [`FakeProvider::requests`]
//! remembers.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Listing, Pod, PodRequest, Provider, ProviderError};
use crate::fleet::ids::PodId;
use crate::fleet::snapshot::PodStatus;

/// What becomes of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnCreate {
    /// It works.
    Work,
    /// The pod is made and the answer lost.
    LoseAnswer,
    /// The request is lost: no pod, no answer.
    LoseRequest,
    /// It never comes back; no pod.
    Hang,
    /// This error; no pod.
    Fail(ProviderError),
}

/// What becomes of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnList {
    /// It is complete.
    Work,
    /// It lacks the newest pods, that many, and says so.
    Lack(usize),
    /// It lacks the newest pods, that many, and does not know it: a list that lags.
    Lag(usize),
    /// This error.
    Fail(ProviderError),
}

/// Pods in memory.
#[derive(Debug, Default)]
pub struct FakeProvider {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pods: Vec<Pod>,
    creates: VecDeque<OnCreate>,
    lists: VecDeque<OnList>,
    terminates: VecDeque<ProviderError>,
    requests: Vec<PodRequest>,
    drained: Vec<PodId>,
    terminated: Vec<PodId>,
    lines: Vec<String>,
    balance: Option<f64>,
}

impl FakeProvider {
    /// No pods, no script.
    pub fn new() -> FakeProvider {
        FakeProvider::default()
    }

    /// Adds to the script of creates.
    pub fn on_create(&self, answers: impl IntoIterator<Item = OnCreate>) {
        self.lock().creates.extend(answers);
    }

    /// Adds to the script of listings.
    pub fn on_list(&self, answers: impl IntoIterator<Item = OnList>) {
        self.lock().lists.extend(answers);
    }

    /// Adds to the script of terminations: errors, after which the pod still runs.
    pub fn on_terminate(&self, errors: impl IntoIterator<Item = ProviderError>) {
        self.lock().terminates.extend(errors);
    }

    /// Forgets what is left of the script.
    pub fn clear_script(&self) {
        let mut state = self.lock();
        state.creates.clear();
        state.lists.clear();
        state.terminates.clear();
    }

    /// Sets what every pod's last lines are.
    pub fn set_last_lines(&self, lines: &[&str]) {
        self.lock().lines = lines.iter().map(|line| (*line).to_owned()).collect();
    }

    /// Sets what the account holds.
    pub fn set_balance(&self, usd: Option<f64>) {
        self.lock().balance = usd;
    }

    /// Changes a pod as the provider shows it.
    pub fn change(&self, id: &PodId, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.lock().pods.iter_mut().find(|pod| pod.id == *id) {
            change(pod);
        }
    }

    /// Puts a pod there that nobody asked for.
    pub fn plant(&self, pod: Pod) {
        self.lock().pods.push(pod);
    }

    /// All pods that exist.
    pub fn pods(&self) -> Vec<Pod> {
        self.lock().pods.clone()
    }

    /// Every create that was asked for, in order.
    pub fn requests(&self) -> Vec<PodRequest> {
        self.lock().requests.clone()
    }

    /// Every pod that was asked to leave, in order.
    pub fn drained(&self) -> Vec<PodId> {
        self.lock().drained.clone()
    }

    /// Every pod that was terminated, in order.
    pub fn terminated(&self) -> Vec<PodId> {
        self.lock().terminated.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The answer to a create; null = it never comes.
    fn create(&mut self, request: &PodRequest) -> Option<Result<PodId, ProviderError>> {
        self.requests.push(request.clone());
        let lost = || ProviderError::Ambiguous("the answer was lost".to_owned());
        Some(match self.creates.pop_front().unwrap_or(OnCreate::Work) {
            OnCreate::Work => Ok(self.make(request)),
            OnCreate::LoseAnswer => {
                self.make(request);
                Err(lost())
            }
            OnCreate::LoseRequest => Err(lost()),
            OnCreate::Hang => return None,
            OnCreate::Fail(error) => Err(error),
        })
    }

    fn make(&mut self, request: &PodRequest) -> PodId {
        let id = PodId(format!("pod-{}", self.requests.len()));
        self.pods.push(Pod {
            id: id.clone(),
            name: request.name.clone(),
            status: PodStatus::Running,
            exit_code: None,
            signal: None,
            created_at: None,
        });
        id
    }

    fn without_newest(&self, lacking: usize) -> Vec<Pod> {
        self.pods[..self.pods.len().saturating_sub(lacking)].to_vec()
    }
}

#[async_trait]
impl Provider for FakeProvider {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn create(&self, request: &PodRequest) -> Result<PodId, ProviderError> {
        let answer = self.lock().create(request);
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn list(&self) -> Result<Listing, ProviderError> {
        let mut state = self.lock();
        match state.lists.pop_front().unwrap_or(OnList::Work) {
            OnList::Work => Ok(Listing { pods: state.pods.clone(), missing: None }),
            OnList::Lag(lacking) => Ok(Listing { pods: state.without_newest(lacking), missing: None }),
            OnList::Lack(lacking) => {
                let missing = Some(format!("{lacking} pods were cut off"));
                Ok(Listing { pods: state.without_newest(lacking), missing })
            }
            OnList::Fail(error) => Err(error),
        }
    }

    async fn drain(&self, pod: &PodId) -> Result<(), ProviderError> {
        self.lock().drained.push(pod.clone());
        Ok(())
    }

    async fn terminate(&self, pod: &PodId) -> Result<(), ProviderError> {
        let mut state = self.lock();
        if let Some(error) = state.terminates.pop_front() {
            return Err(error);
        }
        state.terminated.push(pod.clone());
        state.pods.retain(|each| each.id != *pod);
        Ok(())
    }

    async fn balance(&self) -> Result<Option<f64>, ProviderError> {
        Ok(self.lock().balance)
    }

    async fn last_lines(&self, _pod: &PodId) -> Result<Vec<String>, ProviderError> {
        Ok(self.lock().lines.clone())
    }
}
