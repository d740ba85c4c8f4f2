//! The flight recorder: a record whose macro has returned is not lost.
//!
//! `tracing` event -> [`layer`] encodes straight into OTLP bytes -> [`ring`] -> spooler thread ->
//! [`spool`] on disk -> one shipper thread per exporter, each with its own cursor -> SQLite, RPC,
//! stdout, and whatever else implements [`exporter::Exporter`]. Threads are supervised; emitting
//! never blocks, panics or fails its caller (I1); telemetry never emits events about itself (I2);
//! every loss is counted: offered = accepted + refused, accepted = delivered + dropped +
//! quarantined + pending, per boot and exporter, from disk alone (I3).

pub mod exporter;
pub mod record;
pub mod spool;
