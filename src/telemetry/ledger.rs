//! What the ring counted, folded into the spool's ledger: the conservation law holds across a kill
//! because both the mapped header and the ledger outlive the process.

use std::collections::{BTreeMap, HashSet};

use super::record::{Kind, Level};
use super::ring::{Aside, Counters, Recovered, Refused};
use super::spool::segment::Piece;
use super::spool::{Folder, SpoolError, ledger, walk};

/// Folds in what a dead process's ring held, after all of it was appended. `interrupted`: spans
/// that were appended on top.
pub(super) fn fold_recovered(folder: &Folder, found: &Recovered, interrupted: u64) -> Result<(), SpoolError> {
    let half_written = found.counters.half_written + found.half_written;
    // A definition that was set aside and never reached a segment is not found by counting them.
    let sources = count_sources(folder)?.max(found.counters.aside[Aside::Source as usize]);
    let accepted = found.accepted().saturating_sub(sources) + interrupted;
    // A kill between the count of what went to stdout and the release of its room leaves entries
    // that are counted there and were found again: they are in the spool, so they are not lost.
    let mut counters = found.counters;
    let known = folder.end()?.records + half_written + counters.lost_aside();
    let mut twice = known.saturating_sub(accepted);
    for aside in Aside::LOST {
        let count = &mut counters.aside[aside as usize];
        let taken = twice.min(*count);
        (*count, twice) = (*count - taken, twice - taken);
    }
    save(folder, &counters, accepted, half_written)
}

/// Folds in what this process's ring counted, after all of it was appended. `sources`: entries
/// that defined a source, which are no records.
pub(super) fn fold_own(folder: &Folder, counters: &Counters, sources: u64) -> Result<(), SpoolError> {
    save(folder, counters, counters.accepted().saturating_sub(sources), counters.half_written)
}

fn save(folder: &Folder, counters: &Counters, accepted: u64, half_written: u64) -> Result<(), SpoolError> {
    let mut refused: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (reason, levels) in Refused::COUNTED.iter().zip(&counters.refused) {
        for (level, count) in Level::ALL.iter().zip(levels).filter(|(_, count)| **count > 0) {
            refused.entry(reason.word().to_owned()).or_default().insert(level.word().to_owned(), *count);
        }
    }
    let mut lost = BTreeMap::new();
    if half_written > 0 {
        lost.insert("half_written".to_owned(), half_written);
    }
    for aside in Aside::LOST {
        let records = counters.aside[aside as usize];
        if records > 0 {
            lost.insert(aside.word().to_owned(), records);
        }
    }
    let mut ledger = ledger::Ledger::load(folder.disk(), folder.path(), folder.boot())?;
    ledger.fold(&ledger::Counters {
        offered: accepted + counters.refused_total(),
        accepted,
        refused,
        lost,
        ring_closed: true,
    });
    // What was durable then and is not there any more is counted as missing.
    let end = folder.end()?;
    if end.records >= ledger.end.records {
        ledger.end = end;
    }
    ledger.save(folder)
}

/// How many sources were defined in this folder.
fn count_sources(folder: &Folder) -> Result<u64, SpoolError> {
    let mut numbers = HashSet::new();
    walk::walk(folder.disk(), folder.path(), folder.boot(), &mut |_, piece| {
        if let Piece::Frame { header, .. } = piece
            && header.kind == Kind::Source as u8
        {
            numbers.insert(header.source);
        }
    })?;
    Ok(numbers.len() as u64)
}
