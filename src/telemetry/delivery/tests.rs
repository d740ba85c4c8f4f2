//! Every sequence of outcomes up to a length, and every placing of poison in a feed up to a size.

use super::*;

const LIMITS: Limits = Limits {
    batch_start: 64,
    batch_max: 256,
    backoff: Backoff { base: Duration::from_millis(100), ceiling: Duration::from_secs(5), jitter: 0.5 },
    retry_after_max: Duration::from_secs(60),
    probe_every: Duration::from_secs(10),
    open_after: 3,
    quarantine_run_max: 4,
};
const OUTCOMES: [Outcome; 5] = [
    Outcome::Exported,
    Outcome::Retry { after: None },
    Outcome::Retry { after: Some(Duration::from_secs(600)) },
    Outcome::Blocked,
    Outcome::Refused,
];

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Runs every sequence of `OUTCOMES` up to `length`, in the given state, through `check`.
fn every_sequence(length: usize, check: &mut impl FnMut(&Delivery, Outcome, &Delivery, Decision, Duration)) {
    fn go(
        delivery: &Delivery,
        now: Duration,
        left: usize,
        check: &mut impl FnMut(&Delivery, Outcome, &Delivery, Decision, Duration),
    ) {
        for outcome in OUTCOMES.into_iter().take(if left == 0 { 0 } else { OUTCOMES.len() }) {
            for random in [0.0, 0.999] {
                let mut next = delivery.clone();
                let decision = next.decide(outcome, delivery.records(), now, random);
                check(delivery, outcome, &next, decision, now);
                go(&next, next.ready_at().unwrap_or(now).max(now), left - 1, check);
            }
        }
    }
    go(&Delivery::new(LIMITS), secs(1.0), length, check);
}

#[test]
fn every_outcome_in_every_reachable_state_has_its_decision() {
    let mut seen = 0_u64;
    every_sequence(6, &mut |before, outcome, after, decision, now| {
        seen += 1;
        let wait = after.ready_at().map_or(Duration::ZERO, |at| at - now);
        match (outcome, decision) {
            (Outcome::Exported, Decision::Commit) => {
                assert_eq!(after.ready_at(), None);
                assert_eq!(after.circuit(now), Circuit::Closed);
                assert_eq!(after.refused_singles, 0);
            }
            (Outcome::Retry { after: wish }, Decision::RetryAt(at)) => {
                assert_eq!(after.ready_at(), Some(at));
                let ceiling = LIMITS.backoff.ceiling.max(wish.unwrap_or_default().min(LIMITS.retry_after_max));
                assert!(wait >= LIMITS.backoff.base / 2 && wait <= ceiling, "{wait:?}");
                assert!(wish.is_none() || wait >= LIMITS.retry_after_max);
                assert_eq!(after.suspect, before.suspect);
            }
            (Outcome::Blocked, Decision::Blocked { probe_at }) => {
                assert_eq!(after.ready_at(), Some(probe_at));
                assert!(wait <= LIMITS.probe_every && wait >= LIMITS.probe_every.mul_f64(0.8));
                assert!(after.records() <= PROBE_RECORDS);
            }
            (Outcome::Refused, Decision::Split { records }) => {
                assert!(before.records() > 1 && records < before.records() && records >= 1);
                assert_eq!((after.ready_at(), after.records()), (None, records));
            }
            (Outcome::Refused, Decision::Quarantine { next_at }) => {
                assert_eq!(before.records(), 1);
                assert_eq!(after.ready_at().unwrap_or(now), next_at);
                assert_eq!(next_at > now, after.refused_singles > LIMITS.quarantine_run_max);
            }
            wrong => panic!("{wrong:?}"),
        }
        assert!(after.records() >= 1 && after.records() <= LIMITS.batch_max);
        assert_eq!(after.circuit(now) != Circuit::Closed, after.failures >= LIMITS.open_after);
    });
    assert_eq!(seen, (1..=6).map(|length| 10_u64.pow(length)).sum::<u64>());
}

/// What a destination saw and a feed lost, for a feed of `poison.len()` records.
fn deliver(poison: &[bool], limits: Limits) -> (Vec<usize>, Vec<usize>, usize) {
    let (mut delivery, mut head, mut now) = (Delivery::new(limits), 0, Duration::ZERO);
    let (mut delivered, mut quarantined, mut exports) = (Vec::new(), Vec::new(), 0);
    while head < poison.len() {
        exports += 1;
        assert!(exports <= 100 * poison.len() + 100, "no end: {poison:?}");
        let records = delivery.records().min(poison.len() - head);
        let batch = head..head + records;
        let outcome = if poison[batch.clone()].contains(&true) { Outcome::Refused } else { Outcome::Exported };
        match delivery.decide(outcome, records, now, 0.5) {
            Decision::Commit => {
                delivered.extend(batch.clone());
                head = batch.end;
            }
            Decision::Quarantine { next_at } => {
                quarantined.push(head);
                (head, now) = (head + 1, next_at);
            }
            Decision::Split { .. } => {}
            decision => panic!("{decision:?}"),
        }
    }
    (delivered, quarantined, exports)
}

#[test]
fn every_placing_of_poison_in_twelve_records_is_found_and_nothing_else() {
    for bits in 0_u32..1 << 12 {
        let poison: Vec<bool> = (0..12).map(|n| bits & (1 << n) != 0).collect();
        let (delivered, quarantined, _) = deliver(&poison, LIMITS);
        assert_eq!(quarantined, (0..12).filter(|n| poison[*n]).collect::<Vec<_>>());
        assert_eq!(delivered, (0..12).filter(|n| !poison[*n]).collect::<Vec<_>>());
    }
}

#[test]
fn one_poison_record_costs_a_logarithm_of_exports() {
    for position in 0..4_096 {
        let mut poison = vec![false; 4_096];
        poison[position] = true;
        let limits = Limits { batch_start: 4_096, batch_max: 4_096, ..LIMITS };
        let (delivered, quarantined, exports) = deliver(&poison, limits);
        assert_eq!((delivered.len(), quarantined), (4_095, vec![position]));
        assert!(exports <= 50, "{exports} exports for poison at {position}");
    }
}

#[test]
fn a_destination_that_refuses_everything_gets_one_record_a_probe() {
    let mut delivery = Delivery::new(LIMITS);
    let (mut now, mut quarantined) = (Duration::ZERO, 0);
    while now < secs(600.0) {
        if let Decision::Quarantine { next_at } = delivery.decide(Outcome::Refused, delivery.records(), now, 0.0) {
            quarantined += 1;
            now = next_at;
        }
    }
    assert_eq!(quarantined, LIMITS.quarantine_run_max + 60);
}

#[test]
fn an_outage_opens_the_circuit_and_a_probe_closes_it() {
    let mut delivery = Delivery::new(LIMITS);
    let mut now = secs(1.0);
    for _ in 0..LIMITS.open_after {
        assert_eq!(delivery.circuit(now), Circuit::Closed);
        delivery.decide(Outcome::Retry { after: None }, 64, now, 0.0);
        now = delivery.ready_at().unwrap();
    }
    assert_eq!(delivery.circuit(now - secs(0.001)), Circuit::Open);
    assert_eq!(delivery.circuit(now), Circuit::HalfOpen);
    assert_eq!(delivery.records(), PROBE_RECORDS);
    delivery.decide(Outcome::Exported, PROBE_RECORDS, now, 0.0);
    assert_eq!((delivery.circuit(now), delivery.records()), (Circuit::Closed, 32));
}

#[test]
fn batches_grow_with_full_success_only_and_shrink_with_failure() {
    let mut delivery = Delivery::new(LIMITS);
    let mut after = |outcome, records| {
        delivery.decide(outcome, records, secs(1.0), 0.0);
        delivery.records()
    };
    assert_eq!(after(Outcome::Exported, 10), 64);
    assert_eq!(after(Outcome::Exported, 64), 128);
    assert_eq!(after(Outcome::Exported, 128), 256);
    assert_eq!(after(Outcome::Exported, 256), 256);
    assert_eq!(after(Outcome::Retry { after: None }, 256), 128);
    assert_eq!(after(Outcome::Retry { after: None }, 128), 64);
}

#[test]
fn hurry_tries_at_once_and_starts_with_short_waits() {
    let mut delivery = Delivery::new(LIMITS);
    for _ in 0..9 {
        delivery.decide(Outcome::Retry { after: None }, 64, secs(1.0), 0.0);
    }
    delivery.hurry(secs(2.0));
    assert_eq!(delivery.ready_at(), Some(secs(2.0)));
    delivery.decide(Outcome::Retry { after: None }, 16, secs(2.0), 0.0);
    assert_eq!(delivery.ready_at(), Some(secs(2.1)));
    delivery.decide(Outcome::Blocked, 16, secs(3.0), 0.0);
    delivery.hurry(secs(4.0));
    assert_eq!(delivery.ready_at(), Some(secs(4.0)));
    assert!(delivery.records() <= PROBE_RECORDS);
}
