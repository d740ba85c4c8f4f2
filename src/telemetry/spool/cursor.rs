//! Reads a folder's records in order for one slot, and remembers durably how far it has come.
//!
//! A slot is a destination such as `database`, not a kind of exporter, so that who adopts a dead
//! process's folder goes on where it was. [`Cursor::next_batch`] always begins at the committed
//! position, follows a live writer up to what it has flushed, and keeps its place in the file, so
//! that a batch costs one read at most. Frames that are damaged are stepped over; how many records
//! are missing is told by the ordinals of those that are there, and counted with the next commit.
//! A cursor that is lost begins at the start; one that is ahead of the spool is taken back: rather
//! delivered twice than lost. For one thread.

mod file;
pub mod state;
#[cfg(test)]
mod tests;
mod time;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use uuid::Uuid;

use self::file::CursorFile;
use self::state::State;
use self::time::unix_micros;
use super::SpoolError;
use super::folder::Folder;
use super::frame::Header;
use super::quarantine;
use super::segment::{self, Piece, Reader};
use super::verify;
use crate::telemetry::record::{Kind, Level, Source, Stored};

/// What became of the records that a commit covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Taken by the other side.
    pub delivered: u64,
    /// Refused by the other side for good.
    pub dropped: u64,
    /// Kept in quarantine.
    pub quarantined: u64,
}

/// What a slot has not done yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// Records.
    pub records: u64,
    /// Bytes of segments from the committed position on.
    pub bytes: u64,
    /// When the oldest of them was made, where that is known.
    pub oldest_unix_micros: Option<i64>,
}

/// The place of one slot in one folder.
pub struct Cursor {
    folder: Folder,
    file: CursorFile,
    state: State,
    /// Where the committed position is in a file; `None`: to be found by its sequence.
    committed: Option<Place>,
    open: Option<Open>,
    /// Records that were returned and not committed, in order.
    flights: VecDeque<Flight>,
    /// The ordinal that the next record should have.
    expected: u64,
    /// Numbers of the sources seen in this folder.
    sources: HashMap<u16, Arc<Source>>,
    tail_generation: u64,
}

/// A place between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    segment: u64,
    offset: u64,
}

/// The segment that is being read.
struct Open {
    reader: Reader,
    segment: u64,
    /// Sequences from here on belong to the next segment.
    bound: u64,
    /// How far it may be read.
    limit: u64,
    /// Whether bytes were damaged since the last right record.
    damaged: bool,
}

/// Why records are missing before one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Bytes were damaged there.
    Corrupt,
    /// Their segment was dropped at the cap, or somebody deleted it.
    Evicted,
    /// They were gone before this cursor began.
    Absent,
}

/// A record that was returned.
#[derive(Debug, Clone, Copy)]
struct Flight {
    seq: u64,
    source: u16,
    /// Records missing before it.
    missing: u64,
    cause: Cause,
    end: Place,
    unix_micros: Option<i64>,
}

impl Cursor {
    /// Opens the cursor of that slot, or begins one at the start of the folder.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn open(folder: &Folder, slot: &str) -> Result<Cursor, SpoolError> {
        let (file, found) = CursorFile::open(folder, slot)?;
        let mut cursor = Cursor {
            folder: folder.clone(),
            file,
            state: found.unwrap_or(State { boot: folder.boot(), ..State::default() }),
            committed: None,
            open: None,
            flights: VecDeque::new(),
            expected: 0,
            sources: HashMap::new(),
            tail_generation: folder.tail().generation,
        };
        cursor.clamp()?;
        if cursor.state.generation == 0 {
            cursor.save()?;
            cursor.sync()?;
        }
        Ok(cursor)
    }

    /// What it remembers.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The next records from the committed position on, in order, with their sources: at most
    /// `records_max`, and at most `bytes_max` of payload unless the first alone has more. Empty:
    /// nothing is pending. The same records come again until they are committed.
    ///
    /// # Errors
    /// The disk's, or [`SpoolError::Unsupported`]; nothing is lost by asking again.
    /// [`SpoolError::Fenced`]: a later cursor of this slot was opened.
    pub fn next_batch(&mut self, records_max: usize, bytes_max: usize) -> Result<Vec<Stored>, SpoolError> {
        if self.file.is_fenced() {
            return Err(SpoolError::Fenced);
        }
        self.rewind();
        let mut batch = Vec::new();
        let mut room = bytes_max;
        while batch.len() < records_max {
            let within = if batch.is_empty() { usize::MAX } else { room };
            let Some(stored) = self.advance(within)? else { break };
            room = room.saturating_sub(stored.payload.len());
            batch.push(stored);
        }
        if batch.is_empty() {
            self.settle(records_max)?;
        }
        Ok(batch)
    }

    /// Records that everything up to and including `through_seq` is done, durably. What was
    /// committed before is left as it is.
    ///
    /// # Errors
    /// [`SpoolError::Tally`] where the numbers do not cover the records; the disk's, after which
    /// the commit may be repeated.
    pub fn commit(&mut self, through_seq: u64, tally: &Tally) -> Result<(), SpoolError> {
        self.commit_buffered(through_seq, tally)?;
        self.sync()
    }

    /// As [`Cursor::commit`], but only a [`Cursor::sync`] makes it survive a power cut; it survives
    /// a SIGKILL at once. What is not synced may be delivered twice, never lost: segments are
    /// deleted by durable cursors only.
    ///
    /// # Errors
    /// As [`Cursor::commit`].
    pub fn commit_buffered(&mut self, through_seq: u64, tally: &Tally) -> Result<(), SpoolError> {
        let taken = self.flights.partition_point(|flight| flight.seq <= through_seq);
        if taken == 0 && through_seq < self.state.next {
            return Ok(());
        }
        let told = tally.delivered + tally.dropped + tally.quarantined;
        if told != taken as u64 {
            return Err(SpoolError::Tally { taken: taken as u64, told });
        }
        let Some(last) = taken.checked_sub(1).map(|last| self.flights[last]) else { return Ok(()) };
        let mut state = self.state.clone();
        for (at, flight) in (0..).zip(self.flights.range(..taken)) {
            count_missing(&mut state, flight.missing, flight.cause);
            let fates = state.fates(flight.source);
            if at < tally.dropped {
                fates.rejected += 1;
            } else if at < tally.dropped + tally.quarantined {
                fates.quarantined += 1;
            } else {
                fates.delivered += 1;
            }
            state.ordinal += 1;
        }
        state.next = last.seq + 1;
        let before = std::mem::replace(&mut self.state, state);
        if let Err(error) = self.save() {
            self.state = before;
            return Err(error);
        }
        self.flights.drain(..taken);
        self.committed = Some(last.end);
        Ok(())
    }

    /// Makes all commits survive a power cut.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.file.sync(&self.state)
    }

    /// What is not done yet. Reads one record where none is in flight.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn pending(&mut self) -> Result<Pending, SpoolError> {
        let records = self.folder.end()?.records.saturating_sub(self.state.ordinal);
        if records == 0 {
            return Ok(Pending::default());
        }
        if self.flights.is_empty() {
            self.next_batch(1, usize::MAX)?;
        }
        let oldest_unix_micros = self.flights.front().and_then(|flight| flight.unix_micros);
        let at = self.committed.unwrap_or(Place { segment: 0, offset: 0 });
        let segments = self.segments()?;
        let bytes = segments.iter().filter(|s| s.first >= at.segment).map(|s| match s.first == at.segment {
            true => s.bytes.saturating_sub(at.offset),
            false => s.bytes,
        });
        Ok(Pending { records, bytes: bytes.sum(), oldest_unix_micros })
    }

    /// Goes back to the committed position where records were returned and not committed, or where
    /// segments were replaced.
    fn rewind(&mut self) {
        let generation = self.folder.tail().generation;
        if generation != self.tail_generation {
            self.tail_generation = generation;
            (self.open, self.committed) = (None, None);
        }
        if let Some(open) = &mut self.open
            && !self.flights.is_empty()
        {
            match self.committed.filter(|place| place.segment == open.segment) {
                Some(place) => {
                    open.reader.seek(place.offset);
                    open.damaged = false;
                }
                None => self.open = None,
            }
        }
        self.flights.clear();
        self.expected = self.state.ordinal;
    }

    /// The next record, where there is one with at most `bytes_max` of payload.
    fn advance(&mut self, bytes_max: usize) -> Result<Option<Stored>, SpoolError> {
        loop {
            if self.open.is_none() && !self.open_owner()? {
                return Ok(None);
            }
            let Some(open) = &mut self.open else { return Ok(None) };
            let told = |source| SpoolError::io("read", self.folder.path(), source);
            let from = open.reader.offset();
            let end = |open: &Open| Place { segment: open.segment, offset: open.reader.offset() };
            match open.reader.next(open.limit).map_err(told)? {
                Some(Piece::Frame { header, payload }) if header.kind == Kind::Source as u8 => {
                    if let Ok(source) = serde_json::from_slice(payload) {
                        self.sources.insert(header.source, Arc::new(source));
                    }
                }
                Some(Piece::Frame { header, .. }) if header.seq < self.state.next => {}
                Some(Piece::Frame { header, .. }) if header.seq >= open.bound => {
                    if !self.open_next()? {
                        return Ok(None);
                    }
                }
                Some(Piece::Frame { header, .. }) if header.payload_bytes as usize > bytes_max => {
                    open.reader.seek(from);
                    return Ok(None);
                }
                Some(Piece::Frame { header, payload }) => {
                    let payload = payload.to_vec();
                    let end = end(open);
                    match self.take(header, payload, end) {
                        Ok(None) => {}
                        Ok(stored) => return Ok(stored),
                        Err(error) => {
                            // It comes again when it is asked for again.
                            self.open = None;
                            return Err(error);
                        }
                    }
                }
                Some(Piece::Damaged { offset, bytes, .. }) => {
                    open.damaged = true;
                    // Best effort: what is missing is counted whether or not its bytes are kept.
                    let _ = quarantine::keep_damaged(&self.folder, open.segment, offset, bytes);
                }
                None => {
                    let (limit, growing) = visible(&self.folder, &open.reader, open.segment).map_err(told)?;
                    if limit > open.limit {
                        open.limit = limit;
                    } else if growing {
                        return Ok(None);
                    } else {
                        let (segment, offset) = (open.segment, open.reader.offset());
                        let torn = open.reader.rest(limit).map_err(told)?;
                        if !torn.is_empty() {
                            open.damaged = true;
                            let _ = quarantine::keep_damaged(&self.folder, segment, offset, torn);
                        }
                        if !self.open_next()? {
                            return Ok(None);
                        }
                    }
                }
            }
        }
    }

    /// Makes a record of a frame and remembers that it was returned.
    fn take(&mut self, header: Header, payload: Vec<u8>, end: Place) -> Result<Option<Stored>, SpoolError> {
        let Some(open) = self.open.as_mut() else { return Ok(None) };
        let (Some(kind), Some(level)) = (Kind::from_u8(header.kind), Level::from_u8(header.level)) else {
            open.damaged = true;
            return Ok(None);
        };
        let cause = match (std::mem::take(&mut open.damaged), self.state.next) {
            (true, _) => Cause::Corrupt,
            (false, 0) if self.expected == 0 => Cause::Absent,
            (false, _) => Cause::Evicted,
        };
        if header.ordinal < self.expected && self.flights.is_empty() {
            self.take_back(self.expected - header.ordinal, header.seq)?;
        }
        let missing = header.ordinal.saturating_sub(self.expected);
        self.expected = header.ordinal + 1;
        let boot = self.state.boot;
        let unknown = || Arc::new(unknown(boot, header.source));
        let source = self.sources.entry(header.source).or_insert_with(unknown).clone();
        let unix_micros = unix_micros(kind, &payload);
        self.flights.push_back(Flight { seq: header.seq, source: header.source, missing, cause, end, unix_micros });
        Ok(Some(Stored { seq: header.seq, kind, level, source, boot: self.state.boot, payload }))
    }

    /// Opens the segment that owns the next sequence; false where there is none.
    fn open_owner(&mut self) -> Result<bool, SpoolError> {
        let segments = self.segments()?;
        let after = segments.partition_point(|segment| segment.first <= self.state.next);
        let owner = after.saturating_sub(1);
        let opened = self.open_at(&segments, owner)?;
        if let Some(open) = &self.open {
            self.committed = Some(Place { segment: open.segment, offset: open.reader.offset() });
        }
        Ok(opened)
    }

    /// Opens the segment after the one that is open; false where there is none yet.
    fn open_next(&mut self) -> Result<bool, SpoolError> {
        let Some(current) = self.open.as_ref().map(|open| open.segment) else { return Ok(false) };
        let segments = self.segments()?;
        let next = segments.partition_point(|segment| segment.first <= current);
        self.open_at(&segments, next)
    }

    fn open_at(&mut self, segments: &[segment::Segment], at: usize) -> Result<bool, SpoolError> {
        let Some(&segment::Segment { first, .. }) = segments.get(at) else { return Ok(false) };
        let reader = Reader::open(self.folder.disk(), self.folder.path(), self.folder.boot(), first)?;
        let told = |source| SpoolError::io("read", self.folder.path(), source);
        let (limit, _) = visible(&self.folder, &reader, first).map_err(told)?;
        let bound = segments.get(at + 1).map_or(u64::MAX, |next| next.first);
        let damaged = self.open.as_ref().is_some_and(|open| open.damaged);
        self.open = Some(Open { reader, segment: first, bound, limit, damaged });
        Ok(true)
    }

    fn segments(&self) -> Result<Vec<segment::Segment>, SpoolError> {
        let listed = segment::list(self.folder.disk(), self.folder.path());
        listed.map_err(|source| SpoolError::io("list", self.folder.path(), source))
    }

    /// At the end of a folder that has no writer: counts the records that no later one tells of.
    fn settle(&mut self, records_max: usize) -> Result<(), SpoolError> {
        if records_max == 0 || self.folder.tail().live {
            return Ok(());
        }
        let end = self.folder.end()?;
        let missing = end.records.saturating_sub(self.state.ordinal);
        if missing > 0 {
            let damaged = self.open.as_ref().is_some_and(|open| open.damaged);
            count_missing(&mut self.state, missing, if damaged { Cause::Corrupt } else { Cause::Evicted });
            self.state.next = self.state.next.max(end.next);
            self.save()?;
            self.sync()?;
        }
        Ok(())
    }

    /// Takes the position back to the end of the spool where it is ahead of it: a power cut can
    /// leave a cursor durable and the records it speaks of not.
    fn clamp(&mut self) -> Result<(), SpoolError> {
        let end = self.folder.end()?;
        if self.state.next > end.next || self.state.ordinal > end.records {
            self.take_back(self.state.ordinal.saturating_sub(end.records), end.next)?;
            self.state.next = self.state.next.min(end.next);
            self.save()?;
            self.sync()?;
        }
        Ok(())
    }

    /// Takes back what counts as done and is not there below `next`.
    fn take_back(&mut self, surplus: u64, next: u64) -> Result<(), SpoolError> {
        let folder = &self.folder;
        let appended = verify::appended_below(folder.disk(), folder.path(), folder.boot(), next)?;
        self.state.take_back(surplus, &appended);
        Ok(())
    }

    fn save(&mut self) -> Result<(), SpoolError> {
        self.state.generation += 1;
        self.file.save(&self.state)
    }
}

fn count_missing(state: &mut State, missing: u64, cause: Cause) {
    state.ordinal += missing;
    match cause {
        Cause::Corrupt => state.corrupt += missing,
        Cause::Evicted => state.evicted += missing,
        Cause::Absent => state.absent += missing,
    }
}

/// How far a segment may be read, and whether it still grows.
fn visible(folder: &Folder, reader: &Reader, segment: u64) -> io::Result<(u64, bool)> {
    let tail = *folder.tail();
    match (tail.active, tail.cut) {
        (Some((active, durable)), _) if active == segment => Ok((durable, true)),
        (_, Some((cut, durable))) if cut == segment => Ok((durable, false)),
        _ => Ok((reader.size()?, false)),
    }
}

/// Stands for a source whose frames are all damaged: its records are still delivered.
pub(super) fn unknown(boot: Uuid, number: u16) -> Source {
    let source_id = format!("{}/{number}", boot.hyphenated());
    Source { source_type: "unknown".to_owned(), source_id, resource: Vec::new() }
}
