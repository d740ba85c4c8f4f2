//! Statements about decisions that are checked by deciding again.

use crate::clock::{self, Time};
use crate::fleet::decision::{Verdict, decide};
use crate::store::CycleRecord;

/// So many workers must truly have failed before a breaker may open.
pub(super) const BREAKER_FAILURES_MIN: usize = 3;

/// Why `at` is not the first instant at which the gate opens, everything else being equal.
pub(super) fn is_not_its_end(record: &CycleRecord, gate: usize, at: Time) -> Option<&'static str> {
    let snapshot = &record.snapshot;
    let verdict = |now| decide(snapshot, &snapshot.policy, now).gates.get(gate).map(|gate| gate.verdict);
    if at <= snapshot.as_of {
        return Some("which is past");
    }
    if verdict(at) == Some(Verdict::Block) {
        return Some("it still blocks then");
    }
    let just_before = clock::minus(at, std::time::Duration::from_micros(1));
    (verdict(just_before) == Some(Verdict::Pass)).then_some("it is open before")
}
