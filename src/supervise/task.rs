//! Supervised tokio tasks: a group with one stop signal, whose members are restarted when they
//! panic.
//!
//! [`Group::start`] takes a factory, since a future that panicked cannot be polled again. A member
//! that returns is done. [`Group::stop`] asks all to end and waits, with a limit, then aborts what
//! is left and names it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::{Intensity, Pulse, RestartState, panic_text};
use crate::clock;

/// A stop signal that any number of tasks can wait for.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A signal and the handle that raises it. Dropping the handle raises it, too.
    pub fn new() -> (StopHandle, Stop) {
        let (sender, receiver) = watch::channel(false);
        (StopHandle(Arc::new(sender)), Stop(receiver))
    }

    /// Waits until it is raised.
    pub async fn raised(&mut self) {
        let _ = self.0.wait_for(|raised| *raised).await;
    }

    /// Whether it is raised.
    pub fn is_raised(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for `limit` or until it is raised. True: raised.
    pub async fn raised_within(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.raised()).await.is_ok()
    }
}

/// Raises a [`Stop`].
#[derive(Debug, Clone)]
pub struct StopHandle(Arc<watch::Sender<bool>>);

impl StopHandle {
    /// Raises the signal; again does nothing.
    pub fn raise(&self) {
        self.0.send_replace(true);
    }
}

/// Tasks that live and end together.
#[derive(Debug)]
pub struct Group {
    stop: StopHandle,
    signal: Stop,
    members: Mutex<JoinSet<()>>,
    pulses: Mutex<Vec<Pulse>>,
}

impl Default for Group {
    fn default() -> Self {
        Group::new()
    }
}

impl Group {
    /// An empty group.
    pub fn new() -> Group {
        let (stop, signal) = Stop::new();
        Group { stop, signal, members: Mutex::default(), pulses: Mutex::default() }
    }

    /// The group's stop signal.
    pub fn signal(&self) -> Stop {
        self.signal.clone()
    }

    /// Starts a member. `factory` is called for the first run and for each restart.
    pub fn start<F>(
        &self,
        name: &str,
        intensity: Intensity,
        factory: impl Fn(Pulse, Stop) -> F + Send + 'static,
    ) -> Pulse
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let pulse = Pulse::new(name);
        lock(&self.pulses).push(pulse.clone());
        let (child, signal) = (pulse.clone(), self.signal.clone());
        lock(&self.members).spawn(async move { keep(&child, &signal, intensity, factory).await });
        pulse
    }

    /// The vital signs of every member that was ever started.
    pub fn pulses(&self) -> Vec<Pulse> {
        lock(&self.pulses).clone()
    }

    /// Asks all members to end and waits for them. False: some had to be aborted after `limit`.
    pub async fn stop(&self, limit: Duration) -> bool {
        self.stop.raise();
        let mut members = std::mem::take(&mut *lock(&self.members));
        let all = async { while members.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(limit, all).await.is_ok();
        members.shutdown().await;
        in_time
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep<F>(pulse: &Pulse, stop: &Stop, intensity: Intensity, factory: impl Fn(Pulse, Stop) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut restarts = RestartState::new(intensity);
    loop {
        pulse.beat();
        let run = AbortOnDrop(spawn(factory(pulse.clone(), stop.clone())));
        let Err(error) = run.wait().await else { return };
        let text = error.try_into_panic().map_or_else(|_| "aborted".to_owned(), |p| panic_text(&*p));
        let Some(wait) = restarts.next(clock::monotonic()) else {
            pulse.0.given_up.store(true, std::sync::atomic::Ordering::Release);
            tracing::error!(child = pulse.name(), panic = text, "child given up after too many restarts");
            return;
        };
        pulse.0.restarts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::error!(child = pulse.name(), panic = text, "child panicked and is started again");
        if stop.clone().raised_within(wait).await {
            return;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "supervise is the place that starts tasks")]
fn spawn<F: Future<Output = ()> + Send + 'static>(future: F) -> JoinHandle<()> {
    tokio::spawn(future)
}

/// A run that ends with the member that waits for it.
struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    async fn wait(mut self) -> Result<(), tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_panicking_member_is_started_again_and_others_go_on() {
        let runs = Arc::new(AtomicU32::new(0));
        let (done, mut is_done) = watch::channel(false);
        let group = Group::new();
        let pulse = group.start("panics", Intensity::default(), move |_, _| {
            let (runs, done) = (Arc::clone(&runs), done.clone());
            async move {
                assert!(runs.fetch_add(1, Ordering::SeqCst) >= 2, "planted");
                done.send_replace(true);
            }
        });
        tokio::time::timeout(LIMIT, is_done.wait_for(|done| *done)).await.unwrap().unwrap();
        assert_eq!(pulse.restarts(), 2);
        assert!(group.stop(LIMIT).await);
    }

    #[tokio::test]
    async fn stop_waits_for_members_and_aborts_the_deaf() {
        let group = Group::new();
        group.start("polite", Intensity::default(), |_, mut stop| async move { stop.raised().await });
        assert!(group.stop(LIMIT).await);
        let deaf = Group::new();
        deaf.start("deaf", Intensity::default(), |_, _| std::future::pending());
        assert!(!deaf.stop(Duration::from_millis(20)).await);
    }
}
