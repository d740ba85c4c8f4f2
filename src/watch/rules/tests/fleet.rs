//! Workers, tasks and pods.

use super::*;
use crate::store::TaskEnds;
use crate::watch::observation::{Blocked, ReaperHeld};

fn worker(name: &str, stage: Stage, created: i64, beat: Option<i64>) -> WorkerSeen {
    WorkerSeen {
        id: name.to_owned(),
        created_at: at(created),
        stage,
        stage_since: at(created),
        last_heartbeat: beat.map(at),
        progress_at: None,
    }
}

fn decision(now: i64, desired: u32) -> DecisionSeen {
    DecisionSeen {
        at: at(now),
        desired,
        desired_since: (desired > 0).then(|| at(0)),
        blocked: None,
        unknown_pods: Vec::new(),
        reaper_held: None,
    }
}

fn fleet(now: i64, desired: u32, workers: Vec<WorkerSeen>) -> Observation {
    let newest_beat = workers.iter().filter_map(|worker| worker.last_heartbeat).max();
    let decision = Some(decision(now, desired));
    Observation { fleet: FleetSeen { workers, newest_beat, decision, ..FleetSeen::default() }, ..seen(now, vec![]) }
}

#[test]
fn workers_are_wanted_and_none_is_alive() {
    check(&fleet(299, 2, vec![]), &[]);
    check(&fleet(300, 2, vec![]), &["no_worker_alive"]);
    check(&fleet(3_000, 0, vec![]), &[]);
    check(&fleet(300, 2, vec![worker("w1", Stage::Coming, 200, None)]), &["no_worker_alive"]);
    check(&fleet(300, 2, vec![worker("w1", Stage::Idle, 200, Some(295))]), &[]);
    let mut lost = fleet(400, 2, vec![]);
    lost.fleet.newest_beat = Some(at(101));
    check(&lost, &[]);
    lost.fleet.newest_beat = Some(at(100));
    check(&lost, &["no_worker_alive"]);
    lost.fleet.decision.as_mut().unwrap().at = at(300);
    check(&lost, &[]);
}

#[test]
fn all_workers_without_heartbeat() {
    let two = |beat| vec![worker("w1", Stage::Idle, 0, Some(0)), worker("w2", Stage::Busy, 0, Some(beat))];
    check(&fleet(39, 2, two(0)), &[]);
    check(&fleet(40, 2, two(0)), &["workers_unheard"]);
    check(&fleet(40, 2, two(10)), &[]);
    check(&fleet(100, 1, vec![worker("w1", Stage::Idle, 0, Some(0))]), &[]);
    let mut after = fleet(1_000, 2, two(0));
    after.watching_since = at(990);
    check(&after, &[]);
}

#[test]
fn a_worker_is_due_to_speak_after_three_minutes() {
    check(&fleet(179, 0, vec![worker("w1", Stage::Coming, 0, None)]), &[]);
    check(&fleet(180, 0, vec![worker("w1", Stage::Coming, 0, None)]), &["worker_never_spoke w1"]);
    check(&fleet(900, 0, vec![worker("w1", Stage::Leaving, 0, None)]), &[]);
}

#[test]
fn an_agent_that_beats_with_a_hung_program() {
    let busy = |now: i64, progress: i64| {
        let mut hung = worker("w1", Stage::Busy, 0, Some(now));
        (hung.stage_since, hung.progress_at) = (at(10), Some(at(progress)));
        fleet(now, 1, vec![hung])
    };
    check(&busy(609, 0), &[]);
    check(&busy(610, 0), &["worker_hung w1"]);
    check(&busy(610, 300), &[]);
    let mut dead = busy(1_000, 0);
    dead.fleet.workers[0].last_heartbeat = Some(at(900));
    check(&dead, &[]);
}

#[test]
fn ended_is_not_failed_and_few_are_no_rate() {
    let ended = |ended, failed| {
        let mut seen = fleet(0, 0, vec![]);
        (seen.fleet.ended, seen.fleet.failed) = (ended, failed);
        seen
    };
    check(&ended(4, 4), &[]);
    check(&ended(5, 3), &["failure_rate"]);
    check(&ended(100, 50), &[]);
    check(&ended(100, 0), &[]);
}

#[test]
fn tasks_fail_unusually_often() {
    let tasks = |recent: (u64, u64), before: (u64, u64)| {
        let ends = |(ended, failed)| TaskEnds { ended, failed };
        let mut seen = fleet(0, 0, vec![]);
        (seen.fleet.tasks_recent, seen.fleet.tasks_before) = (ends(recent), ends(before));
        seen
    };
    check(&tasks((9, 9), (0, 0)), &[]);
    check(&tasks((10, 2), (0, 0)), &[]);
    check(&tasks((10, 3), (0, 0)), &["task_failures"]);
    check(&tasks((10, 3), (100, 10)), &[]);
    check(&tasks((10, 4), (100, 10)), &["task_failures"]);
}

#[test]
fn a_gate_blocks_while_tasks_wait() {
    let mut blocked = fleet(300, 0, vec![]);
    blocked.fleet.claimable = 3;
    let gate = Blocked { gate: "failure_breaker".to_owned(), reason: "5 of 6 failed".to_owned(), since: at(0) };
    blocked.fleet.decision.as_mut().unwrap().blocked = Some(gate);
    check(&blocked, &["spawn_blocked"]);
    assert!(summary(&blocked).contains("failure_breaker") && summary(&blocked).contains("5 of 6 failed"));
    blocked.fleet.claimable = 0;
    check(&blocked, &[]);
    (blocked.fleet.claimable, blocked.now) = (3, at(299));
    check(&blocked, &[]);
}

#[test]
fn the_oldest_task_waits_too_long() {
    let mut waiting = fleet(900, 0, vec![]);
    waiting.fleet.oldest_claimable = Some(at(1));
    check(&waiting, &[]);
    waiting.fleet.oldest_claimable = Some(at(0));
    check(&waiting, &["oldest_task"]);
}

#[test]
fn pods_that_nobody_knows_or_that_may_exist() {
    let mut leaked = fleet(600, 0, vec![]);
    leaked.fleet.decision.as_mut().unwrap().unknown_pods = vec![("pod-1".to_owned(), at(1))];
    check(&leaked, &[]);
    leaked.fleet.decision.as_mut().unwrap().unknown_pods[0].1 = at(0);
    check(&leaked, &["pods_unaccounted"]);
    check(&fleet(600, 0, vec![worker("w1", Stage::Ambiguous, 0, None)]), &["pods_unaccounted"]);
    check(&fleet(599, 0, vec![worker("w1", Stage::Ambiguous, 0, None)]), &[]);
}

#[test]
fn so_many_orphans_that_none_is_ended_call_somebody_at_once() {
    let mut held = fleet(100, 0, vec![]);
    held.fleet.decision.as_mut().unwrap().reaper_held = Some(ReaperHeld { due: 3, limit: 2, since: at(100) });
    check(&held, &["reaper_held"]);
    assert!(summary(&held).contains("3 pods of our name are nobody's, more than 2 at once"));
    // What an orchestrator that has stopped said last is no fact about the present.
    held.now = at(190);
    check(&held, &[]);
}
