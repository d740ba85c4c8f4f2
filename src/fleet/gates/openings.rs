//! The cells of a pool: which may be asked for a worker, and for how many.
//!
//! A cell is asked where its breaker lets it and the provider has not refused it lately. Two gates
//! speak of that: the failure breaker is shut where every cell's breaker is, the provider's backoff
//! where it stands in the way of every cell that the breakers leave.

use super::super::breaker::cell::{self, State};
use super::super::cell::{Cell, Offer};
use super::super::decision::{Gate, GateName, Verdict};
use super::super::refusal::{self, Streak};
use super::shut::{self, Shut};
use super::{Question, pass};
use crate::clock::Time;

/// A cell that may be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Opening {
    /// Which, and what it costs.
    pub offer: Offer,
    /// Workers that it may be asked for in this cycle.
    pub room: u32,
    /// Why it is only one.
    pub probe: Option<String>,
}

/// The cells that may be asked, best first.
pub(super) fn openings(question: &Question<'_>) -> Vec<Opening> {
    let opening = |offer: &Offer| {
        let state = breaker_of(question, offer, question.now);
        if breaker_shut(&state).is_some() || backoff_shut(question, offer, question.now).is_some() {
            return None;
        }
        let refused = refusal::streaks(question.snapshot, offer.cell.as_ref());
        let probe = match (state, refused.first()) {
            (State::HalfOpen(why), _) => Some(format!("one probe{}: {why}", of(offer))),
            (_, Some(streak)) => Some(format!("one try{}: {} refused in a row", of(offer), streak.count)),
            (State::Closed | State::Probing { .. } | State::Open { .. }, None) => None,
        };
        Some(Opening { room: if probe.is_some() { 1 } else { u32::MAX }, offer: offer.clone(), probe })
    };
    question.pool.offers().iter().filter_map(opening).collect()
}

fn of(offer: &Offer) -> String {
    offer.name().map(|name| format!(" of {name}")).unwrap_or_default()
}

// --- the breakers ---

/// The breaker of a cell at `at`; an operator's override closes it.
fn breaker_of(question: &Question<'_>, offer: &Offer, at: Time) -> State {
    if question.overruled(GateName::FailureBreaker, Some(offer), at).is_some() {
        return State::Closed;
    }
    cell::state(question.snapshot, offer.cell.as_ref(), at)
}

fn breaker_shut(state: &State) -> Option<Shut> {
    match state {
        State::Closed | State::HalfOpen(_) => None,
        State::Open { until, .. } => Some(Shut::Until(*until)),
        State::Probing { probe, .. } => Some(Shut::When(format!("the probe {probe} comes up or fails"))),
    }
}

/// Whether the breakers of all cells are in the way at `at`.
pub(super) fn breakers_shut(question: &Question<'_>, at: Time) -> Option<Shut> {
    shut::any(question.pool.offers().iter().map(|offer| breaker_shut(&breaker_of(question, offer, at))))
}

/// Every breaker that is not closed, for the gate's reason.
pub(super) fn breakers_in_words(question: &Question<'_>) -> String {
    let word = |offer: &Offer| {
        let name = of(offer);
        Some(match breaker_of(question, offer, question.now) {
            State::Closed => return None,
            State::HalfOpen(why) => format!("; breaker{name} half-open ({why}): one probe"),
            State::Probing { probe, why } => format!("; breaker{name} half-open ({why}): {probe} is its probe"),
            State::Open { failures, until } => {
                format!("; breaker{name} open until {until} ({failures} failures in a row)")
            }
        })
    };
    question.pool.offers().iter().filter_map(word).collect()
}

/// The names of the cells whose breakers are in the way.
pub(super) fn shut_names(question: &Question<'_>) -> Option<String> {
    let offers = question.pool.offers();
    let shut = offers.iter().filter(|offer| breaker_shut(&breaker_of(question, offer, question.now)).is_some());
    let names: Vec<String> = shut.filter_map(Offer::name).collect();
    (!names.is_empty()).then(|| names.join(" and "))
}

// --- the provider's refusals ---

fn backoff_shut(question: &Question<'_>, offer: &Offer, at: Time) -> Option<Shut> {
    if question.overruled(GateName::ProviderBackoff, Some(offer), at).is_some() {
        return None;
    }
    newest(question, offer.cell.as_ref()).filter(|streak| at < streak.opens).map(|streak| Shut::Until(streak.opens))
}

/// The refusals with the longest wait.
fn newest(question: &Question<'_>, cell: Option<&Cell>) -> Option<Streak> {
    refusal::streaks(question.snapshot, cell).into_iter().next()
}

/// Shut where every cell that the breakers leave is waiting for the provider.
pub(super) fn provider_backoff(question: &Question<'_>) -> Gate {
    let offers = question.pool.offers();
    let word = |offer: &Offer| {
        let streak = newest(question, offer.cell.as_ref())?;
        Some(offer.name().map_or_else(|| streak.to_string(), |name| format!("{name}: {streak}")))
    };
    let words: Vec<String> = offers.iter().filter_map(word).collect();
    if words.is_empty() {
        return pass(GateName::ProviderBackoff, "the provider has not refused since its last pod".into());
    }
    let reason = words.join("; ");
    let breaker = |offer: &Offer, at| breaker_shut(&breaker_of(question, offer, at));
    let shut_at = |at: Time| {
        let left = offers.iter().any(|offer| breaker(offer, at).is_none());
        let of = |offer: &Offer| shut::both(breaker(offer, at), backoff_shut(question, offer, at));
        // Where the breakers leave none, they are what is in the way.
        left.then(|| shut::any(offers.iter().map(of))).flatten()
    };
    match shut::first(question, shut_at) {
        None => pass(GateName::ProviderBackoff, reason),
        Some(shut) => {
            let mut gate = super::shut(question, GateName::ProviderBackoff, reason, shut);
            let waits = offers.iter().filter(|offer| backoff_shut(question, offer, question.now).is_some());
            let names: Vec<String> = waits.filter_map(Offer::name).collect();
            gate.subject = (gate.verdict == Verdict::Block && !names.is_empty()).then(|| names.join(" and "));
            gate
        }
    }
}
