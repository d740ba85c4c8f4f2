//! Observe: one read of the database and one listing of the provider become a snapshot.
//!
//! The database is read first: whatever the listing then lacks cannot have been written down in
//! between. A listing that fails or is cut leaves the snapshot usable, and the snapshot says so;
//! a database that cannot be read leaves no snapshot at all, because "could not see" is not zero.
//!
//! A listed pod belongs to the worker that its name says, if the worker's row has that pod id or
//! none. Every other pod of our name that can still run stands under `unknown_pods`, and every pod
//! of a worker whose row has no pod id, since only there its id can be found for adoption.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::Instrument as _;

use super::memory::Memory;
use super::{CycleError, Scene};
use crate::clock::Time;
use crate::error;
use crate::fleet::breaker::cell::MEMORY_SECONDS;
use crate::fleet::ids::{Term, WorkerId};
use crate::fleet::policy::Policy;
use crate::fleet::snapshot::{
    Balance, Input, Inputs, Live, PodSeen, Quality, SCHEMA_VERSION, Snapshot, UnknownPod, Worker,
};
use crate::provider::{Listing, Pod};
use crate::store::FleetRead;

/// Ended workers are shown at least this long, however short the failure window is.
const ENDED_WITHIN_MIN: Duration = Duration::from_secs(MEMORY_SECONDS);
/// Pods that no row knows and that a snapshot names.
const UNKNOWN_PODS_MAX: usize = 1_000;

/// What is remembered from cycle to cycle; instants are this process's monotonic clock.
#[derive(Debug)]
pub(super) struct Observer {
    database_at: Duration,
    listing_at: Duration,
    balance: Option<(f64, Duration)>,
    memory: Memory,
}

/// Whose cycle it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// The cycle's number.
    pub(super) cycle: i64,
    /// The term it leads by.
    pub(super) term: Option<Term>,
    /// The monotonic clock.
    pub(super) now: Duration,
}

impl Observer {
    /// Of a process that has seen nothing yet, at `now`.
    pub(super) fn new(now: Duration) -> Observer {
        Observer { database_at: now, listing_at: now, balance: None, memory: Memory::default() }
    }

    /// Looks once.
    pub(super) async fn observe(&mut self, scene: &Scene, turn: Turn) -> Result<Snapshot, CycleError> {
        let read = self.read(scene, turn.now).await?;
        let listing = scene.within(scene.provider.list()).instrument(scene.call_span("list", None)).await;
        let provider = self.judge(&listing, turn.now);
        let pods = listing.map(|listing| listing.pods).unwrap_or_default();
        let balance = self.balance(scene, turn.now).await;
        let mut snapshot = snapshot(scene, turn, read, provider, &pods);
        if let Some(live) = &mut snapshot.live {
            live.balance = balance;
        }
        self.memory.add_to(&mut snapshot);
        Ok(snapshot)
    }

    /// What of the last observations was decided; fewer workers are wanted only after a while.
    pub(super) fn decided(&mut self, desired: u32, keep: Duration, as_of: Time) {
        self.memory.decided(desired, keep, as_of);
    }

    async fn balance(&mut self, scene: &Scene, now: Duration) -> Option<Balance> {
        let asked = scene.within(scene.provider.balance()).instrument(scene.call_span("balance", None)).await;
        let (quality, detail) = match asked {
            Ok(None) => return None,
            Ok(Some(usd)) => {
                self.balance = Some((usd, now));
                (Quality::Complete, None)
            }
            Err(failure) => (Quality::Failed, Some(error::chain(&failure))),
        };
        let (usd, at) = self.balance.map_or((None, now), |(usd, at)| (Some(usd), at));
        let age_seconds = now.saturating_sub(at).as_secs();
        Some(Balance { usd, input: Input { quality, age_seconds, detail } })
    }

    async fn read(&mut self, scene: &Scene, now: Duration) -> Result<FleetRead, CycleError> {
        let policy = &scene.config.policy;
        match scene.store.observe(ended_within(policy), policy.user_task_limit).await {
            Ok(read) => {
                self.database_at = now;
                Ok(read)
            }
            Err(source) => {
                let age_seconds = self.age_seconds(now);
                Err(CycleError::Database { doing: "observe the fleet", age_seconds, source })
            }
        }
    }

    /// Age of the last complete read of the database, or of this process.
    pub(super) fn age_seconds(&self, now: Duration) -> u64 {
        now.saturating_sub(self.database_at).as_secs()
    }

    /// How well the listing was seen.
    fn judge(&mut self, listing: &Result<Listing, crate::provider::ProviderError>, now: Duration) -> Input {
        let (quality, detail) = match listing {
            Ok(Listing { missing: None, .. }) => (Quality::Complete, None),
            Ok(Listing { missing: Some(missing), .. }) => (Quality::Partial, Some(missing.clone())),
            Err(failure) => (Quality::Failed, Some(error::chain(failure))),
        };
        if quality == Quality::Complete {
            self.listing_at = now;
        } else {
            tracing::warn!(?quality, detail, "the provider's pods could not be seen whole");
        }
        Input { quality, age_seconds: now.saturating_sub(self.listing_at).as_secs(), detail }
    }
}

fn ended_within(policy: &Policy) -> Duration {
    Duration::from_secs(policy.failure_window_seconds).max(ENDED_WITHIN_MIN)
}

fn snapshot(scene: &Scene, turn: Turn, read: FleetRead, provider: Input, pods: &[Pod]) -> Snapshot {
    let config = &scene.config;
    let mut ours: BTreeMap<WorkerId, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        if let Some(worker) = WorkerId::from_pod_name(&pod.name, &config.fleet, &config.env) {
            ours.entry(worker).or_default().push(pod);
        }
    }
    let mut workers = read.workers;
    let mut unknown_pods = Vec::new();
    for worker in &mut workers {
        let named = ours.remove(&worker.id).unwrap_or_default();
        unknown_pods.extend(match_pods(worker, &named));
    }
    for (worker, pods) in &ours {
        unknown_pods.extend(pods.iter().filter_map(|pod| unknown(worker, pod)));
    }
    unknown_pods.truncate(UNKNOWN_PODS_MAX);
    let database = Input { quality: Quality::Complete, age_seconds: 0, detail: None };
    Snapshot {
        schema_version: SCHEMA_VERSION,
        name: format!("{}.{} cycle {}", config.fleet, config.env, turn.cycle),
        as_of: read.now,
        policy: config.policy.clone(),
        workers,
        demand: Some(read.demand),
        records: read.records,
        live: Some(Live {
            fleet: config.fleet.clone(),
            env: config.env.clone(),
            boot_id: config.process.boot_id,
            cycle: turn.cycle,
            term: turn.term,
            inputs: Inputs { database, provider },
            writes_since: read.writes_since,
            pause: read.pause,
            unknown_pods,
            orders: read.orders,
            ended_today_usd: read.ended_today_usd,
            balance: None,
            desired_lately: None,
        }),
    }
}

/// Gives a worker its pod; returns the pods of its name that its row does not know.
fn match_pods(worker: &mut Worker, named: &[&Pod]) -> Vec<UnknownPod> {
    let (id, ended) = (worker.id.clone(), worker.is_ended());
    let Some(live) = worker.live.as_mut().filter(|_| !ended) else {
        return named.iter().filter_map(|pod| unknown(&id, pod)).collect();
    };
    let own = match &live.pod_id {
        Some(pod_id) => named.iter().find(|pod| pod.id == *pod_id),
        // A pod that runs says more than one that is over.
        None => named.iter().min_by_key(|pod| pod.status.is_over()),
    };
    live.pod = own.map(|pod| PodSeen { status: pod.status, exit_code: pod.exit_code, signal: pod.signal });
    match &live.pod_id {
        Some(known) => named.iter().filter(|pod| pod.id != *known).filter_map(|pod| unknown(&id, pod)).collect(),
        // Over or not: without its id it could not be cleared away.
        None => named.iter().map(|pod| unknown_pod(&id, pod)).collect(),
    }
}

fn unknown(worker: &WorkerId, pod: &Pod) -> Option<UnknownPod> {
    (!pod.status.is_over()).then(|| unknown_pod(worker, pod))
}

fn unknown_pod(worker: &WorkerId, pod: &Pod) -> UnknownPod {
    UnknownPod {
        pod_id: pod.id.clone(),
        worker: worker.clone(),
        created_at: pod.created_at,
        first_seen_at: None,
        lists: 0,
    }
}
