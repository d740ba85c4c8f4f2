//! Takes over what dead processes left: their rings into their spools, their spools to the
//! shippers, under their old source and boot id.
//!
//! A killed process leaves a locked-by-nobody folder. Whatever its ring holds that its spool does
//! not is appended and made durable, spans that were open become interrupted spans, and only then
//! the ring is removed; a kill in the middle of that repeats it without a second copy, because
//! sequences below the spool's end are skipped. A span whose record is there had ended: its slot was
//! not cleared in time, and it was not interrupted.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, status};
use prost::Message as _;
use uuid::Uuid;

use super::record::{Kind, Level};
use super::ring::{self, OpenSpan, Recovered, RingError};
use super::spool::disk::Disk;
use super::spool::segment::Piece;
use super::spool::{Folder, SpoolConfig, SpoolError, Writer, folder, walk};
use crate::clock::Time;

/// Room between the last record of a dead process and what is said about it, in sequences: spans
/// get numbers that its ring can never have given.
const AFTERWORD: u64 = 1 << 62;

/// What was found in one folder.
#[derive(Debug, Clone)]
pub(super) struct Adopted {
    /// The folder; this process holds it.
    pub(super) folder: Folder,
    /// Records that were only in the ring.
    pub(super) recovered: u64,
    /// Entries that the kill left half written.
    pub(super) half_written: u64,
    /// Spans that the kill interrupted.
    pub(super) interrupted: u64,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Folder").field(&self.path()).finish()
    }
}

/// Takes over every folder of a dead process under `root`. One that cannot be used is left as it
/// is, and named.
pub(super) fn adopt_all(
    root: &Path,
    disk: &Arc<dyn Disk>,
    config: SpoolConfig,
    now: Time,
) -> (Vec<Adopted>, Vec<String>) {
    let (mut adopted, mut troubles) = (Vec::new(), Vec::new());
    match folder::adopt_all(root, disk, config.folders_adopted_max) {
        Err(error) => troubles.push(crate::error::chain(&error)),
        Ok(folders) => {
            for folder in folders {
                let path = folder.path().display().to_string();
                match adopt(folder, config, now) {
                    Ok(found) => adopted.push(found),
                    Err(error) => troubles.push(format!("{path}: {}", crate::error::chain(&error))),
                }
            }
        }
    }
    (adopted, troubles)
}

/// Why a folder cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    /// Its ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Its spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

fn adopt(folder: Folder, config: SpoolConfig, now: Time) -> Result<Adopted, AdoptError> {
    let none = Adopted { folder: folder.clone(), recovered: 0, half_written: 0, interrupted: 0 };
    let Some(mut found) = ring::recover(folder.path(), kernel_boot())? else { return Ok(none) };
    let ended = ended_spans(&folder, &found)?;
    found.spans.retain(|span| !ended.contains(&span.span_id));
    let mut writer = Writer::open(&folder, config)?;
    let recovered = append_entries(&mut writer, &found)?;
    let interrupted = append_spans(&mut writer, &found, now)?;
    writer.sync()?;
    drop(writer);
    // All of them: those that a take-over which was killed had appended count, too.
    super::ledger::fold_recovered(&folder, &found, found.spans.len() as u64)?;
    ring::remove(folder.path())?;
    Ok(Adopted { recovered, half_written: found.half_written, interrupted, ..none })
}

/// Which of the spans in slots have a record of their end, in the ring or in the spool.
fn ended_spans(folder: &Folder, found: &Recovered) -> Result<HashSet<u64>, SpoolError> {
    let open: HashSet<u64> = found.spans.iter().map(|span| span.span_id).collect();
    let mut ended = HashSet::new();
    if open.is_empty() {
        return Ok(ended);
    }
    let mut note = |payload: &[u8]| {
        let id = Span::decode(payload).ok().and_then(|span| span.span_id.try_into().ok()).map(u64::from_be_bytes);
        ended.extend(id.filter(|id| open.contains(id)));
    };
    for entry in found.entries.iter().filter(|entry| entry.kind == Kind::Span) {
        note(&entry.payload);
    }
    walk::walk(folder.disk(), folder.path(), folder.boot(), &mut |_, piece| {
        // Beyond the afterword stands what an earlier take-over has said of these very spans.
        if let Piece::Frame { header, payload } = piece
            && header.kind == Kind::Span as u8
            && header.seq < AFTERWORD
        {
            note(payload);
        }
    })?;
    Ok(ended)
}

fn append_entries(writer: &mut Writer, found: &Recovered) -> Result<u64, SpoolError> {
    let mut recovered = 0;
    for entry in found.entries.iter().filter(|entry| entry.seq < AFTERWORD) {
        if entry.seq >= writer.next_seq() {
            writer.append(entry.seq, entry.kind, entry.level, entry.source, &entry.payload)?;
            recovered += u64::from(entry.kind != Kind::Source);
        }
    }
    Ok(recovered)
}

/// Open spans become spans with an error status that says `interrupted`.
fn append_spans(writer: &mut Writer, found: &Recovered, now: Time) -> Result<u64, SpoolError> {
    let mut interrupted = 0;
    for (number, span) in (AFTERWORD..).zip(&found.spans) {
        if number >= writer.next_seq() {
            let payload = encode(span, found.pid, now).encode_to_vec();
            writer.append(number, Kind::Span, Level::Warning, span.source, &payload)?;
            interrupted += 1;
        }
    }
    Ok(interrupted)
}

/// The instant of the kill is not known: the span ends when its death was found.
fn encode(span: &OpenSpan<'_>, pid: u64, now: Time) -> Span {
    let nanos = |micros: i64| u64::try_from(micros).unwrap_or(0) * 1_000;
    let text = |key: &str, value: String| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }),
        ..KeyValue::default()
    };
    let mut attributes =
        vec![text("dogwatch.status", "interrupted".to_owned()), text("process.pid", pid.to_string())];
    if span.cycle > 0 {
        let cycle = any_value::Value::IntValue(i64::try_from(span.cycle).unwrap_or(i64::MAX));
        attributes.push(KeyValue {
            key: "cycle".to_owned(),
            value: Some(AnyValue { value: Some(cycle) }),
            ..KeyValue::default()
        });
    }
    let parent = if span.parent_span_id == 0 { Vec::new() } else { span.parent_span_id.to_be_bytes().to_vec() };
    Span {
        trace_id: span.trace_id.to_be_bytes().to_vec(),
        span_id: span.span_id.to_be_bytes().to_vec(),
        parent_span_id: parent,
        name: span.name.clone().into_owned(),
        kind: 1,
        start_time_unix_nano: nanos(span.start_unix_micros),
        end_time_unix_nano: nanos(now.as_microsecond()),
        attributes,
        status: Some(Status {
            code: status::StatusCode::Unset as i32,
            message: "interrupted: the process was killed inside this span".to_owned(),
        }),
        ..Span::default()
    }
}

/// The kernel's boot id; nil where it cannot be read, which no ring ever has.
pub(super) fn kernel_boot() -> Uuid {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(Uuid::nil())
}

#[cfg(test)]
mod tests;
