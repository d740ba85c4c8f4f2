//! Bugs that tests plant, to show that the simulator finds them.
//!
//! Each lies in what the simulated database or provider answers, or in what it does with what it
//! is told, exactly as if the code behind it had the bug. Only tests can plant one: outside of them
//! nothing holds a [`Bug`], and the questions after it are constant.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Workers on their way do not count, so each cycle asks for more.
    SpawningNotCounted,
    /// A listing that was cut is taken as whole.
    PartialIsWhole,
    /// A claim does not look again whether somebody else has the task.
    ClaimUnchecked,
    /// The lease is looked at before the write, not in its transaction.
    LeaseCheckedBefore,
    /// A task that is queued again forgets its attempts.
    AttemptsForgotten,
    /// Planned stops count as failures.
    PlannedCounts,
    /// Beats that nobody could have written during an outage are held against the workers.
    StaleAfterOutage,
    /// A listing that failed is an empty one.
    FailedIsEmpty,
    /// A block is said to end one window later than it does.
    EtaOneWindowOff,
    /// A create whose answer was lost is taken as refused.
    LostIsRefused,
    /// An order of an operator does not end.
    OrderForEver,
    /// A completion by whoever lost the task is accepted.
    TwoCompletions,
}

#[cfg(test)]
impl Bug {
    /// All of them.
    pub(super) const ALL: [Bug; 12] = [
        Bug::SpawningNotCounted,
        Bug::PartialIsWhole,
        Bug::ClaimUnchecked,
        Bug::LeaseCheckedBefore,
        Bug::AttemptsForgotten,
        Bug::PlannedCounts,
        Bug::StaleAfterOutage,
        Bug::FailedIsEmpty,
        Bug::EtaOneWindowOff,
        Bug::LostIsRefused,
        Bug::OrderForEver,
        Bug::TwoCompletions,
    ];
}
