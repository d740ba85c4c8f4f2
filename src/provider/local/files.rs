//! What is kept on disk about each local pod: a state file, the agent's capped output, its folder.
//!
//! `<worker>.json` is written whole beside its place and renamed, so that it is never half there.
//! `<worker>.log` is what the agent wrote on stdout and stderr; the agent holds it open for
//! appending, so it survives us; above [`OUTPUT_BYTES_MAX`] its tail moves to `<worker>.log.1` at
//! the next listing. `<worker>/` is the agent's own data folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::{Ending, ProcessKey};
use crate::clock::Time;

/// Output kept of one agent before it is cut, bytes.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// What a cut leaves, and the most that is read for the last lines, bytes.
const TAIL_BYTES: u64 = 64 << 10;
/// Most lines of evidence.
const LINES_MAX: usize = 50;
/// Longest line of evidence, characters.
const LINE_CHARS_MAX: usize = 500;
/// Longest name of a worker that can be a file.
const NAME_BYTES_MAX: usize = 120;

/// What is known about one pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PodFile {
    /// Our name for it.
    pub(super) name: String,
    /// Its agent; null until it was started.
    pub(super) process: Option<ProcessKey>,
    /// When it was asked for.
    pub(super) created_at: Time,
    /// The agent's own data folder.
    pub(super) data_dir: PathBuf,
    /// How the agent ended; null while it runs.
    pub(super) ended: Option<Ending>,
    /// Whether it was ended through us: it is not listed any more.
    pub(super) terminated: bool,
}

/// What a folder holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// State files by worker.
    pub(super) pods: Vec<(String, PodFile)>,
    /// State files that cannot be read, and why.
    pub(super) unreadable: Vec<String>,
}

/// The folder with all of it.
#[derive(Debug, Clone)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Makes the folder, for its owner only.
    pub(super) fn open(dir: &Path) -> io::Result<Files> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Files { dir: dir.to_path_buf() })
    }

    /// The agent's own data folder.
    pub(super) fn data_dir(&self, worker: &str) -> PathBuf {
        self.dir.join(worker)
    }

    /// The agent's output, opened for appending.
    pub(super) fn output(&self, worker: &str) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.path(worker, "log"))
    }

    /// Writes a state file.
    pub(super) fn save(&self, worker: &str, pod: &PodFile) -> io::Result<()> {
        let part = self.path(worker, "json.part");
        let mut file = File::create(&part)?;
        file.write_all(&serde_json::to_vec(pod)?)?;
        file.sync_data()?;
        fs::rename(part, self.path(worker, "json"))
    }

    /// Reads every state file. A file that cannot be read is named, never taken for absent.
    pub(super) fn load(&self) -> io::Result<Found> {
        let mut found = Found::default();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let (Some(stem), true) = (path.file_stem(), path.extension().is_some_and(|end| end == "json")) else {
                continue;
            };
            let worker = stem.to_string_lossy().into_owned();
            match fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?)) {
                Ok(pod) => found.pods.push((worker, pod)),
                Err(error) => found.unreadable.push(format!("{}: {error}", path.display())),
            }
        }
        Ok(found)
    }

    /// Forgets a pod. Its data folder stays while records wait in its spool.
    pub(super) fn remove(&self, worker: &str, pod: &PodFile) {
        let spool = pod.data_dir.join("spool");
        let waiting = fs::read_dir(spool).is_ok_and(|mut boots| boots.next().is_some());
        if !waiting && pod.data_dir.starts_with(&self.dir) {
            let _ = fs::remove_dir_all(&pod.data_dir);
        }
        for end in ["log", "log.1", "json"] {
            let _ = fs::remove_file(self.path(worker, end));
        }
    }

    /// Cuts the output where it has grown too long. What is written between the copy and the cut
    /// is lost; both are one system call apart.
    pub(super) fn cap_output(&self, worker: &str) -> io::Result<()> {
        let path = self.path(worker, "log");
        match fs::metadata(&path) {
            Ok(meta) if meta.len() > OUTPUT_BYTES_MAX => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        fs::write(self.path(worker, "log.1"), tail(&path)?)?;
        OpenOptions::new().write(true).open(&path)?.set_len(0)
    }

    /// The last lines of the output.
    pub(super) fn last_lines(&self, worker: &str) -> Vec<String> {
        let mut text = tail(&self.path(worker, "log.1")).unwrap_or_default();
        text.extend(tail(&self.path(worker, "log")).unwrap_or_default());
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<String> =
            text.lines().rev().take(LINES_MAX).map(|line| line.chars().take(LINE_CHARS_MAX).collect()).collect();
        lines.reverse();
        lines
    }

    fn path(&self, worker: &str, end: &str) -> PathBuf {
        self.dir.join(format!("{worker}.{end}"))
    }
}

/// Whether a worker's id can be the name of a file.
pub(super) fn is_file_name(worker: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !worker.is_empty() && worker.len() <= NAME_BYTES_MAX && worker.chars().all(fits)
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
