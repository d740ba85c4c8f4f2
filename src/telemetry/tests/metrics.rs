//! The recorder's own numbers, as the metrics page shows them after faults whose sizes are known.
//!
//! A metrics recorder is one a process, so the story is told in a process of its own (this binary,
//! started anew).

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use uuid::Uuid;

use super::rig::{APP, App, LIMIT, Mode, Rig, until};
use crate::catalogue::{self, Kind, Metric};
use crate::clock;
use crate::telemetry::Guard;
use crate::telemetry::record::{self, Level};
use crate::telemetry::ring::{Refused, Ring, RingConfig};
use crate::telemetry::spool::Folder;
use crate::telemetry::spool::disk::RealDisk;
use crate::telemetry::spool::disk::faulty::Op;
use crate::telemetry::spooler::FALLBACK_FILL;
use crate::telemetry::wiring::Fuse;

const CHILD: &str = "DOGWATCH_TEST_METRICS";
const RING_BYTES: u64 = 64 << 10;
/// Where entries begin in a ring's file, and the mark of an entry behind its length, as its layout
/// says.
const ENTRIES_AT: u64 = 36_864;
const MARK_AT: u64 = 8;
const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn each_series_is_on_the_page_with_its_value_after_a_staged_fault() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["telemetry::tests::metrics::process_with_a_page", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all series"), "{said}");
}

/// What the page says.
struct Page(PrometheusHandle);

impl Page {
    fn install() -> Page {
        let recorder = PrometheusBuilder::new().with_recommended_naming(true).build_recorder();
        let page = Page(recorder.handle());
        metrics::set_global_recorder(recorder).unwrap();
        for Metric { name, kind, unit, help } in catalogue::ALL {
            let unit = match *unit {
                "s" => Unit::Seconds,
                "By" => Unit::Bytes,
                _ => Unit::Count,
            };
            match kind {
                Kind::Counter => metrics::describe_counter!(*name, unit, *help),
                Kind::Gauge => metrics::describe_gauge!(*name, unit, *help),
                Kind::Histogram => metrics::describe_histogram!(*name, unit, *help),
            }
        }
        page
    }

    fn all(&self) -> BTreeMap<String, f64> {
        let text = self.0.render();
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        series.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// The value of a series; the labels as the page writes them.
    fn get(&self, metric: Metric, labels: &str) -> Option<f64> {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        self.all().get(&format!("{}{labels}", metric.prometheus())).copied()
    }

    fn until(&self, metric: Metric, labels: &str, is_right: impl Fn(f64) -> bool) {
        until(&format!("{} {labels}; the page: {:#?}", metric.name, self.all()), || {
            self.get(metric, labels).is_some_and(&is_right)
        });
    }

    fn until_is(&self, metric: Metric, labels: &str, value: u64) {
        self.until(metric, labels, |seen| (seen - value as f64).abs() < 0.5);
    }
}

/// OTLP bytes of a log record that says no more than its time.
fn made_at(time: clock::Time) -> Vec<u8> {
    let nanos = u64::try_from(time.as_microsecond()).unwrap() * 1_000;
    [&[0x09][..], &nanos.to_le_bytes()].concat()
}

/// A dead process with two records in its ring, the first of them half written.
fn dead_process(root: &std::path::Path) {
    let boot = Uuid::new_v4();
    let folder = Folder::create(root, boot, Arc::new(RealDisk)).unwrap();
    let config = RingConfig { capacity_bytes: 4_096, boot, kernel_boot: crate::telemetry::adopt::kernel_boot() };
    let ring = Ring::create(folder.path(), &config).unwrap();
    let seq = ring.push(record::Kind::Log, Level::Error, 0, b"half written").unwrap();
    ring.push(record::Kind::Log, Level::Error, 0, &made_at(clock::minus(clock::now(), HOUR))).unwrap();
    let file = std::fs::File::options().write(true).open(folder.path().join("ring")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 8], ENTRIES_AT + seq % 4_096 + MARK_AT).unwrap();
}

/// Does nothing by itself: the test above starts it in a process of its own.
#[test]
fn process_with_a_page() {
    #[expect(clippy::disallowed_methods, reason = "how a test process tells the one it starts what to do")]
    let is_child = std::env::var_os(CHILD).is_some();
    if !is_child {
        return;
    }
    let page = Page::install();
    let mut rig = Rig::new();
    rig.ring_bytes = RING_BYTES;
    let panics = Arc::new(AtomicU64::new(0));
    let left = Arc::clone(&panics);
    rig.fuse = Fuse::new(move |at| {
        let take = |left: u64| left.checked_sub(1);
        let burns = at == "spooler" && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
        assert!(!burns, "planted");
    });
    dead_process(rig.dir.path());
    rig.far.set(Mode::Down);
    let guard = rig.start();
    let mut app = App::new(&guard);

    page.until_is(catalogue::RING_CAPACITY, "", RING_BYTES);
    page.until_is(catalogue::RING_HALF_WRITTEN, "", 1);
    page.until_is(catalogue::FALLBACK_ACTIVE, "", 0);

    app.talk(Level::Info, 50);
    assert!(guard.flush(LIMIT));
    // Beside ours: the heartbeat, what is said of the dead process, and its record.
    page.until_is(catalogue::RECORDS_ACCEPTED, "", 50 + 2);
    page.until_is(catalogue::PENDING, "exporter=\"far\"", 50 + 3);
    page.until(catalogue::PENDING_AGE, "exporter=\"far\"", |age| (3_600.0..3_900.0).contains(&age));
    let fsyncs = format!("{}_count", catalogue::FSYNC_DURATION.prometheus());
    until("fsyncs", || page.all().get(&fsyncs).is_some_and(|count| *count >= 1.0));
    page.until(catalogue::SPOOL_BYTES, "", |bytes| bytes > 50.0 * 40.0);

    panics.store(2, Ordering::SeqCst);
    page.until_is(catalogue::THREAD_RESTARTS, "thread=\"spooler\"", 2);
    page.until_is(catalogue::THREAD_GIVEN_UP, "thread=\"spooler\"", 0);
    page.until_is(catalogue::THREAD_RESTARTS, "thread=\"ship-far\"", 0);

    rig.hang_syncs(u64::MAX);
    let mut refused: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    while !refused.contains_key(&(Refused::Full.word(), Level::Error.word())) {
        for level in [Level::Info, Level::Error] {
            let before = app.refused.len();
            app.talk(level, 1);
            if let Some(why) = app.refused.get(before) {
                *refused.entry((why.word(), level.word())).or_default() += 1;
            }
        }
    }
    assert!(refused.contains_key(&(Refused::AboveNinety.word(), Level::Info.word())));
    page.until(catalogue::RING_DEPTH, "", |bytes| bytes > 0.9 * RING_BYTES as f64);
    for ((reason, level), count) in refused {
        page.until_is(catalogue::RECORDS_REFUSED, &format!("reason=\"{reason}\",level=\"{level}\""), count);
    }
    rig.let_go();
    assert!(guard.flush(LIMIT));
    page.until(catalogue::RING_DEPTH, "", |bytes| bytes < 0.1 * RING_BYTES as f64);

    full_disk(&page, &rig, &guard, &mut app);
    rig.far.set(Mode::Blocked);
    page.until_is(catalogue::EXPORTER_BLOCKED, "exporter=\"far\"", 1);
    rig.far.set(Mode::Up);
    until("delivered", || guard.wait_delivered(|_| ()));
    page.until_is(catalogue::PENDING, "exporter=\"far\"", 0);
    let rows = rig.far.rows().iter().filter(|row| row.source_id == APP).count() as u64;
    page.until(catalogue::RECORDS_EXPORTED, "exporter=\"far\"", |records| records >= rows as f64);
    let otel: Vec<&str> =
        catalogue::ALL.iter().map(|metric| metric.name).filter(|name| name.starts_with("otel.sdk.")).collect();
    assert!(otel.contains(&"otel.sdk.log.created") && otel.contains(&"otel.sdk.exporter.log.exported"), "{otel:?}");
    let _ = guard.shutdown(LIMIT);
    println!("all series");
}

/// Records go to stdout while the disk is full.
fn full_disk(page: &Page, rig: &Rig, guard: &Guard, app: &mut App<'_>) {
    for op in [Op::Create, Op::Write] {
        rig.disk.fail(op, std::io::ErrorKind::StorageFull, 0, u64::MAX);
    }
    until("fallback", || {
        if guard.recorder().ring_fill() <= FALLBACK_FILL {
            app.talk(Level::Warning, 5);
        }
        guard.status().fallback
    });
    page.until_is(catalogue::FALLBACK_ACTIVE, "", 1);
    until("the ring has room", || guard.recorder().ring_fill() <= FALLBACK_FILL);
    rig.disk.heal();
    assert!(guard.flush(LIMIT));
    page.until_is(catalogue::FALLBACK_ACTIVE, "", 0);
    let printed = rig.out.all().len() as u64;
    page.until_is(catalogue::RECORDS_DROPPED, "exporter=\"all\",reason=\"stdout\"", printed);
}
