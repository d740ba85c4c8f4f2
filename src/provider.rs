//! The machines: who makes, lists and ends pods.
//!
//! A provider is slow, refuses for many reasons and loses answers; the types here keep apart what
//! the caller must do differently. "Not listed" is evidence only where the listing is complete.

pub mod fake;
pub mod local;

use async_trait::async_trait;

use crate::clock::Time;
use crate::fleet::cell::Cell;
use crate::fleet::ids::{PodId, WorkerId};
use crate::fleet::refusal::Refusal;
use crate::fleet::snapshot::PodStatus;

/// What a worker needs to come to life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRequest {
    /// The worker that it is for.
    pub worker: WorkerId,
    /// The pod's name, `<fleet>.<env>.<worker id>`.
    pub name: String,
    /// The pool whose machine is asked for.
    pub pool: String,
    /// The kind of machine, the place and the image; null where the fleet names none.
    pub cell: Option<Cell>,
    /// The worker's own narrow token; never a service key.
    pub token: WorkerToken,
}

/// A worker's token. Its text never appears in Debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerToken(pub String);

impl std::fmt::Debug for WorkerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkerToken(hidden)")
    }
}

/// A pod as the provider lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The provider's name for it.
    pub id: PodId,
    /// Our name for it.
    pub name: String,
    /// Its state.
    pub status: PodStatus,
    /// Exit code of the agent, where known.
    pub exit_code: Option<i32>,
    /// Signal that ended the agent, where known.
    pub signal: Option<i32>,
    /// When it was made, by the provider's clock.
    pub created_at: Option<Time>,
}

/// All pods, or as many as could be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The pods.
    pub pods: Vec<Pod>,
    /// Why something may be missing; None = the listing is complete.
    pub missing: Option<String>,
}

/// What a provider says beside yes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// No machine of that kind just now.
    #[error("no capacity: {0}")]
    Capacity(String),
    /// It will not do this, however often it is asked.
    #[error("refused: {0}")]
    Refused(String),
    /// Nobody knows whether it was done.
    #[error("answer lost: {0}")]
    Ambiguous(String),
    /// It cannot be asked just now; nothing was done.
    #[error("not reachable: {0}")]
    Unreachable(String),
    /// It was asked too often; nothing was done.
    #[error("asked too often: {0}")]
    Throttled(String),
    /// The account is empty; nothing was done.
    #[error("the account is empty: {0}")]
    Balance(String),
}

impl ProviderError {
    /// Why it refused; none where it is not known whether it did.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            ProviderError::Capacity(_) => Some(Refusal::Capacity),
            ProviderError::Refused(_) => Some(Refusal::Request),
            ProviderError::Unreachable(_) => Some(Refusal::Unreachable),
            ProviderError::Throttled(_) => Some(Refusal::Throttled),
            ProviderError::Balance(_) => Some(Refusal::Balance),
            ProviderError::Ambiguous(_) => None,
        }
    }
}

/// Who makes, lists and ends pods.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Its name, such as `local` or `runpod`.
    fn name(&self) -> &'static str;
    /// Makes a pod. Not idempotent.
    async fn create(&self, request: &PodRequest) -> Result<PodId, ProviderError>;
    /// Lists all pods, ours or not.
    async fn list(&self) -> Result<Listing, ProviderError>;
    /// Asks a pod to finish what it does and leave (SIGTERM, where there are signals).
    async fn drain(&self, pod: &PodId) -> Result<(), ProviderError>;
    /// Ends a pod. Idempotent; a pod that is not there has ended.
    async fn terminate(&self, pod: &PodId) -> Result<(), ProviderError>;
    /// What the account holds, dollars; None where the provider knows of no account.
    async fn balance(&self) -> Result<Option<f64>, ProviderError> {
        Ok(None)
    }
    /// The pod's last lines, to be kept before it is ended; empty where there are none.
    async fn last_lines(&self, pod: &PodId) -> Result<Vec<String>, ProviderError>;
}
