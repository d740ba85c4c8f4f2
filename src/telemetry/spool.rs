//! The spool: records on disk, until every exporter has them.
//!
//! One writer (the spooler thread) appends entries to segments; one [`Cursor`] per slot (a
//! destination such as `database`) reads them in order and remembers, durably, how far it has come.
//! Synchronous; every file is reached through [`disk::Disk`]. It starts no thread, reads no clock
//! and never waits. It is no queue for tasks and no database: records are read in order, by slot,
//! and deleted by whole segments.
//!
//! # On disk
//!
//! All numbers are little-endian; CRCs are CRC32C.
//!
//! ```text
//! spool/<boot id>/                        one process start; locked while that process lives
//!   lock                                  locked by the operating system, freed by its death
//!   <first sequence, 20 digits>.dws       segments
//!   cursor.<slot>                         how far that slot has come
//!   ledger.json                           counters of this boot
//!   reserve                               1 MiB that is given back when the disk is full
//! spool/ledgers/<micros>-<boot id>.json   what remains of a boot when all is delivered
//! spool/quarantine/<boot id>.<what>       bytes that are no right frame, and poison records
//!
//! segment = header, frame...
//! header   0  8  "DOGWATCH"
//!          8  2  version (1)
//!         10  6  zero
//!         16 16  boot id
//!         32  8  first sequence
//!         40  8  records of this boot in the segments before
//!         48  4  CRC of bytes 0..48
//! frame    0  4  mark d7 06 f5 a9
//!          4  4  payload length L, at most 1 MiB
//!          8  8  sequence
//!         16  8  ordinal: records of this boot before this one
//!                (a source: records of that source before this place)
//!         24  1  kind: 1 source (JSON), 2 log (OTLP LogRecord), 3 span (OTLP Span)
//!         25  1  level: 0 DEBUG .. 4 CRITICAL
//!         26  2  source number
//!         28  4  CRC of bytes 0..28, continued from salt = CRC(boot id, first sequence)
//!         32  L  payload
//!       32+L  4  CRC of the payload, continued from the CRC at 28
//!
//! cursor = two slots of 4,096 bytes, written in turn; the right one with the higher generation
//! counts. Its layout is in [`cursor::state`].
//! ```
//!
//! # Invariants
//!
//! 1. Sequences rise within a folder, with holes; a segment owns those from its first up to the
//!    next segment's first. Where it holds others, they stand in the next segment, too.
//! 2. Ordinals of records have no holes: one that is missing is a record lost, and is counted.
//! 3. A segment begins with the sources in force (each twice, so that one bad byte hides none) and
//!    can be read alone.
//! 4. Nothing is appended after a torn tail or to a file whose fsync failed: the tail that was not
//!    synced is appended anew to a fresh segment.
//! 5. One bad byte costs at most the record it is in. Reading never needs more memory than a batch
//!    and one chunk.
//! 6. A segment is deleted when every cursor, durably, is past it; or, at the cap, oldest first and
//!    counted.
//! 7. A committed position never goes back (I4).

pub mod cursor;
pub mod disk;
pub mod folder;
pub mod frame;
pub mod ledger;
pub mod quarantine;
pub mod repair;
pub mod retention;
pub mod room;
pub mod segment;
pub mod settled;
pub mod verify;
pub mod walk;
pub mod writer;

use std::io;
use std::path::{Path, PathBuf};

pub use cursor::{Cursor, Pending, Tally};
pub use folder::Folder;
pub use ledger::{Counters, Ledger};
pub use verify::{Line, verify};
pub use writer::Writer;

/// Limits of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolConfig {
    /// A segment is closed when it would grow beyond this.
    pub segment_bytes: u64,
    /// All segments of this process and of the folders it has adopted together.
    pub cap_bytes: u64,
    /// How often the spooler syncs (it syncs at once for ERROR).
    pub sync_every: std::time::Duration,
    /// Given back when the disk is full, so that deletes work.
    pub reserve_bytes: u64,
    /// Dead processes' folders that are adopted at one start.
    pub folders_adopted_max: usize,
    /// Ledgers of finished boots that are kept.
    pub ledgers_kept_max: usize,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        SpoolConfig {
            segment_bytes: 8 << 20,
            cap_bytes: 1 << 30,
            sync_every: std::time::Duration::from_millis(100),
            reserve_bytes: 1 << 20,
            folders_adopted_max: 64,
            ledgers_kept_max: 200,
        }
    }
}

/// What can go wrong; variants are what the caller does differently.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Nothing has changed; try again later, or fall back.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A write or an fsync failed: that file is not trusted again. Append once more every entry
    /// from `first_unsynced` on; they go to a fresh segment.
    #[error("the spool's segment is not trusted any more; entries from {first_unsynced} on are not durable")]
    Distrusted {
        /// The first sequence that is not durable.
        first_unsynced: u64,
        /// What the disk said.
        source: io::Error,
    },
    /// This payload fits no frame.
    #[error("a payload of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// This entry is already there: sequences must rise.
    #[error("sequence {seq} comes after {next} was expected")]
    OutOfOrder {
        /// What was given.
        seq: u64,
        /// The lowest that is taken.
        next: u64,
    },
    /// Another version's file: leave it alone.
    #[error("segment format version {version} is not known to this binary")]
    Unsupported {
        /// What the file says.
        version: u16,
    },
    /// Another process holds this folder.
    #[error("{} is held by another process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A later writer of this folder has taken over: stop.
    #[error("another writer of this spool has taken over")]
    Fenced,
    /// A commit whose numbers do not add up to the records it covers: a fault of the caller.
    #[error("a commit speaks of {told} records and covers {taken}")]
    Tally {
        /// Records between the last commit and this one.
        taken: u64,
        /// Delivered, dropped and quarantined together.
        told: u64,
    },
}

impl SpoolError {
    /// An I/O error with its place.
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> SpoolError {
        SpoolError::Io { what, path: path.to_path_buf(), source }
    }

    /// Whether the disk has no room (or no quota) left.
    pub fn is_disk_full(&self) -> bool {
        let (SpoolError::Io { source, .. } | SpoolError::Distrusted { source, .. }) = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

#[cfg(test)]
mod tests;
