//! What a dead ring gives back: with holes, cut off, with flipped bytes, after a reboot.

use super::*;

fn found(dir: &Path) -> Recovered {
    recover(dir, KERNEL).unwrap().unwrap()
}

fn payloads(recovered: &Recovered) -> Vec<String> {
    recovered.entries.iter().map(|entry| String::from_utf8_lossy(&entry.payload).into_owned()).collect()
}

#[test]
fn what_was_pushed_is_found_with_counters_and_open_spans() {
    let (dir, ring) = ring(SMALL);
    let mut consumer = ring.consumer().unwrap();
    log(&ring, b"released").unwrap();
    drain(&mut consumer);
    assert!(consumer.release());
    let seq = ring.push(Kind::Span, Level::Debug, 9, b"read").unwrap();
    drain(&mut consumer);
    log(&ring, b"unread").unwrap();
    log(&ring, &vec![0; SMALL as usize]).unwrap_err();
    let name = "sp\u{e4}n of a name that is longer than the sixty-four bytes that a sl\u{f6}t has";
    let closed = ring.open_span(&span("closed")).unwrap();
    ring.open_span(&span(name)).unwrap();
    ring.close_span(closed);

    let recovered = found(dir.path());
    assert_eq!(payloads(&recovered), ["read", "unread"]);
    let first = Saved { seq, kind: Kind::Span, level: Level::Debug, source: 9, payload: b"read".to_vec() };
    assert_eq!(recovered.entries[0], first);
    assert_eq!((recovered.boot, recovered.kernel_boot), (BOOT, KERNEL));
    assert_eq!(recovered.pid, u64::from(std::process::id()));
    assert_eq!((recovered.half_written, recovered.accepted()), (0, 3));
    assert_eq!(recovered.counters, ring.counters());
    assert!(recovered.is_complete && !recovered.was_closed);
    let kept = &name[..name.floor_char_boundary(SPAN_NAME_BYTES)];
    assert_eq!(recovered.spans, [span(kept)]);
    ring.close();
    assert!(found(dir.path()).was_closed);
}

#[test]
fn holes_are_passed_in_steps_of_eight_bytes_and_counted() {
    for filled in [Filled::Yes, Filled::No] {
        let (dir, ring) = ring(SMALL);
        log(&ring, b"a").unwrap();
        leave_unpublished(&ring, &[1; 50], filled).unwrap();
        leave_unpublished(&ring, &[1; 3], filled).unwrap();
        log(&ring, b"b").unwrap();
        log(&ring, b"c").unwrap();
        leave_unpublished(&ring, &[2; 200], filled).unwrap();
        let recovered = found(dir.path());
        assert_eq!(payloads(&recovered), ["a", "b", "c"]);
        assert_eq!((recovered.half_written, recovered.accepted()), (3, 6));
    }
}

#[test]
fn after_a_reboot_only_the_crc_is_believed() {
    let (dir, ring) = ring(SMALL);
    let mut consumer = ring.consumer().unwrap();
    for _ in 0..30 {
        log(&ring, &[0; 200]).unwrap();
        drain(&mut consumer);
        assert!(consumer.release());
    }
    log(&ring, b"one").unwrap();
    log(&ring, b"two").unwrap();
    let words = ring.0.header();
    words[layout::TAIL].store(Tail::START.0, Relaxed);
    words[layout::COMMITS..layout::COMMITS + 16].iter().for_each(|word| word.store(77, Relaxed));
    let recovered = recover(dir.path(), Uuid::from_u128(9)).unwrap().unwrap();
    assert_eq!(payloads(&recovered), ["one", "two"]);
    assert!(!recovered.is_complete);
}

#[test]
fn a_kill_while_releasing_neither_loses_nor_invents() {
    let (dir, ring) = ring(SMALL);
    let mut consumer = ring.consumer().unwrap();
    let cut = log(&ring, b"on disk").unwrap();
    drain(&mut consumer);
    log(&ring, b"not yet").unwrap();
    assert!(consumer.release());
    // As if the kill had come before the zeroing: the bytes are there, below the head.
    let cells = ring.0.cells();
    let head = Head { payload_bytes: 7, kind: Kind::Log, level: Level::Error, source: 0 }.pack();
    cells.fill(cut, head, b"on disk");
    cells.publish(cut, head, crc32c::crc32c_append(ring.0.salt, b"on disk")).unwrap();
    let recovered = found(dir.path());
    assert_eq!(payloads(&recovered), ["not yet"]);
    assert_eq!((recovered.half_written, recovered.accepted()), (0, 2));
    // A commit that was being written does not count; the one before it does.
    let slot = layout::COMMITS + layout::COMMIT_WORDS;
    ring.0.header()[slot].fetch_add(8, Relaxed);
    assert_eq!(payloads(&found(dir.path())), ["on disk", "not yet"]);
}

/// The words of a small ring in several laps, one entry over the wrap; and its entries.
fn image() -> (Vec<u64>, Vec<Saved>) {
    let (_dir, ring) = ring(SMALL);
    let mut consumer = ring.consumer().unwrap();
    for _ in 0..17 {
        log(&ring, &[3; 220]).unwrap();
    }
    drain(&mut consumer);
    assert!(consumer.release());
    let expected: Vec<Saved> = (0..6_u8)
        .map(|number| {
            let payload = vec![number; 40 + usize::from(number)];
            let seq = log(&ring, &payload).unwrap();
            Saved { seq, kind: Kind::Log, level: Level::Warning, source: 3, payload }
        })
        .collect();
    let (first, last) = (expected[0].seq % SMALL, expected[5].seq % SMALL);
    assert!(first > last, "an entry lies over the end");
    (ring.0.map.words().iter().map(|word| word.load(Relaxed)).collect(), expected)
}

fn scan(words: Vec<u64>) -> Result<Option<Recovered>, RingError> {
    recover::scan(words, Path::new("image"), KERNEL)
}

#[test]
fn a_flipped_byte_costs_one_entry_at_most() {
    let (words, expected) = image();
    let entries_at = layout::HEADER_WORDS * 8;
    for at in (0..4_096).chain(entries_at..words.len() * 8) {
        let mut words = words.clone();
        words[at / 8] ^= 0x41 << (at % 8 * 8);
        let recovered = scan(words).unwrap().unwrap();
        let missing = expected.iter().filter(|entry| !recovered.entries.contains(entry)).count();
        assert_eq!(recovered.entries.len() + missing, expected.len(), "nothing invented at {at}");
        if at < entries_at {
            assert_eq!(missing, 0, "the header costs no entry at {at}");
        } else {
            assert!(missing <= 1, "{missing} lost at {at}");
            assert_eq!(recovered.half_written, missing as u64, "at {at}");
        }
    }
}

#[test]
fn a_file_cut_at_any_length_gives_what_lies_before() {
    let (words, expected) = image();
    for length in 0..words.len() {
        let Ok(Some(recovered)) = scan(words[..length].to_vec()) else {
            assert!(length < layout::IDENTITY_WORDS, "nothing only without an identity, not at {length}");
            continue;
        };
        let whole = |entry: &Saved| {
            let start = layout::HEADER_WORDS + (entry.seq % SMALL / 8) as usize;
            let end = start + layout::entry_bytes(entry.payload.len()) as usize / 8;
            end <= length
        };
        let kept: Vec<_> = expected.iter().filter(|entry| whole(entry)).cloned().collect();
        assert_eq!(recovered.entries, kept, "at {length}");
    }
}

#[test]
fn what_is_no_ring_is_told_apart_from_one_that_was_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(place::FILE_NAME);
    let read = || recover(dir.path(), KERNEL);
    assert_eq!(read().unwrap(), None);
    std::fs::write(&path, []).unwrap();
    assert_eq!(read().unwrap(), None);
    std::fs::write(&path, vec![0; 50_000]).unwrap();
    assert_eq!(read().unwrap(), None);
    std::fs::write(&path, vec![b'x'; 50_000]).unwrap();
    assert!(matches!(read(), Err(RingError::Damaged { .. })));
}
