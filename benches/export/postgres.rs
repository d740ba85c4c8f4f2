//! Ring, spool and exporter into Postgres, beside COPY.
//!
//! The rows that COPY gets are those that the recorder delivered: the same keys, the same texts, in
//! batches of as many as the exporter sends at most. Both write with the database's own durability
//! (fsync and synchronous_commit on). The rounds alternate.

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dogwatch::clock::{self, monotonic};
use dogwatch::telemetry::exporter::postgres::Address;
use dogwatch::telemetry::exporter::postgres::schema::{self, Mode};
use dogwatch::telemetry::record::{Level, Source};
use dogwatch::telemetry::{self, Config, Destination, NewRecord};
use serde_json::json;

use crate::postgres_rig::{Cluster, Database, Durability, program};

const RECORDS: u64 = 200_000;
/// Rows of one COPY, as many as the exporter sends at most.
const BATCH: usize = 5_000;
const ROUNDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(300);
/// Share of the ring above which the producer waits: nothing is refused.
const FILL_MAX: f64 = 0.5;
/// All but the two that the database gives a row itself.
const COLUMNS: &str = "timestamp, id, source_type, source_id, log_level, message, task_id, worker_id, \
                       cycle_number, trace_id, span_id, metadata";

/// Rows a second, of the one and of the other.
struct Rates {
    ours: Vec<f64>,
    copy: Vec<f64>,
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start(Durability::Full);
    let database = cluster.database();
    let address = Address::parse(&database.url())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(schema::migrate(&address, Mode::Apply, None, clock::now()))?;
    let folder = tempfile::tempdir()?;
    let mut rates = Rates { ours: Vec::new(), copy: Vec::new() };
    for round in 0..ROUNDS {
        database.run("truncate system_logs; checkpoint");
        rates.ours.push(ours(&address, &folder.path().join(format!("spool-{round}")))?);
        let rows = database.count("system_logs where source_id = 'bench'");
        assert_eq!(rows, RECORDS, "rows");
        let script = write_batches(&database, folder.path())?;
        database.run("truncate system_logs; checkpoint");
        rates.copy.push(copy(&database, &script)?);
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (ours, copy) = (median(&mut rates.ours), median(&mut rates.copy));
    let mut out = Vec::new();
    writeln!(out, "\n{RECORDS} records with 4 fields into Postgres, indexed, durable; medians of {ROUNDS}\n")?;
    writeln!(out, "| what | x of COPY | rows/s |\n|---|---:|---:|")?;
    writeln!(out, "| psql, COPY in batches of {BATCH} | 1.00 | {copy:.0} |")?;
    writeln!(out, "| dogwatch, ring + spool + exporter | {:.2} | {ours:.0} |", ours / copy)?;
    io::stdout().write_all(&out)?;
    Ok(())
}

/// Rows a second from the first record to the last commit.
fn ours(address: &Address, spool: &Path) -> Result<f64, Box<dyn Error>> {
    let source = |id: &str| Source { source_type: "external".into(), source_id: id.into(), resource: vec![] };
    // Its heartbeats are rows, too, and not among those that are counted.
    let mut config = Config::new(spool, source("recorder"));
    config.database = Some(Destination::Postgres(address.clone()));
    let (_, guard) = telemetry::start::<tracing_subscriber::Registry>(config)?;
    let recorder = guard.recorder();
    let source = recorder.intern(&source("bench")).map_err(|refused| format!("{refused:?}"))?;
    let (worker, target) = (json!("gpu-20260131_120000-0a1b2c3d"), json!("dogwatch::orchestrator"));
    let began = monotonic();
    for n in 0..RECORDS {
        while recorder.ring_fill() > FILL_MAX {
            let _ = crossbeam_channel::after(Duration::from_millis(1)).recv();
        }
        let (cycle, count) = (json!(n / 100), json!(n));
        let record = NewRecord {
            time: clock::now(),
            level: Level::Info,
            body: "the worker has taken a task",
            attributes: &[("worker_id", &worker), ("cycle", &cycle), ("count", &count), ("target", &target)],
            event_name: None,
        };
        recorder.emit(source, &record).map_err(|refused| refused.to_string())?;
    }
    if !guard.deliver(LIMIT) {
        return Err("not everything was delivered".into());
    }
    let rate = RECORDS as f64 / (monotonic() - began).as_secs_f64();
    let _ = guard.shutdown(LIMIT);
    Ok(rate)
}

/// The table's rows as files of one batch each, and the script that reads them in.
fn write_batches(database: &Database, folder: &Path) -> Result<std::path::PathBuf, Box<dyn Error>> {
    let rows = database.ask(&format!(
        "copy (select {COLUMNS} from system_logs where source_id = 'bench' order by arrival) to stdout"
    ));
    let lines: Vec<&str> = rows.lines().collect();
    let mut script = String::new();
    for (number, batch) in lines.chunks(BATCH).enumerate() {
        let path = folder.join(format!("batch-{number}"));
        fs::write(&path, format!("{}\n", batch.join("\n")))?;
        script.push_str(&format!("\\copy system_logs ({COLUMNS}) from '{}'\n", path.display()));
    }
    let path = folder.join("script");
    fs::write(&path, script)?;
    Ok(path)
}

fn copy(database: &Database, script: &Path) -> Result<f64, Box<dyn Error>> {
    let mut command = Command::new(program("psql"));
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(script).arg(database.url());
    let began = monotonic();
    let said = command.output()?;
    let took = monotonic() - began;
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).into_owned().into());
    }
    Ok(database.count("system_logs") as f64 / took.as_secs_f64())
}
