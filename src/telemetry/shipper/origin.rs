//! Where a shipper comes from, so that one that hangs can be made again.
//!
//! A thread that is stuck inside an export keeps its exporter and its feeds for ever. Its successor
//! gets others: a new exporter, and feeds that fence the old ones' cursors.

use super::Feed;
use crate::telemetry::exporter::Exporter;

/// What makes a shipper's parts anew; called on the thread that takes over.
pub trait Origin: Send + Sync {
    /// A new exporter for the same destination.
    ///
    /// # Errors
    /// It cannot be made at the moment: it is tried again.
    fn exporter(&self) -> std::io::Result<Box<dyn Exporter>>;

    /// New feeds from everything that is to be delivered; each takes over from the one before.
    ///
    /// # Errors
    /// One cannot be opened at the moment: it is tried again.
    fn feeds(&self) -> std::io::Result<Vec<Box<dyn Feed>>>;
}
