//! A disk that answers with errors when it is told to, over any other disk.
//!
//! A failed fsync behaves as Linux' does: the bytes that were not durable are lost, and the *next*
//! fsync of that file says it is well. So whoever trusts such a file again loses records, and a
//! test sees it; [`FaultyDisk::trusted_again`] counts the attempts. For tests and the fault matrix.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Entry, Lock};

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Making a file or a folder, and allocating.
    Create,
    /// Reading.
    Read,
    /// Writing; half of the bytes are written.
    Write,
    /// fsync of a file.
    Sync,
    /// fsync of a folder.
    SyncDir,
    /// Renaming.
    Rename,
    /// Removing a file or a folder.
    Remove,
}

impl Op {
    /// All that change something: a disk that is read-only fails these.
    pub const CHANGES: [Op; 6] = [Op::Create, Op::Write, Op::Sync, Op::SyncDir, Op::Rename, Op::Remove];
}

/// A disk over another; clones share their faults.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    faults: BTreeMap<Op, Fault>,
    /// Bytes that are free, whatever the other disk says.
    free_bytes: Option<u64>,
    poisoned: Vec<PathBuf>,
    trusted_again: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    kind: io::ErrorKind,
    /// So many go well first.
    after: u64,
    /// So many fail then.
    times: u64,
}

impl FaultyDisk {
    /// A disk that works.
    pub fn new(inner: Arc<dyn Disk>) -> FaultyDisk {
        FaultyDisk { inner, plan: Arc::default() }
    }

    /// Lets `op` fail `times` times, after `after` more have gone well.
    pub fn fail(&self, op: Op, kind: io::ErrorKind, after: u64, times: u64) {
        self.plan().faults.insert(op, Fault { kind, after, times });
    }

    /// Every change fails from here on, as on a disk that is remounted read-only.
    pub fn read_only(&self) {
        for op in Op::CHANGES {
            self.fail(op, io::ErrorKind::ReadOnlyFilesystem, 0, u64::MAX);
        }
    }

    /// It says that so many bytes are free, whatever the other disk says; writes go well.
    pub fn set_free(&self, bytes: u64) {
        self.plan().free_bytes = Some(bytes);
    }

    /// Everything works again.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.faults.clear();
        plan.free_bytes = None;
    }

    /// How often a file was written or synced after its fsync had failed.
    pub fn trusted_again(&self) -> u64 {
        self.plan().trusted_again.len() as u64
    }

    /// Which files were, once for each time.
    pub fn trusted_again_files(&self) -> Vec<PathBuf> {
        self.plan().trusted_again.clone()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, op: Op) -> io::Result<()> {
        let mut plan = self.plan();
        let Some(fault) = plan.faults.get_mut(&op) else { return Ok(()) };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        if fault.times == 0 {
            return Ok(());
        }
        fault.times = fault.times.saturating_sub(1);
        Err(io::Error::from(fault.kind))
    }

    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { disk: self.clone(), path: path.to_path_buf(), file })
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.check(Op::Create)?;
        self.inner.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.check(Op::Create)?;
        let file = self.inner.create(path)?;
        self.plan().poisoned.retain(|poisoned| poisoned != path);
        Ok(self.wrap(path, file))
    }

    fn allocate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.check(Op::Create)?;
        self.inner.allocate(path, bytes)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, self.inner.open_read(path)?))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, self.inner.open_write(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.inner.list(dir)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.inner.len(path)
    }

    fn free(&self, dir: &Path) -> io::Result<Option<u64>> {
        let told = self.plan().free_bytes;
        if told.is_some() { Ok(told) } else { self.inner.free(dir) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Op::Rename)?;
        self.plan().poisoned.retain(|poisoned| poisoned != to);
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(Op::Remove)?;
        self.inner.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.check(Op::Remove)?;
        self.inner.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.check(Op::SyncDir)?;
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        self.inner.lock(path)
    }
}

/// A file of a [`FaultyDisk`].
struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl FaultyFile {
    /// Whether its fsync has failed; counts the attempt to use it nevertheless.
    fn poisoned(&self) -> bool {
        let mut plan = self.disk.plan();
        let poisoned = plan.poisoned.contains(&self.path);
        if poisoned {
            plan.trusted_again.push(self.path.clone());
        }
        poisoned
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.check(Op::Read)?;
        self.file.read_at(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.poisoned();
        if let Err(error) = self.disk.check(Op::Write) {
            self.file.write_at(offset, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        if self.poisoned() {
            return Ok(());
        }
        if let Err(error) = self.disk.check(Op::Sync) {
            self.disk.plan().poisoned.push(self.path.clone());
            return Err(error);
        }
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
