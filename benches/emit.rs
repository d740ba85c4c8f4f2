//! What an event with four fields costs its caller, beside others: `cargo bench --bench emit`.
//!
//! One table from one run. Each contender runs in a process of its own with a global subscriber:
//! bursts of 60,000 events flat out from one thread and from four, with time to drain in between,
//! then bursts in which each event is timed. The rounds of all contenders alternate, and the table
//! holds medians. All get the same event: a message, a text, a whole number, a number, a truth.
//!
//! Processor time and allocations are the caller's own, so that what else runs on the machine does
//! not count; the time of the clock on the wall counts it, and on a machine that is quiet says what
//! wake-ups and a consumer on the same core cost. A contender that drops is cheap for what it
//! drops, so the processor time is told per event that was kept, too. Then: a burst of 60,000 from
//! a standing start, and 500 K events a second for 10 s, with what was refused. Nothing is
//! asserted: a machine is no contract.

mod emit {
    pub(crate) mod contenders;
    pub(crate) mod count;
    pub(crate) mod rounds;
    pub(crate) mod steady;
}

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use emit::contenders::{CONTENDERS, Contender};
use emit::rounds::{Measured, measure};
use emit::steady::{Steady, steady};

/// Runs of each contender, of which the median counts.
const RUNS: usize = 5;
const THREADS: [u64; 2] = [1, 4];
/// Second argument of a process that counts what is refused.
const STEADY: &str = "steady";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [_, what, threads] = &arguments[..]
        && what == STEADY
    {
        serde_json::to_writer(io::stdout(), &steady(threads.parse()?)?)?;
        return Ok(());
    }
    if let [name, threads] = &arguments[..] {
        let contender = CONTENDERS.iter().find(|contender| contender.name == name).ok_or("no such contender")?;
        serde_json::to_writer(io::stdout(), &measure(contender, threads.parse()?)?)?;
        return Ok(());
    }
    let mut table = Vec::new();
    for threads in THREADS {
        let mut runs: Vec<Vec<Measured>> = CONTENDERS.iter().map(|_| Vec::new()).collect();
        for _ in 0..RUNS {
            for (contender, runs) in CONTENDERS.iter().zip(&mut runs) {
                runs.push(apart(contender, threads)?);
            }
        }
        let medians: Vec<Measured> = runs.iter().map(|runs| median(runs)).collect();
        print(&mut table, threads, &medians)?;
    }
    writeln!(table, "\n| dogwatch | threads | offered | refused | half-written | lost | took s |")?;
    writeln!(table, "|---|---:|---:|---:|---:|---:|---:|")?;
    for threads in THREADS {
        for Steady { what, offered, refused, half_written, lost, seconds } in steady_apart(threads)? {
            writeln!(
                table,
                "| {what} | {threads} | {offered} | {refused} | {half_written} | {lost} | {seconds:.2} |"
            )?;
        }
    }
    io::stdout().write_all(&table)?;
    Ok(())
}

fn steady_apart(threads: u64) -> Result<Vec<Steady>, Box<dyn std::error::Error>> {
    let child = Command::new(std::env::current_exe()?)
        .args(["dogwatch", STEADY, &threads.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    Ok(serde_json::from_slice(&child.stdout)?)
}

/// Measures in a process of its own.
fn apart(contender: &Contender, threads: u64) -> Result<Measured, Box<dyn std::error::Error>> {
    let child = Command::new(std::env::current_exe()?)
        .args([contender.name, &threads.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    Ok(serde_json::from_slice(&child.stdout)?)
}

fn median(runs: &[Measured]) -> Measured {
    let middle = |number: &dyn Fn(&Measured) -> f64| {
        let mut numbers: Vec<f64> = runs.iter().map(number).collect();
        numbers.sort_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    };
    Measured {
        nanos: middle(&|run| run.nanos),
        wall: middle(&|run| run.wall),
        p50: middle(&|run| run.p50),
        p99: middle(&|run| run.p99),
        allocations: middle(&|run| run.allocations),
        dropped: middle(&|run| run.dropped),
        clock: middle(&|run| run.clock),
    }
}

fn print(out: &mut Vec<u8>, threads: u64, medians: &[Measured]) -> io::Result<()> {
    let own = CONTENDERS.iter().position(|contender| contender.name == "dogwatch");
    let kept = |measured: &Measured| measured.nanos / (1.0 - measured.dropped).max(f64::EPSILON);
    let own = own.map(|at| &medians[at]);
    let (own_nanos, own_kept) = own.map_or((1.0, 1.0), |own| (own.nanos, kept(own)));
    let clock = medians.first().map_or(0.0, |measured| measured.clock);
    writeln!(out, "\n{threads} thread(s), bursts of 60,000; p50 and p99 hold one clock read ({clock:.0} ns)\n")?;
    writeln!(
        out,
        "| contender | dogwatch x this | dogwatch x this, kept | CPU ns per event | CPU ns per kept event | wall ns per event and core | p50 ns | p99 ns | allocations | dropped |"
    )?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    for (contender, measured) in CONTENDERS.iter().zip(medians) {
        let Measured { nanos, wall, p50, p99, allocations, dropped, .. } = measured;
        let (name, share, per_kept) = (contender.title, dropped * 100.0, kept(measured));
        let (ratio, ratio_kept) = (own_nanos / nanos, own_kept / per_kept);
        writeln!(
            out,
            "| {name} | {ratio:.2} | {ratio_kept:.2} | {nanos:.0} | {per_kept:.0} | {wall:.0} | {p50:.0} | {p99:.0} | \
             {allocations:.2} | {share:.1} % |"
        )?;
    }
    Ok(())
}
