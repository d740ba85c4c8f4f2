//! How fast records reach the disk, beside mrecordlog: `cargo bench --bench spool`.
//!
//! Batches of 512 records of 200 bytes: appended and flushed (a process may die), and appended and
//! synced (the machine may lose power) beside what the disk's fdatasync allows for the same bytes.
//! mrecordlog only flushes. The rounds alternate; the table holds medians, the best first.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use dogwatch::clock::monotonic;
use dogwatch::telemetry::record::{Kind, Level};
use dogwatch::telemetry::spool::disk::RealDisk;
use dogwatch::telemetry::spool::{Folder, SpoolConfig, Writer};
use mrecordlog::{MultiRecordLog, SyncPolicy};
use uuid::Uuid;

const BATCH: u64 = 512;
const PAYLOAD: [u8; 200] = [0x5A; 200];
/// Batches of a round that only flushes.
const FLUSHED: u64 = 800;
/// Batches of a round that syncs each.
const SYNCED: u64 = 100;
const ROUNDS: usize = 7;

type Round = fn(&Path) -> Result<f64, Box<dyn Error>>;

const CONTENDERS: &[(&str, Round)] = &[
    ("dogwatch, append + flush", |folder| dogwatch(folder, FLUSHED, false)),
    ("mrecordlog, append + flush", mrecordlog_flush),
    ("dogwatch, append + fdatasync", |folder| dogwatch(folder, SYNCED, true)),
    ("bare write + fdatasync", bare_sync),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut rates: Vec<Vec<f64>> = CONTENDERS.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((_, round), rates) in CONTENDERS.iter().zip(&mut rates) {
            let folder = tempfile::tempdir()?;
            rates.push(round(folder.path())?);
        }
    }
    let medians: Vec<f64> = rates
        .iter_mut()
        .map(|rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        })
        .collect();
    let mut out = Vec::new();
    writeln!(out, "\nbatches of {BATCH} records of {} bytes\n", PAYLOAD.len())?;
    writeln!(out, "| what | x of the other | records/s |\n|---|---:|---:|")?;
    for (at, (name, _)) in CONTENDERS.iter().enumerate() {
        writeln!(out, "| {name} | {:.2} | {:.0} |", medians[at] / medians[at ^ 1], medians[at])?;
    }
    io::stdout().write_all(&out)?;
    Ok(())
}

/// Records per second over `batches` batches.
fn rate(batches: u64, mut batch: impl FnMut(u64) -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let began = monotonic();
    for number in 0..batches {
        batch(number)?;
    }
    Ok((batches * BATCH) as f64 / (monotonic() - began).as_secs_f64())
}

fn dogwatch(folder: &Path, batches: u64, synced: bool) -> Result<f64, Box<dyn Error>> {
    let folder = Folder::create(folder, Uuid::new_v4(), Arc::new(RealDisk))?;
    let mut writer = Writer::open(&folder, SpoolConfig::default())?;
    rate(batches, |number| {
        for record in 0..BATCH {
            writer.append(number * BATCH + record, Kind::Log, Level::Info, 0, &PAYLOAD)?;
        }
        if synced {
            writer.sync()?;
        } else {
            writer.flush()?;
        }
        Ok(())
    })
}

fn mrecordlog_flush(folder: &Path) -> Result<f64, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut log = runtime.block_on(MultiRecordLog::open_with_prefs(folder, SyncPolicy::OnAppend))?;
    runtime.block_on(log.create_queue("records"))?;
    rate(FLUSHED, |_| {
        runtime.block_on(log.append_records("records", None, (0..BATCH).map(|_| &PAYLOAD[..])))?;
        Ok(())
    })
}

fn bare_sync(folder: &Path) -> Result<f64, Box<dyn Error>> {
    let mut file = File::create(folder.join("bytes"))?;
    let bytes = vec![0x5A; BATCH as usize * (PAYLOAD.len() + 36)];
    rate(SYNCED, |_| {
        file.write_all(&bytes)?;
        file.sync_data()?;
        Ok(())
    })
}
