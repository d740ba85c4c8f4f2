//! A dead process's folder is adopted by a recorder that is killed at any of its system calls; the
//! next one delivers everything, once.
//!
//! The dead process left five records: the spool holds two, the ring these and the rest, and one
//! span is open. Adoption is done by the thread that calls [`telemetry::start`], and that thread is
//! the one that is stepped; the recorder's other threads run freely. Adoption maps nothing that
//! outlives it, so between two system calls a kill finds the same files.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dogwatch::telemetry::encode::LogWriter;
use dogwatch::telemetry::record::{Kind, Level, Source};
use dogwatch::telemetry::ring::{OpenSpan, Ring, RingConfig};
use dogwatch::telemetry::spool::disk::RealDisk;
use dogwatch::telemetry::spool::{Folder, SpoolConfig, Writer, verify};
use dogwatch::telemetry::{self, Config};
use tracing_subscriber::Registry;
use uuid::Uuid;

use super::judge::Found;
use super::scenes::end;
use super::stepper::{Child, mark};
use super::{Scene, Watch};
use crate::recorded;

const DEAD: Uuid = Uuid::from_u128(0x0001_9000_0000_7000_8000_0000_0000_0001);
const RECORDS: u64 = 5;
const SPOOLED: u64 = 2;
const LIMIT: Duration = Duration::from_secs(20);

/// A recorder starts and finds the dead one's folder.
pub(super) const ADOPT: Scene = Scene {
    name: "adopt",
    prepare: dead_process,
    act: |dir| {
        mark();
        let _kept = telemetry::start::<Registry>(config(dir));
        end();
    },
    meanwhile: None,
    judge: adopted_again,
    watch: Watch::SystemCalls,
};

fn dead_process(dir: &Path) {
    let folder = Folder::create(&dir.join("spool"), DEAD, Arc::new(RealDisk)).unwrap();
    let kernel_boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().parse().unwrap();
    let ring_config = RingConfig { capacity_bytes: 4_096, boot: DEAD, kernel_boot };
    let ring = Ring::create(folder.path(), &ring_config).unwrap();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    let definition = serde_json::to_vec(&source("dead")).unwrap();
    let seq = ring.push(Kind::Source, Level::Critical, 0, &definition).unwrap();
    writer.append(seq, Kind::Source, Level::Critical, 0, &definition).unwrap();
    for number in 0..RECORDS {
        let payload = payload(number);
        let seq = ring.push(Kind::Log, Level::Error, 0, &payload).unwrap();
        if number < SPOOLED {
            writer.append(seq, Kind::Log, Level::Error, 0, &payload).unwrap();
        }
    }
    let span = OpenSpan {
        trace_id: 1,
        span_id: 2,
        parent_span_id: 0,
        start_unix_micros: 1_700_000_000_000_000,
        cycle: 638,
        source: 0,
        name: "number of the span".into(),
    };
    ring.open_span(&span).unwrap();
    writer.sync().unwrap();
}

fn payload(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let nanos = 1_700_000_000_000_000_000 + number * 1_000;
    let mut writer =
        LogWriter::begin(&mut bytes, nanos, nanos, Level::Error.severity_number(), Level::Error.word());
    writer.body(&format!("number {number}"));
    writer.end();
    bytes
}

/// Another recorder adopts both, the dead one and the one that was killed, and delivers.
fn adopted_again(dir: &Path) -> Found {
    Child::start(|| {
        let (_layer, guard) = telemetry::start::<Registry>(config(dir)).unwrap();
        assert!(guard.wait_delivered(|_| ()));
        let shutdown = guard.shutdown(LIMIT);
        assert_eq!(shutdown.pending, 0, "{shutdown}");
        let lines = verify(&RealDisk, &dir.join("spool")).unwrap();
        assert!(lines.iter().all(|line| line.ok && line.accepted == line.delivered), "{lines:#?}");
        let dead: Vec<_> = lines.iter().filter(|line| line.boot == DEAD && line.exporter != "none").collect();
        assert!(matches!(dead[..], [line] if line.accepted == RECORDS + 1), "{lines:#?}");
        assert_eq!(recorded::numbered(&dir.join("logs.db")), (RECORDS + 1, RECORDS + 1), "rows and different ones");
        end();
    })
    .kill();
    Found { acknowledged: RECORDS, in_flight: 0, half_written: 0, has_ring: false }
}

fn source(source_id: &str) -> Source {
    Source { source_type: "external".into(), source_id: source_id.into(), resource: Vec::new() }
}

fn config(dir: &Path) -> Config {
    let config = recorded::config(dir.join("spool"), &dir.join("logs.db"), "adopter");
    Config { ring_bytes: 64 << 10, ..config }
}
