//! How a gate is shut, and how the end of several reasons is found.
//!
//! The end is not calculated from one reason's: it is found by asking again at each instant at which
//! something may change, until nothing is shut.

use super::Question;
use crate::clock::Time;

/// Most instants that are asked.
const ROUNDS_MAX: usize = 64;

/// How something is shut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fleet) enum Shut {
    /// Surely until then; what is then must be asked then.
    Until(Time),
    /// Until something happens.
    When(String),
    /// It does not open by itself.
    Forever,
}

/// Both are in the way.
pub(super) fn both(one: Option<Shut>, other: Option<Shut>) -> Option<Shut> {
    match (one, other) {
        (None, shut) | (shut, None) => shut,
        (Some(Shut::Forever), _) | (_, Some(Shut::Forever)) => Some(Shut::Forever),
        (Some(Shut::When(when)), _) | (_, Some(Shut::When(when))) => Some(Shut::When(when)),
        (Some(Shut::Until(one)), Some(Shut::Until(other))) => Some(Shut::Until(one.max(other))),
    }
}

/// One of these is enough: the first to open counts.
pub(super) fn any(shuts: impl Iterator<Item = Option<Shut>>) -> Option<Shut> {
    let mut best: Option<Shut> = None;
    for shut in shuts {
        let shut = shut?;
        best = Some(match (best, shut) {
            (None, shut) | (Some(Shut::Forever), shut) => shut,
            (Some(Shut::Until(one)), Shut::Until(other)) => Shut::Until(one.min(other)),
            (Some(Shut::Until(at)), _) | (Some(_), Shut::Until(at)) => Shut::Until(at),
            (Some(when @ Shut::When(_)), _) => when,
        });
    }
    best
}

/// None where nothing is shut at the question's instant; else the first instant, found by asking, at
/// which nothing is. An order that ends is a reason to ask again.
pub(super) fn first(question: &Question<'_>, shut_at: impl Fn(Time) -> Option<Shut>) -> Option<Shut> {
    let mut asked = question.now;
    let mut shut = shut_at(asked)?;
    for _ in 0..ROUNDS_MAX {
        let Shut::Until(until) = shut else { return Some(shut) };
        let at = question.next_order_end(asked).map_or(until, |end| end.min(until));
        match shut_at(at) {
            None => return Some(Shut::Until(at)),
            // Time has come to its end.
            Some(Shut::Until(next)) if next <= at => return Some(Shut::Forever),
            Some(next) => (asked, shut) = (at, next),
        }
    }
    Some(shut)
}
