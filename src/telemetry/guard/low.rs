//! A disk that runs full: noticed by a look at it, and not by the first write that finds no room. Pure.
//!
//! It is low when the next segment of the spool would not fit, and well again when two would.

/// What is remembered of the disk.
#[derive(Debug, Default)]
pub(super) struct Low {
    is_low: bool,
}

/// What there is to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// There is too little room.
    Begins,
    /// There is room again.
    Ends,
}

impl Low {
    /// One look; `free` bytes where the file system says how many.
    pub(super) fn look(&mut self, free: Option<u64>, segment_bytes: u64) -> Option<Word> {
        let free = free?;
        let enough = if self.is_low { segment_bytes.saturating_mul(2) } else { segment_bytes };
        let is_low = free < enough;
        let word = match (self.is_low, is_low) {
            (false, true) => Some(Word::Begins),
            (true, false) => Some(Word::Ends),
            _ => None,
        };
        self.is_low = is_low;
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said at each look, as `+`, `-` and `.`.
    fn check(looks: &[Option<u64>], expected: &str) {
        let mut low = Low::default();
        let said: String = looks
            .iter()
            .map(|free| match low.look(*free, 100) {
                Some(Word::Begins) => '+',
                Some(Word::Ends) => '-',
                None => '.',
            })
            .collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn it_is_said_once_and_a_disk_at_its_limit_does_not_flap() {
        check(&[None, Some(1 << 40), Some(100), Some(99), Some(0), None, Some(100), Some(199)], "...+....");
        check(&[Some(0), Some(199), Some(200), Some(100), Some(99)], "+.-.+");
    }
}
