//! Appends entries to segments and makes them durable.
//!
//! Entries are buffered in memory, written in large pieces, and durable when [`Writer::sync`] has
//! said so: data first, then the folder where a file was made. After any failed write or fsync the
//! file is never touched again; the writer goes back to what was durable and says from which
//! sequence on the caller appends anew. It always begins with a fresh segment, so nothing ever
//! follows a torn tail. A later writer of the same process goes on behind what an earlier one made
//! durable, whatever can be read beyond it, and fences the earlier one. For one thread.

use std::collections::BTreeMap;
use std::io;

use super::disk::{self, DiskFile};
use super::folder::{Folder, Mark, Tail};
use super::frame::{self, Header, OVERHEAD_BYTES, PAYLOAD_BYTES_MAX};
use super::ledger::{Appended, Ledger};
use super::room::Room;
use super::segment::{self, Piece, Reader, SegmentHeader};
use super::{SpoolConfig, SpoolError, quarantine};
use crate::telemetry::record::{Kind, Level, Source};

/// Buffered entries are written to the file when they are so many bytes.
const FLUSH_BYTES: usize = 256 * 1024;

/// The one writer of a folder.
pub struct Writer {
    pub(super) folder: Folder,
    pub(super) config: SpoolConfig,
    active: Option<Active>,
    buffer: Vec<u8>,
    now: Mark,
    synced: Mark,
    /// JSON of the sources in force.
    sources: BTreeMap<u16, Vec<u8>>,
    /// First sequence of a file that was given up before anything in it was durable.
    given_up: Option<u64>,
    /// Its number among the folder's writers.
    number: u64,
    /// Something was given up: the next segment owns every sequence that is not durable.
    resumes: bool,
    /// Counters of this boot; saved at each rotation and when somebody asks.
    pub(super) ledger: Ledger,
    pub(super) room: Room,
}

/// The segment that is being written.
struct Active {
    file: Box<dyn DiskFile>,
    first: u64,
    /// What the CRCs of its frames begin with.
    salt: u32,
    /// Bytes in the file.
    written: u64,
    /// Of these, durable.
    synced: u64,
    /// Whether the folder knows the file durably.
    named: bool,
}

impl Writer {
    /// Opens the folder for appending, behind what is in it.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn open(folder: &Folder, config: SpoolConfig) -> Result<Writer, SpoolError> {
        // The earlier writer is fenced before anything is read, so that nothing changes behind it.
        let number = folder.tail().fence();
        let known = folder.sure().clone();
        let resumes = known.synced.is_some();
        let mut sources = known.sources;
        let mark = match known.synced {
            Some(mark) => discard_unsynced(folder, mark)?,
            None => {
                let mut mark = Mark { end: folder.end()?, by_source: BTreeMap::new() };
                recover(folder, &mut mark, &mut sources)?;
                mark
            }
        };
        let mut tail = folder.tail();
        if tail.writer != number {
            return Err(SpoolError::Fenced);
        }
        let generation = tail.generation + 1;
        *tail = Tail { live: true, active: None, cut: tail.cut, generation, end: Some(mark.end), writer: number };
        // Before the tail is let go, as in `sync`: whoever fences this writer then knows it.
        let mut sure = folder.sure();
        (sure.synced, sure.sources) = (Some(mark.clone()), sources.clone());
        drop((sure, tail));
        let ledger = Ledger::load(folder.disk(), folder.path(), folder.boot())?;
        let mut writer = Writer {
            folder: folder.clone(),
            config,
            active: None,
            buffer: Vec::new(),
            synced: mark.clone(),
            now: mark,
            sources,
            given_up: None,
            number,
            resumes,
            ledger,
            room: Room::default(),
        };
        writer.reserve();
        writer.count_bytes()?;
        Ok(writer)
    }

    /// The lowest sequence that [`Writer::append`] takes; what lies below is in the spool.
    pub fn next_seq(&self) -> u64 {
        self.now.end.next
    }

    /// Adds an entry; it is durable when a [`Writer::sync`] after it has succeeded.
    ///
    /// # Errors
    /// [`SpoolError::Distrusted`]: append again from there on. [`SpoolError::TooLarge`] and
    /// [`SpoolError::OutOfOrder`] concern this entry only. [`SpoolError::Io`]: no segment could be
    /// made; this entry is not taken.
    pub fn append(
        &mut self,
        seq: u64,
        kind: Kind,
        level: Level,
        source: u16,
        payload: &[u8],
    ) -> Result<(), SpoolError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SpoolError::TooLarge { bytes: payload.len(), limit: PAYLOAD_BYTES_MAX });
        }
        if seq < self.now.end.next {
            return Err(SpoolError::OutOfOrder { seq, next: self.now.end.next });
        }
        let copies = if kind == Kind::Source { 2 } else { 1 };
        let bytes = (copies * (OVERHEAD_BYTES + payload.len())) as u64;
        if self
            .active
            .as_ref()
            .is_some_and(|a| a.written + self.buffer.len() as u64 + bytes > self.config.segment_bytes)
        {
            self.rotate()?;
        }
        if self.active.is_none() {
            self.begin_segment(seq)?;
        }
        let of_source = self.now.by_source.entry(source).or_default();
        let ordinal = if kind == Kind::Source { *of_source } else { self.now.end.records };
        let (kind, level) = (kind as u8, level as u8);
        let header = Header { payload_bytes: 0, seq, ordinal, kind, level, source };
        let salt = self.active.as_ref().map_or(0, |active| active.salt);
        for _ in 0..copies {
            frame::encode(&mut self.buffer, salt, header, payload);
        }
        if kind == Kind::Source as u8 {
            self.sources.insert(source, payload.to_vec());
            self.folder.define_source(source, payload);
        } else {
            *of_source += 1;
            self.now.end.records += 1;
        }
        self.now.end.next = seq + 1;
        if self.buffer.len() >= FLUSH_BYTES { self.write_out() } else { Ok(()) }
    }

    /// Writes what is buffered to the file and lets cursors read it before it is durable.
    ///
    /// # Errors
    /// [`SpoolError::Distrusted`].
    pub fn flush(&mut self) -> Result<(), SpoolError> {
        self.write_out()?;
        if let Some(active) = &self.active {
            let mut tail = self.folder.tail();
            tail.active = Some((active.first, active.written));
            tail.end = Some(self.now.end);
        }
        Ok(())
    }

    /// Writes what is buffered to the file; cursors read it when it is durable.
    fn write_out(&mut self) -> Result<(), SpoolError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.folder.tail().writer != self.number {
            return Err(SpoolError::Fenced);
        }
        if let Err(source) = active.file.write_at(active.written, &self.buffer) {
            return Err(self.give_up(source));
        }
        self.room.grow(self.buffer.len() as u64);
        active.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes all that was appended durable; the answer is the highest sequence that is, and `None`
    /// where the folder holds none.
    ///
    /// # Errors
    /// [`SpoolError::Distrusted`].
    pub fn sync(&mut self) -> Result<Option<u64>, SpoolError> {
        self.write_out()?;
        if let Some(active) = &mut self.active
            && (self.synced.end.next < self.now.end.next || !active.named)
        {
            let synced = active.file.sync_data();
            let named = synced.and_then(|()| match active.named {
                true => Ok(()),
                false => self.folder.disk().sync_dir(self.folder.path()),
            });
            if let Err(source) = named {
                return Err(self.give_up(source));
            }
            active.named = true;
            let mut tail = self.folder.tail();
            if tail.writer != self.number {
                return Err(SpoolError::Fenced);
            }
            // Cursors read what is durable and nothing else: what is delivered stays counted.
            active.synced = active.written;
            tail.active = Some((active.first, active.synced));
            tail.end = Some(self.now.end);
            self.synced.clone_from(&self.now);
            // While the tail is held: who fences this writer knows all that it has made durable.
            self.folder.sure().synced = Some(self.synced.clone());
            drop(tail);
        }
        Ok(self.synced.end.next.checked_sub(1))
    }

    /// The boot's counters, to fold the ring's totals in; they are saved by [`Writer::save_ledger`]
    /// and at each rotation.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Saves the ledger with what is durably appended.
    ///
    /// # Errors
    /// As the disk tells.
    pub fn save_ledger(&mut self) -> Result<(), SpoolError> {
        self.ledger.end = self.synced.end;
        self.ledger.sources = self.appended();
        self.ledger.save(&self.folder)
    }

    /// What is durably appended, by source.
    fn appended(&self) -> Vec<Appended> {
        let by_source = self.synced.by_source.iter().map(|(&number, &records)| {
            let json = self.sources.get(&number);
            let source: Option<Source> = json.and_then(|json| serde_json::from_slice(json).ok());
            let (source_type, source_id) = source.map(|s| (s.source_type, s.source_id)).unwrap_or_default();
            Appended { number, source_type, source_id, records }
        });
        by_source.collect()
    }

    /// False once a later writer of the folder has been opened.
    fn is_owner(&self) -> bool {
        self.folder.tail().writer == self.number
    }

    /// Closes the active segment; the next entry begins another.
    fn rotate(&mut self) -> Result<(), SpoolError> {
        self.sync()?;
        if !self.is_owner() {
            return Err(SpoolError::Fenced);
        }
        self.active = None;
        self.folder.tail().active = None;
        // What is appended is durable already; ledger and room are tried again at the next chance.
        let _ = self.save_ledger();
        self.reserve();
        let _ = self.keep_room();
        Ok(())
    }

    /// Makes the segment that begins with `first`; its header and sources are buffered.
    fn begin_segment(&mut self, first: u64) -> Result<(), SpoolError> {
        if !self.is_owner() {
            return Err(SpoolError::Fenced);
        }
        let first = if self.resumes { first.min(self.now.end.next) } else { first };
        let path = segment::path(self.folder.path(), first);
        let disk = self.folder.disk();
        if let Some(given_up) = self.given_up {
            let path = segment::path(self.folder.path(), given_up);
            match disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SpoolError::io("remove", &path, error));
                }
                _ => self.given_up = None,
            }
        }
        let file = match disk.create(&path) {
            Ok(file) => file,
            Err(source) => {
                let error = SpoolError::io("make segment", &path, source);
                self.make_way(&error);
                return Err(error);
            }
        };
        let boot = self.folder.boot();
        let records_before = self.now.end.records;
        self.buffer.clear();
        self.buffer.extend_from_slice(&segment::encode_header(SegmentHeader { boot, first, records_before }));
        let salt = frame::salt(boot, first);
        for (&source, json) in &self.sources {
            let header = Header {
                payload_bytes: 0,
                seq: self.now.end.next.saturating_sub(1),
                ordinal: self.now.by_source.get(&source).copied().unwrap_or(0),
                kind: Kind::Source as u8,
                level: 0,
                source,
            };
            frame::encode(&mut self.buffer, salt, header, json);
            frame::encode(&mut self.buffer, salt, header, json);
        }
        let mut tail = self.folder.tail();
        if tail.writer != self.number {
            return Err(SpoolError::Fenced);
        }
        tail.active = Some((first, 0));
        drop(tail);
        self.resumes = false;
        self.active = Some(Active { file, first, salt, written: 0, synced: 0, named: false });
        Ok(())
    }

    /// Never trusts the active file again and goes back to what is durable.
    fn give_up(&mut self, source: io::Error) -> SpoolError {
        let mut cut = None;
        if let Some(active) = self.active.take() {
            cut = Some((active.first, active.synced));
            if active.synced == 0 {
                self.given_up = Some(active.first);
            }
        }
        self.resumes = true;
        self.buffer.clear();
        self.now.clone_from(&self.synced);
        let mut tail = self.folder.tail();
        if tail.writer != self.number {
            return SpoolError::Fenced;
        }
        tail.active = None;
        tail.cut = cut.or(tail.cut);
        tail.generation += 1;
        tail.end = Some(self.now.end);
        drop(tail);
        let error = SpoolError::Distrusted { first_unsynced: self.now.end.next, source };
        self.make_way(&error);
        error
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut tail = self.folder.tail();
        if tail.writer != self.number {
            return;
        }
        tail.live = false;
        tail.cut = tail.active.take().or(tail.cut);
        // What is written and not durable is not believed by the next writer either.
        let has_more = self.active.as_ref().is_some_and(|active| active.written > active.synced);
        tail.end = (self.resumes || has_more).then_some(self.synced.end);
        tail.generation += 1;
    }
}

/// Removes the segments that hold nothing durable, so that fresh ones of their names can be made. What
/// else an earlier writer left behind its last sync stands after a segment's durable frames, where
/// the next segment owns the sequences.
fn discard_unsynced(folder: &Folder, mark: Mark) -> Result<Mark, SpoolError> {
    let (disk, path) = (folder.disk(), folder.path());
    let told = |source| SpoolError::io("discard", path, source);
    for segment in segment::list(disk, path).map_err(told)? {
        if segment.first >= mark.end.next {
            disk.remove(&segment::path(path, segment.first)).map_err(told)?;
        }
    }
    Ok(mark)
}

/// Learns the sources and their counts from the last segment, makes that segment durable, and
/// puts a segment without any frame out of the way of a fresh one of the same name.
fn recover(folder: &Folder, mark: &mut Mark, sources: &mut BTreeMap<u16, Vec<u8>>) -> Result<(), SpoolError> {
    let (disk, path) = (folder.disk(), folder.path());
    let told = |source| SpoolError::io("recover", path, source);
    for last in segment::list(disk, path).map_err(told)?.into_iter().rev() {
        let mut reader = Reader::open(disk, path, folder.boot(), last.first)?;
        let mut found = false;
        while let Some(piece) = reader.next(last.bytes).map_err(told)? {
            let Piece::Frame { header, payload } = piece else { continue };
            found = true;
            let count = mark.by_source.entry(header.source).or_default();
            if header.kind == Kind::Source as u8 {
                *count = (*count).max(header.ordinal);
                sources.insert(header.source, payload.to_vec());
            } else {
                *count += 1;
            }
        }
        if found {
            disk.open_write(&segment::path(path, last.first)).and_then(|mut f| f.sync_data()).map_err(told)?;
            disk.sync_dir(path).map_err(told)?;
            break;
        }
        let bytes = disk::read(disk, &segment::path(path, last.first), quarantine::FILE_BYTES_MAX).map_err(told)?;
        quarantine::keep_damaged(folder, last.first, 0, &bytes).map_err(told)?;
        disk.remove(&segment::path(path, last.first)).map_err(told)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
