//! The words of mapped memory, as atomics that a model checker can stand in for.
//!
//! Every access to the ring is a load or store of one whole atomic word, so there is no data race
//! by construction and nothing above this file needs `unsafe`. The protocol is generic over
//! [`Word`]: the production code runs on [`AtomicU64`], the loom model in the tests on loom's, and
//! recovery reads a dead ring's image of plain `u64` through the same [`Load`].

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A word that can be read.
pub(super) trait Load {
    /// Reads it.
    fn load(&self, order: Ordering) -> u64;
}

/// A word that several threads read and write.
pub(super) trait Word: Load {
    /// Writes it.
    fn store(&self, value: u64, order: Ordering);
    /// Replaces `current` by `next`, or says what stands there instead.
    fn swap_if(&self, current: u64, next: u64, success: Ordering) -> Result<u64, u64>;
    /// A sequentially consistent fence.
    fn fence();
}

impl Load for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }
}

impl Word for AtomicU64 {
    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    #[inline]
    fn swap_if(&self, current: u64, next: u64, success: Ordering) -> Result<u64, u64> {
        self.compare_exchange_weak(current, next, success, Ordering::Relaxed)
    }

    #[inline]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

impl Load for u64 {
    #[inline]
    fn load(&self, _order: Ordering) -> u64 {
        *self
    }
}
