//! Threads on which telemetry itself works: nothing they do may become a record (I2).
//!
//! HTTP and SQL crates log, too, and an exporter that records its own export would feed itself
//! for ever. A quiet thread runs under `NoSubscriber` and carries a mark that the recorder's layer
//! checks, because a subscriber set further inside would otherwise hear it again. It promises
//! nothing about threads that a library starts by itself.

use std::cell::Cell;

use tracing::subscriber::NoSubscriber;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread works for telemetry: the layer drops what it hears there.
pub fn is_quiet() -> bool {
    QUIET.try_with(Cell::get).unwrap_or(true)
}

/// Runs `f` with this thread marked and without a subscriber; both are undone afterwards, also
/// when `f` panics.
pub fn quiet<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = QUIET.try_with(|quiet| quiet.set(self.0));
        }
    }
    let _restore = Restore(QUIET.with(|quiet| quiet.replace(true)));
    tracing::subscriber::with_default(NoSubscriber::new(), f)
}

/// Marks this thread for the rest of its life: for helper threads of an exporter's runtime.
pub fn mark_thread() {
    let _ = QUIET.try_with(|quiet| quiet.set(true));
}

/// For tests, which run beside each other, each under a subscriber of its own. `tracing` remembers of
/// each event whether anybody wants it. While it knows of one subscriber only, it asks that of the thread
/// that comes by the event first, which may well be under none: then nobody hears it any more. Beside a
/// second one, which wants nothing, it asks them both.
#[cfg(test)]
pub(crate) fn beside_other_tests() {
    static SECOND: std::sync::LazyLock<tracing::Dispatch> =
        std::sync::LazyLock::new(|| tracing::Dispatch::new(NoSubscriber::new()));
    std::sync::LazyLock::force(&SECOND);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    struct Counter(Arc<AtomicU32>);
    impl<S: tracing::Subscriber> Layer<S> for Counter {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn nothing_is_heard_inside_and_all_is_undone() {
        let heard = Arc::new(AtomicU32::new(0));
        beside_other_tests();
        let subscriber = tracing_subscriber::registry().with(Counter(Arc::clone(&heard)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            quiet(|| {
                assert!(is_quiet());
                quiet(|| tracing::info!("inside"));
                assert!(is_quiet());
                tracing::info!("inside");
            });
            assert!(!is_quiet());
            let _ = std::panic::catch_unwind(|| quiet(|| panic!("planted")));
            assert!(!is_quiet());
            tracing::info!("after");
        });
        assert_eq!(heard.load(Ordering::SeqCst), 2);
    }
}
