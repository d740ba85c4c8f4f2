//! Every metric dogwatch emits: its name, kind, unit and meaning, in one table.
//!
//! Names follow OpenTelemetry where it has one (`otel.sdk.*`), else `dogwatch.*`; in Prometheus
//! dots become underscores, counters end in `_total`, units are appended. Dashboards, alert rules
//! and the heartbeat record may use only names that stand here; a test checks it.

use metrics::Unit;

/// What a metric counts like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, dotted.
    pub name: &'static str,
    /// What it counts like.
    pub kind: Kind,
    /// UCUM unit, such as `s`, `By`, `{record}`.
    pub unit: &'static str,
    /// What it means, and its labels.
    pub help: &'static str,
}

impl Metric {
    /// The name in Prometheus, such as `dogwatch_cycle_completed_total`.
    pub fn prometheus(&self) -> String {
        let mut name = self.name.replace('.', "_");
        match self.unit {
            "s" => name.push_str("_seconds"),
            "By" => name.push_str("_bytes"),
            _ => {}
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }
}

macro_rules! catalogue {
    ($($(#[doc = $about:literal])+ $group:ident {
        $($(#[doc = $help:literal])+ $constant:ident = $name:literal, $kind:ident, $unit:literal;)+
    })+) => {
        $($($(#[doc = $help])+ pub const $constant: Metric = Metric {
            name: $name, kind: Kind::$kind, unit: $unit, help: concat!($($help),+),
        };)+)+
        $($(#[doc = $about])+ pub const $group: &[Metric] = &[$($constant),+];)+
        /// The whole catalogue.
        pub const ALL: &[Metric] = &[$($($constant),+),+];
    };
}

/// Tells the installed recorder the unit and the meaning of each metric.
pub fn describe() {
    for metric in ALL {
        let unit = match metric.unit {
            "s" => Unit::Seconds,
            "By" => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, unit, metric.help.trim()),
            Kind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help.trim()),
            Kind::Histogram => metrics::describe_histogram!(metric.name, unit, metric.help.trim()),
        }
    }
}

catalogue! {
    /// What orchestrator, gateway and watch tell of the fleet and of themselves.
    FLEET {
        /// Cycles of observe, decide, act that ran to their end.
        CYCLE_COMPLETED = "dogwatch.cycle.completed", Counter, "{cycle}";
        /// Cycles that ended with an error.
        CYCLE_FAILED = "dogwatch.cycle.failed", Counter, "{cycle}";
        /// Time of one cycle.
        CYCLE_DURATION = "dogwatch.cycle.duration", Histogram, "s";
        /// 1 while this process leads, 0 on standby.
        LEADER = "dogwatch.leader", Gauge, "1";
        /// Workers by state; label `state`.
        WORKERS = "dogwatch.workers", Gauge, "{worker}";
        /// Workers that the newest decision wants.
        WORKERS_DESIRED = "dogwatch.workers.desired", Gauge, "{worker}";
        /// Workers created.
        WORKER_CREATED = "dogwatch.worker.created", Counter, "{worker}";
        /// Workers ended; labels `outcome` and `counts_for_breaker`.
        WORKER_ENDED = "dogwatch.worker.ended", Counter, "{worker}";
        /// Queued tasks by bucket; label `bucket`.
        TASKS_QUEUED = "dogwatch.tasks.queued", Gauge, "{task}";
        /// Tasks in progress.
        TASKS_IN_PROGRESS = "dogwatch.tasks.in_progress", Gauge, "{task}";
        /// Tasks ended; label `status`.
        TASK_ENDED = "dogwatch.task.ended", Counter, "{task}";
        /// 1 while a gate blocks spawning that demand asks for; label `gate`.
        SPAWN_BLOCKED = "dogwatch.spawn.blocked", Gauge, "1";
        /// RPC calls; labels `function` and `status`.
        RPC_CALLS = "dogwatch.rpc.calls", Counter, "{call}";
        /// Age of the newest row that arrived, per live source; labels `source_type` and `source_id`.
        NEWEST_ROW_AGE = "dogwatch.logs.newest_row_age", Gauge, "s";
        /// Age of a live source's last sign of life in the database, which is not its rows; labels `source_type` and
        /// `source_id`.
        LIFE_AGE = "dogwatch.watch.life_age", Gauge, "s";
        /// How far a source's clock is ahead of the database's; labels `source_type` and `source_id`.
        CLOCK_SKEW = "dogwatch.watch.clock_skew", Gauge, "s";
        /// Time since a worker or a cycle last changed.
        CHANGE_AGE = "dogwatch.watch.change_age", Gauge, "s";
        /// How long the fleet's database has not answered the watch; 0 while it does.
        DATABASE_AWAY = "dogwatch.database.away", Gauge, "s";
        /// Workers that speak and are not leaving, by the database.
        SEEN_ALIVE = "dogwatch.watch.workers_alive", Gauge, "{worker}";
        /// Workers that the newest stored decision wants.
        SEEN_DESIRED = "dogwatch.watch.workers_desired", Gauge, "{worker}";
        /// Age of the freshest heartbeat of all workers; 0 with fewer than two.
        BEAT_AGE = "dogwatch.watch.beat_age", Gauge, "s";
        /// Age of the oldest worker that has not spoken yet; 0 without one.
        FIRST_BEAT_DUE_AGE = "dogwatch.watch.first_beat_due_age", Gauge, "s";
        /// Longest time for which the program of a busy worker has not moved; 0 without one.
        PROGRESS_AGE = "dogwatch.watch.progress_age", Gauge, "s";
        /// Time without progress from which on a program counts as hung.
        PROGRESS_LIMIT = "dogwatch.watch.progress_limit", Gauge, "s";
        /// Workers that ended within 30 minutes, by the database.
        SEEN_ENDED = "dogwatch.watch.workers_ended", Gauge, "{worker}";
        /// Of these, those that failed: their outcome speaks against machine, image or region.
        SEEN_FAILED = "dogwatch.watch.workers_failed", Gauge, "{worker}";
        /// Tasks that ended; label `window`: 1h, 24h_before.
        SEEN_TASKS_ENDED = "dogwatch.watch.tasks_ended", Gauge, "{task}";
        /// Of these, those that failed; label `window`.
        SEEN_TASKS_FAILED = "dogwatch.watch.tasks_failed", Gauge, "{task}";
        /// How long the oldest claimable task has waited; 0 without one.
        CLAIMABLE_AGE = "dogwatch.watch.oldest_claimable_age", Gauge, "s";
        /// How long a gate has kept back workers that tasks wait for; 0 without one.
        BLOCKED_AGE = "dogwatch.watch.spawn_blocked_age", Gauge, "s";
        /// Age of the oldest pod that is unknown or ambiguous; 0 without one.
        UNACCOUNTED_AGE = "dogwatch.watch.pod_unaccounted_age", Gauge, "s";
        /// Pods that are due to be ended as nobody's while so many are due that none is; 0 otherwise.
        PODS_HELD = "dogwatch.watch.pods_held", Gauge, "{pod}";
        /// How long the first of the rows in the log table's DEFAULT partition has lain there; 0 without one.
        STRAY_AGE = "dogwatch.watch.stray_row_age", Gauge, "s";
        /// Records that a recorder says it lost since it started; labels `source_type` and `source_id`.
        SEEN_LOST = "dogwatch.watch.records_lost", Gauge, "{record}";
        /// Exporters of a recorder that hold; labels `source_type` and `source_id`.
        SEEN_BLOCKED = "dogwatch.watch.exporters_blocked", Gauge, "{exporter}";
        /// 1 while a recorder refuses DEBUG and INFO; labels `source_type` and `source_id`.
        SEEN_SPOOL_LOW = "dogwatch.watch.spool_low", Gauge, "1";
        /// Share of its cap that the spool of the watch's machine has.
        SPOOL_FILL = "dogwatch.watch.spool_fill", Gauge, "1";
        /// Bytes that are free on the disk of the data folder.
        DISK_FREE = "dogwatch.watch.disk_free", Gauge, "By";
        /// How long the oldest canary has been under way; 0 while none is.
        CANARY_AGE = "dogwatch.canary.under_way", Gauge, "s";
        /// How long the newest canary took to come back.
        CANARY_TOOK = "dogwatch.canary.took", Gauge, "s";
        /// 1 while what came back is not what was written.
        CANARY_CHANGED = "dogwatch.canary.changed", Gauge, "1";
        /// Alarms that could not be told; label `to`.
        ALARMS_UNTOLD = "dogwatch.alarm.untold", Counter, "{alarm}";
        /// 1 while the alarm rings; label `alarm`.
        ALARM = "dogwatch.alarm.firing", Gauge, "1";
        /// Rounds of the watch that ran to their end.
        WATCH_ROUNDS = "dogwatch.watch.rounds", Counter, "{round}";
    }
    /// What the flight recorder tells of itself.
    RECORDER {
        /// Records that got a sequence number.
        RECORDS_ACCEPTED = "otel.sdk.log.created", Counter, "{record}";
        /// Records refused; labels `reason` and `level`.
        RECORDS_REFUSED = "dogwatch.records.refused", Counter, "{record}";
        /// Bytes waiting in the ring.
        RING_DEPTH = "otel.sdk.processor.log.queue.size", Gauge, "By";
        /// Size of the ring.
        RING_CAPACITY = "otel.sdk.processor.log.queue.capacity", Gauge, "By";
        /// Ring entries that were half written: given up here, or found when a dead process was taken over.
        RING_HALF_WRITTEN = "dogwatch.ring.half_written", Counter, "{record}";
        /// Bytes of segments on disk.
        SPOOL_BYTES = "dogwatch.spool.size", Gauge, "By";
        /// Age of the oldest record an exporter has still to deliver; label `exporter`.
        PENDING_AGE = "dogwatch.spool.oldest_pending_age", Gauge, "s";
        /// Records an exporter has still to deliver; label `exporter`.
        PENDING = "dogwatch.spool.pending", Gauge, "{record}";
        /// Records dropped after they were accepted; labels `exporter` and `reason`.
        RECORDS_DROPPED = "dogwatch.records.dropped", Counter, "{record}";
        /// Records set aside as undeliverable; label `exporter`.
        RECORDS_QUARANTINED = "dogwatch.records.quarantined", Counter, "{record}";
        /// Time of one fdatasync of the spool.
        FSYNC_DURATION = "dogwatch.spool.fsync.duration", Histogram, "s";
        /// Restarts of the recorder's threads; label `thread`.
        THREAD_RESTARTS = "dogwatch.telemetry.restarts", Counter, "{restart}";
        /// 1 when the thread was restarted too often and stays down; label `thread`.
        THREAD_GIVEN_UP = "dogwatch.telemetry.given_up", Gauge, "1";
        /// 1 while records go to stdout because the spool cannot take them.
        FALLBACK_ACTIVE = "dogwatch.telemetry.fallback_active", Gauge, "1";
        /// Records delivered; label `exporter`.
        RECORDS_EXPORTED = "otel.sdk.exporter.log.exported", Counter, "{record}";
        /// Exports that failed and are tried again; label `exporter`.
        EXPORT_RETRIES = "dogwatch.exporter.retries", Counter, "{export}";
        /// Time of one export; label `exporter`.
        EXPORT_DURATION = "otel.sdk.exporter.operation.duration", Histogram, "s";
        /// 1 while an exporter holds because it was refused; label `exporter`.
        EXPORTER_BLOCKED = "dogwatch.exporter.blocked", Gauge, "1";
        /// How long an exporter has taken nothing while records wait; label `exporter`.
        EXPORTER_OVERDUE = "dogwatch.exporter.overdue", Gauge, "s";
        /// Pushes of metrics over OTLP; label `result`: ok, failed.
        METRICS_PUSHES = "dogwatch.metrics.pushes", Counter, "{push}";
        /// Rows that retention deleted from the embedded log table; label `reason`.
        LOGS_EXPIRED = "dogwatch.logs.expired", Counter, "{row}";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_prometheus_can_take_them() {
        let mut names: Vec<_> = ALL.iter().map(Metric::prometheus).collect();
        assert!(names.iter().all(|n| n.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')));
        assert_eq!(CYCLE_COMPLETED.prometheus(), "dogwatch_cycle_completed_total");
        assert_eq!(SPOOL_BYTES.prometheus(), "dogwatch_spool_size_bytes");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
