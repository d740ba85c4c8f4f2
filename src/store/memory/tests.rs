//! The memory store keeps the contract, too.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use super::*;
use crate::store::conformance::{Rig, START_MICROS};

/// An empty store.
pub(in crate::store) async fn rig() -> Rig {
    let time = Arc::new(AtomicI64::new(START_MICROS));
    let store = MemoryStore::new(TimeSource::Fixed(Arc::clone(&time)));
    Rig { store: Arc::new(store), time, keep: None }
}

mod contract {
    crate::store::conformance::conformance!(crate::store::memory::tests::rig);
}
