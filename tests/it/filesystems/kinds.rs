//! One file system of each kind: where the ring goes, and what a kill leaves there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dogwatch::telemetry::record::{Kind, Level};
use dogwatch::telemetry::ring::{self, Backing, Ring, RingConfig};
use uuid::Uuid;

use super::{DIR, SCENE, mount, run, tell};

const KERNEL: Uuid = Uuid::from_u128(8);
/// Records that a process must have acknowledged before it is killed.
const ENOUGH: usize = 300;
const RING_BYTES: u64 = 256 << 10;

/// Where the ring has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here,
    SharedMemory,
}

/// A kind of file system, whether the ring may be on it, and how to get one.
struct Subject {
    name: &'static str,
    place: Place,
    make: fn(&Path) -> Result<PathBuf, String>,
}

const KINDS: [Subject; 8] = [
    Subject { name: "tmpfs", place: Place::Here, make: tmpfs },
    Subject { name: "ext4", place: Place::Here, make: |dir| formatted(dir, "mkfs.ext4", &["-q", "-F"], "32M") },
    Subject { name: "xfs", place: Place::Here, make: |dir| formatted(dir, "mkfs.xfs", &["-q", "-f"], "320M") },
    Subject { name: "overlay over tmpfs", place: Place::Here, make: |dir| overlay(dir, tmpfs) },
    Subject {
        name: "overlay over ext4",
        place: Place::Here,
        make: |dir| overlay(dir, |dir| formatted(dir, "mkfs.ext4", &["-q", "-F"], "32M")),
    },
    Subject {
        name: "btrfs",
        place: Place::SharedMemory,
        make: |dir| formatted(dir, "mkfs.btrfs", &["-q"], "128M"),
    },
    Subject { name: "ramfs", place: Place::SharedMemory, make: ramfs },
    Subject { name: "overlay over ramfs", place: Place::SharedMemory, make: |dir| overlay(dir, ramfs) },
];

/// Every kind that this machine can mount.
pub(super) fn all(dir: &Path) {
    let mut shown = 0;
    for (number, kind) in KINDS.iter().enumerate() {
        let ground = dir.join(number.to_string());
        fs::create_dir(&ground).unwrap();
        match (kind.make)(&ground) {
            Ok(folder) => {
                shown += 1;
                tell(&format!("filesystems: {}: {}", kind.name, one(&folder, kind.place)));
            }
            Err(why) => tell(&format!(
                "filesystems: {}: NOT SHOWN HERE: it cannot be mounted ({why}); its rule is tested with an \
                 injected statfs",
                kind.name
            )),
        }
    }
    assert!(shown > 0, "a tmpfs was mounted a moment ago");
}

/// Starts a process with its ring there, kills it, and finds what it acknowledged.
fn one(folder: &Path, place: Place) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["filesystems::process_with_mounts", "--exact", "--nocapture", "--test-threads=1"])
        .env(SCENE, "records")
        .env(DIR, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut backing = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("ack", numbers)) => {
                let numbers = numbers.split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                acknowledged.extend::<Option<(u64, u64)>>(numbers);
                if acknowledged.len() == ENOUGH {
                    child.kill().unwrap();
                }
            }
            Some(("backing", word)) => backing = word.to_owned(),
            _ => {}
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= ENOUGH, "{} only", acknowledged.len());
    let expected = if place == Place::Here { "data_folder" } else { "shared_memory" };
    assert_eq!(backing, expected, "{}", folder.display());
    let recovered = ring::recover(folder, KERNEL).unwrap().unwrap();
    assert!(recovered.is_complete);
    let found: BTreeMap<u64, &[u8]> =
        recovered.entries.iter().map(|entry| (entry.seq, entry.payload.as_slice())).collect();
    for (seq, number) in &acknowledged {
        assert_eq!(found.get(seq), Some(&payload(*number).as_slice()), "acknowledged and not found");
    }
    assert_eq!(recovered.accepted(), found.len() as u64 + recovered.half_written);
    ring::remove(folder).unwrap();
    assert_eq!(ring::recover(folder, KERNEL).unwrap(), None);
    format!(
        "the ring is in {}; killed: {} acknowledged, {} found, {} half-written, 0 lost",
        backing.replace('_', " "),
        acknowledged.len(),
        found.len(),
        recovered.half_written
    )
}

/// The process that is killed: puts records in, and says so after each.
pub(super) fn records_until_killed(dir: &Path) {
    let config = RingConfig { capacity_bytes: RING_BYTES, boot: Uuid::new_v4(), kernel_boot: KERNEL };
    let ring = Ring::create(dir, &config).unwrap();
    let mut out = std::io::stdout().lock();
    assert!(!matches!(ring.backing(), Backing::Anonymous { .. }), "{}", ring.backing());
    write!(out, "\nbacking {}\n", ring.backing().word()).unwrap();
    for number in 0.. {
        let Ok(seq) = ring.push(Kind::Log, Level::Error, 0, &payload(number)) else { break };
        out.write_all(format!("ack {seq} {number}\n").as_bytes()).unwrap();
    }
    // Full, and not killed yet: it is about to be.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn payload(number: u64) -> Vec<u8> {
    format!("record {number} {}", "x".repeat(number as usize % 90)).into_bytes()
}

fn tmpfs(dir: &Path) -> Result<PathBuf, String> {
    let on = dir.join("tmpfs");
    mount(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"], &on).map(|()| on)
}

fn ramfs(dir: &Path) -> Result<PathBuf, String> {
    let on = dir.join("ramfs");
    mount(&["-t", "ramfs", "ramfs"], &on).map(|()| on)
}

/// On a loop device.
fn formatted(dir: &Path, mkfs: &str, flags: &[&str], size: &str) -> Result<PathBuf, String> {
    let (image, on) = (dir.join("image"), dir.join("disk"));
    run(Command::new("truncate").args(["-s", size]).arg(&image))?;
    run(Command::new(mkfs).args(flags).arg(&image))?;
    mount(&["-o", "loop", image.to_str().unwrap()], &on).map(|()| on)
}

/// Over a file system that holds both its layers.
fn overlay(dir: &Path, make: impl FnOnce(&Path) -> Result<PathBuf, String>) -> Result<PathBuf, String> {
    let under = make(dir)?;
    let on = dir.join("overlay");
    let layer = |name: &str| {
        let layer = under.join(name);
        fs::create_dir(&layer).unwrap();
        layer.display().to_string()
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", layer("lower"), layer("upper"), layer("work"));
    mount(&["-t", "overlay", "-o", &options, "overlay"], &on).map(|()| on)
}
