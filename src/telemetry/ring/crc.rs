//! CRC32C of short things: of an entry, worked out while its words are copied, and of a frame.
//!
//! An entry is a few hundred bytes, so what costs is not the sum but a second pass over the bytes
//! and waiting for one step of the sum after the other. On processors with the instructions (SSE 4.2
//! and PCLMULQDQ) words are summed and copied in one go, in three sums side by side; elsewhere, and
//! for long payloads, the crc32c crate does it in a pass of its own. The result is the same
//! everywhere.
//!
//! # Safety argument
//!
//! The functions with the instructions touch no memory but through references; they are called only
//! where the processor says that it has the instructions.

#![expect(unsafe_code, reason = "a function for a processor's feature is called; the argument stands above")]

use std::sync::atomic::Ordering::Relaxed;

use super::word::{Load, Word};

/// Words of a payload from which on the crate is as fast.
const LONG_WORDS: usize = 96;

/// `crc`, continued over bytes.
#[inline]
pub(in crate::telemetry) fn append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() / 8 < LONG_WORDS && hardware::is_there() {
        // SAFETY: the processor has the instructions.
        return unsafe { hardware::append(crc, bytes) };
    }
    crc32c::crc32c_append(crc, bytes)
}

/// Copies bytes into words and gives `crc` continued over them. The last word is filled up with
/// zeros, which are not summed. `to` holds just as many words as the bytes need.
#[inline]
pub(super) fn copy_in<W: Word>(crc: u32, from: &[u8], to: (&[W], &[W])) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if from.len() / 8 < LONG_WORDS && hardware::is_there() {
        // SAFETY: the processor has the instructions.
        return unsafe { hardware::copy_in(crc, from, to) };
    }
    let (chunks, rest) = from.as_chunks::<8>();
    let mut words = to.0.iter().chain(to.1);
    for (chunk, word) in chunks.iter().zip(&mut words) {
        word.store(u64::from_le_bytes(*chunk), Relaxed);
    }
    if let (Some(word), false) = (words.next(), rest.is_empty()) {
        word.store(last_word(rest), Relaxed);
    }
    crc32c::crc32c_append(crc, from)
}

/// Copies words out as bytes and gives `crc` continued over the first `bytes` of them. `to` is as
/// long as the words.
#[inline]
pub(super) fn copy_out<L: Load>(crc: u32, from: (&[L], &[L]), to: &mut [u8], bytes: usize) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes / 8 < LONG_WORDS && hardware::is_there() {
        // SAFETY: the processor has the instructions.
        return unsafe { hardware::copy_out(crc, from, to, bytes) };
    }
    let (chunks, _) = to.as_chunks_mut::<8>();
    for (chunk, word) in chunks.iter_mut().zip(from.0.iter().chain(from.1)) {
        *chunk = word.load(Relaxed).to_le_bytes();
    }
    crc32c::crc32c_append(crc, &to[..bytes])
}

/// `crc`, continued over two words.
#[inline]
pub(super) fn two_words(crc: u32, words: [u64; 2]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if hardware::is_there() {
        // SAFETY: the processor has the instructions.
        return unsafe { hardware::two_words(crc, words) };
    }
    words.iter().fold(crc, |crc, word| crc32c::crc32c_append(crc, &word.to_le_bytes()))
}

#[inline]
fn last_word(rest: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(bytes)
}

#[cfg(target_arch = "x86_64")]
mod hardware {
    use std::arch::x86_64::{
        _mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64, _mm_cvtsi64_si128, _mm_cvtsi128_si64,
    };
    use std::sync::atomic::Ordering::Relaxed;

    use super::super::word::{Load, Word};
    use super::{LONG_WORDS, last_word};

    /// `SHIFTS[n]` moves a sum over `n` words of zeros: x^(64 n - 33) modulo the polynomial, lowest
    /// bit first. The 33 are what the multiplication and the sum that takes its product add.
    const SHIFTS: [u32; 2 * LONG_WORDS / 3 + 2] = {
        let mut shifts = [0; 2 * LONG_WORDS / 3 + 2];
        let (mut power, mut bits, mut words) = (1_u32 << 31, 0, 1);
        while words < shifts.len() {
            while bits < 64 * words - 33 {
                power = (power >> 1) ^ ((power & 1) * 0x82F6_3B78);
                bits += 1;
            }
            shifts[words] = power;
            words += 1;
        }
        shifts
    };

    /// True if the processor has what the functions here need.
    #[inline]
    pub(super) fn is_there() -> bool {
        is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("pclmulqdq")
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub(super) fn append(crc: u32, all: &[u8]) -> u32 {
        let (chunks, rest) = all.as_chunks::<8>();
        bytes(run(!crc, chunks.len(), |at| u64::from_le_bytes(chunks[at])), rest)
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub(super) fn copy_in<W: Word>(crc: u32, from: &[u8], to: (&[W], &[W])) -> u32 {
        let (chunks, rest) = from.as_chunks::<8>();
        let (first, second) = chunks.split_at(to.0.len().min(chunks.len()));
        let mut sum = !crc;
        for (chunks, words) in [(first, to.0), (second, to.1)] {
            let words = &words[..chunks.len()];
            sum = run(sum, chunks.len(), |at| {
                let value = u64::from_le_bytes(chunks[at]);
                words[at].store(value, Relaxed);
                value
            });
        }
        if let (Some(word), false) = (to.1.last().or(to.0.last()), rest.is_empty()) {
            word.store(last_word(rest), Relaxed);
        }
        bytes(sum, rest)
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub(super) fn copy_out<L: Load>(crc: u32, from: (&[L], &[L]), to: &mut [u8], summed: usize) -> u32 {
        let (chunks, _) = to.as_chunks_mut::<8>();
        let (whole, last) = chunks.split_at_mut((summed / 8).min(chunks.len()));
        let (first, second) = whole.split_at_mut(from.0.len().min(whole.len()));
        let mut sum = !crc;
        for (chunks, words) in [(first, from.0), (second, from.1)] {
            let words = &words[..chunks.len()];
            sum = run(sum, chunks.len(), |at| {
                let value = words[at].load(Relaxed);
                chunks[at] = value.to_le_bytes();
                value
            });
        }
        if let (Some(chunk), Some(word)) = (last.first_mut(), from.1.last().or(from.0.last())) {
            *chunk = word.load(Relaxed).to_le_bytes();
            return bytes(sum, &chunk[..summed % 8]);
        }
        !sum
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub(super) fn two_words(crc: u32, words: [u64; 2]) -> u32 {
        !word(word(!crc, words[0]), words[1])
    }

    /// A sum, continued over so many words. One after another each waits for the one before, so
    /// three thirds are summed side by side and put together with the word after them.
    #[inline]
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn run(mut sum: u32, words: usize, mut take: impl FnMut(usize) -> u64) -> u32 {
        let third = words.saturating_sub(1) / 3;
        let mut done = 0;
        if (3..=LONG_WORDS / 3).contains(&third) {
            let (mut second, mut last) = (0, 0);
            for at in 0..third {
                sum = word(sum, take(at));
                second = word(second, take(third + at));
                last = word(last, take(2 * third + at));
            }
            let moved = product(sum, SHIFTS[2 * third + 1]) ^ product(second, SHIFTS[third + 1]);
            sum = word(last, take(3 * third) ^ moved);
            done = 3 * third + 1;
        }
        (done..words).fold(sum, |sum, at| word(sum, take(at)))
    }

    #[inline]
    #[target_feature(enable = "sse4.2")]
    fn word(sum: u32, value: u64) -> u32 {
        _mm_crc32_u64(sum.into(), value) as u32
    }

    #[inline]
    #[target_feature(enable = "pclmulqdq")]
    fn product(a: u32, b: u32) -> u64 {
        let both = (_mm_cvtsi64_si128(a.into()), _mm_cvtsi64_si128(b.into()));
        _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0>(both.0, both.1)).cast_unsigned()
    }

    #[inline]
    #[target_feature(enable = "sse4.2")]
    fn bytes(sum: u32, rest: &[u8]) -> u32 {
        let (four, rest) = rest.as_chunks::<4>();
        let sum = four.iter().fold(sum, |sum, four| _mm_crc32_u32(sum, u32::from_le_bytes(*four)));
        !rest.iter().fold(sum, |sum, byte| _mm_crc32_u8(sum, *byte))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn copies_and_sums_are_those_of_the_crate_at_every_length_and_cut() {
        let bytes: Vec<u8> = (0..1_000_u32).map(|at| (at * 31 + at / 7) as u8).collect();
        for length in (0..200).chain([LONG_WORDS * 8 - 1, LONG_WORDS * 8, LONG_WORDS * 8 + 9]) {
            assert_eq!(append(7, &bytes[1..=length]), crc32c::crc32c_append(7, &bytes[1..=length]), "{length}");
            let words: Vec<AtomicU64> = (0..length.div_ceil(8)).map(|_| AtomicU64::new(u64::MAX)).collect();
            for cut in [0, 1, words.len() / 2, words.len()] {
                let both = words.split_at(cut.min(words.len()));
                let expected = crc32c::crc32c_append(7, &bytes[..length]);
                assert_eq!(copy_in(7, &bytes[..length], both), expected, "{length} {cut}");
                let mut out = vec![0xAA; words.len() * 8];
                assert_eq!(copy_out(7, both, &mut out, length), expected, "{length} {cut}");
                assert_eq!(out[..length], bytes[..length]);
                assert!(out[length..].iter().all(|byte| *byte == 0), "{length} {cut}");
            }
        }
        let pair = [0x0123_4567_89ab_cdef, 42];
        assert_eq!(two_words(9, pair), crc32c::crc32c_append(9, pair.map(u64::to_le_bytes).as_flattened()));
    }
}
