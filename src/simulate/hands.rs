//! What an orchestrator of the simulation holds in its hands: the database and the provider, with
//! everything that can befall a process at a call.
//!
//! A fault strikes before a call (it was never made) or after it (done, and the answer lost). At each
//! side of each call the process may be killed, stopped for longer than its lease holds, or kept
//! waiting. What the database took is compared with what must never be (`facts`).

use std::future::Future;
use std::sync::Arc;

use super::bugs::Bug;
use super::faults::Fault;
use super::timeline::{SECOND, Timeline};
use super::world::{Sim, World};
use crate::store::{Lease, Result, StoreError};

mod provider;
mod store;

/// An orchestrator's way into the world.
pub(super) struct Hands {
    world: Arc<World>,
    process: usize,
}

/// Which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// It has not been made.
    Before,
    /// It has been done; its answer is not known.
    After,
}

/// What befalls a process at a call.
enum Befalls {
    Nothing,
    Wait(i64),
    Death,
}

#[derive(Debug, thiserror::Error)]
#[error("simulated: {0}")]
struct Simulated(&'static str);

impl Hands {
    pub(super) fn new(world: Arc<World>, process: usize) -> Hands {
        Hands { world, process }
    }

    fn sim(&self) -> std::sync::MutexGuard<'_, Sim> {
        self.world.sim()
    }

    fn timeline(&self) -> &Arc<Timeline> {
        &self.world.timeline
    }

    async fn at(&self, point: &'static str, side: Side) {
        let befalls = self.sim().befalls_process(self.process, point, side);
        match befalls {
            Befalls::Nothing => {}
            Befalls::Wait(micros) => self.wait(micros).await,
            Befalls::Death => std::future::pending().await,
        }
    }

    async fn wait(&self, micros: i64) {
        let until = self.timeline().now() + micros;
        self.timeline().until(until).await;
    }

    /// A call to the database.
    async fn ask<T>(&self, point: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.at(point, Side::Before).await;
        self.sim().store_hears(point)?;
        let answer = call.await;
        self.at(point, Side::After).await;
        if self.sim().strikes(Fault::StoreAnswerLost) {
            return Err(unavailable(point, "the answer was lost"));
        }
        answer
    }

    /// A write that is guarded by a lease.
    async fn write<T, F>(&self, point: &'static str, held: &Lease, write: impl FnOnce(Lease) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.ask(point, async {
            let mut lease = held.clone();
            if self.sim().has(Bug::LeaseCheckedBefore) {
                lease = self.checked_before(held).await?;
            }
            let answer = write(lease).await;
            let leader = self.world.store.leader(&held.name);
            if answer.is_ok() && leader != Some((Some(held.holder), held.term)) {
                let detail = format!("{point} was taken by term {}; leads: {leader:?}", held.term.0);
                self.sim().broke("I16 a stale term writes nothing", detail);
            }
            answer
        })
        .await
    }

    /// The planted bug: a look, some time, and a write that nothing guards.
    async fn checked_before(&self, held: &Lease) -> Result<Lease> {
        if self.world.store.leader(&held.name) != Some((Some(held.holder), held.term)) {
            return Err(StoreError::StaleTerm);
        }
        let slow = self.sim().rng.chance(0.01);
        if slow {
            self.wait(100 * SECOND).await;
        }
        let (holder, term) = self.world.store.leader(&held.name).ok_or(StoreError::StaleTerm)?;
        let holder = holder.ok_or(StoreError::StaleTerm)?;
        Ok(Lease { holder, term, ..held.clone() })
    }
}

impl Sim {
    fn befalls_process(&mut self, process: usize, point: &'static str, side: Side) -> Befalls {
        if !self.faults.on {
            return Befalls::Nothing;
        }
        if self.strikes(Fault::Kill) {
            *self.facts.kills.entry((point, side)).or_default() += 1;
            self.processes[process].is_killed = true;
            return Befalls::Death;
        }
        if self.strikes(Fault::Pause) {
            let wait = self.rng.between(46 * SECOND, 200 * SECOND);
            self.processes[process].paused_until = self.now + wait;
            return Befalls::Wait(wait);
        }
        if self.strikes(Fault::SlowCall) {
            return Befalls::Wait(self.rng.between(SECOND / 100, 8 * SECOND));
        }
        Befalls::Nothing
    }

    fn store_hears(&mut self, point: &'static str) -> Result<()> {
        if self.outage_until > self.now {
            return Err(unavailable(point, "an outage"));
        }
        if self.strikes(Fault::StoreFails) {
            return Err(unavailable(point, "the connection was refused"));
        }
        Ok(())
    }
}

fn unavailable(doing: &'static str, why: &'static str) -> StoreError {
    StoreError::Unavailable { doing, source: Box::new(Simulated(why)) }
}
