//! What became of records that were set aside, once somebody has taken them up again.
//!
//! A cursor has counted them as quarantined, and a cursor never goes back. This small file, beside
//! the boots' folders, says how many of them were delivered after all or given up; the conservation
//! law reads it. Settling a record and removing its file are two steps: a name that is still in
//! `removing` was counted, and only its file is left. One process at a time writes it; the caller
//! has the lock.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::disk::{Disk, read, replace};
use super::quarantine::{self, Label};
use super::verify::Line;

const NAME: &str = "quarantine.settled.json";
/// Longest file that is read, bytes.
const FILE_BYTES_MAX: usize = 16 << 20;
/// Boots, slots and sources that are remembered; the oldest are forgotten first, with their boots'
/// ledgers.
const COUNTS_MAX: usize = 10_000;
/// The cause under which the law counts a record that was given up.
pub const GIVEN_UP: &str = "given_up";

/// What became of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its destination has it.
    Delivered,
    /// Somebody has given it up.
    GivenUp,
}

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    counts: Vec<Count>,
    /// Files whose records are counted and that are to go.
    removing: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    boot: Uuid,
    slot: String,
    source_type: String,
    source_id: String,
    delivered: u64,
    given_up: u64,
}

impl Settled {
    /// Reads the file under the spool's root; where there is none, nothing was settled.
    ///
    /// # Errors
    /// As the disk tells; a file that is not ours.
    pub fn load(disk: &dyn Disk, root: &Path) -> io::Result<Settled> {
        match read(disk, &path(root), FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settled::default()),
            Err(error) => Err(error),
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        }
    }

    /// Removes the files of what was settled when somebody was interrupted.
    ///
    /// # Errors
    /// As the disk tells; it may be asked again.
    pub fn tidy(&mut self, disk: &dyn Disk, root: &Path) -> io::Result<()> {
        if self.removing.is_empty() {
            return Ok(());
        }
        for name in &self.removing {
            remove(disk, root, name)?;
        }
        self.removing.clear();
        self.save(disk, root)
    }

    /// Counts the record of the file `name` and removes the file.
    ///
    /// # Errors
    /// As the disk tells; the record is then settled once, whoever finishes it.
    pub fn settle(
        &mut self,
        disk: &dyn Disk,
        root: &Path,
        name: &str,
        label: &Label,
        fate: Fate,
    ) -> io::Result<()> {
        let source = &label.source;
        let key = (label.boot, label.slot.as_str(), source.source_type.as_str(), source.source_id.as_str());
        let at = self.counts.iter().position(|count| count.key() == key).unwrap_or_else(|| {
            self.counts.push(Count {
                boot: label.boot,
                slot: label.slot.clone(),
                source_type: source.source_type.clone(),
                source_id: source.source_id.clone(),
                delivered: 0,
                given_up: 0,
            });
            self.counts.len() - 1
        });
        match fate {
            Fate::Delivered => self.counts[at].delivered += 1,
            Fate::GivenUp => self.counts[at].given_up += 1,
        }
        if self.counts.len() > COUNTS_MAX {
            self.counts.remove(0);
        }
        self.removing.insert(name.to_owned());
        self.save(disk, root)?;
        self.tidy(disk, root)
    }

    /// What the law says with this: quarantined records that were delivered or given up.
    pub(super) fn apply(&self, line: &mut Line) {
        let key = (line.boot, line.exporter.as_str(), line.source_type.as_str(), line.source_id.as_str());
        let Some(count) = self.counts.iter().find(|count| count.key() == key) else { return };
        let delivered = count.delivered.min(line.quarantined);
        let given_up = count.given_up.min(line.quarantined - delivered);
        line.quarantined -= delivered + given_up;
        line.delivered += delivered;
        if given_up > 0 {
            *line.dropped.entry(GIVEN_UP.to_owned()).or_default() += given_up;
        }
    }

    fn save(&self, disk: &dyn Disk, root: &Path) -> io::Result<()> {
        replace(disk, &path(root), &serde_json::to_vec(self)?)
    }
}

impl Count {
    fn key(&self) -> (Uuid, &str, &str, &str) {
        (self.boot, &self.slot, &self.source_type, &self.source_id)
    }
}

/// Removes a file of the quarantine; one that is gone is no fault.
///
/// # Errors
/// As the disk tells.
pub fn remove(disk: &dyn Disk, root: &Path, name: &str) -> io::Result<()> {
    match disk.remove(&quarantine::path(root).join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn path(root: &Path) -> PathBuf {
    root.join(NAME)
}

#[cfg(test)]
mod tests;
