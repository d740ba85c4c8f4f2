//! The whole recorder under faults: threads that panic and hang, disks that fail, exporters that
//! do what they should not, a ring and a spool that are full. Each test ends with the conservation
//! law, from disk alone.

mod faults;
mod full;
mod hanging;
mod hung;
#[cfg(feature = "full")]
mod metrics;
mod otlp;
pub(in crate::telemetry) mod payloads;
mod rig;
mod shutdown;
mod threads;
