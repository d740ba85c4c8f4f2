//! SIGKILL while the disk is full and records go to stdout.
//!
//! A child fills a tmpfs of 4 MiB and goes on emitting; its lines go to a file on another disk, and
//! so does, after each macro, the record's position and how far the spool is durable. It is killed
//! after a different number of lines each time. Then there is room again, and the next process
//! takes over: every acknowledged record is a row or a line, each one once but for those that the
//! kill caught between the line and its count, and the law holds.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use dogwatch::clock;
use dogwatch::telemetry::record::Level;
use dogwatch::telemetry::spool::disk::RealDisk;
use dogwatch::telemetry::spool::verify;
use dogwatch::telemetry::{self, Adopt, Config, NewRecord, SourceNo};
use tracing_subscriber::Registry;

use super::full::{LIMIT, RING_BYTES, fill, wait_for};
use super::{DIR, SCENE, mount, tell};
use crate::recorded;

/// Kills, each on a disk of its own.
const RUNS: usize = 6;
/// Records that are on disk before it is full.
const DURABLE: u64 = 200;
/// Emitters wait while more of the ring is in use, so that nothing is refused.
const FILL_MAX: f64 = 0.95;
/// A child that nobody kills ends by itself after so many records.
const RECORDS_MAX: u64 = 200_000;

/// The spool's disk, what was acknowledged, what was printed, what arrived.
const DISK: &str = "small";
const ACKS: &str = "acks";
const LINES: &str = "lines";
const LOGS: &str = "logs.db";

/// What one run came to.
#[derive(Default)]
struct Sum {
    acknowledged: usize,
    durable: usize,
    rows: usize,
    printed_only: usize,
    both: usize,
}

/// Kills children one after the other, and accounts for what each has said.
pub(super) fn run(dir: &Path) {
    let mut sum = Sum::default();
    for run in 0..RUNS {
        let place = dir.join(format!("run-{run}"));
        mount(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"], &place.join(DISK)).unwrap();
        kill_one(&place, 1 + run * run * 120);
        account(&place, &mut sum);
        super::run(Command::new("umount").arg(place.join(DISK))).unwrap();
    }
    let Sum { acknowledged, durable, rows, printed_only, both } = sum;
    assert!(printed_only > 0, "no run was killed while records went to stdout");
    tell(&format!(
        "filesystems: killed while records go to stdout: {RUNS} kills; {acknowledged} acknowledged, {durable} of \
         them known to be durable = {rows} rows + {printed_only} lines counted as such, 0 lost; {both} lines were \
         printed and not yet counted, and arrived as rows"
    ));
}

/// Ends when so many lines have been printed.
fn kill_one(place: &Path, lines_min: usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["filesystems::process_with_mounts", "--exact", "--nocapture", "--test-threads=1"])
        .env(SCENE, "fallback")
        .env(DIR, place)
        .stdout(File::create(place.join(LINES)).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let enough = wait_for(|| (printed(place).len() >= lines_min).then_some(()));
    assert!(enough.is_some(), "{} lines; the child: {:?}", printed(place).len(), child.try_wait());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The child: fills its disk, and emits until it is killed.
pub(super) fn emit_until_killed(place: &Path) {
    let config = Config { database: None, adopt: Adopt::None, ..config(place) };
    let (_layer, guard) = telemetry::start::<Registry>(config).unwrap();
    let mut acks = File::create(place.join(ACKS)).unwrap();
    for number in 0..RECORDS_MAX {
        let body = format!("number {number:06} {}", "x".repeat(200));
        let (time, level) = (clock::now(), Level::Warning);
        let record = NewRecord { time, level, body: &body, attributes: &[], event_name: None };
        let seq = guard.recorder().emit(SourceNo::OWN, &record).unwrap();
        writeln!(acks, "{number} {seq} {}", guard.recorder().durable_through()).unwrap();
        if number == DURABLE {
            assert!(guard.flush(LIMIT));
            fill(&place.join(DISK).join("ballast"));
        }
        let _ = wait_for(|| (guard.recorder().ring_fill() < FILL_MAX).then_some(()));
    }
}

/// The messages of the whole lines on stdout; the test runner's own lines are none.
fn printed(place: &Path) -> Vec<String> {
    let text = fs::read_to_string(place.join(LINES)).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter_map(|line| line["message"].as_str().map(str::to_owned)).collect()
}

fn account(place: &Path, sum: &mut Sum) {
    fs::remove_file(place.join(DISK).join("ballast")).unwrap();
    let (_layer, guard) = telemetry::start::<Registry>(config(place)).unwrap();
    assert!(guard.wait_delivered(|_| ()), "blocked");
    let end = guard.shutdown(LIMIT);
    assert_eq!((end.pending, end.lost), (0, 0), "{end}");
    let rows = recorded::messages(&place.join(LOGS));
    let (count, different) = recorded::numbered(&place.join(LOGS));
    assert_eq!(count, different, "a record is there twice");
    let rows: BTreeSet<String> = rows.into_iter().collect();
    let lines = printed(place);
    let only: Vec<&String> = lines.iter().filter(|line| !rows.contains(*line)).collect();
    assert_eq!(only.iter().collect::<BTreeSet<_>>().len(), only.len(), "a line is there twice");

    let acks = fs::read_to_string(place.join(ACKS)).unwrap();
    let acks: Vec<Vec<u64>> = acks
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| line.split_whitespace().map(|number| number.parse().unwrap()).collect())
        .collect();
    let durable = acks.iter().map(|ack| ack[2]).max().unwrap();
    let found = |number: u64| {
        let begin = format!("number {number:06} ");
        rows.range(begin.clone()..).next().is_some_and(|row| row.starts_with(&begin))
            || lines.iter().any(|line| line.starts_with(&begin))
    };
    let lost: Vec<&Vec<u64>> = acks.iter().filter(|ack| !found(ack[0])).collect();
    assert!(lost.is_empty(), "acknowledged, and neither a row nor a line: {lost:?}; durable: {durable}");

    let law = verify(&RealDisk, &place.join(DISK).join("spool")).unwrap();
    assert!(law.iter().all(|line| line.ok && line.pending == 0), "{law:#?}");
    assert!(law.iter().all(|line| line.accepted == line.delivered + line.dropped.values().sum::<u64>()));
    let dropped = |cause: &str| law.iter().filter_map(|line| line.dropped.get(cause)).sum::<u64>() as usize;
    let all: u64 = law.iter().map(|line| line.dropped.values().sum::<u64>()).sum();
    assert_eq!(all as usize, dropped("stdout") + dropped("half_written"), "{law:#?}");
    assert_eq!(dropped("stdout"), only.len(), "what was printed is counted once: {law:#?}");
    sum.acknowledged += acks.len();
    sum.durable += acks.iter().filter(|ack| ack[1] <= durable).count();
    sum.rows += rows.len();
    sum.printed_only += only.len();
    sum.both += lines.len() - only.len();
}

fn config(place: &Path) -> Config {
    let config = recorded::config(place.join(DISK).join("spool"), &place.join(LOGS), "killed on a full disk");
    Config { ring_bytes: RING_BYTES, ..config }
}
