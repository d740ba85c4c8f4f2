//! When a record was made, read from its OTLP bytes without decoding the rest.
//!
//! For the age of what is pending: the field stands at the front of a log record, so this costs
//! nothing beside reading. Bytes that are no protobuf have no time. Pure.

use crate::telemetry::record::Kind;

/// When a record was made, straight from its OTLP bytes: a log's time (or the time it was observed),
/// a span's end.
pub(super) fn unix_micros(kind: Kind, payload: &[u8]) -> Option<i64> {
    let wanted: &[u64] = if kind == Kind::Span { &[8, 7] } else { &[1, 11] };
    let mut found = [None; 2];
    let mut rest = payload;
    while let (Some((tag, after)), None) = (varint(rest), found[0]) {
        let bytes = match tag & 7 {
            0 => after.len() - varint(after)?.1.len(),
            1 => 8,
            2 => {
                let (len, body) = varint(after)?;
                after.len() - body.len() + usize::try_from(len).ok()?
            }
            5 => 4,
            _ => return None,
        };
        let value = after.get(..bytes)?;
        if let (Some(at), 1) = (wanted.iter().position(|&field| field == tag >> 3), tag & 7) {
            let nanos = value.iter().rev().fold(0u64, |nanos, &byte| (nanos << 8) | u64::from(byte));
            found[at] = (nanos > 0).then_some(nanos);
        }
        rest = &after[bytes..];
    }
    i64::try_from(found[0].or(found[1])? / 1_000).ok()
}

/// A protobuf varint and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte < 0x80 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_record_is_read_from_its_bytes() {
        use opentelemetry_proto::tonic::logs::v1::LogRecord;
        use opentelemetry_proto::tonic::trace::v1::Span;
        use prost::Message as _;
        let log = LogRecord {
            time_unix_nano: 5_000,
            observed_time_unix_nano: 9_000,
            severity_number: 9,
            ..LogRecord::default()
        };
        assert_eq!(unix_micros(Kind::Log, &log.encode_to_vec()), Some(5));
        let unset = LogRecord { time_unix_nano: 0, trace_id: vec![1; 16], flags: 1, ..log };
        assert_eq!(unix_micros(Kind::Log, &unset.encode_to_vec()), Some(9));
        let span = Span {
            name: "cycle".into(),
            start_time_unix_nano: 1_000,
            end_time_unix_nano: 7_000,
            ..Span::default()
        };
        assert_eq!(unix_micros(Kind::Span, &span.encode_to_vec()), Some(7));
        for bytes in [&b""[..], b"record 1", &[0xff; 30], &[0x09, 1, 2], &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
            assert_eq!(unix_micros(Kind::Log, bytes), None, "{bytes:?}");
        }
    }
}
