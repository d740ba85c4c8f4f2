//! Rows as the bytes of a COPY in its binary format: a header, each row as its number of columns and
//! each column as its length and its bytes, a trailer. Numbers are big-endian.
//!
//! Every column is written as the type that the migrations gave it: the database converts nothing
//! here, where an INSERT would. Pure.

use uuid::Uuid;

use super::types::PgTime;
use crate::telemetry::row::Row;

/// Its columns are those of [`Encoder::push`], in that order.
pub(super) const COPY: &str = "copy public.system_logs (timestamp, id, source_type, source_id, log_level, message,
    task_id, worker_id, cycle_number, trace_id, span_id, metadata) from stdin (format binary)";
const COLUMNS: i16 = 12;

/// The signature, no flags, no extension.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In the place of a number of columns.
const TRAILER: i16 = -1;
/// In the place of a length.
const NULL: i32 = -1;
/// Before the text of a jsonb.
const JSONB_VERSION: u8 = 1;

/// Bytes that are to be sent, piece by piece.
pub(super) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// The header is in it.
    pub(super) fn new() -> Encoder {
        Encoder { bytes: HEADER.to_vec() }
    }

    pub(super) fn push(&mut self, row: &Row) {
        self.bytes.extend_from_slice(&COLUMNS.to_be_bytes());
        self.column(&PgTime(row.timestamp).micros_since_2000().to_be_bytes());
        self.column(row.id.as_bytes());
        self.column(row.source_type.as_bytes());
        self.column(row.source_id.as_bytes());
        self.column(row.log_level.word().as_bytes());
        self.column(row.message.as_bytes());
        self.maybe(row.task_id.as_ref().map(Uuid::as_bytes));
        self.maybe(row.worker_id.as_ref());
        self.maybe(row.cycle_number.map(i64::to_be_bytes));
        self.maybe(row.trace_id.as_ref());
        self.maybe(row.span_id.as_ref());
        self.json(&row.metadata);
    }

    /// After the last row.
    pub(super) fn end(&mut self) {
        self.bytes.extend_from_slice(&TRAILER.to_be_bytes());
    }

    /// What has not been sent.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of it has been sent.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    fn column(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(&length(value.len()));
        self.bytes.extend_from_slice(value);
    }

    fn maybe(&mut self, value: Option<impl AsRef<[u8]>>) {
        match value {
            Some(value) => self.column(value.as_ref()),
            None => self.bytes.extend_from_slice(&NULL.to_be_bytes()),
        }
    }

    /// The text is made where it is sent from, and its length is known after it.
    fn json(&mut self, value: &serde_json::Value) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&length(0));
        self.bytes.push(JSONB_VERSION);
        // Neither a value nor a Vec can fail.
        let _ = serde_json::to_writer(&mut self.bytes, value);
        let written = length(self.bytes.len() - at - size_of::<i32>());
        self.bytes[at..at + written.len()].copy_from_slice(&written);
    }
}

/// No column is that long: `row` cuts them. One that were would be refused by the database.
fn length(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes).unwrap_or(i32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::telemetry::record::Level;

    #[test]
    fn bytes_are_those_of_the_manual() {
        let row = Row {
            id: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            // One second into 2000.
            timestamp: 946_684_801_000_000,
            source_type: "w".into(),
            source_id: "é".into(),
            log_level: Level::Info,
            message: String::new(),
            task_id: None,
            worker_id: Some("g".into()),
            cycle_number: Some(-2),
            trace_id: None,
            span_id: None,
            metadata: json!({"a": 1}),
        };
        let mut encoder = Encoder::new();
        assert_eq!(encoder.bytes(), b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        encoder.clear();
        encoder.push(&row);
        encoder.end();
        let expected: [&[u8]; 14] = [
            b"\0\x0c",
            b"\0\0\0\x08\0\0\0\0\0\x0f\x42\x40",
            b"\0\0\0\x10\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10",
            b"\0\0\0\x01w",
            b"\0\0\0\x02\xc3\xa9",
            b"\0\0\0\x04INFO",
            b"\0\0\0\0",
            b"\xff\xff\xff\xff",
            b"\0\0\0\x01g",
            b"\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xfe",
            b"\xff\xff\xff\xff",
            b"\xff\xff\xff\xff",
            b"\0\0\0\x08\x01{\"a\":1}",
            b"\xff\xff",
        ];
        assert_eq!(encoder.bytes(), expected.concat());
    }
}
