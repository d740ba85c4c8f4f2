//! What the queue asks for: every queued task in exactly one bucket, with the reason it waits.
//!
//! A running fleet has its buckets counted by the database, task by task, and those counts win. A
//! file gives numbers a user, and the rule of the incident format makes buckets of them. Either way
//! the buckets are compared with the queue's length: a count that does not add up is said, never
//! smoothed over (I15).

use std::collections::BTreeMap;

use super::policy::Policy;
use super::snapshot::{Demand, User};
use super::task::Bucket;

/// The buckets that every tally shows, zero too, in the order in which documents print them.
pub const BUCKETS_SHOWN: [Bucket; 5] =
    [Bucket::Claimable, Bucket::UserLimit, Bucket::NoCredits, Bucket::CloudDisabled, Bucket::Dependency];

/// The queue, sorted by why each task waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Tasks waiting.
    pub queued: u64,
    /// Tasks in hand.
    pub in_progress: u64,
    /// Tasks by bucket; those of [`BUCKETS_SHOWN`] are always there.
    pub buckets: BTreeMap<Bucket, u64>,
    /// Whether the buckets add up to `queued`.
    pub adds_up: bool,
}

impl Tally {
    /// Tasks that a worker may take at once.
    pub fn claimable(&self) -> u64 {
        self.count(Bucket::Claimable)
    }

    /// Tasks in that bucket.
    pub fn count(&self, bucket: Bucket) -> u64 {
        self.buckets.get(&bucket).copied().unwrap_or(0)
    }
}

/// Sorts the queue into buckets.
pub fn tally(demand: &Demand, policy: &Policy) -> Tally {
    let mut buckets: BTreeMap<Bucket, u64> = BUCKETS_SHOWN.into_iter().map(|bucket| (bucket, 0)).collect();
    match &demand.live {
        Some(counted) => buckets.extend(counted.buckets.iter().map(|(bucket, count)| (*bucket, *count))),
        None => demand.users.iter().for_each(|user| add_user(&mut buckets, user, policy)),
    }
    let queued = sum(demand.users.iter().map(|user| user.queued));
    let in_progress = sum(demand.users.iter().map(|user| user.in_progress));
    let adds_up = sum(buckets.values().copied()) == queued;
    Tally { queued, in_progress, buckets, adds_up }
}

/// One user's tasks: the owner's own faults first, then dependencies, then the limit.
fn add_user(buckets: &mut BTreeMap<Bucket, u64>, user: &User, policy: &Policy) {
    let mut add = |bucket, count: u64| {
        let sum = buckets.entry(bucket).or_default();
        *sum = sum.saturating_add(count);
    };
    if user.credits.is_some_and(|credits| credits <= 0.0) {
        return add(Bucket::NoCredits, user.queued);
    }
    if user.cloud_enabled == Some(false) {
        return add(Bucket::CloudDisabled, user.queued);
    }
    let dependency = user.dependency_blocked.min(user.queued);
    let free = user.queued - dependency;
    let claimable = free.min(u64::from(policy.user_task_limit).saturating_sub(user.in_progress));
    add(Bucket::Dependency, dependency);
    add(Bucket::Claimable, claimable);
    add(Bucket::UserLimit, free - claimable);
}

fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::snapshot::DemandLive;

    fn user(text: &str) -> User {
        serde_json::from_str(text).unwrap()
    }

    fn check(users: &[&str], expected: &[(Bucket, u64)]) {
        let demand = Demand { users: users.iter().map(|text| user(text)).collect(), ..Demand::default() };
        let tally = tally(&demand, &Policy::default());
        let found: Vec<_> = tally.buckets.iter().filter(|(_, n)| **n > 0).map(|(b, n)| (*b, *n)).collect();
        assert_eq!(found, expected, "{users:?}");
        assert!(tally.adds_up, "{users:?}");
    }

    #[test]
    fn the_first_reason_that_fits_takes_all_of_a_users_tasks() {
        check(
            &[r#"{"user":"a","queued":22,"in_progress":0}"#, r#"{"user":"b","queued":5,"in_progress":1}"#],
            &[(Bucket::UserLimit, 18), (Bucket::Claimable, 9)],
        );
        check(
            &[r#"{"user":"a","queued":3,"in_progress":0,"credits":0,"cloud_enabled":false}"#],
            &[(Bucket::NoCredits, 3)],
        );
        check(
            &[r#"{"user":"a","queued":3,"in_progress":0,"credits":1,"cloud_enabled":false}"#],
            &[(Bucket::CloudDisabled, 3)],
        );
        check(
            &[r#"{"user":"a","queued":3,"in_progress":9,"dependency_blocked":2}"#],
            &[(Bucket::Dependency, 2), (Bucket::UserLimit, 1)],
        );
        check(&[r#"{"user":"a","queued":3,"in_progress":0,"dependency_blocked":9}"#], &[(Bucket::Dependency, 3)]);
    }

    #[test]
    fn the_databases_count_wins_and_a_sum_that_is_wrong_is_said() {
        let mut demand = Demand {
            users: vec![user(r#"{"user":"a","queued":3,"in_progress":0}"#)],
            live: Some(DemandLive {
                buckets: BTreeMap::from([(Bucket::Poisoned, 1), (Bucket::Claimable, 2)]),
                ..DemandLive::default()
            }),
            ..Demand::default()
        };
        let good = tally(&demand, &Policy::default());
        assert_eq!((good.claimable(), good.count(Bucket::Poisoned), good.adds_up), (2, 1, true));
        demand.users[0].queued = 4;
        assert!(!tally(&demand, &Policy::default()).adds_up);
    }
}
