//! A disk that hangs and does not fail: records go to stdout before the ring refuses any, and back
//! to the spool when the disk answers. Each is counted once, here or there.

use std::time::Duration;

use super::hanging::Calls;
use super::rig::{APP, App, LIMIT, Rig, until};
use crate::telemetry::Guard;
use crate::telemetry::guard::FALLBACK_EVENT;
use crate::telemetry::record::Level;
use crate::telemetry::spooler::FALLBACK_FILL;

/// A recorder with a small ring, which notices soon that a thread hangs.
fn small() -> Rig {
    let mut rig = Rig::new();
    rig.ring_bytes = 64 << 10;
    rig.stall_limit = Duration::from_millis(50);
    rig
}

/// The program's lines on stdout.
fn printed(rig: &Rig) -> Vec<String> {
    let lines = rig.out.all().into_iter().filter(|line| line["source_id"] == APP);
    lines.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

/// Switches back to the spool that were told. What tells of a switch to stdout goes there itself, or is
/// beyond its rate.
fn switches_back(rig: &Rig) -> usize {
    rig.far.events(FALLBACK_EVENT).iter().filter(|row| row.metadata["active"] == false).count()
}

/// The program talks on, slowly enough for stdout's rate once that is open, until `lines` more of it
/// are there.
fn talk_until_printed(rig: &Rig, guard: &Guard, app: &mut App<'_>, lines: usize) {
    let wanted = printed(rig).len() + lines;
    until("lines on stdout", || {
        app.talk(Level::Warning, if guard.recorder().ring_fill() < 0.7 { 20 } else { 2 });
        printed(rig).len() >= wanted
    });
}

#[test]
fn while_the_disk_does_not_answer_records_go_to_stdout_and_back_when_it_does() {
    for calls in [Calls::Syncs, Calls::Writes, Calls::All] {
        let mut rig = small();
        let guard = rig.start();
        let mut app = App::new(&guard);
        app.talk(Level::Info, 20);
        assert!(guard.flush(LIMIT) && guard.wait_delivered(|_| ()));
        // Twice: what is made for the first time must be there for the next one, too.
        for times in 1..=2 {
            rig.hang(calls, u64::MAX);
            talk_until_printed(&rig, &guard, &mut app, 100);
            until("it is said", || {
                let status = guard.status();
                status.fallback && status.trouble.is_some_and(|why| why.contains("does not answer"))
            });
            app.talk(Level::Warning, 5);
            until("the ring has room", || guard.recorder().ring_fill() <= FALLBACK_FILL);
            rig.let_go();
            until("back", || {
                app.talk(Level::Info, 1);
                !guard.status().fallback && guard.status().trouble.is_none()
            });
            app.talk(Level::Info, 20);
            assert!(guard.flush(LIMIT));
            until("the switch back is told", || switches_back(&rig) >= times);
        }
        assert!(app.refused.is_empty(), "{calls:?}: the caller does not feel it");
        let mut expected = app.accepted;
        let shutdown = guard.shutdown(LIMIT);
        assert_eq!(shutdown.pending, 0, "{calls:?}");
        let sum = rig.law();
        assert_eq!(sum.cause("stdout"), rig.out.all().len() as u64, "{calls:?}");
        let beyond_the_rate = sum.cause("fallback_rate");
        assert_eq!((sum.dropped, sum.refused), (shutdown.lost, 0), "{calls:?}");
        assert_eq!(sum.dropped, sum.cause("stdout") + beyond_the_rate, "{calls:?}");
        assert_eq!(sum.delivered + sum.dropped, sum.offered, "{calls:?}");
        assert_eq!(rig.far.rows().len() as u64, sum.delivered, "{calls:?}");
        let mut found = [rig.far.texts(), printed(&rig)].concat();
        found.sort();
        expected.sort();
        // Beyond the rate there may be what the recorder itself said, too.
        let missing = expected.len().saturating_sub(found.len()) as u64;
        assert!(missing <= beyond_the_rate, "{calls:?}: {missing} are missing: {sum:?}");
        let each = found.len();
        found.dedup();
        assert_eq!(found.len(), each, "{calls:?}: each once");
        assert!(found.iter().all(|text| expected.binary_search(text).is_ok()), "{calls:?}");
        assert!(rig.disk.trusted_again_files().is_empty(), "{calls:?}");
        println!("{calls:?} hang: {} records, {} of them as lines on stdout", expected.len(), printed(&rig).len());
    }
}

/// What the hanging process had written and not made durable is found by the next one although it
/// has a line on stdout: it is counted as delivered then, and not as lost, too.
#[test]
fn a_process_that_ends_while_the_disk_hangs_leaves_a_law_that_holds() {
    for calls in [Calls::Syncs, Calls::Writes, Calls::All] {
        let mut rig = small();
        let guard = rig.start();
        let mut app = App::new(&guard);
        app.talk(Level::Info, 20);
        assert!(guard.flush(LIMIT) && guard.wait_delivered(|_| ()));
        rig.hang(calls, u64::MAX);
        talk_until_printed(&rig, &guard, &mut app, 100);
        let accepted = app.accepted;
        let left = guard.shutdown(Duration::from_secs(1));
        assert!(left.pending > 0, "{calls:?}: {left}");
        rig.let_go();
        let next = rig.start();
        let printed = printed(&rig);
        until("all are there", || {
            let _ = next.wait_delivered(|_| ());
            let found = rig.far.texts();
            accepted.iter().all(|text| found.contains(text) || printed.contains(text))
        });
        let _ = next.shutdown(LIMIT);
        let sum = rig.law();
        assert_eq!((sum.pending, sum.refused), (0, 0), "{calls:?}: {sum:?}");
        assert_eq!(sum.delivered + sum.dropped, sum.offered, "{calls:?}: {sum:?}");
        assert_eq!(sum.dropped, sum.cause("stdout"), "{calls:?}: {sum:?}");
        assert_eq!(rig.far.rows().len() as u64, sum.delivered, "{calls:?}");
        println!("{calls:?} hang to the end: {sum:?}");
    }
}
