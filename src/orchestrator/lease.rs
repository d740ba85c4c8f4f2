//! One leader: the lease, as this process knows it.
//!
//! The store guards every write by the term, so a stale leader can write nothing (I16). What the
//! store cannot guard is the provider: so this process believes in its lease only until `margin`
//! before the end it would have if the database's answer had taken no time, and stops believing at
//! the first error. Time is this process's monotonic clock, from before the question was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::fleet::ids::BootId;
use crate::store::{Lease, LeaseAnswer, Result, Store};

/// How leadership is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long the lease holds without renewal.
    pub ttl: Duration,
    /// Time between renewals.
    pub renew: Duration,
    /// This long before its end nothing more is done under the lease.
    pub margin: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        LeaseConfig {
            ttl: Duration::from_secs(45),
            renew: Duration::from_secs(10),
            margin: Duration::from_secs(15),
        }
    }
}

/// How a process stands to leadership, for those who ask it and must not ask the database.
#[derive(Debug, Clone, Default)]
pub struct Standing(Arc<AtomicU8>);

const UNKNOWN: u8 = 0;
const STANDBY: u8 = 1;
const LEADS: u8 = 2;

impl Standing {
    /// In a word or a few.
    pub fn words(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            LEADS => "leads",
            STANDBY => "standby",
            _ => "who leads is not known",
        }
    }

    fn is(&self, standing: u8) {
        self.0.store(standing, Ordering::Relaxed);
    }
}

/// The lease as this process knows it.
#[derive(Debug)]
pub(super) struct LeaseKeeper {
    name: String,
    holder: BootId,
    config: LeaseConfig,
    held: Option<Held>,
    leader: Option<BootId>,
    standing: Standing,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    believed_until: Duration,
    renew_at: Duration,
}

impl LeaseKeeper {
    /// Of a process that has not asked yet.
    pub(super) fn new(name: String, holder: BootId, config: LeaseConfig) -> LeaseKeeper {
        LeaseKeeper { name, holder, config, held: None, leader: None, standing: Standing::default() }
    }

    /// What is told from now on how this process stands.
    pub(super) fn tell(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// Takes the lease or renews it where that is due. `now` is from before the call.
    pub(super) async fn keep(&mut self, store: &dyn Store, now: Duration) -> Result<()> {
        if self.held.as_ref().is_some_and(|held| now < held.renew_at) {
            return Ok(());
        }
        match store.take_lease(&self.name, self.holder, self.config.ttl).await {
            Ok(LeaseAnswer::Held(lease)) => {
                self.told(self.holder, lease.term.0);
                let believed_until = now + self.config.ttl.saturating_sub(self.config.margin);
                self.held = Some(Held { lease, believed_until, renew_at: now + self.config.renew });
                Ok(())
            }
            Ok(LeaseAnswer::Other { holder, term, .. }) => {
                self.told(holder, term.0);
                self.held = None;
                Ok(())
            }
            Err(error) => {
                self.step_down();
                Err(error)
            }
        }
    }

    /// The lease, where it can be acted under at `now`.
    pub(super) fn held(&self, now: Duration) -> Option<&Lease> {
        self.held.as_ref().filter(|held| now < held.believed_until).map(|held| &held.lease)
    }

    /// Until when the lease can be acted under; the past where it is not held.
    pub(super) fn believed_until(&self) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| held.believed_until)
    }

    /// Forgets the lease; whether it still holds is asked again.
    pub(super) fn step_down(&mut self) {
        self.held = None;
        self.leader = None;
        self.standing.is(UNKNOWN);
    }

    /// Gives the lease back, so that another orchestrator need not wait for its end.
    pub(super) async fn release(&mut self, store: &dyn Store) -> Result<()> {
        self.standing.is(UNKNOWN);
        match self.held.take() {
            Some(held) => store.release_lease(&held.lease).await,
            None => Ok(()),
        }
    }

    /// Says who leads, once per change.
    fn told(&mut self, holder: BootId, term: i64) {
        self.standing.is(if holder == self.holder { LEADS } else { STANDBY });
        if self.leader.replace(holder) == Some(holder) {
            return;
        }
        if holder == self.holder {
            tracing::info!(term, "this orchestrator leads");
        } else {
            tracing::info!(term, leader = %holder, "another orchestrator leads: standby");
        }
    }
}
