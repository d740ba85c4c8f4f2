//! Keeps bytes that nobody can deliver, for a human to look at: damaged stretches of segments and
//! poison records.
//!
//! One flat folder beside the boots' folders, so that it outlives them; bounded in files and bytes.
//! Best effort: what finds no room here is counted by whoever calls, as everything is. A name says
//! whose it is, so that two cursors over the same damage keep it once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::disk::{Disk, read};
use super::folder::Folder;
use crate::telemetry::record::{Kind, Level, Source, Stored};

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

/// What a poison record's file begins with: one line of JSON, with the record's payload behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The slot whose destination refused it.
    pub slot: String,
    /// What the destination said.
    pub why: String,
    /// Its position.
    pub seq: u64,
    /// Its boot.
    pub boot: Uuid,
    /// What it is: a [`Kind`]'s number.
    pub kind: u8,
    /// Its level.
    pub level: Level,
    /// Who spoke.
    pub source: Source,
}

/// A file of the quarantine.
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    /// A record that a destination refused.
    Record(Label, Stored),
    /// Bytes of which nothing is known.
    Bytes(Vec<u8>),
}

impl Kept {
    /// What `bytes` of a file are.
    pub fn read(bytes: Vec<u8>) -> Kept {
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let label: Option<Label> = serde_json::from_slice(line).ok();
        match label.and_then(|label| Some((Kind::from_u8(label.kind)?, label))) {
            None => Kept::Bytes(bytes),
            Some((kind, label)) => {
                let payload = bytes.get(line.len() + 1..).unwrap_or_default().to_vec();
                let source = Arc::new(label.source.clone());
                let stored = Stored { seq: label.seq, kind, level: label.level, source, boot: label.boot, payload };
                Kept::Record(label, stored)
            }
        }
    }
}

/// Keeps a record that the destination of `slot` refused; false where there is no room.
///
/// # Errors
/// As the disk tells.
pub fn keep_poison(folder: &Folder, slot: &str, record: &Stored, why: &str) -> io::Result<bool> {
    let label = Label {
        slot: slot.to_owned(),
        why: why.to_owned(),
        seq: record.seq,
        boot: record.boot,
        kind: record.kind as u8,
        level: record.level,
        source: (*record.source).clone(),
    };
    let mut bytes = serde_json::to_vec(&label)?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&record.payload);
    keep(folder, &format!("poison.{slot}.{}", record.seq), &bytes)
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
