//! The rules of the incident format, written a second time, plainly and slowly, over random files.
//!
//! Times are whole microseconds before or after as_of; nothing here uses the code it checks but to
//! run it.

use proptest::prelude::*;
use proptest::{collection::vec, option};
use serde_json::{Value, json};

use crate::clock;
use crate::fleet::snapshot;

const AS_OF: i64 = 1_760_616_000_000_000;
const SECOND: i64 = 1_000_000;

#[derive(Debug, Clone)]
struct OneWorker {
    created: i64,
    status: &'static str,
    promoted: Option<i64>,
    heard: Option<i64>,
    ended: Option<i64>,
    reason: Option<&'static str>,
    running: Option<u32>,
    claimed: Option<u32>,
}

#[derive(Debug, Clone)]
struct OneUser {
    queued: i64,
    in_progress: i64,
    credits: Option<f64>,
    cloud: Option<bool>,
    blocked: Option<i64>,
}

#[derive(Debug, Clone)]
struct OneFile {
    numbers: [i64; 4],
    rate_max: f64,
    rate_min_workers: i64,
    window: i64,
    heartbeat: i64,
    silence: i64,
    workers: Vec<OneWorker>,
    users: Vec<OneUser>,
    reported: Option<i64>,
    records: Vec<(i64, Option<i64>, u8)>,
}

/// Half of the times fall on whole seconds, so that bounds are met exactly.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![-900 * SECOND..60 * SECOND, (-900..60i64).prop_map(|seconds| seconds * SECOND)]
}

/// A reason, and what it means.
const REASONS: [(&str, &str, bool); 8] = [
    ("Spawning timeout", "boot", true),
    ("STALE HEARTBEAT, idle", "stalled", true),
    ("exit code 137", "worker_crash", true),
    ("idle timeout", "planned", false),
    ("Failed to spawn: signal", "provider_fault", false),
    ("manual", "operator", false),
    ("?", "unknown", false),
    ("", "unknown", false),
];

prop_compose! {
    fn worker()(
        created in time(),
        status in prop::sample::select(vec!["spawning", "active", "terminating", "error", "terminated", "crashed"]),
        (promoted, heard, lived) in (option::of(time()), option::weighted(0.3, time()), option::of(0..300 * SECOND)),
        reason in option::of((0..REASONS.len()).prop_map(|index| REASONS[index].0)),
        (running, claimed) in (option::of(0..2u32), option::of(0..2u32)),
    ) -> OneWorker {
        let ended = lived.map(|lived| created + lived);
        OneWorker { created, status, promoted, heard, ended, reason, running, claimed }
    }
}

prop_compose! {
    fn user()(
        (queued, in_progress) in (0..9i64, 0..7i64),
        credits in option::of(prop::sample::select(vec![-1.0, 0.0, 0.5])),
        cloud in option::of(any::<bool>()),
        blocked in option::of(0..12i64),
    ) -> OneUser {
        OneUser { queued, in_progress, credits, cloud, blocked }
    }
}

prop_compose! {
    fn file()(
        numbers in [0..4i64, 0..12i64, 0..3i64, 0..6i64],
        rate_max in prop::sample::select(vec![0.0, 0.2, 0.5, 0.8]),
        (rate_min_workers, window) in (0..6i64, 0..900i64),
        (heartbeat, silence) in (0..600i64, 0..600i64),
        workers in vec(worker(), 0..9),
        users in vec(user(), 0..5),
        reported in option::of(0..9i64),
        records in vec((time(), option::of(0..4i64), 0..3u8), 0..8),
    ) -> OneFile {
        OneFile {
            numbers, rate_max, rate_min_workers, window, heartbeat, silence, workers, users, reported, records,
        }
    }
}

fn text(at: i64) -> String {
    clock::from_micros(AS_OF + at).to_string()
}

fn source(kind: u8) -> (&'static str, Option<&'static str>) {
    match kind {
        0 => ("orchestrator_gpu", None),
        1 => ("orchestrator_gpu", Some("b")),
        _ => ("worker", Some("w")),
    }
}

impl OneFile {
    fn json(&self) -> Value {
        let [min, max, buffer, limit] = self.numbers;
        let worker = |(index, worker): (usize, &OneWorker)| {
            json!({"id": id(index), "created_at": text(worker.created), "status": worker.status,
                "promoted_at": worker.promoted.map(text), "last_heartbeat_at": worker.heard.map(text),
                "ended_at": worker.ended.map(text), "reason": worker.reason, "running_tasks": worker.running,
                "tasks_claimed": worker.claimed})
        };
        let user = |user: &OneUser| {
            json!({"user": "u", "queued": user.queued, "in_progress": user.in_progress, "credits": user.credits,
                "cloud_enabled": user.cloud, "dependency_blocked": user.blocked})
        };
        let record = |(at, cycle, kind): &(i64, Option<i64>, u8)| json!({"source_type": source(*kind).0, "source_id": source(*kind).1, "timestamp": text(*at), "cycle": cycle});
        json!({
            "schema_version": 1, "name": "random", "as_of": text(0),
            "policy": {"min_workers": min, "max_workers": max, "idle_buffer": buffer, "user_task_limit": limit,
                "failure_rate_max": self.rate_max, "failure_window_seconds": self.window,
                "failure_rate_min_workers": self.rate_min_workers, "heartbeat_timeout_seconds": self.heartbeat,
                "log_silence_seconds": self.silence},
            "workers": self.workers.iter().enumerate().map(worker).collect::<Vec<_>>(),
            "demand": {"users": self.users.iter().map(user).collect::<Vec<_>>(), "reported_claimable": self.reported},
            "records": self.records.iter().map(record).collect::<Vec<_>>(),
        })
    }

    /// failures, total, blocks, lifts_at.
    fn rate(&self, failed: impl Fn(&OneWorker) -> bool) -> (usize, usize, bool, Option<i64>) {
        let window = self.window * SECOND;
        let at = |now: i64| {
            let inside = |worker: &&OneWorker| worker.created <= 0 && now - window < worker.created;
            let total = self.workers.iter().filter(inside).count();
            let failures = self.workers.iter().filter(inside).filter(|worker| failed(worker)).count();
            let rate = if total == 0 { 0.0 } else { failures as f64 / total as f64 };
            (failures, total, total as i64 >= self.rate_min_workers && rate > self.rate_max)
        };
        let (failures, total, blocks) = at(0);
        let mut leaving: Vec<i64> =
            self.workers.iter().filter(|w| w.created <= 0).map(|w| w.created + window).filter(|t| *t > 0).collect();
        leaving.sort_unstable();
        let lifts_at = leaving.into_iter().find(|now| blocks && !at(*now).2);
        (failures, total, blocks, lifts_at)
    }

    fn claimable(&self) -> i64 {
        self.buckets()[0]
    }

    /// claimable, user_limit, no_credits, cloud_disabled, dependency.
    fn buckets(&self) -> [i64; 5] {
        let mut buckets = [0; 5];
        for user in &self.users {
            if user.credits.is_some_and(|credits| credits <= 0.0) {
                buckets[2] += user.queued;
            } else if user.cloud == Some(false) {
                buckets[3] += user.queued;
            } else {
                let dependency = user.blocked.unwrap_or(0).min(user.queued);
                let claimable = (user.queued - dependency).min(self.numbers[3] - user.in_progress).max(0);
                buckets[0] += claimable;
                buckets[1] += user.queued - dependency - claimable;
                buckets[4] += dependency;
            }
        }
        buckets
    }

    /// desired, active, spawning, spawn.
    fn scaling(&self) -> [i64; 4] {
        let [min, max, buffer, _] = self.numbers;
        let of = |status: &str| self.workers.iter().filter(|worker| worker.status == status).count() as i64;
        let busy = |worker: &&OneWorker| alive(worker) && worker.running.unwrap_or(0) > 0;
        let busy = self.workers.iter().filter(busy).count() as i64;
        let desired = max.min(min.max(busy + self.claimable()).max(busy + buffer));
        let (active, spawning) = (of("active"), of("spawning"));
        let blocked = self.rate(counts).2;
        [desired, active, spawning, if blocked { 0 } else { (desired - active - spawning).max(0) }]
    }

    fn findings(&self) -> Vec<Value> {
        let mut findings = self.resets();
        let computed = self.claimable();
        findings.extend(
            self.reported.filter(|reported| *reported != computed).map(
                |reported| json!({"code": "demand_contradiction", "reported": reported, "computed": computed}),
            ),
        );
        let mut order: Vec<usize> = (0..self.workers.len()).collect();
        order.sort_by_key(|index| (self.workers[*index].created, id(*index)));
        for (place, first) in order.iter().enumerate() {
            for second in &order[place + 1..] {
                let (a, b) = (&self.workers[*first], &self.workers[*second]);
                let unused = |worker: &OneWorker| ended(worker) && worker.claimed == Some(0);
                let gap = b.created - a.created;
                if gap <= 60 * SECOND && (unused(a) || unused(b)) {
                    let workers = [id(*first), id(*second)];
                    findings.push(json!({"code": "double_spawn", "workers": workers, "gap_seconds": gap / SECOND}));
                }
            }
        }
        for (index, worker) in self.workers.iter().enumerate() {
            if let (Some("planned"), Some(0), Some(promoted), Some(ended)) =
                (outcome(worker), worker.claimed, worker.promoted, worker.ended)
            {
                let after = ended - promoted;
                if (0..=120 * SECOND).contains(&after) {
                    findings.push(json!({"code": "early_kill", "worker": id(index),
                        "seconds_after_promotion": after / SECOND}));
                }
            }
        }
        let silent = |(index, worker): (usize, &OneWorker)| {
            (ended(worker) && worker.reason.unwrap_or("").is_empty()).then(|| id(index))
        };
        let silent: Vec<String> = self.workers.iter().enumerate().filter_map(silent).collect();
        if !silent.is_empty() {
            findings.push(json!({"code": "ended_without_reason", "workers": silent}));
        }
        findings.extend(self.log_silence());
        for (index, worker) in self.workers.iter().enumerate() {
            if alive(worker) && worker.heard.is_none() && -worker.created > self.heartbeat * SECOND {
                findings.push(json!({"code": "never_heartbeat", "worker": id(index),
                    "age_seconds": -worker.created / SECOND}));
            }
        }
        findings
    }

    fn resets(&self) -> Vec<Value> {
        let mut resets = Vec::new();
        for kind in 0..3 {
            let mut cycles: Vec<(i64, i64)> =
                self.records.iter().filter(|r| r.2 == kind).filter_map(|r| Some((r.0, r.1?))).collect();
            cycles.sort_by_key(|(at, _)| *at);
            for pair in cycles.windows(2).filter(|pair| pair[1].1 < pair[0].1) {
                resets.push((
                    pair[1].0,
                    json!({"code": "cycle_number_reset", "source_type": source(kind).0,
                    "source_id": source(kind).1, "from": pair[0].1, "to": pair[1].1}),
                ));
            }
        }
        resets.sort_by_key(|(at, _)| *at);
        resets.into_iter().map(|(_, finding)| finding).collect()
    }

    fn log_silence(&self) -> Option<Value> {
        let last =
            self.records.iter().filter(|record| record.2 < 2 && record.0 <= 0).map(|record| record.0).max()?;
        let mut changes: Vec<i64> = Vec::new();
        for worker in &self.workers {
            changes.extend([Some(worker.created), worker.promoted, worker.ended].into_iter().flatten());
        }
        changes.retain(|at| last < *at && *at <= 0);
        let first = changes.iter().min()?;
        (-last > self.silence * SECOND).then(|| {
            json!({"code": "log_silence", "source_type": "orchestrator_gpu", "last_record_at": text(last),
                "silent_seconds": -last / SECOND, "worker_changes_since": changes.len(),
                "detectable_at": text((*first).max(last + self.silence * SECOND))})
        })
    }
}

fn id(index: usize) -> String {
    format!("w{index}")
}

fn ended(worker: &OneWorker) -> bool {
    ["error", "terminated", "crashed"].contains(&worker.status)
}

fn alive(worker: &OneWorker) -> bool {
    ["spawning", "active"].contains(&worker.status)
}

fn outcome(worker: &OneWorker) -> Option<&'static str> {
    let meaning = REASONS.iter().find(|reason| reason.0 == worker.reason.unwrap_or("")).map(|reason| reason.1);
    if ended(worker) { meaning } else { None }
}

fn counts(worker: &OneWorker) -> bool {
    ended(worker) && REASONS.iter().any(|reason| Some(reason.0) == worker.reason && reason.2)
}

fn rate_json(failures_key: &str, rate: (usize, usize, bool, Option<i64>)) -> Value {
    let (failures, total, blocks, lifts_at) = rate;
    let share = if total == 0 { 0.0 } else { failures as f64 / total as f64 };
    json!({failures_key: failures, "total": total, "rate": (share * 10_000.0).round() / 10_000.0, "blocks": blocks,
        "lifts_at": lifts_at.map(text)})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_files_obey_every_rule_of_the_format(file in file()) {
        let read = snapshot::parse(&file.json().to_string()).unwrap();
        let report = serde_json::to_value(super::replay(&read)).unwrap();
        prop_assert_eq!(&report["failure_rate"]["raw"], &rate_json("ended", file.rate(ended)));
        let classified = file.rate(counts);
        prop_assert_eq!(&report["failure_rate"]["classified"], &rate_json("failures", classified));
        let worker = |(index, worker): (usize, &OneWorker)| {
            json!({"id": id(index), "outcome": outcome(worker), "counts_for_breaker": counts(worker)})
        };
        let workers: Vec<Value> = file.workers.iter().enumerate().map(worker).collect();
        prop_assert_eq!(&report["workers"], &json!(workers));
        let [claimable, user_limit, no_credits, cloud_disabled, dependency] = file.buckets();
        prop_assert_eq!(&report["demand"], &json!({
            "queued": file.users.iter().map(|user| user.queued).sum::<i64>(),
            "in_progress": file.users.iter().map(|user| user.in_progress).sum::<i64>(),
            "buckets": {"claimable": claimable, "user_limit": user_limit, "no_credits": no_credits,
                "cloud_disabled": cloud_disabled, "dependency": dependency},
            "adds_up": true,
        }));
        let decision = &report["decision"];
        let [desired, active, spawning, spawn] = file.scaling();
        prop_assert_eq!(
            json!([decision["desired"], decision["capacity"]["active"], decision["capacity"]["spawning"], decision["spawn"]]),
            json!([desired, active, spawning, spawn])
        );
        prop_assert_eq!(&decision["terminate"], &json!([]));
        let gate = |name: &str| decision["gates"].as_array().unwrap().iter().find(|gate| gate["gate"] == name).cloned();
        let breaker = gate("failure_breaker").unwrap();
        prop_assert_eq!(breaker["verdict"] == "block", classified.2);
        prop_assert_eq!(&breaker["lifts_at"], &json!(classified.3.map(text)));
        prop_assert_eq!(&report["findings"], &json!(file.findings()));
    }
}
