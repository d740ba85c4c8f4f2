//! A fleet written by hand in a few words, for tests.
//!
//! One line each: `policy: min 0, max 4, buffer 1, rate 2`; `queue: 3` (claimable tasks) or
//! `queue: unseen`; `db: failed`, `provider: partial`; `writes: 60s` (how long without a gap);
//! `term: none`; `pause: 60s` (left) or `pause: open`; `unknown: w1=pod-9`; and a worker:
//! `w1 busy 60s created 90s beat 5s progress 3s tasks 1 pod signal9 leaving operator outcome boot`.
//! The age after the state is the age of the state. A worker in its pod beats unless said otherwise.

use crate::clock::{self, Time};
use crate::fleet::cell::{Cell, Offer};
use crate::fleet::decision::GateName;
use crate::fleet::ids::{BootId, PodId, TaskId, Term, WorkerId};
use crate::fleet::order::{Command, Order, OrderId};
use crate::fleet::outcome::Outcome;
use crate::fleet::policy::{Policy, PolicyLive};
use crate::fleet::refusal::Refusal;
use crate::fleet::snapshot::{
    Balance, Demand, DemandLive, Input, Inputs, Leaving, Live, Pause, PodSeen, PodStatus, Quality, Snapshot,
    Suspect, UnknownPod, User, Worker, WorkerLive,
};
use crate::fleet::state::WorkerState;
use crate::fleet::task::Bucket;
use uuid::Uuid;

/// 2025-10-16T12:00:00Z.
fn noon() -> Time {
    clock::from_micros(1_760_616_000_000_000)
}

fn seconds(text: &str) -> i64 {
    text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{text} is no number of seconds"))
}

fn ago(text: &str) -> Time {
    clock::from_micros(noon().as_microsecond() - seconds(text) * 1_000_000)
}

pub(super) fn parse(text: &str) -> Snapshot {
    let input = || Input { quality: Quality::Complete, age_seconds: 0, detail: None };
    let mut live = Live {
        fleet: "render".into(),
        env: "test".into(),
        boot_id: BootId(Uuid::from_u128(7)),
        cycle: 1,
        term: Some(Term(1)),
        inputs: Inputs { database: input(), provider: input() },
        writes_since: ago("100000s"),
        pause: None,
        unknown_pods: Vec::new(),
        orders: Vec::new(),
        ended_today_usd: None,
        balance: None,
        desired_lately: None,
    };
    let mut policy = Policy { live: Some(PolicyLive::default()), ..Policy::default() };
    let mut workers = Vec::new();
    let mut demand = Some(queue(0));
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(": ") {
            Some(("policy", words)) => words.split(", ").for_each(|word| set(&mut policy, word)),
            Some(("queue", "unseen")) => demand = None,
            Some(("queue", count)) => demand = Some(queue(count.parse().unwrap())),
            Some(("db", word)) => live.inputs.database = bad_input(word),
            Some(("provider", word)) => live.inputs.provider = bad_input(word),
            Some(("writes", age)) => live.writes_since = ago(age),
            Some(("term", _)) => live.term = None,
            Some(("pause", left)) => live.pause = Some(pause(left)),
            Some(("order", words)) => live.orders.push(order(words, live.orders.len())),
            Some(("cells", words)) => {
                policy.live.get_or_insert_default().cells = words.split(", ").map(offer).collect()
            }
            Some(("balance", usd)) => {
                live.balance = Some(Balance { usd: usd.parse().ok(), input: input() });
            }
            Some(("spent", usd)) => live.ended_today_usd = Some(usd.parse().unwrap()),
            Some(("lately", count)) => live.desired_lately = Some(count.parse().unwrap()),
            Some(("unknown", pods)) => live.unknown_pods.extend(pods.split(", ").map(unknown)),
            Some((word, _)) => panic!("what is {word}?"),
            None => workers.push(worker(line)),
        }
    }
    Snapshot {
        schema_version: 1,
        name: "test".into(),
        as_of: noon(),
        policy,
        workers,
        demand,
        records: Vec::new(),
        live: Some(live),
    }
}

fn queue(claimable: u64) -> Demand {
    let user = User {
        user: "u".into(),
        queued: claimable,
        in_progress: 0,
        credits: None,
        cloud_enabled: None,
        dependency_blocked: 0,
    };
    let counted = DemandLive { buckets: [(Bucket::Claimable, claimable)].into(), ..DemandLive::default() };
    Demand { users: vec![user], live: Some(counted), ..Demand::default() }
}

fn bad_input(word: &str) -> Input {
    let quality = serde_json::from_value(word.into()).unwrap();
    Input { quality, age_seconds: 0, detail: Some("timed out".into()) }
}

fn pause(left: &str) -> Pause {
    let until = (left != "open").then(|| clock::from_micros(noon().as_microsecond() + seconds(left) * 1_000_000));
    Pause { actor: "ada".into(), reason: "maintenance".into(), since: ago("600s"), until }
}

fn unknown(text: &str) -> UnknownPod {
    let (worker, pod) = text.split_once('=').unwrap();
    let (pod, age) = pod.split_once('@').map_or((pod, None), |(pod, age)| (pod, Some(ago(age))));
    UnknownPod {
        pod_id: PodId(pod.into()),
        worker: WorkerId(worker.into()),
        created_at: age,
        first_seen_at: None,
        lists: 2 * u32::from(age.is_some()),
    }
}

fn set(policy: &mut Policy, word: &str) {
    let (key, value) = word.split_once(' ').unwrap();
    let value: u32 = value.parse().unwrap();
    let live = policy.live.get_or_insert_default();
    match key {
        "min" => policy.min_workers = value,
        "max" => policy.max_workers = value,
        "buffer" => policy.idle_buffer = value,
        "rate" => live.spawns_per_cycle_max = value,
        "hourly" => live.spawns_per_hour_max = value,
        "hour$" => live.budget_usd_per_hour = Some(f64::from(value)),
        "day$" => live.budget_usd_per_day = Some(f64::from(value)),
        _ => panic!("what is {key}?"),
    }
}

fn worker(line: &str) -> Worker {
    let words: Vec<&str> = line.split_whitespace().collect();
    let state = WorkerState::from_word(words[1]).unwrap_or_else(|| panic!("what state is {}?", words[1]));
    let since = ago(words[2]);
    let heard = state >= WorkerState::Alive;
    let beat = (heard && !state.is_ended()).then(noon);
    let first = heard.then_some(since);
    let mut worker = Worker {
        id: WorkerId(words[0].into()),
        created_at: since,
        status: state.status(),
        promoted_at: first,
        first_heartbeat_at: first,
        last_heartbeat_at: beat,
        ended_at: state.is_ended().then_some(since),
        reason: None,
        running_tasks: u32::from(state == WorkerState::Busy),
        tasks_claimed: None,
        live: None,
    };
    let mut live = WorkerLive {
        state,
        state_since: since,
        outcome: None,
        leaving: None,
        pool: "default".into(),
        pod_id: Some(PodId(format!("pod-{}", words[0]))),
        pod: (!state.is_ended()).then(|| pod("running").unwrap()),
        progress_at: None,
        idle_since: None,
        tasks: Vec::new(),
        cell: None,
        usd_per_hour: None,
        refusal: None,
        suspects: Vec::new(),
        unlisted: None,
    };
    for pair in words[3..].chunks(2) {
        let value = pair[1];
        match pair[0] {
            "created" => worker.created_at = ago(value),
            "promoted" => (worker.promoted_at, worker.first_heartbeat_at) = (Some(ago(value)), Some(ago(value))),
            "beat" if value == "none" => {
                (worker.promoted_at, worker.first_heartbeat_at, worker.last_heartbeat_at) = (None, None, None);
            }
            "beat" => worker.last_heartbeat_at = Some(ago(value)),
            "progress" => live.progress_at = Some(ago(value)),
            "tasks" => worker.running_tasks = value.parse().unwrap(),
            "task" => live.tasks = vec![TaskId(Uuid::from_u128(1))],
            "leaving" => live.leaving = Some(leaving(value, since)),
            "outcome" => live.outcome = Outcome::from_word(value),
            "pod" if value == "none" => (live.pod_id, live.pod) = (None, None),
            "pod" => live.pod = pod(value),
            "cell" => live.cell = Some(cell(value)),
            "usd" => live.usd_per_hour = Some(value.parse().unwrap()),
            "pool" => live.pool = value.into(),
            "refusal" => live.refusal = Refusal::from_word(value),
            "lists" => live.unlisted = Some(value.parse().unwrap()),
            "died" => live.suspects = vec![suspect(value, since)],
            word => panic!("what is {word}?"),
        }
    }
    worker.live = Some(live);
    worker
}

/// `RTX4090/EU-NO-1/image`; the image may be absent.
pub(super) fn cell(text: &str) -> Cell {
    let mut parts = text.split('/').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    Cell { gpu: part(), region: part(), image: part() }
}

/// `RTX4090/EU-NO-1@0.6`.
fn offer(text: &str) -> Offer {
    let (name, price) = text.split_once('@').unwrap_or((text, ""));
    Offer { cell: Some(cell(name)), usd_per_hour: price.parse().ok() }
}

/// `3,70`: earlier workers died 3 s and 70 s after their claims; this one claimed when its state began.
fn suspect(deaths: &str, claimed_at: Time) -> Suspect {
    let deaths_after_seconds = deaths.split(',').map(|seconds| seconds.parse().unwrap()).collect();
    Suspect { task: TaskId(Uuid::from_u128(1)), claimed_at, deaths_after_seconds }
}

/// `override failure_breaker 600s`, `override failure_breaker RTX4090/EU-NO-1 600s`, `pause 60s`,
/// `spawn 2 beside 1 600s`, `drain w1 60s`; the last word is the time that is left.
fn order(words: &str, index: usize) -> Order {
    let words: Vec<&str> = words.split(' ').collect();
    let until = clock::from_micros(noon().as_microsecond() + seconds(words[words.len() - 1]) * 1_000_000);
    let command = match words[..words.len() - 1] {
        ["override", gate] => Command::Override { gate: GateName::from_word(gate).unwrap(), cell: None },
        ["override", gate, cell] => {
            Command::Override { gate: GateName::from_word(gate).unwrap(), cell: Some(cell.into()) }
        }
        ["pause"] => Command::PausePool { pool: "default".into() },
        ["spawn", count, "beside", beside] => {
            Command::Spawn { pool: None, count: count.parse().unwrap(), beside: beside.parse().unwrap() }
        }
        ["drain", worker] => Command::Drain { worker: WorkerId(worker.into()) },
        ["terminate", worker] => Command::Terminate { worker: WorkerId(worker.into()) },
        ref words => panic!("what order is {words:?}?"),
    };
    let id = OrderId(i64::try_from(index).unwrap() + 1);
    Order { id, command, actor: "ada".into(), reason: "a test".into(), since: ago("60s"), until: Some(until) }
}

fn leaving(outcome: &str, since: Time) -> Leaving {
    let outcome = Outcome::from_word(outcome).unwrap();
    Leaving { outcome, reason: format!("decided: {}", outcome.word()), since }
}

fn pod(word: &str) -> Option<PodSeen> {
    let seen = |status, exit_code, signal| Some(PodSeen { status, exit_code, signal });
    match word {
        "unlisted" => None,
        "provisioning" => seen(PodStatus::Provisioning, None, None),
        "running" => seen(PodStatus::Running, None, None),
        "terminated" => seen(PodStatus::Terminated, None, None),
        "error" => seen(PodStatus::Error, None, None),
        "signal9" => seen(PodStatus::Exited, None, Some(9)),
        _ => seen(PodStatus::Exited, Some(word.trim_start_matches("exited").parse().unwrap()), None),
    }
}
