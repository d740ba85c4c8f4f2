//! A real process, really killed: what it acknowledged is found.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use super::*;

const DIR: &str = "DOGWATCH_TEST_RING_DIR";
const CHILD: &str = "telemetry::ring::tests::kill::child_that_will_be_killed";
const RUNS: u64 = 12;
const CHILD_RING_BYTES: u64 = 32 << 10;
const SPOOL: &str = "spooled";

/// Does nothing by itself: [`every_acknowledged_record_survives_sigkill`] starts it in a process of
/// its own. Producers print each number after its push returned; the consumer copies to a file
/// and releases, as the spooler does.
#[test]
fn child_that_will_be_killed() {
    #[expect(clippy::disallowed_methods, reason = "how the parent tells its child where to work")]
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let config = RingConfig { capacity_bytes: CHILD_RING_BYTES, boot: BOOT, kernel_boot: KERNEL };
    let ring = Ring::create_at(&dir, &dir, &config, &Says(EXT4)).unwrap();
    let mut consumer = ring.consumer().unwrap();
    let mut spool = std::fs::File::create(dir.join(SPOOL)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let ring = ring.clone();
            scope.spawn(move || {
                for number in 0.. {
                    let payload = payload_of(thread, number);
                    if let Ok(seq) = ring.push(Kind::Log, Level::Error, 0, &payload) {
                        let line = format!("ack {seq} {thread} {number}\n");
                        std::io::stdout().write_all(line.as_bytes()).unwrap();
                    }
                }
            });
        }
        scope.spawn(move || {
            loop {
                let mut lines = Vec::new();
                consumer.read(4_096, |entry| lines.extend(line(entry.seq, entry.payload)));
                spool.write_all(&lines).unwrap();
                assert!(consumer.release());
            }
        });
    });
}

fn line(seq: u64, payload: &[u8]) -> Vec<u8> {
    [&seq.to_le_bytes(), &(payload.len() as u64).to_le_bytes(), payload].concat()
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What reached the file; a torn end is a batch that was not released.
fn spooled(dir: &Path) -> BTreeMap<u64, Vec<u8>> {
    let bytes = std::fs::read(dir.join(SPOOL)).unwrap();
    let mut out = BTreeMap::new();
    let mut rest = &bytes[..];
    while let Some((head, after)) = rest.split_at_checked(16) {
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let Some((payload, after)) = after.split_at_checked(word(8) as usize) else { break };
        assert!(out.insert(word(0), payload.to_vec()).is_none(), "spooled once");
        rest = after;
    }
    out
}

#[test]
fn every_acknowledged_record_survives_sigkill() {
    for run in 0..RUNS {
        let dir = tempfile::tempdir().unwrap();
        let mut child = start(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = 200 + run * 701;
        let mut acknowledged = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            let Some((_, numbers)) = line.split_once("ack ") else { continue };
            let numbers: Vec<u64> = numbers.split(' ').map_while(|word| word.parse().ok()).collect();
            acknowledged.extend(<[u64; 3]>::try_from(numbers));
            if acknowledged.len() as u64 == enough {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged.len() as u64 >= enough);

        let recovered = recover(dir.path(), KERNEL).unwrap().unwrap();
        let mut kept = spooled(dir.path());
        for entry in &recovered.entries {
            let before = kept.insert(entry.seq, entry.payload.clone());
            assert!(before.is_none_or(|before| before == entry.payload));
        }
        for [seq, thread, number] in acknowledged {
            assert_eq!(kept.get(&seq), Some(&payload_of(thread, number)), "run {run}, seq {seq}");
        }
        assert_eq!(recovered.accepted(), kept.len() as u64 + total_half_written(&recovered));
    }
}

fn total_half_written(recovered: &Recovered) -> u64 {
    recovered.counters.half_written + recovered.half_written
}
