//! Bursts of events, and what they cost.

use std::error::Error;
use std::sync::Barrier;
use std::time::Duration;

use dogwatch::clock::monotonic;
use serde::{Deserialize, Serialize};

use super::contenders::Contender;
use super::count::allocations;

/// Events of one burst, over all threads.
pub(crate) const BURST: u64 = 60_000;
/// Bursts flat out.
const BURSTS: usize = 5;
/// Events of each thread before anything counts: buffers are made then.
const WARM: u64 = 200;

/// What one run of a contender gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Processor time that an event costs the thread that emits it, flat out: what else runs on
    /// the machine does not count.
    pub(crate) nanos: f64,
    /// Time on the wall of a burst, per event and core that its threads can use.
    pub(crate) wall: f64,
    /// Half of the events took less.
    pub(crate) p50: f64,
    /// 99 of 100 took less.
    pub(crate) p99: f64,
    /// Of the caller, per event.
    pub(crate) allocations: f64,
    /// Share of all events that did not arrive.
    pub(crate) dropped: f64,
    /// What reading the clock costs.
    pub(crate) clock: f64,
}

struct Thread {
    cpu: Duration,
    from: Duration,
    to: Duration,
    allocations: u64,
    each: Vec<f64>,
}

/// Runs one contender in this process.
pub(crate) fn measure(contender: &Contender, threads: u64) -> Result<Measured, Box<dyn Error>> {
    let running = (contender.start)()?;
    let (mut nanos, mut walls, mut allocated) = (Vec::new(), Vec::new(), 0);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64).min(threads);
    for _ in 0..BURSTS {
        let done = burst(running.emit, threads, false);
        allocated += done.iter().map(|thread| thread.allocations).sum::<u64>();
        let cpu: Duration = done.iter().map(|thread| thread.cpu).sum();
        nanos.push(cpu.as_nanos() as f64 / BURST as f64);
        let from = done.iter().map(|thread| thread.from).min().unwrap_or_default();
        let to = done.iter().map(|thread| thread.to).max().unwrap_or_default();
        walls.push((to - from).as_nanos() as f64 * cores as f64 / BURST as f64);
        (running.drain)();
    }
    nanos.sort_by(f64::total_cmp);
    walls.sort_by(f64::total_cmp);
    let mut each: Vec<f64> = burst(running.emit, threads, true).into_iter().flat_map(|t| t.each).collect();
    each.sort_by(f64::total_cmp);
    (running.drain)();
    let offered = (BURSTS as u64 + 1) * (BURST + WARM * threads);
    let arrived = (running.end)();
    Ok(Measured {
        nanos: nanos[nanos.len() / 2],
        wall: walls[walls.len() / 2],
        p50: each[each.len() / 2],
        p99: each[each.len() * 99 / 100],
        allocations: allocated as f64 / (BURSTS as u64 * BURST) as f64,
        dropped: offered.saturating_sub(arrived) as f64 / offered as f64,
        clock: clock_nanos(),
    })
}

fn burst(emit: fn(u64), threads: u64, timed: bool) -> Vec<Thread> {
    let start = Barrier::new(threads as usize);
    std::thread::scope(|scope| {
        let body = || {
            let count = BURST / threads;
            let mut each = Vec::with_capacity(if timed { count as usize } else { 0 });
            (0..WARM).for_each(emit);
            start.wait();
            let (allocations_before, from, cpu_before) = (allocations(), monotonic(), cpu());
            if timed {
                for number in 0..count {
                    let before = monotonic();
                    emit(number);
                    each.push((monotonic() - before).as_nanos() as f64);
                }
            } else {
                (0..count).for_each(emit);
            }
            let (cpu, to) = (cpu() - cpu_before, monotonic());
            Thread { cpu, from, to, allocations: allocations() - allocations_before, each }
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(body)).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// Processor time of this thread.
#[expect(unsafe_code, reason = "the standard library does not know a thread's processor time")]
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn clock_nanos() -> f64 {
    const READS: u32 = 100_000;
    let before = monotonic();
    for _ in 0..READS {
        std::hint::black_box(monotonic());
    }
    (monotonic() - before).as_nanos() as f64 / f64::from(READS)
}
