//! Why a push was refused, and what became of entries that left the ring another way: the words of
//! the counters in the ring's file. Pure.

use std::fmt;

use super::layout::REASONS;

/// Why a push was refused. The number is its row in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refused {
    /// No room.
    Full = 0,
    /// DEBUG or INFO, and more than 90 % full.
    AboveNinety = 1,
    /// Longer than this ring takes.
    TooLarge = 2,
    /// This is a forked child.
    Forked = 3,
    /// The ring is closed.
    Closed = 4,
    /// DEBUG or INFO, and the disk's share is nearly used up: said by the recorder, not the ring.
    SpoolLow = 5,
    /// The caller was stopped inside `push` for so long that its entry was given up. Counted as
    /// half-written (it has a sequence number), not as refused.
    Skipped = 6,
}

impl Refused {
    /// The reasons that are counted as refused, in the order of their rows.
    pub const COUNTED: [Refused; REASONS] = [
        Refused::Full,
        Refused::AboveNinety,
        Refused::TooLarge,
        Refused::Forked,
        Refused::Closed,
        Refused::SpoolLow,
    ];

    /// A word for a metric's label.
    pub fn word(self) -> &'static str {
        match self {
            Refused::Full => "full",
            Refused::AboveNinety => "above_ninety",
            Refused::TooLarge => "too_large",
            Refused::Forked => "forked",
            Refused::Closed => "closed",
            Refused::SpoolLow => "spool_low",
            Refused::Skipped => "skipped",
        }
    }
}

/// What became of entries that were released and are not in the spool. The number is its word in
/// the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Aside {
    /// Written to stdout.
    Stdout = 0,
    /// Dropped, because stdout takes only so many a second.
    FallbackRate = 1,
    /// The definition of a source: no record, and kept in memory for the spool.
    Source = 2,
}

impl Aside {
    /// Those that are lost records.
    pub const LOST: [Aside; 2] = [Aside::Stdout, Aside::FallbackRate];

    /// A word for the ledger.
    pub fn word(self) -> &'static str {
        match self {
            Aside::Stdout => "stdout",
            Aside::FallbackRate => "fallback_rate",
            Aside::Source => "source",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}
