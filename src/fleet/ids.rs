//! Names of things, one type a kind, so that a task's id cannot stand where a worker's belongs.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Time;

/// A worker: `gpu-YYYYMMDD_HHMMSS-<8 hex>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

/// A task in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

/// The provider's name for a machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodId(pub String);

/// One process start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub Uuid);

/// Leadership number: raised at each take-over of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub i64);

impl WorkerId {
    /// The id of the worker that decision number `cycle` of `boot` plans as its `index`-th at
    /// `as_of`. Deterministic, so that the same snapshot names the same workers again.
    pub fn planned(as_of: Time, boot: BootId, cycle: i64, index: u32) -> WorkerId {
        let mut seed = Vec::with_capacity(28);
        seed.extend_from_slice(boot.0.as_bytes());
        seed.extend_from_slice(&cycle.to_be_bytes());
        seed.extend_from_slice(&index.to_be_bytes());
        let hash = fnv64(&seed);
        let suffix = (hash ^ (hash >> 32)) as u32;
        WorkerId(format!("gpu-{}-{suffix:08x}", as_of.strftime("%Y%m%d_%H%M%S")))
    }

    /// The pod's name: `<fleet>.<env>.<worker id>`.
    pub fn pod_name(&self, fleet: &str, env: &str) -> String {
        format!("{fleet}.{env}.{}", self.0)
    }

    /// The worker of a pod name, if the pod is of this fleet and env.
    pub fn from_pod_name(name: &str, fleet: &str, env: &str) -> Option<WorkerId> {
        let id = name.strip_prefix(fleet)?.strip_prefix('.')?.strip_prefix(env)?.strip_prefix('.')?;
        id.starts_with("gpu-").then(|| WorkerId(id.to_owned()))
    }
}

/// FNV-1a, 64 bit: small, stable across versions and machines; only for spreading, not secrecy.
fn fnv64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl std::fmt::Display for WorkerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Display for PodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for BootId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_planned_id_keeps_the_known_form_and_differs_by_index() {
        let at = clock::from_micros(1_760_636_131_000_000);
        let boot = BootId(Uuid::from_u128(7));
        let first = WorkerId::planned(at, boot, 638, 0);
        assert!(first.0.starts_with("gpu-20251016_173531-"), "{first}");
        assert_eq!(first.0.len(), "gpu-20251016_173531-673741fb".len());
        assert_eq!(first, WorkerId::planned(at, boot, 638, 0));
        assert_ne!(first, WorkerId::planned(at, boot, 638, 1));
        assert_ne!(first, WorkerId::planned(at, boot, 639, 0));
    }

    #[test]
    fn only_pods_of_our_fleet_and_env_are_ours() {
        let worker = WorkerId("gpu-20251016_173531-673741fb".into());
        let name = worker.pod_name("render", "prod");
        assert_eq!(WorkerId::from_pod_name(&name, "render", "prod"), Some(worker));
        assert_eq!(WorkerId::from_pod_name(&name, "render", "dev"), None);
        assert_eq!(WorkerId::from_pod_name("render.prod.db-1", "render", "prod"), None);
    }
}
