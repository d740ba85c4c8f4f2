//! The work: files that the demo makes, and what is done to them by programs that every Linux has.
//!
//! Every result can be checked without trusting the worker: a digest against our own, a
//! compressed file against its own size and CRC, a transformed file byte by byte.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::fleet::ids::TaskId;
use crate::fleet::task::{NewTask, Task};

/// Files that are hashed and transformed, one task each.
const FILES: usize = 12;
/// Lines of each such file.
const LINES: usize = 20_000;
/// Size of the file whose compression takes long enough to be interrupted, bytes.
const LONG_BYTES: usize = 16 << 20;

/// What is expected of a task.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    /// stdout begins with this digest.
    Digest(String),
    /// That file holds these bytes, as a digest.
    File(PathBuf, String),
    /// That gzip file unpacks to so many bytes with that CRC-32 (its trailer says so).
    Gzip(PathBuf, u32),
}

/// A task of the demo.
pub(super) struct Job {
    pub(super) task: NewTask,
    pub(super) expected: Expected,
}

/// Makes the files and the tasks. The last two take long.
pub(super) fn jobs(folder: &Path) -> anyhow::Result<Vec<Job>> {
    std::fs::create_dir_all(folder)?;
    let mut jobs = Vec::new();
    for number in 0..FILES {
        let path = folder.join(format!("part-{number:02}.txt"));
        let text = text(number as u64 + 1, LINES);
        std::fs::write(&path, &text)?;
        if number % 2 == 0 {
            let digest = hex(&Sha256::digest(text.as_bytes()));
            jobs.push(job(&["sha256sum", &shown(&path)], Expected::Digest(digest)));
        } else {
            let made = path.with_extension("upper");
            let script = format!("tr a-z A-Z < '{}' > '{}'", shown(&path), shown(&made));
            let digest = hex(&Sha256::digest(text.to_uppercase().as_bytes()));
            jobs.push(job(&["sh", "-c", &script], Expected::File(made, digest)));
        }
    }
    for number in 0..2 {
        let path = folder.join(format!("long-{number}.txt"));
        let mut text = text(100 + number, LONG_BYTES / 60);
        text.truncate(LONG_BYTES);
        std::fs::write(&path, &text)?;
        let made = path.with_extension("gz");
        // Compressed several times over, so that there is a middle to be killed in.
        let script = format!(
            "for round in 1 2 3; do echo round $round; gzip -9 -c '{0}' > '{1}.part'; done; mv '{1}.part' '{1}'",
            shown(&path),
            shown(&made)
        );
        jobs.push(job(&["sh", "-c", &script], Expected::Gzip(made, crc32(text.as_bytes()))));
    }
    Ok(jobs)
}

fn job(argv: &[&str], expected: Expected) -> Job {
    let task = NewTask {
        id: TaskId(uuid::Uuid::new_v4()),
        user: "demo".to_owned(),
        task_type: "command".to_owned(),
        params: json!({"argv": argv, "stdin": null}),
        run_type: None,
        dependant_on: Vec::new(),
        traceparent: None,
    };
    Job { task, expected }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

impl Expected {
    /// Whether this is the work that can be interrupted.
    pub(super) fn is_long(&self) -> bool {
        matches!(self, Expected::Gzip(..))
    }

    /// What is wrong with the result; None: it is right.
    pub(super) fn fault(&self, task: &Task) -> Option<String> {
        match self {
            Expected::Digest(digest) => {
                let output = task.output.as_ref()?.get("stdout_tail")?.as_str().unwrap_or_default().to_owned();
                (!output.starts_with(digest.as_str())).then(|| format!("{output:?} is not {digest}"))
            }
            Expected::File(path, digest) => match std::fs::read(path) {
                Ok(bytes) => {
                    let found = hex(&Sha256::digest(&bytes));
                    (found != *digest).then(|| format!("{} has digest {found}", path.display()))
                }
                Err(error) => Some(format!("{}: {error}", path.display())),
            },
            Expected::Gzip(path, crc) => match std::fs::read(path) {
                Ok(bytes) => {
                    let trailer = bytes.len().checked_sub(8).map(|at| &bytes[at..at + 4]);
                    let found = trailer.and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
                    (found != Some(*crc)).then(|| format!("{} has CRC {found:?}, not {crc}", path.display()))
                }
                Err(error) => Some(format!("{}: {error}", path.display())),
            },
        }
    }
}

/// Text that looks like prose and compresses like it; the same for the same seed.
fn text(seed: u64, lines: usize) -> String {
    const WORDS: [&str; 16] = [
        "render", "frame", "worker", "queue", "segment", "latent", "sample", "prompt", "model", "tensor", "cycle",
        "lease", "record", "spool", "cursor", "watch",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(lines * 64);
    for line in 0..lines {
        let _ = write!(text, "{line:06}");
        for _ in 0..7 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push(' ');
            text.push_str(WORDS[(state >> 32) as usize % WORDS.len()]);
        }
        text.push('\n');
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// CRC-32 as gzip's trailer has it (IEEE 802.3, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256_u32)
        .map(|byte| (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }))
        .collect();
    !bytes.iter().fold(!0_u32, |crc, byte| (crc >> 8) ^ table[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_is_gzips() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn text_is_the_same_for_the_same_seed() {
        assert_eq!(text(7, 3), text(7, 3));
        assert_ne!(text(7, 3), text(8, 3));
    }
}
