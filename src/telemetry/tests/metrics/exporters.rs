//! What exporters tell: down, blocked, poisoned, hanging, and what they leave behind.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::page::Page;
use crate::telemetry::exporter::otlp::{Compression, Endpoint};
use crate::telemetry::exporter::receiver::{Receiver, Reply};
use crate::telemetry::exporter::sqlite::{Retention, SqliteExporter};
use crate::telemetry::metrics_push;
use crate::telemetry::otel_env::MetricsConfig;
use crate::telemetry::record::Level;
use crate::telemetry::tests::rig::{App, Far, LIMIT, Mode, Rig, until};
use crate::telemetry::{Guard, shipper};
use crate::{catalogue, clock};

/// The slot of an exporter that there is no more.
pub(super) const GONE: &str = "gone";
const FAR: [(&str, &str); 1] = [("exporter", "far")];
/// Of the recorder's own: the heartbeat.
const OWN: f64 = 1.0;

fn facts(guard: &Guard) -> shipper::Facts {
    guard.exporters().remove(0).facts
}

/// Nothing is wrong: a hundred records go all the way.
pub(super) fn delivered(page: &Page) {
    let mut rig = Rig::new();
    rig.far.set(Mode::Slow);
    let mut accepted = page.series(catalogue::RECORDS_ACCEPTED, &[]);
    let mut exported = page.series(catalogue::RECORDS_EXPORTED, &FAR);
    let mut took = page.series(catalogue::EXPORT_DURATION, &FAR);
    let guard = rig.start();
    App::new(&guard).talk(Level::Info, 100);
    accepted.becomes(100.0 + OWN);
    exported.becomes(100.0 + OWN);
    took.rises_above(0.05);
    let _ = guard.shutdown(LIMIT);
    assert_eq!(rig.law().delivered, 101);
}

pub(super) fn down(page: &Page) {
    let mut rig = Rig::new();
    rig.far.set(Mode::Down);
    let mut pending = page.series(catalogue::PENDING, &FAR);
    let mut age = page.series(catalogue::PENDING_AGE, &FAR);
    let mut retries = page.series(catalogue::EXPORT_RETRIES, &FAR);
    let guard = rig.start();
    until("the heartbeat waits", || facts(&guard).pending.records == 1);
    let mut app = App::new(&guard);
    app.say_at(clock::minus(clock::now(), Duration::from_secs(100)), Level::Info, "made long ago");
    app.talk(Level::Info, 10);
    pending.becomes(11.0 + OWN);
    retries.rises_above(2.0);
    rig.far.set(Mode::Up);
    pending.becomes(0.0);
    let tried_again = facts(&guard).retries as f64;
    assert!((retries.value() - tried_again).abs() < 1e-9, "{} and {tried_again}", retries.value());
    // The oldest is the heartbeat until that is gone.
    rig.far.set(Mode::Down);
    app.say_at(clock::minus(clock::now(), Duration::from_secs(100)), Level::Info, "made long ago");
    age.rises_above(100.0);
    rig.far.set(Mode::Up);
    age.becomes(0.0);
    let _ = guard.shutdown(LIMIT);
    assert_eq!(rig.law().pending, 0);
}

pub(super) fn blocked(page: &Page) {
    let mut rig = Rig::new();
    let mut blocked = page.series(catalogue::EXPORTER_BLOCKED, &FAR);
    rig.far.set(Mode::Blocked);
    let guard = rig.start();
    App::new(&guard).talk(Level::Info, 10);
    blocked.becomes(1.0);
    rig.far.set(Mode::Up);
    blocked.becomes(0.0);
    let _ = guard.shutdown(LIMIT);
    assert_eq!(rig.law().delivered, 11);
}

pub(super) fn poisoned(page: &Page) {
    let mut rig = Rig::new();
    let mut quarantined = page.series(catalogue::RECORDS_QUARANTINED, &FAR);
    let mut rejected = page.series(catalogue::RECORDS_DROPPED, &[FAR[0], ("reason", "rejected")]);
    rig.far.set(Mode::Poison("record 3"));
    let guard = rig.start();
    let mut app = App::new(&guard);
    app.talk(Level::Info, 10);
    quarantined.becomes(1.0);
    assert!(guard.flush(LIMIT) && guard.wait_delivered(|_| ()));
    rig.far.set(Mode::Rejects("record 12"));
    app.talk(Level::Info, 10);
    rejected.becomes(1.0);
    let _ = guard.shutdown(LIMIT);
    let sum = rig.law();
    assert_eq!((sum.quarantined, sum.cause("rejected"), sum.dropped), (1, 1, 1));
}

pub(super) fn hanging(page: &Page) {
    let mut rig = Rig::new();
    let mut overdue = page.series(catalogue::EXPORTER_OVERDUE, &FAR);
    rig.far.1.shut();
    rig.far.set(Mode::Hang);
    let guard = rig.start();
    App::new(&guard).talk(Level::Info, 10);
    overdue.rises_above(0.2);
    rig.far.set(Mode::Up);
    rig.far.1.open();
    overdue.becomes(0.0);
    let _ = guard.shutdown(LIMIT);
}

/// A process whose exporter is down leaves its records; its folder.
fn left_behind(rig: &mut Rig) -> PathBuf {
    rig.far.set(Mode::Down);
    let guard = rig.start();
    App::new(&guard).talk(Level::Info, 100);
    assert!(guard.flush(LIMIT));
    let folder = guard.folder.path().to_owned();
    let left = guard.shutdown(Duration::from_millis(500));
    assert!(left.pending > 100, "{left}");
    rig.far.set(Mode::Up);
    folder
}

/// Of two dead processes one has a flipped byte in a record, the other lost its first segment.
pub(super) fn damaged(page: &Page) {
    let mut rig = Rig::new();
    rig.segment_bytes = 2 << 10;
    let dropped = |reason| page.series(catalogue::RECORDS_DROPPED, &[FAR[0], ("reason", reason)]);
    let (mut corrupt, mut absent) = (dropped("corrupt"), dropped("absent"));
    let segments = |folder: &PathBuf| {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> = files.filter(|file| file.extension().is_some_and(|is| is == "dws")).collect();
        segments.sort();
        segments
    };
    let folder = left_behind(&mut rig);
    let second = segments(&folder).remove(1);
    let mut bytes = fs::read(&second).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(second, bytes).unwrap();
    let next = rig.start();
    corrupt.becomes(1.0);
    assert!(next.wait_delivered(|_| ()));
    let _ = next.shutdown(LIMIT);

    let folder = left_behind(&mut rig);
    fs::remove_file(segments(&folder).remove(0)).unwrap();
    let last = rig.start();
    absent.rises_above(0.0);
    assert!(last.wait_delivered(|_| ()));
    assert!(facts(&last).dropped > 0);
    let _ = last.shutdown(LIMIT);
    let sum = rig.law();
    assert_eq!(
        sum.causes.iter().map(|(cause, count)| (cause.as_str(), *count as f64)).collect::<Vec<_>>(),
        [("absent", absent.value()), ("corrupt", 1.0)]
    );
}

/// An exporter was switched off for good two days ago, and a dead process has records for it.
pub(super) fn removed(page: &Page) {
    let mut rig = Rig::new();
    let labels = [("exporter", GONE), ("reason", "exporter_removed")];
    let mut removed = page.series(catalogue::RECORDS_DROPPED, &labels);
    let gone = Far::default();
    gone.set(Mode::Down);
    rig.more.push((GONE, Box::new(gone)));
    let first = rig.start();
    App::new(&first).talk(Level::Info, 10);
    assert!(first.flush(LIMIT));
    let folder = first.folder.path().to_owned();
    let _ = first.shutdown(Duration::from_millis(500));
    let ledger = folder.join("ledger.json");
    let noted = || {
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&ledger).unwrap()).unwrap();
        json["unserved_since"][GONE].is_i64().then_some(json)
    };
    let second = rig.start();
    until("it is noted that nobody serves it", || noted().is_some());
    let _ = second.shutdown(LIMIT);
    let mut json = noted().unwrap();
    let two_days_ago = clock::minus(clock::now(), Duration::from_secs(2 * 86_400));
    json["unserved_since"][GONE] = two_days_ago.as_microsecond().into();
    fs::write(&ledger, json.to_string()).unwrap();
    let third = rig.start();
    removed.becomes(10.0 + OWN);
    let _ = third.shutdown(LIMIT);
}

/// Rows of the embedded log table that are too old, and then too many.
pub(super) fn expired(page: &Page) {
    let expired = |reason| page.series(catalogue::LOGS_EXPIRED, &[("reason", reason)]);
    let (mut by_age, mut by_size) = (expired("age"), expired("size"));
    let mut rig = Rig::new();
    let path = rig.dir.path().join("logs.db");
    let mut run = |retention: Retention| {
        rig.more.push(("sqlite", Box::new(SqliteExporter::new(&path, retention).unwrap())));
        let guard = rig.start();
        App::new(&guard).talk(Level::Info, 10);
        assert!(guard.flush(LIMIT) && guard.wait_delivered(|_| ()));
        guard.shutdown(LIMIT).durable as f64
    };
    let rows = run(Retention::default());
    let more = run(Retention { keep: Duration::ZERO, ..Retention::default() });
    // What came in at the same instant as the round of deleting stays.
    by_age.rises_above(0.0);
    assert!(by_age.value() <= rows + more, "{} of {rows} and {more}", by_age.value());
    run(Retention { bytes_max: 0, ..Retention::default() });
    by_size.rises_above(0.0);
}

pub(super) fn pushed(page: &Page) {
    let served = |status: u16, word: &'static str| {
        let mut pushes = page.series(catalogue::METRICS_PUSHES, &[("result", word)]);
        let receiver = Receiver::start(move |_| match status {
            200 => Reply::taken(),
            status => Reply::status(status),
        });
        let endpoint = Endpoint {
            url: Url::parse(&format!("{}/v1/metrics", receiver.base)).unwrap(),
            headers: Vec::new(),
            timeout: LIMIT,
            compression: Compression::None,
            certificate: None,
            identity: None,
        };
        let config = MetricsConfig { endpoint, interval: LIMIT, delta: false };
        let (_recorder, push) = metrics_push::start(config, Vec::new(), &[1.0]).unwrap();
        // The last push is made at the end.
        drop(push);
        pushes.becomes(1.0);
    };
    served(200, "ok");
    served(503, "failed");
}
