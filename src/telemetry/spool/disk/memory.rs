//! Files in memory that forget, when they crash, what was not synced.
//!
//! A file's bytes survive a crash as far as `sync_data` has made them durable, its name as far as
//! `sync_dir` has: what a power cut does to a disk that keeps its promises, and nothing kinder.
//! It can be given a size, and is then full when that is used up. For tests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Entry, Lock};

/// A disk in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    files: Vec<Content>,
    locks: Vec<(usize, std::sync::Weak<()>)>,
    room_bytes: Option<u64>,
    /// Rises with each crash: open files of before are dead.
    life: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Debug, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
}

impl MemoryDisk {
    /// A disk with so much room.
    pub fn with_room(bytes: u64) -> MemoryDisk {
        let disk = MemoryDisk::default();
        disk.set_room(Some(bytes));
        disk
    }

    /// Changes the room; `None` is endless.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.state().room_bytes = bytes;
    }

    /// The power fails: all that is not durable is gone, all open files and locks are dead.
    pub fn crash(&self) {
        self.crash_keeping(|_| 0);
    }

    /// As [`MemoryDisk::crash`], but of bytes appended to a file and not synced as many stay as
    /// `keep` says (at most), as when a write was half done.
    pub fn crash_keeping(&self, mut keep: impl FnMut(usize) -> usize) {
        let state = &mut *self.state();
        state.life += 1;
        state.live = state.durable.clone();
        for file in &mut state.files {
            let synced = file.durable.len();
            let kept = keep(file.live.len().saturating_sub(synced)).min(file.live.len().saturating_sub(synced));
            let tail = file.live.get(synced..synced + kept).unwrap_or_default().to_vec();
            file.durable.extend_from_slice(&tail);
            file.live.clone_from(&file.durable);
        }
        state.locks.clear();
    }

    /// What would be there if the power failed at this moment: a disk of its own.
    pub fn after_power_cut(&self) -> MemoryDisk {
        let state = self.state();
        let durable = |file: &Content| Content { live: file.durable.clone(), durable: file.durable.clone() };
        let copy = State {
            live: state.durable.clone(),
            durable: state.durable.clone(),
            files: state.files.iter().map(durable).collect(),
            ..State::default()
        };
        MemoryDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// Changes a file's bytes behind everybody's back, durably.
    ///
    /// # Panics
    /// Where there is no such file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let state = &mut *self.state();
        let Some(Node::File(id)) = state.live.get(path).copied() else { panic!("no file {}", path.display()) };
        change(&mut state.files[id].live);
        state.files[id].durable = state.files[id].live.clone();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.live.get(path) {
            Some(Node::File(id)) => Ok(*id),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn make(&mut self, path: &Path) -> io::Result<usize> {
        match path.parent().and_then(|dir| self.live.get(dir)) {
            Some(Node::Dir) => {}
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        self.files.push(Content::default());
        let id = self.files.len() - 1;
        self.live.insert(path.to_path_buf(), Node::File(id));
        Ok(id)
    }

    /// Bytes of all files.
    fn used(&self) -> u64 {
        let files = self.live.values().filter_map(|node| match node {
            Node::File(id) => Some(self.files[*id].live.len() as u64),
            Node::Dir => None,
        });
        files.sum()
    }

    /// Whether `more` bytes fit.
    fn room(&self, more: usize) -> io::Result<()> {
        let fits = self.room_bytes.is_none_or(|room| self.used() + more as u64 <= room);
        if fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        for dir in path.ancestors() {
            // A folder is made durable with its parent in real life; tests want the loss of files.
            state.live.insert(dir.to_path_buf(), Node::Dir);
            state.durable.insert(dir.to_path_buf(), Node::Dir);
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if state.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.make(path)?;
        Ok(Box::new(MemoryFile { disk: self.clone(), id, life: state.life }))
    }

    fn allocate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.room(bytes as usize)?;
        let id = match state.file(path) {
            Ok(id) => id,
            Err(_) => state.make(path)?,
        };
        state.files[id].live.resize(bytes as usize, 0);
        Ok(())
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_write(path)
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        Ok(Box::new(MemoryFile { disk: self.clone(), id: state.file(path)?, life: state.life }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state();
        if state.live.get(dir) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.live.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entries = inside.filter_map(|(path, node)| {
            Some(Entry { name: path.file_name()?.to_str()?.to_owned(), is_dir: *node == Node::Dir })
        });
        Ok(entries.collect())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.files[state.file(path)?].live.len() as u64)
    }

    fn free(&self, _dir: &Path) -> io::Result<Option<u64>> {
        let state = self.state();
        Ok(state.room_bytes.map(|room| room.saturating_sub(state.used())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.live.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        if node == Node::Dir {
            state.live = moved(&state.live, from, to);
            state.durable = moved(&state.durable, from, to);
            return Ok(());
        }
        state.live.remove(from);
        state.live.insert(to.to_path_buf(), node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.file(path)?;
        state.live.remove(path);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        if !self.list(path)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let mut state = self.state();
        state.live.remove(path);
        state.durable.remove(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        let inside = |path: &Path| path.parent() == Some(dir);
        state.durable.retain(|path, node| *node == Node::Dir || !inside(path));
        for (path, node) in state.live.iter().filter(|(path, _)| inside(path)) {
            state.durable.insert(path.clone(), *node);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let mut state = self.state();
        let id = match state.file(path) {
            Ok(id) => id,
            Err(_) => state.make(path)?,
        };
        state.locks.retain(|(_, holder)| holder.strong_count() > 0);
        if state.locks.iter().any(|(locked, _)| *locked == id) {
            return Ok(None);
        }
        let holder = Arc::new(());
        state.locks.push((id, Arc::downgrade(&holder)));
        Ok(Some(Box::new(holder)))
    }
}

/// The names after a folder was renamed.
fn moved(names: &BTreeMap<PathBuf, Node>, from: &Path, to: &Path) -> BTreeMap<PathBuf, Node> {
    let moved = names.iter().map(|(path, node)| match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => (to.to_path_buf(), *node),
        Ok(rest) => (to.join(rest), *node),
        Err(_) => (path.clone(), *node),
    });
    moved.collect()
}

/// An open file in memory.
struct MemoryFile {
    disk: MemoryDisk,
    id: usize,
    life: u64,
}

impl MemoryFile {
    fn content<T>(&self, use_it: impl FnOnce(&mut State, usize) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.life != self.life {
            return Err(io::Error::other("opened before the crash"));
        }
        use_it(&mut state, self.id)
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.content(|state, id| {
            let rest = state.files[id].live.get(offset as usize..).unwrap_or_default();
            let bytes = rest.len().min(buffer.len());
            buffer[..bytes].copy_from_slice(&rest[..bytes]);
            Ok(bytes)
        })
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.content(|state, id| {
            let end = offset as usize + bytes.len();
            state.room(end.saturating_sub(state.files[id].live.len()))?;
            let live = &mut state.files[id].live;
            if live.len() < end {
                live.resize(end, 0);
            }
            live[offset as usize..end].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.content(|state, id| {
            state.files[id].durable = state.files[id].live.clone();
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.content(|state, id| Ok(state.files[id].live.len() as u64))
    }
}
