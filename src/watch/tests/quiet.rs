//! Normal life rings nothing, at every phase of rounds, beats and heartbeat records: a quiet night, a
//! scale-down to nothing, a worker that is killed and replaced, a deploy.

use std::time::Duration;

use super::RHYTHM;
use super::noticed::{CYCLE, FAULT_AT, Fault, HEARTBEAT_RECORD, ROUND, at, newest, seen};
use crate::watch::alarms::{Alarms, Hysteresis};
use crate::watch::limits::Limits;
use crate::watch::look::skew::Skews;
use crate::watch::observation::{LiveSource, Observation, SourceId, Stage};
use crate::watch::rules;

/// When it happens, seconds.
const WHEN: i64 = FAULT_AT;
/// From that a worker was killed until the orchestrator ends it: its heartbeat limit and a cycle.
const ENDED_AFTER: i64 = 300 + CYCLE;

/// Looks from two minutes before until so many seconds after it happens; `bend` makes of a fleet's normal
/// life what is seen at that second, and at that phase of what is periodic.
fn check(seconds: i64, bend: impl Fn(&mut Observation, i64, i64)) {
    let hysteresis = Hysteresis { hold: Duration::from_secs(5), clear: Duration::from_secs(15) };
    let limits = Limits::of(RHYTHM);
    for round_phase in 0..ROUND {
        for phase in (0..HEARTBEAT_RECORD).step_by(2) {
            let (mut alarms, mut skews) = (Alarms::default(), Skews::default());
            let mut now = WHEN - 120 + round_phase;
            while now < WHEN + seconds {
                let mut seen = seen(Fault::None, now, phase);
                bend(&mut seen, now, phase);
                skews.tell(seen.now, &mut seen.sources, &seen.recorders);
                let found = rules::findings(&seen, &limits);
                let changes = alarms.step(found, &rules::unjudged(&seen, &limits), at(now), &hysteresis);
                assert!(changes.is_empty(), "{} s after it: {changes:?}", now - WHEN);
                now += ROUND;
            }
        }
    }
}

/// Takes a worker and its source away.
fn without(seen: &mut Observation, worker: &str) {
    seen.fleet.workers.retain(|one| one.id != worker);
    seen.sources.retain(|source| source.id.source_id != worker);
    seen.recorders.retain(|recorder| recorder.source.source_id != worker);
}

#[test]
fn a_quiet_night() {
    check(8 * 3_600, |seen, now, phase| {
        ["w1", "w2"].iter().for_each(|worker| without(seen, worker));
        let decision = seen.fleet.decision.as_mut().unwrap();
        (decision.desired, decision.desired_since) = (0, None);
        seen.fleet.newest_beat = Some(at(0));
        seen.changed_at = Some(newest(now, CYCLE, phase, false));
    });
}

#[test]
fn a_pure_scale_down_to_nothing() {
    check(1_800, |seen, now, phase| {
        let left = now - WHEN;
        for (worker, after) in [("w1", 0), ("w2", 40)] {
            if left >= after + CYCLE {
                without(seen, worker);
                seen.fleet.ended += 1;
            } else if left >= after {
                // Asked to leave: its source lives until its last word.
                let leaving = seen.fleet.workers.iter_mut().find(|one| one.id == worker).unwrap();
                (leaving.stage, leaving.stage_since) = (Stage::Leaving, at(WHEN + after));
            }
        }
        if left >= 0 {
            let decision = seen.fleet.decision.as_mut().unwrap();
            (decision.desired, decision.desired_since) = (0, None);
        }
        if left >= 40 + CYCLE {
            seen.changed_at = Some(newest(now, CYCLE, phase, false));
        }
    });
}

#[test]
fn a_single_worker_that_is_killed_and_replaced() {
    check(1_800, |seen, now, phase| {
        if now < WHEN {
            return;
        }
        if now >= WHEN + ENDED_AFTER {
            without(seen, "w1");
            (seen.fleet.ended, seen.fleet.failed) = (1, 1);
            return;
        }
        let last = newest(WHEN, HEARTBEAT_RECORD, phase, false);
        let killed = seen.fleet.workers.iter_mut().find(|one| one.id == "w1").unwrap();
        (killed.last_heartbeat, killed.progress_at) = (Some(last), Some(last));
        let source = seen.sources.iter_mut().find(|source| source.id.source_id == "w1").unwrap();
        (source.alive_at, source.newest, source.newest_made) = (last, Some(last), Some(last));
    });
}

/// The old one says good-bye, the new one comes up 20 s later; meanwhile nobody takes beats.
#[test]
fn a_deploy() {
    const AWAY: i64 = 20;
    check(1_800, |seen, now, phase| {
        if now < WHEN {
            return;
        }
        let is_back = now >= WHEN + AWAY;
        let new = LiveSource {
            id: SourceId::new("orchestrator_gpu", "new"),
            since: at(WHEN + AWAY),
            alive_at: newest(now, CYCLE, phase, false).max(at(WHEN + AWAY)),
            newest: (now >= WHEN + AWAY + 2)
                .then(|| newest(now, HEARTBEAT_RECORD, phase, false).max(at(WHEN + AWAY + 2))),
            newest_made: None,
            skew_micros: None,
            is_orchestrator: true,
        };
        seen.sources.retain(|source| !source.is_orchestrator);
        seen.sources.extend(is_back.then_some(new));
        if is_back {
            return;
        }
        let last = newest(WHEN, HEARTBEAT_RECORD, phase, false);
        for source in &mut seen.sources {
            (source.alive_at, source.newest, source.newest_made) = (last, Some(last), Some(last));
        }
        for worker in &mut seen.fleet.workers {
            worker.last_heartbeat = Some(last);
        }
        seen.fleet.decision.as_mut().unwrap().at = newest(WHEN, CYCLE, phase, false);
        seen.changed_at = Some(last);
    });
}
