//! What travels through the recorder: an entry is OTLP bytes with a kind, a level and a source.
//!
//! The payload is OTLP protobuf (`LogRecord`, `Span`), so that forwarding is concatenation and any
//! tool can read a segment. Sources (who speaks) are interned: an entry of kind [`Kind::Source`]
//! defines a number, the entries after it use it. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What an entry's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// JSON of a [`Source`]; defines the entry's source number for this boot.
    Source = 1,
    /// OTLP `LogRecord`.
    Log = 2,
    /// OTLP `Span`, closed.
    Span = 3,
}

impl Kind {
    /// The kind of that number.
    pub fn from_u8(number: u8) -> Option<Kind> {
        [Kind::Source, Kind::Log, Kind::Span].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The five levels of `system_logs`, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum Level {
    /// TRACE and DEBUG.
    Debug = 0,
    /// INFO.
    Info = 1,
    /// WARN.
    Warning = 2,
    /// ERROR.
    Error = 3,
    /// FATAL.
    Critical = 4,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 5] = [Level::Debug, Level::Info, Level::Warning, Level::Error, Level::Critical];

    /// The word in `log_level`.
    pub fn word(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
            Level::Critical => "CRITICAL",
        }
    }

    /// The level of a word in any case: trace debug info warn warning error fatal critical.
    pub fn from_word(word: &str) -> Option<Level> {
        Some(match word.to_ascii_lowercase().as_str() {
            "trace" | "debug" => Level::Debug,
            "info" => Level::Info,
            "warn" | "warning" => Level::Warning,
            "error" => Level::Error,
            "fatal" | "critical" => Level::Critical,
            _ => return None,
        })
    }

    /// OTLP severity numbers: 1-8, 9-12, 13-16, 17-20, 21-24; 0 (unspecified) reads as INFO.
    pub fn from_severity_number(number: i32) -> Level {
        match number {
            1..=8 => Level::Debug,
            13..=16 => Level::Warning,
            17..=20 => Level::Error,
            21.. => Level::Critical,
            _ => Level::Info,
        }
    }

    /// The lowest OTLP severity number of this level (DEBUG 5).
    pub fn severity_number(self) -> i32 {
        match self {
            Level::Debug => 5,
            Level::Info => 9,
            Level::Warning => 13,
            Level::Error => 17,
            Level::Critical => 21,
        }
    }

    /// The level of that number.
    pub fn from_u8(number: u8) -> Option<Level> {
        Level::ALL.get(usize::from(number)).copied()
    }
}

/// Who speaks: what becomes source_type and source_id, and the OTLP resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// `orchestrator_gpu`, `worker`, `watch`, `external`, or what `ship` was told.
    pub source_type: String,
    /// Which one of them.
    pub source_id: String,
    /// OTLP resource attributes, such as service.name.
    #[serde(default)]
    pub resource: Vec<(String, String)>,
}

/// An entry as it stands in the spool.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its position: unique and rising within its boot, with holes.
    pub seq: u64,
    /// `Log` or `Span`; sources are resolved.
    pub kind: Kind,
    /// Its level (a span's: DEBUG, or ERROR / WARNING by its status).
    pub level: Level,
    /// Who speaks.
    pub source: Arc<Source>,
    /// The boot that made it.
    pub boot: Uuid,
    /// OTLP bytes.
    pub payload: Vec<u8>,
}

/// The id of a record: uuid in v7 layout = 48 bit milliseconds, 12 bit sub-millisecond, 62 bit
/// hash of (boot, sequence). Time-ordered, so that an index grows at its end; the same record gets
/// the same id however often it is delivered.
pub fn id(time_unix_micros: i64, boot: Uuid, seq: u64) -> Uuid {
    let micros = u64::try_from(time_unix_micros).unwrap_or(0);
    let (millis, sub) = (micros / 1_000, (micros % 1_000) * 4_096 / 1_000);
    let mut hash = fold(boot.as_u128() as u64 ^ 0x9e37_79b9_7f4a_7c15);
    hash = fold(hash ^ (boot.as_u128() >> 64) as u64);
    hash = fold(hash ^ seq);
    let high = (millis << 16) | 0x7000 | sub;
    let low = (hash & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    Uuid::from_u64_pair(high, low)
}

/// SplitMix64's finalizer: a bijection with good avalanche.
fn fold(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_v7_ordered_by_time_and_repeatable() {
        let boot = Uuid::from_u128(42);
        let first = id(1_760_636_131_000_000, boot, 8);
        assert_eq!(first.get_version_num(), 7);
        assert_eq!(first.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(first, id(1_760_636_131_000_000, boot, 8));
        assert_ne!(first, id(1_760_636_131_000_000, boot, 16));
        assert_ne!(first, id(1_760_636_131_000_000, Uuid::from_u128(43), 8));
        assert!(first < id(1_760_636_131_000_300, boot, 0));
    }

    #[test]
    fn severity_numbers_map_to_the_nearest_level() {
        for level in Level::ALL {
            assert_eq!(Level::from_severity_number(level.severity_number()), level);
            assert_eq!(Level::from_word(level.word()), Some(level));
            assert_eq!(Level::from_u8(level as u8), Some(level));
        }
        assert_eq!(Level::from_severity_number(0), Level::Info);
        assert_eq!(Level::from_severity_number(24), Level::Critical);
    }
}
