//! What can ring: the list of alarms, each with its names and how bad it is.
//!
//! One alarm has one word (alarm log, webhook, metrics) and one rule of the same meaning in
//! `alerts/dogwatch.yml`; a test holds the two lists against each other.

/// An alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alarm {
    /// A source that lives writes nothing that arrives.
    LogSilence,
    /// Nothing arrives from anybody, while workers or cycles change.
    AllSilent,
    /// The fleet's database does not answer.
    DatabaseAway,
    /// An orchestrator that never said good-bye shows no sign of life, or its cycles have stopped.
    OrchestratorDead,
    /// Workers are wanted, and none is alive.
    NoWorkerAlive,
    /// No worker's heartbeat arrives.
    WorkersUnheard,
    /// A worker has not spoken for the first time.
    WorkerNeverSpoke,
    /// A worker beats while its program does not move.
    WorkerHung,
    /// Too many of the workers that ended had failed.
    FailureRate,
    /// Tasks fail unusually often.
    TaskFailures,
    /// Tasks wait, and a gate keeps workers from being made.
    SpawnBlocked,
    /// A task that could be claimed waits too long.
    OldestTask,
    /// Pods that nobody knows, or of which nobody knows whether they exist.
    PodsUnaccounted,
    /// So many pods are due to be ended as nobody's that none is.
    ReaperHeld,
    /// A recorder lost records.
    RecordsLost,
    /// The spool is nearly full.
    SpoolFull,
    /// The disk of the data folder is nearly full.
    DiskFull,
    /// An exporter holds until somebody acts.
    ExporterBlocked,
    /// What the watch wrote did not come back, or came back changed.
    Canary,
    /// A source's clock is off.
    ClockSkew,
    /// Rows stay in the DEFAULT partition of the log table.
    DefaultPartition,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Somebody is to be woken.
    Critical,
    /// Somebody is to look at it in working hours.
    Warning,
}

impl Severity {
    /// Its value of the label `severity`.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
        }
    }
}

impl Alarm {
    /// All alarms.
    pub const ALL: [Alarm; 21] = [
        Alarm::LogSilence,
        Alarm::AllSilent,
        Alarm::DatabaseAway,
        Alarm::OrchestratorDead,
        Alarm::NoWorkerAlive,
        Alarm::WorkersUnheard,
        Alarm::WorkerNeverSpoke,
        Alarm::WorkerHung,
        Alarm::FailureRate,
        Alarm::TaskFailures,
        Alarm::SpawnBlocked,
        Alarm::OldestTask,
        Alarm::PodsUnaccounted,
        Alarm::ReaperHeld,
        Alarm::RecordsLost,
        Alarm::SpoolFull,
        Alarm::DiskFull,
        Alarm::ExporterBlocked,
        Alarm::Canary,
        Alarm::ClockSkew,
        Alarm::DefaultPartition,
    ];

    /// Its name in alert rows, metrics and webhooks.
    pub fn word(self) -> &'static str {
        self.names().0
    }

    /// The name of the Prometheus rule of the same meaning, and of its runbook.
    pub fn rule(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Alarm::LogSilence => ("log_silence", "DogwatchLogSilence"),
            Alarm::AllSilent => ("all_silent", "DogwatchAllSilent"),
            Alarm::DatabaseAway => ("database_away", "DogwatchDatabaseAway"),
            Alarm::OrchestratorDead => ("orchestrator_dead", "DogwatchOrchestratorDead"),
            Alarm::NoWorkerAlive => ("no_worker_alive", "DogwatchNoWorkerAlive"),
            Alarm::WorkersUnheard => ("workers_unheard", "DogwatchWorkersUnheard"),
            Alarm::WorkerNeverSpoke => ("worker_never_spoke", "DogwatchWorkerNeverSpoke"),
            Alarm::WorkerHung => ("worker_hung", "DogwatchWorkerHung"),
            Alarm::FailureRate => ("failure_rate", "DogwatchFailureRate"),
            Alarm::TaskFailures => ("task_failures", "DogwatchTaskFailures"),
            Alarm::SpawnBlocked => ("spawn_blocked", "DogwatchSpawnBlocked"),
            Alarm::OldestTask => ("oldest_task", "DogwatchOldestTask"),
            Alarm::PodsUnaccounted => ("pods_unaccounted", "DogwatchPodsUnaccounted"),
            Alarm::ReaperHeld => ("reaper_held", "DogwatchReaperHeld"),
            Alarm::RecordsLost => ("records_lost", "DogwatchRecordsLost"),
            Alarm::SpoolFull => ("spool_full", "DogwatchSpoolFull"),
            Alarm::DiskFull => ("disk_full", "DogwatchDiskFull"),
            Alarm::ExporterBlocked => ("exporter_blocked", "DogwatchExporterBlocked"),
            Alarm::Canary => ("canary", "DogwatchCanary"),
            Alarm::ClockSkew => ("clock_skew", "DogwatchClockSkew"),
            Alarm::DefaultPartition => ("default_partition", "DogwatchDefaultPartition"),
        }
    }

    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Alarm::LogSilence
            | Alarm::AllSilent
            | Alarm::DatabaseAway
            | Alarm::OrchestratorDead
            | Alarm::NoWorkerAlive
            | Alarm::WorkersUnheard
            | Alarm::FailureRate
            | Alarm::ReaperHeld
            | Alarm::DiskFull
            | Alarm::ExporterBlocked
            | Alarm::Canary => Severity::Critical,
            Alarm::WorkerNeverSpoke
            | Alarm::WorkerHung
            | Alarm::TaskFailures
            | Alarm::SpawnBlocked
            | Alarm::OldestTask
            | Alarm::PodsUnaccounted
            | Alarm::RecordsLost
            | Alarm::SpoolFull
            | Alarm::ClockSkew
            | Alarm::DefaultPartition => Severity::Warning,
        }
    }
}
