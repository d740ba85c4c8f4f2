//! Memory that is mapped, seen as atomic words: beside `crc`, the only `unsafe` of the crate.
//!
//! # Safety argument
//!
//! - A [`Mapping`] owns its range of addresses from a successful `mmap` until `munmap` in its
//!   `Drop`; the slice it lends lives no longer than the borrow of the mapping.
//! - The range is page-aligned and a whole number of pages, so it is a valid `[AtomicU64]`; any
//!   bit pattern is a valid `AtomicU64`.
//! - It is only ever seen as atomics, by every thread, so no access is a data race. A stalled
//!   producer that wakes up after its room was given away can spoil the bytes of an entry, which
//!   its CRC then tells; it cannot cause undefined behaviour.
//! - A file is mapped only after every block of it was allocated (`fallocate`), on a file system
//!   where that holds for later writes, so a full disk cannot raise SIGBUS. The file is created by
//!   us, exclusively, for our user only; another process reads it, with `read`, after we are dead.
//!   Whoever cuts it short all the same, or pulls the disk out, gets the SIGBUS of every mapped
//!   file: that is outside the promise.

#![expect(unsafe_code, reason = "mapping memory has no safe interface; the argument stands above")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// Mapped memory, as words.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` (whole pages, allocated) of a file, shared.
    pub(super) fn of_file(file: &File, bytes: usize) -> io::Result<Mapping> {
        // SAFETY: a new range, chosen by the kernel; nothing that exists is replaced.
        let start = unsafe { mmap(null_mut(), bytes, READ_WRITE, MapFlags::SHARED, file, 0) }?;
        let mapping = Mapping::new(start, bytes)?;
        // Faults are taken here and not in the first pushes. An old kernel says no; no harm.
        // SAFETY: the range was mapped above and no content changes.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxPopulateWrite) };
        Ok(mapping)
    }

    /// Maps `bytes` of memory without a file; a forked child gets a copy.
    pub(super) fn anonymous(bytes: usize) -> io::Result<Mapping> {
        // SAFETY: a new range, chosen by the kernel; nothing that exists is replaced.
        let start = unsafe { mmap_anonymous(null_mut(), bytes, READ_WRITE, MapFlags::PRIVATE) }?;
        Mapping::new(start, bytes)
    }

    fn new(start: *mut c_void, bytes: usize) -> io::Result<Mapping> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, words: bytes / size_of::<AtomicU64>() })
    }

    /// Its words.
    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: aligned, mapped and alive as long as `self`; only atomics are made of it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours and nothing borrows it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}

/// Tells whether this process is a forked child of the one that made it.
#[derive(Debug)]
pub(super) struct ForkGuard {
    /// A page that the kernel wipes in a child: one load instead of a system call.
    page: Option<Mapping>,
    pid: rustix::process::Pid,
}

impl ForkGuard {
    /// A guard for this process.
    pub(super) fn new() -> ForkGuard {
        ForkGuard { page: ForkGuard::wiped_page().ok(), pid: rustix::process::getpid() }
    }

    fn wiped_page() -> io::Result<Mapping> {
        let page = Mapping::anonymous(rustix::param::page_size())?;
        // SAFETY: the range is ours, private and anonymous; only a child sees a change.
        unsafe {
            madvise(page.start.as_ptr().cast(), rustix::param::page_size(), Advice::LinuxWipeOnFork)?;
        }
        page.words()[0].store(1, Relaxed);
        Ok(page)
    }

    /// True in a forked child.
    #[inline]
    pub(super) fn is_child(&self) -> bool {
        match &self.page {
            Some(page) => page.words()[0].load(Relaxed) == 0,
            None => rustix::process::getpid() != self.pid,
        }
    }
}
