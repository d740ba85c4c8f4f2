//! Our own writer of OTLP `LogRecord`: straight into a buffer that is kept, without allocation.
//!
//! Reading is always opentelemetry-proto's; a test decodes every field type with it. Field numbers
//! are those of opentelemetry/proto/logs/v1/logs.proto. Text is clamped at character boundaries
//! and what was cut is counted in `dropped_attributes_count`, so that a record never exceeds
//! [`RECORD_BYTES_MAX`]. Pure.

/// Largest encoded record, bytes; a larger one is cut, never refused.
pub const RECORD_BYTES_MAX: usize = 192 * 1_024;
/// Longest message, bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1_024;
/// Longest attribute value, bytes.
pub const VALUE_BYTES_MAX: usize = 32 * 1_024;
/// Longest attribute key, bytes.
pub const KEY_BYTES_MAX: usize = 256;

/// Texts below this length in bytes leave every length around them below 128, which is one byte.
const SHORT: usize = 112;
/// An attribute whose lengths are one byte each is at most this long.
const SHORT_PAIR_BYTES: usize = 130;

/// A value of an attribute, as OTLP knows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Text.
    Str(&'a str),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Double(f64),
    /// Raw bytes.
    Bytes(&'a [u8]),
}

/// Writes one `LogRecord` into a buffer. The body may be written at any time, since protobuf's
/// fields have no order.
pub struct LogWriter<'a> {
    out: &'a mut Vec<u8>,
    dropped: u32,
}

impl<'a> LogWriter<'a> {
    /// Begins a record: `time` and `observed` in nanoseconds since 1970.
    #[inline]
    pub fn begin(out: &'a mut Vec<u8>, time: u64, observed: u64, severity: i32, text: &str) -> Self {
        let mut writer = LogWriter::begin_with(out, time, observed, &[]);
        writer.severity(severity, text);
        writer
    }

    /// Begins a record with fields that [`LogWriter::part`] has written.
    #[inline]
    pub fn begin_with(out: &'a mut Vec<u8>, time: u64, observed: u64, part: &[u8]) -> Self {
        out.clear();
        let mut times = [0; 18];
        (times[0], times[9]) = (1 << 3 | 1, 11 << 3 | 1);
        times[1..9].copy_from_slice(&time.to_le_bytes());
        times[10..].copy_from_slice(&observed.to_le_bytes());
        out.extend_from_slice(&times);
        out.extend_from_slice(part);
        LogWriter { out, dropped: 0 }
    }

    /// Writes fields that many records have in common, without any time.
    pub fn part(out: &'a mut Vec<u8>) -> Self {
        out.clear();
        LogWriter { out, dropped: 0 }
    }

    /// The severity: its number and its word.
    pub fn severity(&mut self, number: i32, text: &str) {
        varint_field(self.out, 2, number.unsigned_abs().into());
        bytes_field(self.out, 3, text.as_bytes());
    }

    /// The message.
    #[inline]
    pub fn body(&mut self, text: &str) {
        let kept = clamp(text, BODY_BYTES_MAX);
        self.dropped += u32::from(kept.len() < text.len());
        if kept.len() < SHORT {
            let bytes = kept.len() as u8;
            self.out.extend_from_slice(&[5 << 3 | 2, bytes + 2, 1 << 3 | 2, bytes]);
            self.out.extend_from_slice(kept.as_bytes());
            return;
        }
        let value_len = 1 + varint_len(kept.len()) + kept.len();
        tag(self.out, 5, 2);
        varint(self.out, value_len as u64);
        bytes_field(self.out, 1, kept.as_bytes());
    }

    /// One attribute.
    #[inline(always)]
    pub fn attribute(&mut self, key: &str, value: Value<'_>) {
        let is_short = match value {
            Value::Str(text) => key.len() + text.len() < SHORT,
            Value::Bytes(_) => false,
            Value::Bool(_) | Value::Int(_) | Value::Double(_) => key.len() < SHORT,
        };
        if is_short && self.out.len() + SHORT_PAIR_BYTES + 16 <= RECORD_BYTES_MAX - BODY_BYTES_MAX {
            self.short_attribute(key, value);
        } else {
            self.long_attribute(key, value);
        }
    }

    /// An attribute of which every length is one byte: few large writes instead of many small ones.
    #[inline(always)]
    fn short_attribute(&mut self, key: &str, value: Value<'_>) {
        let out = &mut *self.out;
        let key_len = key.len() as u8;
        let mut front = |value_len: u8| {
            out.extend_from_slice(&[6 << 3 | 2, key_len + 4 + value_len, 1 << 3 | 2, key_len]);
            out.extend_from_slice(key.as_bytes());
        };
        match value {
            Value::Str(text) => {
                let bytes = text.len() as u8;
                front(bytes + 2);
                out.extend_from_slice(&[2 << 3 | 2, bytes + 2, 1 << 3 | 2, bytes]);
                out.extend_from_slice(text.as_bytes());
            }
            Value::Bool(truth) => {
                front(2);
                out.extend_from_slice(&[2 << 3 | 2, 2, 2 << 3, u8::from(truth)]);
            }
            Value::Int(number) => {
                let (digits, count) = varint_bytes(number.cast_unsigned());
                front(1 + count);
                out.extend_from_slice(&[2 << 3 | 2, 1 + count, 3 << 3]);
                out.extend_from_slice(&digits);
                out.truncate(out.len() - digits.len() + usize::from(count));
            }
            Value::Double(number) => {
                front(9);
                let mut bytes = [2 << 3 | 2, 9, 4 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0];
                bytes[3..].copy_from_slice(&number.to_bits().to_le_bytes());
                out.extend_from_slice(&bytes);
            }
            // Never short.
            Value::Bytes(_) => {}
        }
    }

    #[cold]
    fn long_attribute(&mut self, key: &str, value: Value<'_>) {
        let key = clamp(key, KEY_BYTES_MAX);
        let value = match value {
            Value::Str(text) => {
                let kept = clamp(text, VALUE_BYTES_MAX);
                self.dropped += u32::from(kept.len() < text.len());
                Value::Str(kept)
            }
            Value::Bytes(bytes) => Value::Bytes(&bytes[..bytes.len().min(VALUE_BYTES_MAX)]),
            other => other,
        };
        let value_len = any_value_len(value);
        let pair_len = 1 + varint_len(key.len()) + key.len() + 1 + varint_len(value_len) + value_len;
        if self.out.len() + pair_len + 16 > RECORD_BYTES_MAX - BODY_BYTES_MAX {
            self.dropped += 1;
            return;
        }
        tag(self.out, 6, 2);
        varint(self.out, pair_len as u64);
        bytes_field(self.out, 1, key.as_bytes());
        tag(self.out, 2, 2);
        varint(self.out, value_len as u64);
        any_value(self.out, value);
    }

    /// The trace it belongs to.
    pub fn context(&mut self, trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) {
        bytes_field(self.out, 9, &trace_id);
        bytes_field(self.out, 10, &span_id);
        tag(self.out, 8, 5);
        self.out.extend_from_slice(&u32::from(sampled).to_le_bytes());
    }

    /// The class of event that it is.
    pub fn event_name(&mut self, name: &str) {
        bytes_field(self.out, 12, clamp(name, KEY_BYTES_MAX).as_bytes());
    }

    /// Ends the record: what was cut is said.
    pub fn end(self) {
        if self.dropped > 0 {
            varint_field(self.out, 7, self.dropped.into());
        }
    }
}

/// `text`, cut at the last character boundary at or before `bytes_max`.
pub fn clamp(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn any_value_len(value: Value<'_>) -> usize {
    match value {
        Value::Str(text) => 1 + varint_len(text.len()) + text.len(),
        Value::Bytes(bytes) => 1 + varint_len(bytes.len()) + bytes.len(),
        Value::Bool(_) => 2,
        Value::Int(number) => 1 + varint_len_u64(number.cast_unsigned()),
        Value::Double(_) => 9,
    }
}

fn any_value(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Str(text) => bytes_field(out, 1, text.as_bytes()),
        Value::Bool(truth) => varint_field(out, 2, u64::from(truth)),
        Value::Int(number) => varint_field(out, 3, number.cast_unsigned()),
        Value::Double(number) => fixed64(out, 4, number.to_bits()),
        Value::Bytes(bytes) => bytes_field(out, 7, bytes),
    }
}

fn tag(out: &mut Vec<u8>, field: u8, wire: u8) {
    out.push(field << 3 | wire);
}

fn fixed64(out: &mut Vec<u8>, field: u8, value: u64) {
    tag(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn varint_field(out: &mut Vec<u8>, field: u8, value: u64) {
    tag(out, field, 0);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    tag(out, field, 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The bytes of a varint, and how many of them count.
#[inline]
fn varint_bytes(mut value: u64) -> ([u8; 10], u8) {
    let (mut bytes, mut last) = ([0; 10], 0);
    while value >= 0x80 && last < 9 {
        bytes[last] = (value as u8) | 0x80;
        value >>= 7;
        last += 1;
    }
    bytes[last] = value as u8;
    (bytes, last as u8 + 1)
}

fn varint_len(value: usize) -> usize {
    varint_len_u64(value as u64)
}

fn varint_len_u64(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use prost::Message as _;

    use super::*;

    fn decode(bytes: &[u8]) -> LogRecord {
        LogRecord::decode(bytes).unwrap()
    }

    #[test]
    fn every_field_type_is_read_back_by_opentelemetry_proto() {
        let mut bytes = Vec::new();
        let mut writer = LogWriter::begin(&mut bytes, 1_760_636_131_000_001_000, 7, 13, "WARN");
        writer.attribute("text", Value::Str("grün"));
        writer.attribute("truth", Value::Bool(true));
        writer.attribute("lie", Value::Bool(false));
        writer.attribute("int", Value::Int(-5));
        writer.attribute("big", Value::Int(i64::MAX));
        writer.attribute("double", Value::Double(0.25));
        writer.attribute("bytes", Value::Bytes(&[0, 255]));
        writer.body("hello");
        writer.context([1; 16], [2; 8], true);
        writer.event_name("fleet.decision");
        writer.end();
        let record = decode(&bytes);
        assert_eq!(record.time_unix_nano, 1_760_636_131_000_001_000);
        assert_eq!(record.observed_time_unix_nano, 7);
        assert_eq!((record.severity_number, record.severity_text.as_str()), (13, "WARN"));
        assert_eq!(record.body.unwrap().value, Some(Any::StringValue("hello".into())));
        assert_eq!((record.trace_id, record.span_id, record.flags), (vec![1; 16], vec![2; 8], 1));
        assert_eq!(record.event_name, "fleet.decision");
        assert_eq!(record.dropped_attributes_count, 0);
        let values: Vec<_> =
            record.attributes.into_iter().map(|pair| (pair.key, pair.value.unwrap().value.unwrap())).collect();
        assert_eq!(
            values,
            [
                ("text".to_owned(), Any::StringValue("grün".into())),
                ("truth".to_owned(), Any::BoolValue(true)),
                ("lie".to_owned(), Any::BoolValue(false)),
                ("int".to_owned(), Any::IntValue(-5)),
                ("big".to_owned(), Any::IntValue(i64::MAX)),
                ("double".to_owned(), Any::DoubleValue(0.25)),
                ("bytes".to_owned(), Any::BytesValue(vec![0, 255])),
            ]
        );
    }

    #[test]
    fn oversize_is_cut_at_a_character_and_counted() {
        let mut bytes = Vec::new();
        let mut writer = LogWriter::begin(&mut bytes, 1, 1, 9, "INFO");
        let long = "ü".repeat(VALUE_BYTES_MAX);
        for n in 0..20 {
            writer.attribute(&format!("k{n}"), Value::Str(&long));
        }
        writer.body(&"é".repeat(BODY_BYTES_MAX));
        writer.end();
        assert!(bytes.len() <= RECORD_BYTES_MAX);
        let record = decode(&bytes);
        assert_eq!(record.attributes.len(), 3);
        assert_eq!(record.dropped_attributes_count, 20 + 17 + 1);
    }

    #[test]
    fn varints_have_the_length_that_is_written() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                varint(&mut out, value);
                assert_eq!(out.len(), varint_len_u64(value), "{value}");
            }
        }
    }
}
