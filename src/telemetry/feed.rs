//! A folder of the spool as a shipper's feed.

use super::record::Stored;
use super::shipper::{Feed, FeedError, Pending, Tally};
use super::spool::cursor::state::{SLOT_BYTES, State};
use super::spool::{self, Cursor, Folder, SpoolError};
use super::wiring::Fuse;

/// One slot's place in one folder.
pub(super) struct FolderFeed {
    cursor: Cursor,
    folder: Folder,
    slot: String,
    /// Nobody writes to it any more.
    is_adopted: bool,
    drained: bool,
    /// What of the cursor's losses was told, in the order of [`missed_of`].
    told: [u64; 3],
    fuse: Fuse,
}

impl FolderFeed {
    /// A feed for `slot` from `folder`.
    pub(super) fn open(
        folder: &Folder,
        slot: &str,
        is_adopted: bool,
        fuse: Fuse,
    ) -> Result<FolderFeed, SpoolError> {
        let cursor = Cursor::open(folder, slot)?;
        let (folder, slot) = (folder.clone(), slot.to_owned());
        let told = missed_of(cursor.state()).map(|(_, records)| records);
        Ok(FolderFeed { cursor, folder, slot, is_adopted, drained: false, told, fuse })
    }
}

impl Feed for FolderFeed {
    fn next_batch(&mut self, records_max: usize, bytes_max: usize) -> Result<Vec<Stored>, FeedError> {
        self.fuse.at("shipper");
        let batch = self.cursor.next_batch(records_max, bytes_max).map_err(failed("reading"))?;
        self.drained = batch.is_empty();
        Ok(batch)
    }

    fn commit(&mut self, through_seq: u64, tally: Tally) -> Result<(), FeedError> {
        let tally =
            spool::Tally { delivered: tally.delivered, dropped: tally.dropped, quarantined: tally.quarantined };
        self.cursor.commit(through_seq, &tally).map_err(failed("committing"))
    }

    fn quarantine(&mut self, record: &Stored, why: &str) -> Result<(), FeedError> {
        // Where there is no room the record is counted all the same; that is the commit's work.
        match spool::quarantine::keep_poison(&self.folder, &self.slot, record, why) {
            Ok(_) => Ok(()),
            Err(source) => Err(FeedError::Unavailable { doing: "setting a record aside", source }),
        }
    }

    fn pending(&mut self) -> Pending {
        let pending = self.cursor.pending().unwrap_or_default();
        Pending { records: pending.records, oldest_unix_micros: pending.oldest_unix_micros }
    }

    fn missed(&mut self) -> Vec<(&'static str, u64)> {
        let all = missed_of(self.cursor.state());
        let told = std::mem::replace(&mut self.told, all.map(|(_, records)| records));
        let since = all.into_iter().zip(told).map(|((cause, records), told)| (cause, records.saturating_sub(told)));
        since.filter(|(_, records)| *records > 0).collect()
    }

    fn is_finished(&self) -> bool {
        self.is_adopted && self.drained
    }
}

/// What a cursor did not find, by cause, in the words of the ledger.
fn missed_of(state: &State) -> [(&'static str, u64); 3] {
    [("evicted", state.evicted), ("corrupt", state.corrupt), ("absent", state.absent)]
}

/// What the slot's cursor in this folder remembers; None where it has none.
pub(super) fn state_of(folder: &Folder, slot: &str) -> Option<State> {
    let path = folder.path().join(format!("cursor.{slot}"));
    let bytes = spool::disk::read(folder.disk(), &path, 2 * SLOT_BYTES).ok()?;
    State::newest(&bytes).map(|(state, _)| state)
}

fn failed(doing: &'static str) -> impl FnOnce(SpoolError) -> FeedError {
    move |error| match error {
        // A shipper that was replaced: its successor has the slot.
        SpoolError::Fenced => FeedError::Gone { detail: error.to_string() },
        other => FeedError::Unavailable { doing, source: std::io::Error::other(other) },
    }
}
