//! Which segments may be deleted, and which must be dropped at the cap. Pure.
//!
//! A segment owns the sequences from its first up to the next segment's first; the last one has no
//! such end and is therefore never chosen here.

use super::segment::Segment;

/// How many of the oldest segments every cursor is past. `next` holds each slot's committed
/// position (every sequence below it is done); none at all means that nobody has read anything.
pub fn delivered(segments: &[Segment], next: &[u64]) -> usize {
    let Some(&slowest) = next.iter().min() else { return 0 };
    segments.windows(2).take_while(|pair| pair[1].first <= slowest).count()
}

/// Of the folders' segments (oldest folder first) how many of the oldest must go from each, so that
/// the bytes that remain are at most `cap_bytes`.
pub fn over_cap(folders: &[Vec<Segment>], cap_bytes: u64) -> Vec<usize> {
    let mut total: u64 = folders.iter().flatten().map(|segment| segment.bytes).sum();
    let drop_oldest = |segments: &Vec<Segment>| {
        let mut dropped = 0;
        while total > cap_bytes && dropped + 1 < segments.len() {
            total -= segments[dropped].bytes;
            dropped += 1;
        }
        dropped
    };
    folders.iter().map(drop_oldest).collect()
}

/// Whether DEBUG and INFO are to be refused: 90 % of the cap are used.
pub fn is_low_on_room(bytes: u64, cap_bytes: u64) -> bool {
    bytes >= cap_bytes / 10 * 9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(firsts: &[u64]) -> Vec<Segment> {
        firsts.iter().map(|&first| Segment { first, bytes: 10 }).collect()
    }

    #[test]
    fn a_segment_goes_when_the_slowest_slot_has_left_it() {
        for (next, deleted) in [(vec![], 0), (vec![9], 0), (vec![10], 1), (vec![25, 10], 1), (vec![u64::MAX], 2)] {
            assert_eq!(delivered(&segments(&[0, 10, 20]), &next), deleted, "{next:?}");
        }
        assert_eq!(delivered(&[], &[5]), 0);
    }

    #[test]
    fn the_oldest_folder_pays_first_and_the_last_segment_stays() {
        let folders = [segments(&[0, 5]), segments(&[0, 10, 20])];
        for (cap, dropped) in [(50, [0, 0]), (49, [1, 0]), (39, [1, 1]), (29, [1, 2]), (0, [1, 2])] {
            assert_eq!(over_cap(&folders, cap), dropped, "cap {cap}");
        }
    }

    #[test]
    fn room_is_low_from_nine_tenths_on() {
        assert!(!is_low_on_room(899, 1_000));
        assert!(is_low_on_room(900, 1_000));
    }
}
