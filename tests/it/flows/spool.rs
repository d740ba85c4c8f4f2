//! `dogwatch spool cat` over a spool whose payloads are anything.

use std::sync::Arc;

use dogwatch::telemetry::record::{Kind, Level};
use dogwatch::telemetry::spool::disk::RealDisk;
use dogwatch::telemetry::spool::{Folder, SpoolConfig, Writer};
use uuid::Uuid;

use super::rig::Rig;

/// Payloads that are no OTLP: a length beyond the end, a field type that there is not, arrays inside
/// each other deeper than any decoder goes, text, a number without an end.
fn no_otlp() -> Vec<Vec<u8>> {
    let mut deep = Vec::new();
    // From the inside: values of an array, the array of a value; and the body around it.
    for tag in [0x0a, 0x2a].repeat(100).into_iter().chain([0x2a]) {
        // Lengths above 127 take two bytes.
        let (low, high) = ((deep.len() & 0x7f) as u8 | 0x80, (deep.len() >> 7) as u8);
        drop(deep.splice(0..0, [tag, low, high]));
    }
    vec![vec![0x2a, 0x7f], vec![0x0f], deep, b"a line of text".to_vec(), vec![0xff; 300]]
}

#[test]
fn a_payload_that_is_no_otlp_is_named_and_the_others_are_printed() {
    let rig = Rig::new();
    let boot = Uuid::from_u128(0x0f0e_0d0c_0b0a_4908_8706_0504_0302_0100);
    let root = rig.data().join("spool");
    std::fs::create_dir_all(&root).unwrap();
    let folder = Folder::create(&root, boot, Arc::new(RealDisk)).unwrap();
    let mut writer = Writer::open(&folder, SpoolConfig::default()).unwrap();
    let source = br#"{"source_type":"external","source_id":"anybody"}"#;
    writer.append(1, Kind::Source, Level::Info, 0, source).unwrap();
    // LogRecord { body: "good" }.
    let good = b"\x2a\x06\x0a\x04good".to_vec();
    let bad = no_otlp();
    let count = bad.len();
    for (seq, payload) in (2..).zip(bad.into_iter().flat_map(|bad| [bad, good.clone()])) {
        writer.append(seq, Kind::Log, Level::Info, 0, &payload).unwrap();
    }
    writer.sync().unwrap();
    drop((writer, folder));
    let said = rig.run(&["spool", "cat"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.out.matches("\"message\":\"good\"").count(), count, "{said:?}");
    assert_eq!(said.err.matches("is not an OTLP").count(), count, "{said:?}");
    assert!(said.err.contains(&format!("record 2 of boot {boot}")), "{said:?}");
}
