//! Where the ring's memory lies: the data folder, else shared memory, else no file at all.
//!
//! A mapped file keeps its promise only where an allocated block stays writable when the disk is
//! full and where mappings are coherent with `read`: ext4, xfs, tmpfs, and overlay over one of
//! these. A copy-on-write, network or user-space file system raises SIGBUS in the middle of
//! somebody's log call instead, so the ring then goes to /dev/shm (which outlives the process, not
//! the machine or container), else to plain memory (which outlives nothing), and says so.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use uuid::Uuid;

use super::RingError;
use super::map::Mapping;

/// Name of the ring's file in its folder.
pub(super) const FILE_NAME: &str = "ring";
/// Name of the file that says where the ring is, if it is not in its folder.
pub(super) const POINTER_NAME: &str = "ring.at";
/// A folder in memory that every Linux has.
pub(super) const SHARED_MEMORY: &str = "/dev/shm";
/// A pointer file is a path; nothing longer is read.
const POINTER_BYTES_MAX: u64 = 4_096;

const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;
const TMPFS: u64 = 0x0102_1994;
const OVERLAY: u64 = 0x794C_7630;

/// What keeps the records when the process is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// A file in the data folder: outlives the process, and the machine as far as it was written.
    DataFolder,
    /// A file in /dev/shm: outlives the process, not the machine or container.
    SharedMemory {
        /// Why not the data folder.
        why: String,
    },
    /// Plain memory: what is not in the spool dies with the process.
    Anonymous {
        /// Why neither of the others.
        why: String,
    },
}

impl Backing {
    /// A word for a metric's label.
    pub fn word(&self) -> &'static str {
        match self {
            Backing::DataFolder => "data_folder",
            Backing::SharedMemory { .. } => "shared_memory",
            Backing::Anonymous { .. } => "anonymous",
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backing::DataFolder => write!(out, "a record survives a killed process from its log call on"),
            Backing::SharedMemory { why } => write!(
                out,
                "a record survives a killed process, but until it is in the spool not a restart of \
                 the machine or container: the ring is in {SHARED_MEMORY} ({why})"
            ),
            Backing::Anonymous { why } => write!(
                out,
                "a record survives a killed process only once it is in the spool: the ring is in \
                 plain memory ({why})"
            ),
        }
    }
}

/// What kind of file system a path is on; replaced in tests.
pub(super) trait Kinds {
    /// The `f_type` of `statfs`.
    fn magic(&self, path: &Path) -> io::Result<u64>;
    /// The folder that an overlay writes to.
    fn upper(&self, path: &Path) -> io::Result<PathBuf>;
}

/// The kernel's answers.
pub(super) struct Kernel;

impl Kinds for Kernel {
    fn magic(&self, path: &Path) -> io::Result<u64> {
        Ok(rustix::fs::statfs(path)?.f_type as u64)
    }

    fn upper(&self, path: &Path) -> io::Result<PathBuf> {
        let device = fs::metadata(path)?.dev();
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        upper_folder(&mounts, &device)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the overlay's upper folder is not told"))
    }
}

/// The `upperdir` of the mount with that device, out of /proc/self/mountinfo.
fn upper_folder(mounts: &str, device: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some(device))?;
    let options = mount.split(' ').next_back()?;
    let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
    Some(PathBuf::from(upper.replace("\\040", " ")))
}

/// Whether a mapped file there keeps its promise; if not, why.
pub(super) fn allowed(folder: &Path, kinds: &impl Kinds) -> Result<(), String> {
    let magic = |path: &Path| kinds.magic(path).map_err(|error| format!("statfs of {}: {error}", path.display()));
    match magic(folder)? {
        EXT4 | XFS | TMPFS => Ok(()),
        OVERLAY => {
            let upper = kinds.upper(folder).map_err(|error| format!("overlay: {error}"))?;
            match magic(&upper)? {
                EXT4 | XFS | TMPFS => Ok(()),
                other => Err(format!("overlay over a file system of type {other:#x}")),
            }
        }
        other => Err(format!("{} is on a file system of type {other:#x}", folder.display())),
    }
}

/// Allocated memory for a ring, all zero, in the best place there is.
pub(super) fn allocate(
    dir: &Path,
    shared_memory: &Path,
    boot: Uuid,
    bytes: u64,
    kinds: &impl Kinds,
) -> Result<(Mapping, Backing), RingError> {
    if locate(dir)?.is_some() {
        return Err(RingError::Exists { dir: dir.to_owned() });
    }
    let why = match in_folder(dir, &dir.join(FILE_NAME), bytes, kinds) {
        Ok(mapping) => return Ok((mapping, Backing::DataFolder)),
        Err(why) => why,
    };
    let path = shared_memory.join(format!("dogwatch-{boot}"));
    let shared = write_pointer(dir, &path)
        .map_err(|error| format!("{POINTER_NAME}: {error}"))
        .and_then(|()| in_folder(shared_memory, &path, bytes, kinds));
    let why = match shared {
        Ok(mapping) => return Ok((mapping, Backing::SharedMemory { why })),
        Err(also) => format!("{why}; {also}"),
    };
    let _ = fs::remove_file(dir.join(POINTER_NAME));
    let mapping = Mapping::anonymous(bytes as usize)
        .map_err(|source| RingError::Io { what: format!("map {bytes} bytes of memory"), source })?;
    Ok((mapping, Backing::Anonymous { why }))
}

fn in_folder(folder: &Path, path: &Path, bytes: u64, kinds: &impl Kinds) -> Result<Mapping, String> {
    allowed(folder, kinds)?;
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    allocated(&file, bytes).map_err(|error| {
        let _ = fs::remove_file(path);
        failed(error)
    })
}

fn allocated(file: &File, bytes: u64) -> io::Result<Mapping> {
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?;
    Mapping::of_file(file, bytes as usize)
}

fn write_pointer(dir: &Path, path: &Path) -> io::Result<()> {
    let pointer = dir.join(POINTER_NAME);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(pointer)?;
    file.write_all(path.as_os_str().as_encoded_bytes())?;
    file.sync_all()
}

/// The file of the ring that belongs to this folder, if there is one.
pub(super) fn locate(dir: &Path) -> Result<Option<PathBuf>, RingError> {
    let beside = dir.join(FILE_NAME);
    if beside.symlink_metadata().is_ok() {
        return Ok(Some(beside));
    }
    let pointer = dir.join(POINTER_NAME);
    let failed = |source| RingError::Io { what: format!("read {}", pointer.display()), source };
    match fs::metadata(&pointer) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(meta) if meta.len() > POINTER_BYTES_MAX => return Ok(None),
        Ok(_) => {}
    }
    let path = PathBuf::from(fs::read_to_string(&pointer).map_err(failed)?);
    let named_so = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"dogwatch-"));
    Ok((named_so && path.symlink_metadata().is_ok_and(|meta| meta.is_file())).then_some(path))
}

/// Deletes the ring of this folder, wherever it is: the file first, then what points to it.
pub(super) fn remove(dir: &Path) -> Result<(), RingError> {
    let pointer = dir.join(POINTER_NAME);
    for path in [locate(dir)?, Some(pointer)].into_iter().flatten() {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(RingError::Io { what: format!("delete {}", path.display()), source });
            }
            _ => {}
        }
    }
    Ok(())
}
