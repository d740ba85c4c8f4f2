//! The one thread that starts agents.
//!
//! A parent-death signal follows the *thread* that started the child, so that thread must live as
//! long as the process does; threads of a runtime come and go. Forking blocks, too, which no task
//! on a runtime should.

use std::io;
use std::process::{Child, Command};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use crate::supervise::{Intensity, thread};

/// Commands that may wait to be started.
const WAITING_MAX: usize = 64;
/// How often the idle thread says that it lives.
const BEAT: Duration = Duration::from_secs(5);

type Order = (Command, oneshot::Sender<io::Result<Started>>);

/// A process that somebody ordered. Nobody would ever end one that is not handed over: it is ended
/// where this is dropped.
struct Started(Option<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut orphan) = self.0.take() {
            let _ = orphan.kill();
            let _ = orphan.wait();
        }
    }
}

/// Starts processes on a thread of its own.
pub(super) struct Spawner {
    orders: Sender<Order>,
    _thread: thread::Child,
}

impl Spawner {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Spawner> {
        let (orders, inbox) = bounded::<Order>(WAITING_MAX);
        let on_panic =
            |fall: &thread::Fall<'_>| tracing::error!(child = fall.child, panic = fall.text, "child panicked");
        let thread = thread::Child::start("spawner", Intensity::default(), on_panic, move |pulse, _| {
            while serve(&inbox) {
                pulse.beat();
            }
        })?;
        Ok(Spawner { orders, _thread: thread })
    }

    /// Starts one process.
    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, answered) = oneshot::channel();
        self.orders.try_send((command, answer)).map_err(|error| match error {
            TrySendError::Full(_) => io::Error::other("too many agents wait to be started"),
            TrySendError::Disconnected(_) => io::Error::other("the spawner has ended"),
        })?;
        let lost = || io::Error::other("the spawner lost the order");
        let mut started = answered.await.map_err(|_| lost())??;
        started.0.take().ok_or_else(lost)
    }
}

/// Serves one order. False: nobody can order any more.
fn serve(inbox: &Receiver<Order>) -> bool {
    match inbox.recv_timeout(BEAT) {
        Ok((mut command, answer)) => {
            let _ = answer.send(command.spawn().map(|child| Started(Some(child))));
            true
        }
        Err(RecvTimeoutError::Timeout) => true,
        Err(RecvTimeoutError::Disconnected) => false,
    }
}
