//! What a fleet may cost, and whether the account can pay for it.
//!
//! A day is a UTC day, because a budget is something that people look at in the morning: its block
//! lifts at the next midnight. What was spent is what ended workers have cost today, counted by the
//! database, and what the others have cost up to the instant of the question. A price that is not
//! known counts as nothing, and the answer says how many machines have none.

use std::time::Duration;

use super::super::decision::{Gate, GateName};
use super::super::health::{self, Standing};
use super::super::snapshot::{Live, Quality, Worker};
use super::shut::{self, Shut};
use super::{Question, block, pass, shut as answer};
use crate::clock::{self, Time};

const DAY_SECONDS: i64 = 86_400;

/// The account holds enough; where that could not be seen, the provider itself will say.
pub(super) fn balance(question: &Question<'_>, live: &Live) -> Gate {
    let min = question.policy_live.balance_min_usd;
    let Some(balance) = &live.balance else {
        return pass(GateName::Balance, "the provider names no balance".into());
    };
    let age = balance.input.age_seconds;
    match (balance.input.quality, balance.usd) {
        (Quality::Complete, Some(usd)) => {
            let reason = format!("${usd:.2} on the account, {age} s ago; at least ${min:.2}");
            if usd < min {
                block(GateName::Balance, reason, None, Some("money is put on the provider's account"))
            } else {
                pass(GateName::Balance, reason)
            }
        }
        _ => {
            let detail = balance.input.detail.as_deref().unwrap_or("no detail");
            pass(
                GateName::Balance,
                format!("not seen for {age} s ({detail}): the provider refuses where it is empty"),
            )
        }
    }
}

/// What an hour costs and what the day has cost, against their limits.
pub(super) fn budget(question: &Question<'_>) -> Gate {
    let policy = question.policy_live;
    if policy.budget_usd_per_hour.is_none() && policy.budget_usd_per_day.is_none() {
        return pass(GateName::Budget, "no budget is set".into());
    }
    let (burn, unpriced) = burn(question);
    let spent = spent_today(question, question.now);
    let cheapest =
        question.pool.offers().iter().filter_map(|offer| offer.usd_per_hour).fold(f64::INFINITY, f64::min);
    let next = if cheapest.is_finite() { cheapest } else { 0.0 };
    let limit = |usd: Option<f64>| usd.map_or_else(|| "no limit".to_owned(), |usd| format!("at most ${usd:.2}"));
    let unpriced = if unpriced > 0 { format!("; {unpriced} machines without a price") } else { String::new() };
    let reason = format!(
        "${burn:.2} an hour ({}), ${spent:.2} today ({}){unpriced}",
        limit(policy.budget_usd_per_hour),
        limit(policy.budget_usd_per_day)
    );
    let hour = policy.budget_usd_per_hour.filter(|limit| burn + next > *limit || *limit <= 0.0);
    let hour_shut = hour.map(|limit| if limit <= 0.0 { Shut::Forever } else { Shut::When("a worker ends".into()) });
    let day_shut = |at: Time| {
        let limit = policy.budget_usd_per_day?;
        (spent_today(question, at) >= limit).then(|| {
            let midnight = next_midnight(at);
            if limit <= 0.0 || midnight <= at { Shut::Forever } else { Shut::Until(midnight) }
        })
    };
    match shut::first(question, |at| shut::both(hour_shut.clone(), day_shut(at))) {
        None => pass(GateName::Budget, reason),
        Some(shut) => answer(question, GateName::Budget, reason, shut),
    }
}

/// How many more workers of that price the hour's limit allows beside `planned_usd_per_hour`.
pub(in crate::fleet) fn affords(question: &Question<'_>, planned_usd_per_hour: f64, usd_per_hour: f64) -> bool {
    let overruled = question.overruled(GateName::Budget, None, question.now).is_some();
    let limit = question.policy_live.budget_usd_per_hour.filter(|_| !overruled);
    limit.is_none_or(|limit| burn(question).0 + planned_usd_per_hour + usd_per_hour <= limit)
}

/// What the machines that may run cost an hour, and how many have no price.
fn burn(question: &Question<'_>) -> (f64, u32) {
    let (mut usd, mut unpriced) = (0.0, 0_u32);
    let runs = |worker: &&Worker| health::standing(worker, question.snapshot) != Standing::Ended;
    for worker in question.snapshot.workers.iter().filter(runs) {
        match worker.live.as_ref().and_then(|live| live.usd_per_hour) {
            Some(price) => usd += price,
            None => unpriced = unpriced.saturating_add(1),
        }
    }
    (usd, unpriced)
}

/// What was spent in the UTC day of `at`, dollars.
fn spent_today(question: &Question<'_>, at: Time) -> f64 {
    let snapshot = question.snapshot;
    let same_day = day(at) == day(snapshot.as_of);
    let ended = snapshot.live.as_ref().and_then(|live| live.ended_today_usd).filter(|_| same_day).unwrap_or(0.0);
    let midnight = clock::from_micros(day(at).saturating_mul(DAY_SECONDS * 1_000_000));
    let runs = |worker: &&Worker| health::standing(worker, snapshot) != Standing::Ended;
    let running: f64 = snapshot.workers.iter().filter(runs).fold(0.0, |sum, worker| {
        let price = worker.live.as_ref().and_then(|live| live.usd_per_hour).unwrap_or(0.0);
        let hours = clock::age(at, worker.created_at.max(midnight)).as_secs_f64() / 3_600.0;
        sum + price * hours
    });
    ended + running
}

/// Days since 1970.
fn day(at: Time) -> i64 {
    at.as_second().div_euclid(DAY_SECONDS)
}

fn next_midnight(at: Time) -> Time {
    let midnight = clock::from_micros(day(at).saturating_mul(DAY_SECONDS * 1_000_000));
    clock::plus(midnight, Duration::from_secs(DAY_SECONDS.unsigned_abs()))
}
