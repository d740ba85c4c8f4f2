//! The orchestrators: real ones, as futures that are polled when they were woken, and dropped where a
//! process would be killed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::faults::Fault;
use super::hands::Hands;
use super::timeline::{MINUTE, ProcessClock, SECOND};
use super::world::{ENV, Event, FLEET, Sim, World};
use crate::clock::{self, Driven as _, Timer};
use crate::fleet::ids::BootId;
use crate::orchestrator::{Config, LeaseConfig, Method, Orchestrator, StopWorkers};

/// What the world knows of an orchestrator.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// It is stopped, as by SIGSTOP, until this instant.
    pub(super) paused_until: i64,
    /// It was killed in the call that it makes.
    pub(super) is_killed: bool,
    /// When it last looked at the provider's listing.
    pub(super) listed_at: i64,
    /// It is asked to end by itself.
    leave: Arc<AtomicBool>,
}

/// A running orchestrator.
pub(super) struct Slot {
    future: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    flag: Arc<Flag>,
}

/// Whether it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Slot {
    /// No process.
    pub(super) fn empty() -> Slot {
        Slot { future: None, flag: Arc::default() }
    }

    /// Starts the process with that number.
    pub(super) fn start(&mut self, world: &Arc<World>, number: usize, method: Method) {
        let mut sim = world.sim();
        let boot = BootId(sim.rng.uuid());
        let has_skew = sim.faults.a_day(Fault::StoreClockJumps) > 0.0;
        let ppm = if has_skew { sim.rng.between(-500, 500) } else { 0 };
        let offset = sim.rng.between(0, 1_000 * SECOND);
        let leave = Arc::new(AtomicBool::new(false));
        sim.processes[number] = Process { leave: Arc::clone(&leave), ..Process::default() };
        let policy = sim.policy.clone();
        drop(sim);
        let process_clock = Arc::new(ProcessClock { timeline: Arc::clone(&world.timeline), offset, ppm });
        let config = Config {
            fleet: FLEET.to_owned(),
            env: ENV.to_owned(),
            policy,
            process: process(boot, number),
            lease: LeaseConfig::default(),
            on_stop: StopWorkers::Leave,
            stop_limit: Duration::from_secs(10),
        };
        let hands = Arc::new(Hands::new(Arc::clone(world), number));
        let timer = Timer::Driven(process_clock.clone());
        let orchestrator = Orchestrator::with(hands.clone(), hands, config, timer, method);
        self.future = Some(Box::pin(live(orchestrator, process_clock, leave)));
        self.flag.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is to be polled.
    pub(super) fn is_woken(&self) -> bool {
        self.future.is_some() && self.flag.0.load(Ordering::Relaxed)
    }

    /// Lets it go on as far as it can. False: it has ended, or was killed.
    pub(super) fn go_on(&mut self, world: &World, number: usize) -> bool {
        let waker = Waker::from(Arc::clone(&self.flag));
        while self.flag.0.swap(false, Ordering::Relaxed) {
            let Some(future) = &mut self.future else { return true };
            let is_over = future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(());
            if is_over || world.sim().processes[number].is_killed {
                self.future = None;
                return false;
            }
        }
        true
    }
}

/// A process's life: turns of its loop until it is asked to leave.
async fn live(mut orchestrator: Orchestrator, process_clock: Arc<ProcessClock>, leave: Arc<AtomicBool>) {
    while !leave.load(Ordering::Relaxed) {
        let wait = orchestrator.step().await;
        process_clock.sleep(wait).await;
    }
    orchestrator.leave().await;
}

fn process(boot_id: BootId, number: usize) -> crate::store::Process {
    let never = clock::from_micros(0);
    crate::store::Process {
        boot_id,
        kind: "orchestrator".to_owned(),
        source_type: "orchestrator_gpu".to_owned(),
        source_id: format!("orchestrator-{number}"),
        version: String::new(),
        config_hash: String::new(),
        host: "simulated".to_owned(),
        pid: 1,
        started_at: never,
        seen_at: never,
        ended_at: None,
    }
}

impl Sim {
    /// A process has ended: another one starts in its place after a while.
    pub(super) fn process_ended(&mut self, number: usize) {
        let after = if self.faults.on { self.rng.between(SECOND, 3 * MINUTE) } else { SECOND };
        self.plan(after, Event::Start(number));
    }

    /// A deploy: one of the processes is asked to end.
    pub(super) fn asks_to_leave(&mut self) -> bool {
        let which = usize::try_from(self.rng.below(self.processes.len() as u64)).unwrap_or(0);
        self.processes.get(which).is_some_and(|process| {
            process.leave.store(true, Ordering::Relaxed);
            true
        })
    }
}
