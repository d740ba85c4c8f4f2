//! Canaries on a store without a disk, whose pipe is this test's hand.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::store::TimeSource;
use crate::store::memory::MemoryStore;

struct Cage {
    store: MemoryStore,
    micros: Arc<AtomicI64>,
    planted: Arc<Mutex<Vec<Canary>>>,
    plant: Plant,
    canaries: Canaries,
}

fn cage() -> Cage {
    let micros = Arc::new(AtomicI64::new(1_760_636_131_000_000));
    let store = MemoryStore::new(TimeSource::Fixed(Arc::clone(&micros)));
    let planted = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&planted);
    let plant: Plant = Arc::new(move |canary: &Canary| kept.lock().unwrap().push(canary.clone()));
    Cage { store, micros, planted, plant, canaries: Canaries::default() }
}

impl Cage {
    /// Twenty seconds later another one is due.
    async fn round(&mut self) -> CanarySeen {
        self.micros.fetch_add(20_000_000, Ordering::SeqCst);
        let now = clock::from_micros(self.micros.load(Ordering::SeqCst));
        self.canaries.plant(&self.plant, Duration::from_secs(20), now, now);
        self.look().await
    }

    async fn look(&mut self) -> CanarySeen {
        self.canaries.read_back(&self.store, &SourceId::new("watch", "w")).await.unwrap();
        self.canaries.seen()
    }

    /// The canary of that index arrives, changed by `change`.
    fn arrive(&self, index: usize, change: impl Fn(&mut LogRow)) {
        let canary = self.planted.lock().unwrap()[index].clone();
        let now = clock::from_micros(self.micros.load(Ordering::SeqCst));
        let mut row = LogRow {
            id: canary.mark,
            timestamp: now,
            source_type: "watch".into(),
            source_id: "w".into(),
            log_level: "INFO".into(),
            message: canary.message(),
            task_id: None,
            worker_id: None,
            cycle_number: None,
            trace_id: None,
            span_id: None,
            metadata: canary.attributes(),
            ingested_at: now,
            arrival: 0,
        };
        change(&mut row);
        self.store.add_log(row);
    }
}

#[tokio::test]
async fn one_that_comes_back_whole_is_no_news() {
    let mut cage = cage();
    assert!(cage.round().await.under_way_since.is_some());
    cage.arrive(0, |_| {});
    assert_eq!(cage.look().await, CanarySeen { took: Some(Duration::ZERO), ..CanarySeen::default() });
}

#[tokio::test]
async fn arriving_is_not_enough() {
    let mut cage = cage();
    cage.round().await;
    cage.arrive(0, |row| row.metadata["large"] = json!(9.223_372_036_854_776e18));
    let changed = cage.look().await.changed.unwrap();
    assert_eq!(changed, "large 9223372036854775807 became 9.223372036854776e+18");
    cage.round().await;
    cage.arrive(1, |row| row.log_level = "DEBUG".into());
    assert_eq!(cage.look().await.changed.unwrap(), "level INFO became DEBUG");
    cage.round().await;
    cage.arrive(2, |_| {});
    assert_eq!(cage.look().await.changed, None, "over with the next whole one");
}

#[tokio::test]
async fn a_dead_pipe_keeps_the_oldest_under_way_and_writes_no_flood() {
    let mut cage = cage();
    let first = cage.round().await.under_way_since;
    for _ in 0..50 {
        assert_eq!(cage.round().await.under_way_since, first);
    }
    assert_eq!(cage.planted.lock().unwrap().len(), UNDER_WAY_MAX);
    for index in 0..UNDER_WAY_MAX {
        cage.arrive(index, |_| {});
    }
    let seen = cage.look().await;
    assert_eq!((seen.under_way_since, seen.changed), (None, None));
}

#[tokio::test]
async fn one_that_is_missing_while_a_later_one_arrived_is_lost() {
    let mut cage = cage();
    cage.round().await;
    cage.round().await;
    cage.arrive(1, |_| {});
    let seen = cage.look().await;
    assert_eq!(seen.changed.as_deref(), Some("number 1 is missing, while number 2 has arrived"));
    assert_eq!(seen.under_way_since, None);
    cage.round().await;
    cage.arrive(2, |_| {});
    assert_eq!(cage.look().await.changed, None);
}
