//! Why a worker ended, and whether that speaks against the machine it ran on.
//!
//! Written once per ended worker and never empty (I18). Planned stops, provider refusals and our
//! own errors never move the breaker (I14). The phrases are those of incidents' reasons; the
//! first line with a phrase that occurs wins, and the list is complete.

use serde::{Deserialize, Serialize};

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Scaled down, idle, or otherwise meant to end.
    Planned,
    /// Ended by a human.
    Operator,
    /// The provider had no machine.
    ProviderCapacity,
    /// The provider failed.
    ProviderFault,
    /// It never came up.
    Boot,
    /// It stopped answering or moving.
    Stalled,
    /// Its process died.
    WorkerCrash,
    /// A task killed it.
    PoisonTask,
    /// Somebody else ended it.
    External,
    /// Our own error.
    ControllerError,
    /// Nobody knows.
    Unknown,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Outcome; 11] = [
        Outcome::Planned,
        Outcome::Operator,
        Outcome::ProviderCapacity,
        Outcome::ProviderFault,
        Outcome::Boot,
        Outcome::Stalled,
        Outcome::WorkerCrash,
        Outcome::PoisonTask,
        Outcome::External,
        Outcome::ControllerError,
        Outcome::Unknown,
    ];

    /// The word in the database and in documents.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Planned => "planned",
            Outcome::Operator => "operator",
            Outcome::ProviderCapacity => "provider_capacity",
            Outcome::ProviderFault => "provider_fault",
            Outcome::Boot => "boot",
            Outcome::Stalled => "stalled",
            Outcome::WorkerCrash => "worker_crash",
            Outcome::PoisonTask => "poison_task",
            Outcome::External => "external",
            Outcome::ControllerError => "controller_error",
            Outcome::Unknown => "unknown",
        }
    }

    /// The outcome of that word.
    pub fn from_word(word: &str) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|outcome| outcome.word() == word)
    }

    /// Whether it speaks against the cell the worker ran in.
    pub fn counts_for_breaker(self) -> bool {
        matches!(self, Outcome::Boot | Outcome::Stalled | Outcome::WorkerCrash)
    }

    /// What a reason text of the old system meant.
    pub fn from_reason(reason: Option<&str>) -> Outcome {
        let reason = reason.unwrap_or_default().to_lowercase();
        PHRASES
            .iter()
            .find(|(_, phrases)| phrases.iter().any(|phrase| reason.contains(phrase)))
            .map_or(Outcome::Unknown, |(outcome, _)| *outcome)
    }
}

const PHRASES: [(Outcome, &[&str]); 10] = [
    (
        Outcome::ProviderCapacity,
        &["no longer any instances", "no instances currently available", "capacity unavailable", "out of capacity"],
    ),
    (Outcome::ProviderFault, &["failed to spawn"]),
    (Outcome::ControllerError, &["exception in worker check"]),
    (Outcome::PoisonTask, &["task failure loop"]),
    (Outcome::External, &["externally terminated", "not found in runpod", "not found at the provider"]),
    (
        Outcome::Boot,
        &[
            "spawning timeout",
            "startup",
            "start-up",
            "script running timeout",
            "script timeout",
            "never initialized",
            "gpu not detected",
            "no runpod id",
        ],
    ),
    (
        Outcome::Stalled,
        &[
            "stale heartbeat",
            "no heartbeat",
            "stuck task",
            "failed basic health check",
            "failed health check",
            "ready but never claimed",
        ],
    ),
    (Outcome::WorkerCrash, &["crash", "exit code", "signal", "out of memory"]),
    (
        Outcome::Planned,
        &[
            "idle",
            "scale_down",
            "scale-down",
            "over-capacity",
            "over_capacity",
            "normal termination",
            "early_termination",
            "early termination",
        ],
    ),
    (Outcome::Operator, &["manual", "operator", "shutdown"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_the_field_are_classified() {
        let check = |reason: &str, outcome: Outcome| {
            assert_eq!(Outcome::from_reason(Some(reason)), outcome, "{reason}");
        };
        check("Stale heartbeat with active tasks (329s old)", Outcome::Stalled);
        check("Idle timeout (320s) with no work available", Outcome::Planned);
        check("Spawning timeout", Outcome::Boot);
        check("Exception in worker check: 'data'", Outcome::ControllerError);
        check("Normal termination", Outcome::Planned);
        check("Failed to spawn: no longer any instances available", Outcome::ProviderCapacity);
        check("manual SHUTDOWN", Outcome::Operator);
        check("", Outcome::Unknown);
        assert_eq!(Outcome::from_reason(None), Outcome::Unknown);
    }

    #[test]
    fn only_boot_stalled_and_crash_count() {
        let counted: Vec<_> = Outcome::ALL.into_iter().filter(|o| o.counts_for_breaker()).collect();
        assert_eq!(counted, [Outcome::Boot, Outcome::Stalled, Outcome::WorkerCrash]);
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_word(outcome.word()), Some(outcome));
        }
    }
}
