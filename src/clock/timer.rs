//! The time that a long-running part waits by: the machine's, or one that a simulation drives.
//!
//! A part that holds a [`Timer`] reads its monotonic clock from it and sleeps on it, and on nothing
//! else; so that days of its life can pass in a moment, and the same way each time. Wall time is no
//! matter of this: what databases say of time comes from the store.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// A sleep.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Time that somebody drives.
pub trait Driven: Debug + Send + Sync {
    /// The monotonic clock.
    fn monotonic(&self) -> Duration;
    /// Ends when the monotonic clock has gone on by `duration`.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// Where time comes from.
#[derive(Debug, Clone, Default)]
pub enum Timer {
    /// The machine's clock.
    #[default]
    Machine,
    /// Somebody drives it.
    Driven(Arc<dyn Driven>),
}

impl Timer {
    /// The monotonic clock.
    pub fn monotonic(&self) -> Duration {
        match self {
            Timer::Machine => super::monotonic(),
            Timer::Driven(driven) => driven.monotonic(),
        }
    }

    /// Sleeps that long.
    pub async fn sleep(&self, duration: Duration) {
        match self {
            Timer::Machine => tokio::time::sleep(duration).await,
            Timer::Driven(driven) => driven.sleep(duration).await,
        }
    }

    /// What the future gives, or None where it takes longer than `limit`.
    pub async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let Timer::Driven(driven) = self else { return tokio::time::timeout(limit, future).await.ok() };
        let mut future = pin!(future);
        let mut sleep = None;
        poll_fn(|context| {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            let sleep: &mut Sleep = sleep.get_or_insert_with(|| driven.sleep(limit));
            sleep.as_mut().poll(context).map(|()| None)
        })
        .await
    }
}
