//! Events at moments when not everything works as usual.

use std::panic::{self, catch_unwind};

use super::*;
use crate::telemetry::ring::Refused;
use crate::telemetry::ring::tests::holds_in_a_forked_child;

/// While it is there, each panic of this thread is an event.
struct Hook;

impl Hook {
    fn set() -> Hook {
        let usual = panic::take_hook();
        let this = std::thread::current().id();
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() == this {
                tracing::error!("the hook heard: {}", info.payload_as_str().unwrap_or("?"));
            } else {
                usual(info);
            }
        }));
        Hook
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        drop(panic::take_hook());
    }
}

#[test]
fn inside_a_panic_hook_an_event_is_recorded_and_a_panic_inside_an_event_harms_nothing() {
    let rows = rows(|_| {
        let _hook = Hook::set();
        assert!(catch_unwind(|| panic!("planted outside")).is_err());
        // The hook runs inside this event, whose thread's buffer is taken.
        tracing::info!(bomb = %Bomb, "an event goes on");
        tracing::info!("and the next one");
    });
    let messages: Vec<_> = rows.iter().map(|row| row.message.as_str()).collect();
    for expected in ["the hook heard: planted outside", "an event goes on", "and the next one"] {
        assert!(messages.contains(&expected), "{messages:?}");
    }
}

#[test]
fn in_a_forked_child_an_event_is_refused_and_counted() {
    let rows = rows(|guard| {
        tracing::info!("before");
        assert!(holds_in_a_forked_child(|| {
            tracing::info!("before");
            true
        }));
        tracing::info!("after");
        let refused = guard.ring.counters().refused;
        assert_eq!(refused[Refused::Forked as usize][Level::Info as usize], 1);
    });
    let messages: Vec<_> = rows.iter().map(|row| row.message.as_str()).collect();
    let told = "1 records were lost";
    assert!(
        matches!(&messages[..], ["before", "after"] | ["before", _, "after"] | ["before", "after", _]),
        "{messages:?}"
    );
    assert!(messages.iter().all(|message| ["before", "after", told].contains(message)), "{messages:?}");
}

#[test]
fn after_the_end_events_are_refused_and_counted_and_harm_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (layer, guard) = start(config(folder.path())).unwrap();
    let ring = guard.ring.clone();
    crate::telemetry::quiet::beside_other_tests();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let span = tracing::info_span!("open over the end").entered();
        tracing::info!("before");
        let shutdown = guard.shutdown(LIMIT);
        assert_eq!(shutdown.lost, 0);
        tracing::warn!("too late");
        drop(span);
    });
    let refused = ring.counters().refused[Refused::Closed as usize];
    assert_eq!(
        (refused[Level::Warning as usize], refused[Level::Debug as usize]),
        (1, 1),
        "the event and the span"
    );
}

#[test]
fn threads_that_record_at_once_mix_nothing() {
    let rows = rows(|_| {
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let dispatch = dispatch.clone();
                scope.spawn(move || {
                    tracing::dispatcher::with_default(&dispatch, || {
                        (0..250).for_each(|number| tracing::info!(thread, number, "{thread}/{number}"));
                    });
                });
            }
        });
    });
    assert_eq!(rows.len(), 1_000);
    for row in rows {
        assert_eq!(row.message, format!("{}/{}", row.metadata["thread"], row.metadata["number"]));
    }
}
