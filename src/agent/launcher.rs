//! The one thread that starts processes.
//!
//! The kernel sends the parent-death signal when the *thread* that forked ends, and tokio's
//! threads come and go. This one lives until the [`Launcher`] is dropped, that is: as long as the
//! agent works, so a program is killed when the agent dies and never before.

use std::io;

use crossbeam_channel::{Sender, bounded};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::supervise::{Intensity, thread};

/// Orders that may wait: an agent runs one program at a time, beside it the undertaker.
const ORDERS_MAX: usize = 4;

/// Starts processes on its own thread.
pub(super) struct Launcher {
    orders: Sender<Order>,
    _thread: thread::Child,
}

struct Order {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Launcher {
    /// Starts the thread. To be called on a tokio runtime, whose reactor gets the pipes.
    pub(super) fn start() -> io::Result<Launcher> {
        let (orders, inbox) = bounded::<Order>(ORDERS_MAX);
        let runtime = Handle::current();
        let told =
            |fall: &thread::Fall<'_>| tracing::error!(child = fall.child, panic = fall.text, "child panicked");
        let thread = thread::Child::start("launcher", Intensity::default(), told, move |pulse, _| {
            let _runtime = runtime.enter();
            while let Ok(mut order) = inbox.recv() {
                pulse.beat();
                let _ = order.reply.send(order.command.spawn());
            }
        })?;
        Ok(Launcher { orders, _thread: thread })
    }

    /// Starts a process.
    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes does not answer");
        self.orders.try_send(Order { command, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
