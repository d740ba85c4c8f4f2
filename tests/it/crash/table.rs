//! The sums over all runs, side by side.

use std::collections::BTreeSet;
use std::io::Write as _;

/// Sums over the runs of one program.
#[derive(Debug, Default)]
pub(super) struct Total {
    name: &'static str,
    pub(super) runs: u64,
    pub(super) kills: u64,
    pub(super) kills_while_adopting: u64,
    pub(super) acknowledged: u64,
    pub(super) found: u64,
    pub(super) unacknowledged: u64,
    pub(super) duplicates: u64,
    pub(super) refused: u64,
    pub(super) half_written: u64,
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    /// Spans that were open at a kill, each told once.
    pub(super) interrupted: u64,
    /// Spans that had closed.
    pub(super) closed: u64,
}

/// One run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Acknowledged and not found.
    pub(super) lost: Vec<u64>,
    /// Found more than once.
    pub(super) duplicates: u64,
    /// Found though the kill came before it was acknowledged.
    pub(super) unacknowledged: u64,
}

impl Total {
    pub(super) fn new(name: &'static str) -> Total {
        Total { name, ..Total::default() }
    }

    /// Adds a run.
    pub(super) fn add(&mut self, acknowledged: &[u64], found: &[u64]) -> Outcome {
        let acknowledged: BTreeSet<u64> = acknowledged.iter().copied().collect();
        let unique: BTreeSet<u64> = found.iter().copied().collect();
        let outcome = Outcome {
            lost: acknowledged.difference(&unique).copied().collect(),
            duplicates: (found.len() - unique.len()) as u64,
            unacknowledged: unique.difference(&acknowledged).count() as u64,
        };
        self.runs += 1;
        self.acknowledged += acknowledged.len() as u64;
        self.found += acknowledged.intersection(&unique).count() as u64;
        self.unacknowledged += outcome.unacknowledged;
        self.duplicates += outcome.duplicates;
        outcome
    }
}

/// Prints the table past the harness, which keeps the output of tests that pass.
pub(super) fn print(totals: &[&Total]) {
    let mut out = Vec::new();
    let header = ["runs", "kills", "acknowledged", "found", "lost", "lost %", "duplicates", "refused"];
    write!(out, "\n{:<31}", "killed by SIGKILL").unwrap();
    header.iter().for_each(|title| write!(out, " {title:>12}").unwrap());
    for total in totals {
        let lost = total.acknowledged - total.found;
        let share = 100.0 * lost as f64 / (total.acknowledged.max(1)) as f64;
        write!(out, "\n{:<31}", total.name).unwrap();
        for number in [total.runs, total.kills, total.acknowledged, total.found, lost] {
            write!(out, " {number:>12}").unwrap();
        }
        write!(out, " {share:>12.2} {:>12} {:>12}", total.duplicates, total.refused).unwrap();
    }
    for total in totals.iter().filter(|total| total.accepted > 0) {
        let Total { kills_while_adopting, unacknowledged, half_written, accepted, delivered, .. } = total;
        let Total { interrupted, closed, .. } = total;
        let name = total.name;
        write!(out, "\n{name}: {kills_while_adopting} kills before a start had ended; ").unwrap();
        write!(out, "{unacknowledged} delivered that the kill kept from being acknowledged; ").unwrap();
        write!(out, "{accepted} accepted = {delivered} delivered + {half_written} half-written; ").unwrap();
        writeln!(out, "{interrupted} spans interrupted and {closed} closed, each told once").unwrap();
    }
    std::io::stdout().lock().write_all(&out).unwrap();
}
