//! The spool's only way to files: a small trait, so that every layer above it runs over memory,
//! over a disk that fails on demand, and over the real one with the same code.
//!
//! [`RealDisk`] is the operating system's. [`memory::MemoryDisk`] forgets what was not synced when
//! it crashes. [`faulty::FaultyDisk`] wraps either and answers with errors. Paths are whole; no
//! method retries; an error is told as it came.

pub mod faulty;
pub mod memory;

use std::any::Any;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The last part of its path; names that are not UTF-8 are not listed.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Held as long as it lives; the operating system frees it when the process dies.
pub type Lock = Box<dyn Any + Send + Sync>;

/// Files by path.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes the folder and those above it; well if it is there.
    ///
    /// # Errors
    /// As the operating system tells, as for every method here.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file that must not be there.
    ///
    /// # Errors
    /// `AlreadyExists`, or as the operating system tells.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a file whose bytes are really allocated.
    ///
    /// # Errors
    /// `StorageFull`, or as the operating system tells.
    fn allocate(&self, path: &Path, bytes: u64) -> io::Result<()>;
    /// Opens a file that is there for reading.
    ///
    /// # Errors
    /// As the operating system tells.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is there for reading and writing.
    ///
    /// # Errors
    /// As the operating system tells.
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// What is in the folder, in order of names.
    ///
    /// # Errors
    /// As the operating system tells.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// The length of a file in bytes.
    ///
    /// # Errors
    /// As the operating system tells.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Bytes that are free for us where the folder lies; `None` where its file system has no size.
    ///
    /// # Errors
    /// As the operating system tells.
    fn free(&self, dir: &Path) -> io::Result<Option<u64>>;
    /// Renames a file or a folder; a file at `to` is replaced at once.
    ///
    /// # Errors
    /// As the operating system tells.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As the operating system tells.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    ///
    /// # Errors
    /// As the operating system tells.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in the folder durable.
    ///
    /// # Errors
    /// As the operating system tells.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks the file for this holder (and makes it where it is not there); `None` where another
    /// holds it.
    ///
    /// # Errors
    /// As the operating system tells.
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>>;
}

/// An open file.
pub trait DiskFile: Send {
    /// Reads up to the buffer's length from that offset; 0 at the end.
    ///
    /// # Errors
    /// As the operating system tells.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of it there; on an error a part may have been written.
    ///
    /// # Errors
    /// As the operating system tells.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes its bytes and length durable. After an error nothing that was written since the last
    /// success may be believed, whatever a later call says.
    ///
    /// # Errors
    /// As the operating system tells.
    fn sync_data(&mut self) -> io::Result<()>;
    /// Its length in bytes.
    ///
    /// # Errors
    /// As the operating system tells.
    fn size(&self) -> io::Result<u64>;
}

/// Reads a whole small file, at most `limit` bytes of it.
///
/// # Errors
/// As the disk tells.
pub fn read(disk: &dyn Disk, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = disk.open_read(path)?;
    let size = usize::try_from(file.size()?).unwrap_or(limit).min(limit);
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(filled as u64, &mut bytes[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Puts a file in place whole or not at all, durably: written beside it, synced, renamed over it,
/// the folder synced.
///
/// # Errors
/// As the disk tells; what was there before is then still there.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = Path::new(&beside);
    match disk.remove(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = disk.create(beside)?;
    file.write_at(0, bytes)?;
    file.sync_data()?;
    drop(file);
    disk.rename(beside, path)?;
    disk.sync_dir(path.parent().unwrap_or(path))
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = fs::File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn allocate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        Ok(())
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(fs::File::open(path)?)))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(fs::File::options().read(true).write(true).open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn free(&self, dir: &Path) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(dir)?;
        Ok((found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// A file of the operating system.
struct RealFile(fs::File);

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
