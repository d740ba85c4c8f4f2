//! Lines, and a pipe that nobody reads.

use std::os::unix::net::UnixStream;

use super::*;
use crate::telemetry::exporter::samples::{START_MICROS, batch, poison, stored};

const LIMIT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(30);

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);
impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn now() -> Time {
    clock::from_micros(START_MICROS)
}

#[test]
fn one_json_line_a_record() {
    let out = Shared::default();
    let mut exporter = StdoutExporter::new(out.clone()).unwrap();
    let exported = exporter.export(&batch(0..2), now(), LIMIT).unwrap();
    assert_eq!(exported, Exported { delivered: 2, rejected: 0 });
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    expect_test::expect![[r#"
        {"attributes":{"count":0,"target":"dogwatch::orchestrator"},"cycle_number":0,"level":"INFO","message":"record 0","source_id":"sample","source_type":"external","span_id":"0202020202020202","timestamp":"2025-10-16T17:35:31Z","trace_id":"01010101010101010101010101010101","worker_id":"gpu-0"}
        {"attributes":{"count":1,"target":"dogwatch::orchestrator"},"cycle_number":0,"level":"INFO","message":"record 1","source_id":"sample","source_type":"external","span_id":"0202020202020202","timestamp":"2025-10-16T17:35:31.001Z","trace_id":"01010101010101010101010101010101","worker_id":"gpu-1"}
    "#]].assert_eq(&text);
}

#[test]
fn a_record_that_cannot_be_decoded_refuses_its_batch_and_writes_nothing() {
    let out = Shared::default();
    let mut exporter = StdoutExporter::new(out.clone()).unwrap();
    let result = exporter.export(&[stored(0), poison(1)], now(), LIMIT);
    assert!(matches!(result, Err(ExportError::Refused { .. })));
    assert!(out.0.lock().unwrap().is_empty());
}

#[test]
fn a_pipe_that_nobody_reads_is_an_outage_and_no_line_comes_twice() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut exporter = StdoutExporter::new(ours).unwrap();
    let records = batch(0..5_000);
    for _ in 0..3 {
        assert!(matches!(exporter.export(&records, now(), SHORT), Err(ExportError::Retry { .. })));
    }
    let reader = std::thread::scope(|scope| {
        let reader = scope.spawn(move || io::read_to_string(theirs).unwrap());
        assert_eq!(exporter.export(&records, now(), LIMIT).unwrap().delivered, 5_000);
        drop(exporter);
        reader.join().unwrap()
    });
    assert_eq!(reader.lines().count(), 5_000);
}

#[test]
fn a_closed_pipe_blocks() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let mut exporter = StdoutExporter::new(ours).unwrap();
    let result = exporter.export(&batch(0..1), now(), LIMIT);
    assert!(matches!(result, Err(ExportError::Blocked { .. })), "{result:?}");
}
