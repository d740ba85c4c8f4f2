//! How long a decision takes: `cargo bench --bench decide`.
//!
//! Fleets of 100, 1,000 and 10,000 workers with 10 thousand, 100 thousand and a million queued tasks,
//! counted by user as the database hands them over. Medians of the thread's CPU time, so that what else
//! the machine does is not in them; budgets beside them.

use std::error::Error;
use std::io::{self, Write as _};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::fleet::decision::decide;
use dogwatch::fleet::snapshot::{Snapshot, parse_time};
use serde_json::{Value, json};

/// Workers, tasks, and the most that a decision may take.
const SIZES: [(u64, u64, Option<Duration>); 3] = [
    (100, 10_000, Some(Duration::from_millis(1))),
    (1_000, 100_000, Some(Duration::from_millis(20))),
    (10_000, 1_000_000, None),
];
const ROUNDS: usize = 31;
/// Tasks of one user.
const TASKS_A_USER: u64 = 100;
const NOW: &str = "2025-10-16T17:35:00Z";

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:>8} {:>10} {:>12} {:>12} {:>14}",
        "workers", "tasks", "median CPU", "budget", "ns per worker"
    )?;
    for (workers, tasks, budget) in SIZES {
        let snapshot: Snapshot = serde_json::from_value(fleet(workers, tasks))?;
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let began = cpu();
            let decision = decide(&snapshot, &snapshot.policy, snapshot.as_of);
            times.push(cpu() - began);
            assert_eq!(decision.live.is_some(), snapshot.live.is_some());
        }
        times.sort_unstable();
        let median = times[ROUNDS / 2];
        let budget = budget.map_or("near-linear".to_owned(), |budget| format!("{budget:?}"));
        let per_worker = median.as_nanos() / u128::from(workers);
        writeln!(out, "{workers:>8} {tasks:>10} {:>12} {budget:>12} {per_worker:>14}", format!("{median:.1?}"))?;
    }
    Ok(())
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = Duration::from_secs(time.tv_sec.unsigned_abs());
    seconds + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

/// A running fleet: half of the workers busy, some idle, some on their way, a tenth ended badly.
fn fleet(workers: u64, tasks: u64) -> Value {
    let rows: Vec<Value> = (0..workers).map(worker).collect();
    let users = tasks / TASKS_A_USER;
    let user = |n: u64| json!({"user": format!("user-{n}"), "queued": TASKS_A_USER, "in_progress": n % 3});
    let input = json!({"quality": "complete", "age_seconds": 0});
    json!({
        "schema_version": 1,
        "name": format!("{workers} workers"),
        "as_of": NOW,
        "policy": {"max_workers": workers, "live": {}},
        "workers": rows,
        "demand": {
            "users": (0..users).map(user).collect::<Vec<_>>(),
            "live": {"buckets": {"claimable": users * 3, "user_limit": tasks - users * 3}},
        },
        "live": {
            "fleet": "bench", "env": "test", "cycle": 1, "term": 1,
            "boot_id": "00000000-0000-0000-0000-000000000001",
            "inputs": {"database": input, "provider": input},
            "writes_since": "2025-10-16T10:00:00Z",
        },
    })
}

fn worker(n: u64) -> Value {
    let at = |seconds_ago: u64| {
        let now = parse_time(NOW).unwrap_or_else(|| clock::from_micros(0));
        clock::minus(now, Duration::from_secs(seconds_ago)).to_string()
    };
    let (status, state, ended) = match n % 10 {
        0 => ("terminated", "gone", true),
        1 | 2 => ("spawning", "starting", false),
        3 | 4 => ("active", "idle", false),
        _ => ("active", "busy", false),
    };
    let has_spoken = state != "starting";
    json!({
        "id": format!("gpu-20251016_173531-{n:08x}"),
        "created_at": at(1_500 + n % 300),
        "status": status,
        "first_heartbeat_at": has_spoken.then(|| at(1_200)),
        "promoted_at": has_spoken.then(|| at(1_200)),
        "last_heartbeat_at": has_spoken.then(|| at(n % 20)),
        "ended_at": ended.then(|| at(600)),
        "running_tasks": u64::from(state == "busy"),
        "live": {
            "state": state,
            "state_since": at(300),
            "outcome": ended.then_some("worker_crash"),
            "pool": "default",
            "pod_id": format!("pod-{n}"),
            "pod": (!ended).then(|| json!({"status": "RUNNING"})),
            "progress_at": at(10),
            "idle_since": (state == "idle").then(|| at(100)),
        },
    })
}
