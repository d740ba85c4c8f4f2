//! What an event with four fields costs its caller, beside others: `cargo bench --bench emit`.
//!
//! One table from one run. Each contender runs in a process of its own with a global subscriber:
//! bursts of 60,000 events flat out from one thread and from four, with time to drain in between,
//! then bursts in which each event is timed. The rounds of all contenders alternate, and the table
//! holds medians. Processor time and allocations are the caller's own. Nothing is asserted: a machine is no contract.

mod emit {
    pub(crate) mod contenders;
    pub(crate) mod count;
    pub(crate) mod rounds;
}

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use emit::contenders::{CONTENDERS, Contender};
use emit::rounds::{Measured, measure};

/// Runs of each contender, of which the median counts.
const RUNS: usize = 5;
const THREADS: [u64; 2] = [1, 4];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
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
    io::stdout().write_all(&table)?;
    Ok(())
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
        p50: middle(&|run| run.p50),
        p99: middle(&|run| run.p99),
        allocations: middle(&|run| run.allocations),
        dropped: middle(&|run| run.dropped),
        clock: middle(&|run| run.clock),
    }
}

fn print(out: &mut Vec<u8>, threads: u64, medians: &[Measured]) -> io::Result<()> {
    let own = CONTENDERS.iter().position(|contender| contender.name == "dogwatch");
    let own = own.map_or(1.0, |at| medians[at].nanos);
    let clock = medians.first().map_or(0.0, |measured| measured.clock);
    writeln!(out, "\n{threads} thread(s), bursts of 60,000; p50 and p99 hold one clock read ({clock:.0} ns)\n")?;
    writeln!(out, "| contender | x dogwatch | CPU ns per event | p50 ns | p99 ns | allocations | dropped |")?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|")?;
    for (contender, measured) in CONTENDERS.iter().zip(medians) {
        let Measured { nanos, p50, p99, allocations, dropped, .. } = measured;
        let (name, ratio, share) = (contender.title, nanos / own, dropped * 100.0);
        writeln!(
            out,
            "| {name} | {ratio:.2} | {nanos:.0} | {p50:.0} | {p99:.0} | {allocations:.2} | {share:.1} % |"
        )?;
    }
    Ok(())
}
