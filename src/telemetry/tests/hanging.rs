//! A disk that does not answer: calls go in and come back when the test says so, and until then
//! nobody hears anything.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::rig::Gate;
use crate::telemetry::spool::disk::{Disk, DiskFile, Entry, Lock, RealDisk};

/// Which calls do not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Calls {
    /// fdatasyncs of segments that are written.
    Syncs,
    /// Writes to them.
    Writes,
    /// Every call, whoever makes it and of whatever file, but for the closing of files.
    All,
}

/// The disk; clones hang together.
#[derive(Clone, Default)]
pub(super) struct HangingDisk {
    gate: Gate,
    plan: Arc<Mutex<Option<(Calls, u64)>>>,
}

impl HangingDisk {
    pub(super) fn hang(&self, calls: Calls, times: u64) {
        self.gate.shut();
        *self.plan.lock().unwrap() = Some((calls, times));
    }

    pub(super) fn let_go(&self) {
        *self.plan.lock().unwrap() = None;
        self.gate.open();
    }

    /// As many as were asked for have come.
    pub(super) fn holds_all(&self) -> bool {
        self.plan.lock().unwrap().is_some_and(|(_, left)| left == 0)
    }

    /// A call of that kind; `All` is one of no other kind.
    fn at(&self, call: Calls) {
        let mut plan = self.plan.lock().unwrap();
        let hangs = plan.as_mut().is_some_and(|(calls, left)| {
            let hit = (*calls == call || *calls == Calls::All) && *left > 0;
            *left -= u64::from(hit);
            hit
        });
        drop(plan);
        if hangs {
            self.gate.pass();
        }
    }

    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        // A cursor's commit must not take the spooler's place at the gate.
        let is_segment = path.extension().is_some_and(|extension| extension == "dws");
        Box::new(HangingFile { file, is_segment, disk: self.clone() })
    }
}

impl fmt::Debug for HangingDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HangingDisk")
    }
}

impl Disk for HangingDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.at(Calls::All);
        RealDisk.create_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.at(Calls::All);
        Ok(self.file(path, RealDisk.create(path)?))
    }
    fn allocate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.at(Calls::All);
        RealDisk.allocate(path, bytes)
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.at(Calls::All);
        Ok(self.file(path, RealDisk.open_read(path)?))
    }
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.at(Calls::All);
        Ok(self.file(path, RealDisk.open_write(path)?))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.at(Calls::All);
        RealDisk.list(dir)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        self.at(Calls::All);
        RealDisk.len(path)
    }
    fn free(&self, dir: &Path) -> io::Result<Option<u64>> {
        self.at(Calls::All);
        RealDisk.free(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at(Calls::All);
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.at(Calls::All);
        RealDisk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.at(Calls::All);
        RealDisk.remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.at(Calls::All);
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        self.at(Calls::All);
        RealDisk.lock(path)
    }
}

struct HangingFile {
    file: Box<dyn DiskFile>,
    is_segment: bool,
    disk: HangingDisk,
}

impl HangingFile {
    fn at(&self, call: Calls) {
        self.disk.at(if self.is_segment { call } else { Calls::All });
    }
}

impl DiskFile for HangingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.at(Calls::All);
        self.file.read_at(offset, buffer)
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.at(Calls::Writes);
        self.file.write_at(offset, bytes)
    }
    fn sync_data(&mut self) -> io::Result<()> {
        self.at(Calls::Syncs);
        self.file.sync_data()
    }
    fn size(&self) -> io::Result<u64> {
        self.at(Calls::All);
        self.file.size()
    }
}
