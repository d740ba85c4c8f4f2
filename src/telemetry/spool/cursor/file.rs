//! The file of a cursor: written in turn into two slots, never trusted again after a failed fsync,
//! and by one cursor of its slot only.
//!
//! After a failed fsync the kernel may say that the next one is well while the bytes are gone, so
//! what the file holds goes to a fresh one before it is written or believed again. That holds for
//! the file of an earlier process, too, of which nobody knows. A cursor that was opened later
//! fences the earlier one: whoever holds that one may be stuck in an export and come back with an
//! answer that is too late. The lock is held for one write, or for the making of a fresh file.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::state::{SLOT_BYTES, State};
use crate::telemetry::spool::SpoolError;
use crate::telemetry::spool::disk::{self, DiskFile};
use crate::telemetry::spool::folder::{Folder, Reading};

/// Length of a cursor file.
pub(super) const FILE_BYTES: usize = 2 * SLOT_BYTES;

/// See the module.
pub(super) struct CursorFile {
    folder: Folder,
    path: PathBuf,
    /// None: there is no file yet.
    file: Option<Box<dyn DiskFile>>,
    /// The slot that holds the newest durable state: it is not written before the other one is
    /// durable.
    durable_slot: usize,
    /// Whether the other slot was written since.
    dirty: bool,
    reading: Arc<Mutex<Reading>>,
    /// Its number among the cursors of this slot.
    number: u64,
}

impl CursorFile {
    /// Opens the file of that slot, and fences who has it open; the state in it, where it is this
    /// boot's.
    pub(super) fn open(folder: &Folder, slot: &str) -> Result<(CursorFile, Option<State>), SpoolError> {
        let path = folder.path().join(format!("cursor.{slot}"));
        let reading = folder.reading(slot);
        let mut shared = lock(&reading);
        shared.reader += 1;
        let number = shared.reader;
        let told = |source| SpoolError::io("open cursor", &path, source);
        let found = match disk::read(folder.disk(), &path, FILE_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.map_err(told)?),
        };
        let file = match found {
            Some(_) => Some(folder.disk().open_write(&path).map_err(told)?),
            None => None,
        };
        shared.distrusted = true;
        drop(shared);
        let newest = found.as_deref().and_then(State::newest).filter(|(state, _)| state.boot == folder.boot());
        let (state, durable_slot) = newest.map_or((None, 1), |(state, slot)| (Some(state), slot));
        let folder = folder.clone();
        Ok((CursorFile { folder, path, file, durable_slot, dirty: false, reading, number }, state))
    }

    /// Whether a later cursor of this slot was opened: this one may write nothing more.
    pub(super) fn is_fenced(&self) -> bool {
        lock(&self.reading).reader != self.number
    }

    /// Writes the state to the slot that is not the durable one.
    pub(super) fn save(&mut self, state: &State) -> Result<(), SpoolError> {
        let reading = Arc::clone(&self.reading);
        let mut shared = self.owned(&reading)?;
        let Some(file) = self.file.as_mut().filter(|_| !shared.distrusted) else {
            return self.write_fresh(&mut shared, state);
        };
        let offset = (1 - self.durable_slot) * SLOT_BYTES;
        self.dirty = true;
        let written = file.write_at(offset as u64, &state.encode());
        written.map_err(|source| SpoolError::io("write cursor", &self.path, source))
    }

    /// Makes what was saved survive a power cut; `state` is what that was.
    pub(super) fn sync(&mut self, state: &State) -> Result<(), SpoolError> {
        if !self.dirty {
            return Ok(());
        }
        let is_trusted = !lock(&self.reading).distrusted;
        if is_trusted && self.file.as_mut().is_some_and(|file| file.sync_data().is_ok()) {
            (self.durable_slot, self.dirty) = (1 - self.durable_slot, false);
            return Ok(());
        }
        let reading = Arc::clone(&self.reading);
        let mut shared = self.owned(&reading)?;
        shared.distrusted = true;
        self.write_fresh(&mut shared, state)
    }

    /// The whole file anew, durably; so that a commit on a full disk needs no more room, all of it.
    fn write_fresh(&mut self, shared: &mut Reading, state: &State) -> Result<(), SpoolError> {
        let told = |source| SpoolError::io("replace cursor", &self.path, source);
        let disk = self.folder.disk();
        let mut bytes = state.encode();
        bytes.resize(FILE_BYTES, 0);
        disk::replace(disk, &self.path, &bytes).map_err(told)?;
        self.file = Some(disk.open_write(&self.path).map_err(told)?);
        (self.durable_slot, self.dirty, shared.distrusted) = (0, false, false);
        Ok(())
    }

    fn owned<'a>(&self, reading: &'a Mutex<Reading>) -> Result<MutexGuard<'a, Reading>, SpoolError> {
        let shared = lock(reading);
        if shared.reader == self.number { Ok(shared) } else { Err(SpoolError::Fenced) }
    }
}

fn lock(reading: &Mutex<Reading>) -> MutexGuard<'_, Reading> {
    reading.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
