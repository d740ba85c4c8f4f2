//! The counters of one boot, durable: what was offered, accepted, refused and lost before the
//! spool, how much was appended, and what was dropped at the cap.
//!
//! A small JSON file in the boot's folder, replaced as a whole. The ring's counters are totals of
//! the boot, so folding them in twice changes nothing. What became of the records at each slot is
//! in the cursors; when everything is delivered, [`finish`] writes both together to
//! `ledgers/<micros>-<boot id>.json` and removes the folder, so that the conservation law can still
//! be shown. The oldest of those are removed beyond a number.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SpoolError;
use super::cursor::state::{SLOT_BYTES, State};
use super::disk::{self, Disk};
use super::folder::{End, Folder};
use super::segment;

/// The version of the ledger's JSON.
pub const SCHEMA_VERSION: u32 = 1;
const NAME: &str = "ledger.json";
const FINISHED: &str = "ledgers";
const LEDGER_BYTES_MAX: usize = 4 << 20;

/// What happened before the spool; all are totals of the boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Records that somebody wanted to emit.
    pub offered: u64,
    /// Those that got a sequence.
    pub accepted: u64,
    /// Those that did not, by reason and level.
    pub refused: BTreeMap<String, BTreeMap<String, u64>>,
    /// Accepted and never appended, by cause (such as `half_written`).
    pub lost: BTreeMap<String, u64>,
    /// Whether the ring has been emptied for good: nothing accepted is still in it.
    pub ring_closed: bool,
}

/// A source and how many of its records were appended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Its number in this boot.
    pub number: u16,
    /// Its type.
    pub source_type: String,
    /// Its id.
    pub source_id: String,
    /// Its records.
    pub records: u64,
}

/// What a slot has done, when the folder is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTotals {
    /// Records that were done.
    pub ordinal: u64,
    /// Dropped at the cap, or deleted by somebody.
    pub evicted: u64,
    /// Damaged on disk.
    pub corrupt: u64,
    /// Gone before the slot began.
    pub absent: u64,
    /// Dropped, because the slot had no exporter any more.
    #[serde(default)]
    pub removed: u64,
    /// By source number: delivered, rejected, quarantined.
    pub sources: BTreeMap<u16, [u64; 3]>,
}

/// One boot's ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Whose it is.
    pub boot: Uuid,
    /// What happened before the spool.
    pub counters: Counters,
    /// At least so much was appended, durably.
    pub end: End,
    /// By source.
    pub sources: Vec<Appended>,
    /// Dropped at the cap before that slot had delivered them, by slot and level.
    pub evicted: BTreeMap<String, BTreeMap<String, u64>>,
    /// Sequences below it are counted in `evicted`.
    pub evicted_below: u64,
    /// By slot, when the folder is gone.
    pub slots: BTreeMap<String, SlotTotals>,
    /// Since when a slot with undelivered records has no exporter, microseconds since 1970.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unserved_since: BTreeMap<String, i64>,
}

impl Ledger {
    /// The ledger of that folder; an empty one where there is none or it cannot be read as one (it
    /// is replaced whole, so that means somebody else's hand).
    ///
    /// # Errors
    /// As the disk tells.
    pub fn load(disk: &dyn Disk, folder: &Path, boot: Uuid) -> Result<Ledger, SpoolError> {
        Ok(load(disk, &folder.join(NAME))?.unwrap_or(Ledger {
            schema_version: SCHEMA_VERSION,
            boot,
            ..Ledger::default()
        }))
    }

    /// Takes over the ring's totals; twice is as good as once.
    pub fn fold(&mut self, counters: &Counters) {
        let mine = &mut self.counters;
        mine.offered = mine.offered.max(counters.offered);
        mine.accepted = mine.accepted.max(counters.accepted);
        mine.ring_closed |= counters.ring_closed;
        for (reason, levels) in &counters.refused {
            raise(mine.refused.entry(reason.clone()).or_default(), levels);
        }
        raise(&mut mine.lost, &counters.lost);
    }

    /// Puts it on disk, whole or not at all.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn save(&self, folder: &Folder) -> Result<(), SpoolError> {
        save(folder.disk(), &folder.path().join(NAME), self)
    }

    /// Refused records over all reasons and levels.
    pub fn refused(&self) -> u64 {
        self.counters.refused.values().flat_map(BTreeMap::values).sum()
    }

    /// Records that were accepted and never appended, over all causes.
    pub fn lost(&self) -> u64 {
        self.counters.lost.values().sum()
    }
}

/// What a folder must have done before it goes.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The slots that have an exporter.
    pub slots: &'a [String],
    /// Now, microseconds since 1970.
    pub now_unix_micros: i64,
    /// How long records are kept for a slot that has a cursor and no exporter any more.
    pub removed_after: Duration,
    /// Ledgers of finished boots that are kept.
    pub kept_max: usize,
}

/// What was done about a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finished {
    /// It is gone, but for its ledger.
    pub is_gone: bool,
    /// Slots without an exporter, with the records that are not delivered there: noted for the
    /// first time, or dropped with the folder where that is gone.
    pub removed: BTreeMap<String, u64>,
}

/// Removes a folder in which nothing is pending, and keeps its ledger. Not where something is: a
/// record, or a slot of `terms.slots` that has not begun. A slot that nobody serves any more holds
/// it for `removed_after` from when that is first seen, as it may have been switched off by
/// mistake; then its records are dropped (`exporter_removed`). Without any exporter nothing is.
/// Nobody may use the folder any more.
///
/// # Errors
/// As the disk tells; it may be asked again.
pub fn finish(folder: &Folder, terms: &Terms<'_>) -> Result<Finished, SpoolError> {
    let disk = folder.disk();
    let told = |source| SpoolError::io("finish", folder.path(), source);
    let mut finished = Finished::default();
    if find_finished(disk, folder.root(), folder.boot())?.is_none() {
        let mut ledger = Ledger::load(disk, folder.path(), folder.boot())?;
        let end = folder.end()?;
        let cursors = cursors(disk, folder.path(), folder.boot())?;
        let begun = terms.slots.iter().all(|slot| cursors.contains_key(slot)) && !cursors.is_empty();
        let waits = |slot: &String| cursors.get(slot).is_some_and(|state| state.ordinal < end.records);
        if end.records > 0 && (!begun || terms.slots.iter().any(waits)) {
            return Ok(finished);
        }
        let unserved = cursors.keys().filter(|slot| !terms.slots.contains(slot) && waits(slot));
        let left: BTreeMap<String, u64> =
            unserved.map(|slot| (slot.clone(), end.records - cursors[slot].ordinal)).collect();
        if !left.is_empty() && !is_over(folder, &mut ledger, &left, terms, &mut finished)? {
            return Ok(finished);
        }
        ledger.end = end;
        ledger.sources = super::verify::appended(disk, folder.path(), folder.boot(), &ledger)?;
        let totals = cursors.into_iter().map(|(slot, state)| {
            let removed = left.get(&slot).copied().unwrap_or(0);
            let totals = totals(&state);
            (slot, SlotTotals { removed, ordinal: totals.ordinal + removed, ..totals })
        });
        ledger.slots = totals.collect();
        finished.removed = left;
        let dir = folder.root().join(FINISHED);
        disk.create_dir(&dir).map_err(told)?;
        let name = format!("{:020}-{}.json", terms.now_unix_micros.max(0), folder.boot().hyphenated());
        save(disk, &dir.join(name), &ledger)?;
        prune(disk, &dir, terms.kept_max).map_err(told)?;
    }
    remove(disk, folder.path()).map_err(told)?;
    Ok(Finished { is_gone: true, ..finished })
}

/// Whether slots that nobody serves have held the folder long enough; notes when that began.
fn is_over(
    folder: &Folder,
    ledger: &mut Ledger,
    left: &BTreeMap<String, u64>,
    terms: &Terms<'_>,
    finished: &mut Finished,
) -> Result<bool, SpoolError> {
    let before = ledger.unserved_since.clone();
    ledger.unserved_since.retain(|slot, _| left.contains_key(slot));
    for (slot, records) in left {
        if !before.contains_key(slot) {
            ledger.unserved_since.insert(slot.clone(), terms.now_unix_micros);
            finished.removed.insert(slot.clone(), *records);
        }
    }
    if ledger.unserved_since != before {
        ledger.save(folder)?;
    }
    let keep = i64::try_from(terms.removed_after.as_micros()).unwrap_or(i64::MAX);
    let is_old = |since: &i64| terms.now_unix_micros.saturating_sub(*since) >= keep;
    Ok(!terms.slots.is_empty() && ledger.unserved_since.values().all(is_old))
}

/// The ledgers of boots whose folders are gone, oldest first.
///
/// # Errors
/// As the disk tells.
pub fn finished(disk: &dyn Disk, root: &Path) -> Result<Vec<Ledger>, SpoolError> {
    let mut ledgers = Vec::new();
    for path in finished_paths(disk, root)? {
        ledgers.extend(load(disk, &path)?);
    }
    Ok(ledgers)
}

/// The cursors of a folder by slot; one that is damaged counts as at the start.
///
/// # Errors
/// As the disk tells.
pub fn cursors(disk: &dyn Disk, folder: &Path, boot: Uuid) -> Result<BTreeMap<String, State>, SpoolError> {
    let told = |source| SpoolError::io("read cursors", folder, source);
    let mut cursors = BTreeMap::new();
    for entry in disk.list(folder).map_err(told)? {
        let Some(slot) = entry.name.strip_prefix("cursor.").filter(|slot| !slot.ends_with(".tmp")) else {
            continue;
        };
        let bytes = disk::read(disk, &folder.join(&entry.name), 2 * SLOT_BYTES).map_err(told)?;
        let state = State::newest(&bytes).map(|(state, _)| state).filter(|state| state.boot == boot);
        cursors.insert(slot.to_owned(), state.unwrap_or(State { boot, ..State::default() }));
    }
    Ok(cursors)
}

/// What a cursor says, for a ledger.
pub(super) fn totals(state: &State) -> SlotTotals {
    let sources = state.sources.iter().map(|(&n, f)| (n, [f.delivered, f.rejected, f.quarantined]));
    let &State { ordinal, evicted, corrupt, absent, .. } = state;
    SlotTotals { ordinal, evicted, corrupt, absent, removed: 0, sources: sources.collect() }
}

fn raise(mine: &mut BTreeMap<String, u64>, theirs: &BTreeMap<String, u64>) {
    for (name, &count) in theirs {
        let mine = mine.entry(name.clone()).or_default();
        *mine = count.max(*mine);
    }
}

fn load(disk: &dyn Disk, path: &Path) -> Result<Option<Ledger>, SpoolError> {
    match disk::read(disk, path, LEDGER_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SpoolError::io("read", path, source)),
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
    }
}

fn save(disk: &dyn Disk, path: &Path, ledger: &Ledger) -> Result<(), SpoolError> {
    let told = |source| SpoolError::io("write", path, source);
    let json = serde_json::to_vec(ledger).map_err(|error| told(error.into()))?;
    disk::replace(disk, path, &json).map_err(told)
}

fn finished_paths(disk: &dyn Disk, root: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    let dir = root.join(FINISHED);
    let entries = match disk.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|source| SpoolError::io("list", &dir, source))?,
    };
    let names = entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(".json"));
    Ok(names.map(|name| dir.join(name)).collect())
}

fn find_finished(disk: &dyn Disk, root: &Path, boot: Uuid) -> Result<Option<PathBuf>, SpoolError> {
    let end = format!("-{}.json", boot.hyphenated());
    Ok(finished_paths(disk, root)?.into_iter().find(|path| path.to_string_lossy().ends_with(&end)))
}

/// Removes the oldest ledgers over the limit; their names begin with their time.
fn prune(disk: &dyn Disk, dir: &Path, kept_max: usize) -> io::Result<()> {
    let names: Vec<_> = disk.list(dir)?.into_iter().map(|entry| entry.name).collect();
    for name in names.iter().take(names.len().saturating_sub(kept_max.max(1))) {
        disk.remove(&dir.join(name))?;
    }
    Ok(())
}

/// Removes a folder, its segments first: without them nothing can be delivered twice.
fn remove(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    let mut names: Vec<_> = disk.list(folder)?.into_iter().map(|entry| entry.name).collect();
    names.sort_by_key(|name| (segment::parse_name(name).is_none(), name == super::folder::LOCK));
    for name in names {
        disk.remove(&folder.join(name))?;
    }
    disk.remove_dir(folder)?;
    disk.sync_dir(folder.parent().unwrap_or(folder))
}
