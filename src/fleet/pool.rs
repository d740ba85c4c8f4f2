//! A pool: workers with one policy, for one set of task types.
//!
//! A fleet without declared pools has one, `default`, which has the fleet's own numbers and takes
//! every task and every worker. Declared pools share the fleet's ceiling, its budget and its failure
//! rate; floor, ceiling, buffer, cells and pace are their own. A task type belongs to one pool; at
//! most one pool names none and takes the rest. A task whose type no pool takes waits as
//! `wrong_type`.

use serde::{Deserialize, Serialize};

use super::cell::Offer;
use super::policy::{Policy, PolicyLive};

/// The pool of a fleet that names none.
pub const DEFAULT_POOL: &str = "default";
/// Most pools of a fleet.
pub const POOLS_MAX: usize = 64;

/// Workers with one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The task types it takes; empty = all that no other pool names.
    pub task_types: Vec<String>,
    /// The cells it may use, best first; empty = one without a name.
    pub cells: Vec<Offer>,
    /// Workers to have, demand or not.
    pub min_workers: u32,
    /// Workers never to exceed; 0 stops the pool.
    pub max_workers: u32,
    /// Idle workers to keep.
    pub idle_buffer: u32,
    /// Workers that may be asked for in one cycle.
    pub spawns_per_cycle_max: u32,
}

impl Default for Pool {
    fn default() -> Pool {
        let (policy, live) = (Policy::default(), PolicyLive::default());
        Pool {
            name: DEFAULT_POOL.to_owned(),
            task_types: Vec::new(),
            cells: Vec::new(),
            min_workers: 0,
            max_workers: policy.max_workers,
            idle_buffer: policy.idle_buffer,
            spawns_per_cycle_max: live.spawns_per_cycle_max,
        }
    }
}

impl Pool {
    /// The cells to choose from, best first; never empty.
    pub fn offers(&self) -> &[Offer] {
        const WITHOUT_A_NAME: &[Offer] = &[Offer { cell: None, usd_per_hour: None }];
        if self.cells.is_empty() { WITHOUT_A_NAME } else { &self.cells }
    }
}

/// Which tasks a pool takes: what the database must know to count and to hand out tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolTasks {
    /// The pool.
    pub pool: String,
    /// The task types it takes; empty = all that no other pool names.
    pub task_types: Vec<String>,
}

/// The pools of a policy; the fleet's own numbers as pool `default` where none is declared.
pub fn pools(policy: &Policy) -> Vec<Pool> {
    let live = policy.live.clone().unwrap_or_default();
    if !live.pools.is_empty() {
        return live.pools;
    }
    vec![Pool {
        name: DEFAULT_POOL.to_owned(),
        task_types: Vec::new(),
        cells: live.cells,
        min_workers: policy.min_workers,
        max_workers: policy.max_workers,
        idle_buffer: policy.idle_buffer,
        spawns_per_cycle_max: live.spawns_per_cycle_max,
    }]
}

/// Whether the policy declares its pools.
pub fn are_declared(policy: &Policy) -> bool {
    policy.live.as_ref().is_some_and(|live| !live.pools.is_empty())
}

/// What the database must know of the policy's pools; empty where one pool takes everything.
pub fn tasks_of(policy: &Policy) -> Vec<PoolTasks> {
    let declared = policy.live.iter().flat_map(|live| &live.pools);
    declared.map(|pool| PoolTasks { pool: pool.name.clone(), task_types: pool.task_types.clone() }).collect()
}

/// The fleet's policy with the pool's own numbers in their places.
pub fn policy_of(policy: &Policy, pool: &Pool) -> Policy {
    let mut own = policy.clone();
    own.min_workers = pool.min_workers;
    own.max_workers = pool.max_workers;
    own.idle_buffer = pool.idle_buffer;
    if let Some(live) = &mut own.live {
        live.spawns_per_cycle_max = pool.spawns_per_cycle_max;
    }
    own
}
