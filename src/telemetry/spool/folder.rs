//! One boot's folder: made and locked at a process start, adopted when its process is dead.
//!
//! The lock is the operating system's and dies with the process, so a folder whose lock is free has
//! no writer. A folder appears under its name already locked (it is renamed into place), so that
//! nobody adopts one that is being made. A folder also carries, in memory, how far its writer has
//! come, so that cursors of the same process read up to there and ask the disk for nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SpoolError;
use super::disk::{Disk, Lock};
use super::ledger::Ledger;
use super::segment::{self, Piece, Reader};
use crate::telemetry::record::{Kind, Source};

pub(super) const LOCK: &str = "lock";

/// A folder that this process holds; clones share it.
#[derive(Clone)]
pub struct Folder {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    boot: Uuid,
    tail: Mutex<Tail>,
    sure: Mutex<Sure>,
    readers: Mutex<BTreeMap<String, Arc<Mutex<Reading>>>>,
    _lock: Lock,
}

/// What all cursors of one slot in a folder share.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Number of the cursor that may write: a later one takes it from an earlier.
    pub(super) reader: u64,
    /// An fsync of the cursor's file has failed: what it holds goes to a fresh one before it is
    /// written or believed again.
    pub(super) distrusted: bool,
}

/// Where the records of a folder end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct End {
    /// The lowest sequence that may come.
    pub next: u64,
    /// Records so far.
    pub records: u64,
}

/// What the writer tells the cursors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tail {
    /// Whether a writer is at work.
    pub(super) live: bool,
    /// Its segment and how many bytes of it are durable and may be read.
    pub(super) active: Option<(u64, u64)>,
    /// The segment that was given up last and how many bytes of it are durable; what lies behind
    /// them is appended anew, or was set aside.
    pub(super) cut: Option<(u64, u64)>,
    /// Changes when segments are replaced or dropped: a place in a file is void then.
    pub(super) generation: u64,
    /// Where the records end; `None` until somebody has looked.
    pub(super) end: Option<End>,
    /// Number of the writer that may write: a later one takes it from an earlier.
    pub(super) writer: u64,
}

impl Tail {
    /// Takes the writing from whoever has it: what that one has not made durable by now never
    /// counts as such. Gives the next writer's number.
    pub(super) fn fence(&mut self) -> u64 {
        self.writer += 1;
        self.cut = self.active.take().or(self.cut);
        self.writer
    }
}

/// What outlives a writer: the next one of this process believes nothing else.
#[derive(Debug, Clone, Default)]
pub(super) struct Sure {
    /// What is durable, once a writer has synced.
    pub(super) synced: Option<Mark>,
    /// JSON of the sources that were defined.
    pub(super) sources: BTreeMap<u16, Vec<u8>>,
}

/// How far something has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Mark {
    pub(super) end: End,
    pub(super) by_source: BTreeMap<u16, u64>,
}

impl Folder {
    /// Makes the folder of a boot, and locks it.
    ///
    /// # Errors
    /// The disk's; [`SpoolError::Locked`] where another holds it.
    pub fn create(root: &Path, boot: Uuid, disk: Arc<dyn Disk>) -> Result<Folder, SpoolError> {
        let path = root.join(boot.hyphenated().to_string());
        let making = root.join(format!(".making-{}", boot.hyphenated()));
        let told = |source| SpoolError::io("make folder", &path, source);
        disk.create_dir(&making).map_err(told)?;
        let lock = disk.lock(&making.join(LOCK)).map_err(told)?;
        let lock = lock.ok_or_else(|| SpoolError::Locked { path: path.clone() })?;
        disk.rename(&making, &path).map_err(told)?;
        disk.sync_dir(&path).map_err(told)?;
        disk.sync_dir(root).map_err(told)?;
        Ok(Folder::new(disk, path, boot, lock))
    }

    /// Takes over the folder of a dead process; `None` where its lock is held or it is gone.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn adopt(root: &Path, boot: Uuid, disk: Arc<dyn Disk>) -> Result<Option<Folder>, SpoolError> {
        let path = root.join(boot.hyphenated().to_string());
        let lock_path = path.join(LOCK);
        if disk.len(&lock_path).is_err() {
            return Ok(None);
        }
        let told = |source| SpoolError::io("lock", &lock_path, source);
        let Some(lock) = disk.lock(&lock_path).map_err(told)? else { return Ok(None) };
        // Who held it may have removed the folder between our look and our lock.
        if disk.len(&lock_path).is_err() {
            return Ok(None);
        }
        Ok(Some(Folder::new(disk, path, boot, lock)))
    }

    fn new(disk: Arc<dyn Disk>, path: PathBuf, boot: Uuid, lock: Lock) -> Folder {
        Folder {
            inner: Arc::new(Inner {
                disk,
                path,
                boot,
                tail: Mutex::default(),
                sure: Mutex::default(),
                readers: Mutex::default(),
                _lock: lock,
            }),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The folder of all boots.
    pub fn root(&self) -> &Path {
        self.inner.path.parent().unwrap_or(&self.inner.path)
    }

    /// Whose records are in it.
    pub fn boot(&self) -> Uuid {
        self.inner.boot
    }

    /// The disk it is on.
    pub fn disk(&self) -> &dyn Disk {
        &*self.inner.disk
    }

    /// Where its records end: what the writer has flushed, or else what is found on disk.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn end(&self) -> Result<End, SpoolError> {
        if let Some(end) = self.tail().end {
            return Ok(end);
        }
        let end = find_end(self.disk(), self.path(), self.boot())?;
        Ok(*self.tail().end.get_or_insert(end))
    }

    /// What its writers have made durable in this process; `None` before the first.
    pub fn synced(&self) -> Option<End> {
        self.sure().synced.as_ref().map(|mark| mark.end)
    }

    /// Takes the writing from a writer that does not come back from the disk: from here on
    /// [`Folder::synced`] stays as it is until another writer is opened. Asks no disk.
    pub(in crate::telemetry) fn fence_writer(&self) {
        self.tail().fence();
    }

    /// The definition of a source that reaches the spool with its next segment.
    pub fn define_source(&self, number: u16, json: &[u8]) {
        self.sure().sources.insert(number, json.to_vec());
    }

    /// The definition of a source, where this process has seen it.
    pub fn source(&self, number: u16) -> Option<Source> {
        serde_json::from_slice(self.sure().sources.get(&number)?).ok()
    }

    /// What the cursors of a slot share; held by who writes the cursor's file.
    pub(super) fn reading(&self, slot: &str) -> Arc<Mutex<Reading>> {
        let mut readers = self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(readers.entry(slot.to_owned()).or_default())
    }

    /// What writers hand on; held only for a few copies.
    pub(super) fn sure(&self) -> MutexGuard<'_, Sure> {
        self.inner.sure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state shared with the cursors; held only for a few loads and stores.
    pub(super) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.inner.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The boots that have a folder under `root`, in order of their names; at most `max`.
///
/// # Errors
/// As the disk tells; a root that is not there has none.
pub fn boots(disk: &dyn Disk, root: &Path, max: usize) -> Result<Vec<Uuid>, SpoolError> {
    let entries = match disk.list(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|source| SpoolError::io("list", root, source))?,
    };
    let boots = entries.into_iter().filter(|entry| entry.is_dir).filter_map(|entry| entry.name.parse().ok());
    Ok(boots.take(max).collect())
}

/// Takes over every folder under `root` whose process is dead; at most `max`.
///
/// # Errors
/// As the disk tells.
pub fn adopt_all(root: &Path, disk: &Arc<dyn Disk>, max: usize) -> Result<Vec<Folder>, SpoolError> {
    let mut folders = Vec::new();
    for boot in boots(&**disk, root, usize::MAX)? {
        if folders.len() == max {
            break;
        }
        folders.extend(Folder::adopt(root, boot, disk.clone())?);
    }
    Ok(folders)
}

/// Where the records on disk end, or where the ledger says that they ended, whichever is later: the ledger
/// does not know of what came after it was saved. Counts a record whose payload is bad, and one for bytes at
/// the very end that are no frame and no torn one: they were records.
pub(super) fn find_end(disk: &dyn Disk, path: &Path, boot: Uuid) -> Result<End, SpoolError> {
    let told = |source| SpoolError::io("read", path, source);
    let mut end = Ledger::load(disk, path, boot)?.end;
    for segment in segment::list(disk, path).map_err(told)?.into_iter().rev() {
        let mut reader = Reader::open(disk, path, boot, segment.first)?;
        let before = reader.header().map(|header| header.records_before);
        let mut here = before.unwrap_or(0);
        let (mut counted, mut reached) = (before.is_some(), false);
        let mut junk = false;
        while let Some(piece) = reader.next(segment.bytes).map_err(told)? {
            let header = match piece {
                Piece::Frame { header, .. } | Piece::Damaged { header: Some(header), .. } => header,
                Piece::Damaged { bytes, .. } => {
                    junk |= is_junk(bytes);
                    continue;
                }
            };
            junk = false;
            end.next = end.next.max(header.seq + 1);
            reached = true;
            if header.kind != Kind::Source as u8 {
                counted = true;
                here = header.ordinal + 1;
            }
        }
        end.records = end.records.max(here.saturating_add(u64::from(junk)));
        if counted && reached {
            break;
        }
    }
    Ok(end)
}

/// Whether bytes that are no frame could have been one: not what a crash leaves (zeros).
fn is_junk(bytes: &[u8]) -> bool {
    bytes.iter().any(|&byte| byte != 0)
}

#[cfg(test)]
mod tests;
