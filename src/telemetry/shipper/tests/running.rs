//! The thread: flush, stop, panics, quiet, a destination that hangs, and a real locked logs.db.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{ConnectOptions as _, Executor as _};

use super::super::*;
use super::{CONFIG, Memory, Script, all, outage};
use crate::supervise::Intensity;
use crate::telemetry::exporter::Timed;
use crate::telemetry::exporter::samples::stored;
use crate::telemetry::exporter::sqlite::{Retention, SqliteExporter};
use crate::telemetry::quiet::is_quiet;

const LIMIT: Duration = Duration::from_secs(30);

fn start(exporter: impl Exporter + 'static, feed: &Memory) -> Handle {
    Handle::start(Shipper::new(Box::new(exporter), vec![feed.boxed()], CONFIG), None, Intensity::BOUNDED, |_| ())
        .unwrap()
}

/// Waits until the condition holds.
fn until(mut condition: impl FnMut() -> bool) {
    let end = clock::monotonic() + LIMIT;
    while !condition() {
        assert!(clock::monotonic() < end, "waited in vain");
        let _ = crossbeam_channel::after(Duration::from_millis(2)).recv();
    }
}

#[test]
fn a_flush_returns_when_all_is_delivered() {
    let (script, feed) = (Script::default(), Memory::with(0..5_000));
    let handle = start(script.clone(), &feed);
    assert_eq!(handle.flush(LIMIT), Ok(()));
    assert_eq!(script.got().len(), 5_000);
    feed.0.lock().unwrap().records.extend((5_000..5_100).map(stored));
    handle.wake();
    until(|| script.got().len() == 5_100);
    let adopted = Memory::with(9_000..9_100);
    assert!(handle.adopt(adopted.boxed()));
    assert_eq!(handle.flush(LIMIT), Ok(()));
    assert_eq!(script.got().len(), 5_200);
    assert!(handle.pulse().progress_count() > 0);
    assert!(handle.stop(LIMIT));
    feed.assert_law();
    adopted.assert_law();
}

#[test]
fn a_flush_ends_at_its_limit_and_says_what_is_left() {
    let (script, feed) = (Script::answering(|_| outage()), Memory::with(0..50));
    let handle = start(script.clone(), &feed);
    assert_eq!(handle.flush(Duration::from_millis(50)), Err(FlushError::Pending { pending: 50 }));
    script.answer(all);
    assert_eq!(handle.flush(LIMIT), Ok(()));
    assert_eq!(script.got(), (0..50).collect::<Vec<_>>());
}

#[test]
fn the_thread_is_quiet() {
    let was_quiet = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&was_quiet);
    let script = Script::answering(move |batch| {
        seen.store(is_quiet(), Ordering::SeqCst);
        all(batch)
    });
    let handle = start(script, &Memory::with(0..1));
    assert_eq!(handle.flush(LIMIT), Ok(()));
    assert!(was_quiet.load(Ordering::SeqCst));
}

#[test]
fn a_panic_of_the_thread_is_survived_and_nothing_is_delivered_twice() {
    let (script, feed) = (Script::default(), Memory::with(0..500));
    feed.0.lock().unwrap().panics = 2;
    let handle = start(script.clone(), &feed);
    assert_eq!(handle.flush(LIMIT), Ok(()));
    assert_eq!(script.got(), (0..500).collect::<Vec<_>>());
    assert_eq!(handle.pulse().restarts(), 2);
}

#[test]
fn a_dropped_handle_ends_the_thread() {
    let feed = Memory::with(0..1);
    let handle = start(Script::default(), &feed);
    handle.flush(LIMIT).unwrap();
    drop(handle);
    until(|| Arc::strong_count(&feed.0) == 1);
}

/// A destination that never answers while `hangs`.
struct Hanging {
    runtime: Timed,
    hangs: Arc<AtomicBool>,
}

impl Exporter for Hanging {
    fn name(&self) -> &'static str {
        "hanging"
    }

    fn export(&mut self, batch: &[Stored], _: Time, deadline: Duration) -> Result<Exported, ExportError> {
        self.runtime.run(deadline, async {
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            all(batch)
        })
    }
}

#[test]
fn an_export_that_hangs_is_abandoned_and_tried_again() {
    let hangs = Arc::new(AtomicBool::new(true));
    let exporter = Hanging { runtime: Timed::new().unwrap(), hangs: Arc::clone(&hangs) };
    let feed = Memory::with(0..10);
    let config = Config { export_deadline: Duration::from_millis(20), ..CONFIG };
    let shipper = Shipper::new(Box::new(exporter), vec![feed.boxed()], config);
    let handle = Handle::start(shipper, None, Intensity::BOUNDED, |_| ()).unwrap();
    until(|| handle.standing().facts().retries >= 2);
    assert!(handle.standing().facts().last_error.unwrap().1.contains("no answer within"));
    hangs.store(false, Ordering::SeqCst);
    assert_eq!(handle.flush(LIMIT), Ok(()));
    feed.assert_law();
}

#[test]
fn a_locked_log_file_delays_and_loses_nothing_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logs.db");
    let feed = Memory::with(0..100);
    let handle = start(SqliteExporter::new(&path, Retention::default()).unwrap(), &feed);
    handle.flush(LIMIT).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut other = runtime.block_on(options.connect()).unwrap();
    runtime.block_on(other.execute("begin exclusive")).unwrap();
    feed.0.lock().unwrap().records.extend((100..3_000).map(stored));
    handle.wake();
    until(|| matches!(handle.standing().facts().state, State::Retrying { .. }));
    let count = |other: &mut sqlx::SqliteConnection| -> i64 {
        let query = sqlx::query_scalar("select count(*) from system_logs");
        runtime.block_on(query.fetch_one(other)).unwrap()
    };
    assert_eq!(count(&mut other), 100);
    runtime.block_on(other.execute("rollback")).unwrap();

    assert_eq!(handle.flush(LIMIT), Ok(()));
    assert_eq!(count(&mut other), 3_000);
    feed.assert_law();
    let ledger = feed.0.lock().unwrap().ledger;
    assert_eq!(ledger, Tally { delivered: 3_000, dropped: 0, quarantined: 0 });
}
