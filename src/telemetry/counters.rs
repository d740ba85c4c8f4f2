//! The exporters' metrics, through the `metrics` facade, under the catalogue's names.
//!
//! The facade is not `tracing`: telemetry may count itself without hearing itself.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::exporter::sqlite::Retained;
use crate::catalogue;

/// Records that arrived.
pub fn exported(exporter: &'static str, records: u64) {
    counter!(catalogue::RECORDS_EXPORTED.name, "exporter" => exporter).increment(records);
}

/// Records that the other side refused for good within a batch it took.
pub fn rejected(exporter: &'static str, records: u64) {
    if records > 0 {
        counter!(catalogue::RECORDS_DROPPED.name, "exporter" => exporter, "reason" => "rejected")
            .increment(records);
    }
}

/// Records that were accepted and are not there any more: dropped at the cap, damaged, or gone.
pub fn missed(exporter: &'static str, cause: &'static str, records: u64) {
    counter!(catalogue::RECORDS_DROPPED.name, "exporter" => exporter, "reason" => cause).increment(records);
}

/// Records of a dead process that were dropped, because that slot has no exporter any more.
pub fn removed(slot: &str, records: u64) {
    counter!(catalogue::RECORDS_DROPPED.name, "exporter" => slot.to_owned(), "reason" => "exporter_removed")
        .increment(records);
}

/// One record set aside.
pub fn quarantined(exporter: &'static str) {
    counter!(catalogue::RECORDS_QUARANTINED.name, "exporter" => exporter).increment(1);
}

/// An export that is to be tried again.
pub fn retried(exporter: &'static str) {
    counter!(catalogue::EXPORT_RETRIES.name, "exporter" => exporter).increment(1);
}

/// An export that took `time`, whatever became of it.
pub fn export_took(exporter: &'static str, time: Duration) {
    histogram!(catalogue::EXPORT_DURATION.name, "exporter" => exporter).record(time.as_secs_f64());
}

/// Whether the exporter holds because it was refused.
pub fn blocked(exporter: &'static str, is_blocked: bool) {
    gauge!(catalogue::EXPORTER_BLOCKED.name, "exporter" => exporter).set(f64::from(u8::from(is_blocked)));
}

/// What is still to be delivered.
pub fn pending(exporter: &'static str, records: u64, oldest_age: Duration) {
    gauge!(catalogue::PENDING.name, "exporter" => exporter).set(records as f64);
    gauge!(catalogue::PENDING_AGE.name, "exporter" => exporter).set(oldest_age.as_secs_f64());
}

/// Rows that retention deleted.
pub fn expired(retained: Retained) {
    for (reason, rows) in [("age", retained.expired), ("size", retained.over_size)] {
        if rows > 0 {
            counter!(catalogue::LOGS_EXPIRED.name, "reason" => reason).increment(rows);
        }
    }
}
