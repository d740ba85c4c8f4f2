//! Keeps bytes that nobody can deliver, for a human to look at: damaged stretches of segments and
//! poison records.
//!
//! One flat folder beside the boots' folders, so that it outlives them; bounded in files and bytes.
//! Best effort: what finds no room here is counted by whoever calls, as everything is. A name says
//! whose it is, so that two cursors over the same damage keep it once.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, read};
use super::folder::Folder;

/// Files that are kept; what comes after is only counted.
pub const FILES_MAX: usize = 256;
/// Bytes of one file; the rest is cut.
pub const FILE_BYTES_MAX: usize = 2 << 20;
const NAME: &str = "quarantine";

/// Where it is, under the spool's root.
pub fn path(root: &Path) -> PathBuf {
    root.join(NAME)
}

/// Keeps the bytes under a name, such as `poison.database.17`, in front of which the boot id is
/// put; false where there is no room. What has that name stays.
///
/// # Errors
/// As the disk tells.
pub fn keep(folder: &Folder, name: &str, bytes: &[u8]) -> io::Result<bool> {
    let (disk, dir) = (folder.disk(), path(folder.root()));
    disk.create_dir(&dir)?;
    let name = format!("{}.{name}", folder.boot().hyphenated());
    let kept = disk.list(&dir)?;
    if kept.iter().any(|entry| entry.name == name) {
        return Ok(true);
    }
    if kept.len() >= FILES_MAX {
        return Ok(false);
    }
    let mut file = disk.create(&dir.join(name))?;
    file.write_at(0, &bytes[..bytes.len().min(FILE_BYTES_MAX)])?;
    file.sync_data()?;
    disk.sync_dir(&dir)?;
    Ok(true)
}

/// Keeps a damaged stretch of a segment.
///
/// # Errors
/// As the disk tells.
pub(super) fn keep_damaged(folder: &Folder, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<bool> {
    keep(folder, &format!("damaged.{segment:020}.{offset}"), bytes)
}

/// The names and bytes that are kept.
///
/// # Errors
/// As the disk tells; a root without quarantine has none.
pub fn list(disk: &dyn Disk, root: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let dir = path(root);
    let entries = match disk.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    entries
        .into_iter()
        .map(|entry| Ok((entry.name.clone(), read(disk, &dir.join(entry.name), FILE_BYTES_MAX)?)))
        .collect()
}
