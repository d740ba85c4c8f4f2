//! Frames: golden bytes, every cut and flip, and no memory for garbage.

use expect_test::expect;
use proptest::prelude::*;

use super::*;

const SALT: u32 = 7;

fn header_of(seq: u64) -> Header {
    Header { payload_bytes: 0, seq, ordinal: seq / 10, kind: 2, level: 1, source: 3 }
}

fn frames(payloads: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, payload) in (1..).zip(payloads) {
        encode(&mut out, SALT, header_of(at * 10), payload);
    }
    out
}

/// The sequences that are found in the bytes, and how many bytes belong to none of them.
fn found(bytes: &[u8], salt: u32) -> (Vec<u64>, usize) {
    let (mut seqs, mut junk, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let taken = match decode(&bytes[at..], salt) {
            Step::Frame(header, taken) => {
                seqs.push(header.seq);
                taken
            }
            Step::BadPayload(_, taken) | Step::Junk(taken) => {
                junk += taken;
                taken
            }
            Step::Incomplete(needed) => {
                assert!(needed > bytes.len() - at && needed <= OVERHEAD_BYTES + PAYLOAD_BYTES_MAX);
                junk += bytes.len() - at;
                break;
            }
        };
        assert!(taken > 0 && taken <= bytes.len() - at);
        at += taken;
    }
    (seqs, junk)
}

#[test]
fn the_bytes_are_as_documented() {
    let bytes = frames(&[b"hello"]);
    let hex: Vec<_> =
        bytes.chunks(8).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>()).collect();
    expect![[r#"
        d706f5a905000000
        0a00000000000000
        0100000000000000
        02010300a4ac937c
        68656c6c6f0f56b1
        7a"#]]
    .assert_eq(&hex.join("\n"));
}

#[test]
fn every_flipped_bit_costs_one_frame_and_every_cut_only_what_is_cut() {
    let whole = frames(&[b"one", b"", b"three three three"]);
    assert_eq!(found(&whole, SALT), (vec![10, 20, 30], 0));
    let ends = [39, 75, 128];
    assert_eq!(whole.len(), ends[2]);
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let hurt = ends.iter().position(|&end| bit / 8 < end).unwrap();
        let right: Vec<_> = (0..3).filter(|&at| at != hurt).map(|at| (at as u64 + 1) * 10).collect();
        assert_eq!(found(&bytes, SALT).0, right, "bit {bit}");
    }
    for cut in 0..whole.len() {
        let left = ends.iter().filter(|&&end| end <= cut).count();
        assert_eq!(found(&whole[..cut], SALT).0.len(), left, "cut at {cut}");
    }
}

#[test]
fn a_frame_inside_a_payload_is_not_a_frame() {
    let mut inner = Vec::new();
    encode(&mut inner, SALT + 1, header_of(99), b"from another segment");
    let mut bytes = frames(&[&inner, b"two"]);
    assert_eq!(found(&bytes, SALT).0, [10, 20]);
    bytes[9] ^= 1;
    assert_eq!(found(&bytes, SALT).0, [20], "the outer header is damaged, the inner is of another salt");
    assert_eq!(found(&bytes, SALT + 1).0, [99], "the test would notice");
}

#[test]
fn a_bad_payload_is_stepped_over_as_a_whole() {
    let mut inner = Vec::new();
    encode(&mut inner, SALT, header_of(99), b"same salt");
    let mut bytes = frames(&[&inner, b"two"]);
    let last = HEADER_BYTES + inner.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(found(&bytes, SALT).0, [20]);
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        found(&bytes, SALT);
    }

    #[test]
    fn frames_survive_junk_between_them(
        parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..60), prop::collection::vec(any::<u8>(), 0..60)), 1..6)
    ) {
        let mut bytes = Vec::new();
        for (at, (junk, payload)) in (1..).zip(&parts) {
            bytes.extend_from_slice(junk);
            encode(&mut bytes, SALT, header_of(at), payload);
        }
        let junk: usize = parts.iter().map(|(junk, _)| junk.len()).sum();
        prop_assert_eq!(found(&bytes, SALT), ((1..=parts.len() as u64).collect(), junk));
    }
}
