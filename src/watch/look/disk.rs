//! The spool and the disk of this machine's data folder, which need no database.

use std::path::{Path, PathBuf};

use crate::telemetry::spool::disk::{Disk as _, RealDisk};
use crate::telemetry::spool::segment;
use crate::watch::observation::DiskSeen;

/// Folders that are looked at, one a process.
const FOLDERS_MAX: usize = 10_000;

/// Where this machine's spools lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::watch) struct Ground {
    /// The data folder.
    pub(in crate::watch) data_dir: PathBuf,
    /// The spools of all processes of the folder.
    pub(in crate::watch) spool_dir: PathBuf,
    /// Most bytes that they may have.
    pub(in crate::watch) spool_cap_bytes: u64,
}

impl Ground {
    /// A look at both; what cannot be seen is null.
    pub(super) fn look(&self) -> DiskSeen {
        DiskSeen {
            spool_bytes: spool_bytes(&self.spool_dir),
            spool_cap_bytes: self.spool_cap_bytes,
            free_bytes: RealDisk.free(&self.data_dir).ok().flatten(),
            folder: self.data_dir.display().to_string(),
        }
    }
}

/// Bytes of all segments; a folder that goes away meanwhile has none.
fn spool_bytes(spool: &Path) -> Option<u64> {
    if !spool.exists() {
        return Some(0);
    }
    let folders = std::fs::read_dir(spool).ok()?.take(FOLDERS_MAX).flatten();
    let segments = folders.filter_map(|folder| segment::list(&RealDisk, &folder.path()).ok()).flatten();
    Some(segments.map(|segment| segment.bytes).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_count_and_absence_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let ground = Ground {
            data_dir: dir.path().to_path_buf(),
            spool_dir: dir.path().join("spool"),
            spool_cap_bytes: 1 << 20,
        };
        assert_eq!(ground.look().spool_bytes, Some(0));
        let boot = dir.path().join("spool/boot");
        std::fs::create_dir_all(&boot).unwrap();
        std::fs::write(segment::path(&boot, 0), [0; 700]).unwrap();
        std::fs::write(boot.join("ring"), [0; 900]).unwrap();
        let seen = ground.look();
        assert_eq!(seen.spool_bytes, Some(700));
        assert!(seen.free_bytes.is_some_and(|bytes| bytes > 0));
    }
}
