//! Who noticed: every fault against the rules in virtual time, at every phase of rounds, beats and
//! heartbeat records, and how long it took in the worst of them. The table is docs/who-noticed.md.
//!
//! A fleet of an orchestrator and two workers is drawn as the watch would see it; a fault freezes
//! or bends what it would freeze or bend. Real processes are in tests/it/flows/noticed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::RHYTHM;
use crate::clock::{self, Time};
use crate::store::StrayRows;
use crate::watch::alarm::Alarm;
use crate::watch::alarms::{Alarms, Hysteresis};
use crate::watch::limits::Limits;
use crate::watch::look::skew::Skews;
use crate::watch::observation::{
    Away, CanarySeen, DecisionSeen, DiskSeen, FleetSeen, LiveSource, Observation, RecorderSeen, SourceId, Stage,
    WorkerSeen,
};
use crate::watch::rules;

/// Seconds of quiet life before the fault.
pub(super) const FAULT_AT: i64 = 1_200;
/// Seconds of it that are looked at.
const QUIET_LOOKED_AT: i64 = 120;
/// Seconds beyond its deadline that a fault is looked at.
const LOOKED_ON: i64 = 40;
/// Periods, seconds.
pub(super) const ROUND: i64 = 5;
pub(super) const HEARTBEAT_RECORD: i64 = 15;
const BEAT: i64 = 10;
pub(super) const CYCLE: i64 = 30;
const CANARY: i64 = 20;

/// A fault, as far as it changes what can be seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::watch) enum Fault {
    None,
    LoggerThreadKilled,
    SpoolerStalled,
    ExporterHung,
    ConnectionBlackHoled,
    RightsRevoked,
    TableLocked,
    DiskFull,
    DatabaseAway,
    OrchestratorStopped,
    OrchestratorKilled,
    ProgramHung,
    AllAgentsDead,
    ClockSkewed,
}

impl Fault {
    /// Nothing that the orchestrator's process records arrives.
    fn mutes_orchestrator(self) -> bool {
        self.mutes_all()
            || self.ends_orchestrator()
            || matches!(self, Fault::LoggerThreadKilled | Fault::SpoolerStalled | Fault::ExporterHung)
    }

    /// Nothing arrives from anybody.
    fn mutes_all(self) -> bool {
        matches!(self, Fault::RightsRevoked | Fault::TableLocked | Fault::DiskFull)
    }

    /// Nothing is written of the orchestrator, and its gateway takes no beats.
    fn ends_orchestrator(self) -> bool {
        matches!(
            self,
            Fault::OrchestratorStopped | Fault::OrchestratorKilled | Fault::ConnectionBlackHoled | Fault::DiskFull
        )
    }
}

pub(super) fn at(second: i64) -> Time {
    clock::from_micros((1_000_000 + second) * 1_000_000)
}

/// The newest instant of something periodic that ends with the fault where `ends`.
pub(super) fn newest(now: i64, period: i64, phase: i64, ends: bool) -> Time {
    let last = if ends { now.min(FAULT_AT) } else { now };
    at((last - phase).div_euclid(period) * period + phase)
}

/// What the watch sees at `now`.
pub(in crate::watch) fn seen(fault: Fault, now: i64, phase: i64) -> Observation {
    let on = |fits: bool| fits && now >= FAULT_AT;
    let orchestrator = SourceId::new("orchestrator_gpu", "orchestrator");
    let stopped = fault.ends_orchestrator();
    let source = |id: SourceId, alive_at: Time, mute: bool, is_orchestrator: bool| {
        live(id, alive_at, newest(now, HEARTBEAT_RECORD, phase, mute), is_orchestrator)
    };
    let agents_end = stopped || fault == Fault::AllAgentsDead;
    let beat = newest(now, BEAT, phase % BEAT, agents_end);
    let worker = |name: &str, stage| WorkerSeen {
        id: name.to_owned(),
        created_at: at(0),
        stage,
        stage_since: at(FAULT_AT - 300),
        last_heartbeat: Some(beat),
        progress_at: Some(newest(now, HEARTBEAT_RECORD, phase, fault == Fault::ProgramHung || agents_end)),
    };
    let mut sources =
        vec![source(orchestrator, newest(now, BEAT, phase % BEAT, stopped), fault.mutes_orchestrator(), true)];
    for name in ["w1", "w2"] {
        let mut one = source(SourceId::new("worker", name), beat, fault.mutes_all() || agents_end, false);
        if on(fault == Fault::ClockSkewed) && name == "w1" {
            one.newest_made = one.newest.map(|time| clock::minus(time, std::time::Duration::from_secs(300)));
        }
        sources.push(one);
    }
    let recorders = sources.iter().map(|source| RecorderSeen {
        source: source.id.clone(),
        lost: 0,
        lost_at: None,
        spool_low: false,
        pending: 0,
        blocked: Vec::new(),
        at: source.newest.unwrap_or(at(0)),
    });
    let decision_at = newest(now, CYCLE, phase, stopped);
    let canary = newest(now, CANARY, 0, true);
    Observation {
        now: at(now),
        watching_since: at(0),
        database_away: on(fault == Fault::DatabaseAway)
            .then(|| Away { since: at(FAULT_AT + phase % ROUND), error: "no answer within 5.0 s".to_owned() }),
        rows_unreadable: on(fault == Fault::TableLocked).then(|| "database is locked".to_owned()),
        recorders: recorders.collect(),
        strays: Some(StrayRows::default()),
        changed_at: Some(beat.max(decision_at)),
        sources,
        fleet: FleetSeen {
            workers: vec![worker("w1", Stage::Busy), worker("w2", Stage::Idle)],
            newest_beat: Some(beat),
            decision: Some(DecisionSeen {
                at: decision_at,
                desired: 2,
                desired_since: Some(at(0)),
                blocked: None,
                unknown_pods: Vec::new(),
                reaper_held: None,
            }),
            ..FleetSeen::default()
        },
        disk: DiskSeen {
            spool_bytes: Some(1),
            spool_cap_bytes: 1 << 30,
            free_bytes: Some(if on(fault == Fault::DiskFull) { 0 } else { 1 << 40 }),
            folder: "/data".to_owned(),
        },
        canary: CanarySeen { under_way_since: on(fault.mutes_all()).then_some(canary), changed: None, took: None },
    }
}

fn live(id: SourceId, alive_at: Time, row: Time, is_orchestrator: bool) -> LiveSource {
    let (newest, newest_made) = (Some(row), Some(row));
    LiveSource { id, since: at(0), alive_at, newest, newest_made, skew_micros: None, is_orchestrator }
}

/// Seconds from the fault to the first alarm, with all alarms that came to ring.
fn noticed(fault: Fault, round_phase: i64, phase: i64) -> (Option<i64>, BTreeSet<&'static str>) {
    let (mut alarms, mut skews, limits) = (Alarms::default(), Skews::default(), Limits::of(RHYTHM));
    let seconds = |n: i64| std::time::Duration::from_secs(n.unsigned_abs());
    let hysteresis = Hysteresis { hold: seconds(ROUND), clear: seconds(ROUND * 3) };
    let (mut first, mut words) = (None, BTreeSet::new());
    let deadline = TABLE.iter().find(|row| row.0 == fault).map_or(60, |row| row.2);
    let mut now = FAULT_AT - QUIET_LOOKED_AT + round_phase;
    while now < FAULT_AT + deadline + LOOKED_ON {
        let mut seen = seen(fault, now, phase);
        skews.tell(seen.now, &mut seen.sources, &seen.recorders);
        let changes =
            alarms.step(rules::findings(&seen, &limits), &rules::unjudged(&seen, &limits), at(now), &hysteresis);
        for change in changes {
            assert!(now >= FAULT_AT, "{fault:?}: {change:?} before the fault");
            first.get_or_insert(now - FAULT_AT);
            words.insert(change.finding.alarm.word());
        }
        now += ROUND;
    }
    (first, words)
}

/// The worst over all phases.
fn worst(fault: Fault) -> (Option<i64>, String) {
    let (mut slowest, mut all) = (None, BTreeSet::new());
    for round_phase in 0..ROUND {
        for phase in (0..HEARTBEAT_RECORD).step_by(2) {
            let (first, words) = noticed(fault, round_phase, phase);
            assert!(first.is_some() || fault == Fault::None, "{fault:?} is never noticed");
            slowest = slowest.max(first);
            all.extend(words);
        }
    }
    (slowest, all.into_iter().collect::<Vec<_>>().join(", "))
}

/// Fault, outside deadline in seconds, who notices inside and by when, the rule of Prometheus and
/// by when, the function in the database and by when.
const TABLE: [(Fault, &str, i64, &str, &str, &str); 13] = [
    (Fault::LoggerThreadKilled, "logger thread killed", 60, "restarted, <= 1 s", LOG_90, SQL),
    (Fault::SpoolerStalled, "spooler stalled", 60, "replaced, <= 10 s", LOG_90, SQL),
    (Fault::ExporterHung, "exporter hung", 60, OVERDUE, LOG_90, SQL),
    (Fault::ConnectionBlackHoled, "connection black-holed", 60, OVERDUE, DEAD_90, SQL),
    (Fault::RightsRevoked, "rights revoked", 60, OVERDUE, ALL_90, SQL),
    (Fault::TableLocked, "table locked", 60, OVERDUE, ALL_90, CANNOT),
    (Fault::DiskFull, "disk full", 60, "nearly full, <= 10 s", "DogwatchDiskFull, 15 s", SQL_FULL),
    (Fault::DatabaseAway, "database away", 60, OVERDUE, "DogwatchDatabaseAway, 45 s", "-"),
    (Fault::OrchestratorStopped, "orchestrator SIGSTOPped", 60, "-", DEAD_90, SQL),
    (Fault::OrchestratorKilled, "orchestrator SIGKILLed", 60, "-", DEAD_90, SQL),
    (
        Fault::ProgramHung,
        "agent beats, program hung",
        600 + 60,
        "ended by the cycle, 600 s",
        "DogwatchWorkerHung, 645 s",
        "-",
    ),
    (Fault::AllAgentsDead, "all agents dead", 60, "ended by the cycle, 330 s", "DogwatchWorkersUnheard, 90 s", "-"),
    (Fault::ClockSkewed, "clock skewed", 60, "-", "DogwatchClockSkew, 60 s", "-"),
];
const OVERDUE: &str = "exporter overdue, <= 10 s";
const LOG_90: &str = "DogwatchLogSilence, 90 s";
const ALL_90: &str = "DogwatchAllSilent, 90 s";
const DEAD_90: &str = "DogwatchOrchestratorDead, 90 s";
const SQL: &str = "telemetry_silence(), <= 120 s";
/// Rows go on arriving until a write finds no room.
const SQL_FULL: &str = "telemetry_silence(), <= 120 s from the last row on";
/// A minute of the job, and the lock's three seconds.
const CANNOT: &str = "telemetry_silence() cannot tell, <= 63 s";

fn table() -> String {
    let mut text = String::new();
    let _ = writeln!(text, "| fault | inside | outside: `dogwatch watch` | Prometheus | database |");
    let _ = writeln!(text, "|---|---|---|---|---|");
    for (fault, name, deadline, inside, prometheus, database) in TABLE {
        let (slowest, words) = worst(fault);
        let slowest = slowest.unwrap_or(i64::MAX);
        assert!(slowest <= deadline, "{name}: {slowest} s, due {deadline} s");
        let _ = writeln!(text, "| {name} | {inside} | {slowest} s: {words} | {prometheus} | {database} |");
    }
    let dead = "its parent starts it again, 2 s";
    let _ = writeln!(
        text,
        "| watch itself dead | {dead} | dead-man's switch: period and grace set there | DogwatchWatchDead, 90 s | - |"
    );
    text
}

#[test]
fn every_fault_is_noticed_within_its_deadline_and_the_page_says_so() {
    let table = table();
    println!("{table}");
    let page = include_str!("../../../docs/who-noticed.md");
    assert!(page.contains(&table), "docs/who-noticed.md is not what was measured:\n{table}");
}

#[test]
fn quiet_life_rings_nothing() {
    assert_eq!(worst(Fault::None), (None, String::new()));
}

#[test]
fn a_fault_is_named_for_what_it_is() {
    let words = |fault| noticed(fault, 0, 0).1;
    let check = |fault, alarm: Alarm| assert!(words(fault).contains(alarm.word()), "{fault:?}: {:?}", words(fault));
    check(Fault::LoggerThreadKilled, Alarm::LogSilence);
    check(Fault::TableLocked, Alarm::AllSilent);
    check(Fault::RightsRevoked, Alarm::Canary);
    check(Fault::ConnectionBlackHoled, Alarm::OrchestratorDead);
    check(Fault::DiskFull, Alarm::DiskFull);
    check(Fault::OrchestratorKilled, Alarm::OrchestratorDead);
    check(Fault::AllAgentsDead, Alarm::WorkersUnheard);
    check(Fault::ProgramHung, Alarm::WorkerHung);
    check(Fault::ClockSkewed, Alarm::ClockSkew);
    assert_eq!(words(Fault::DatabaseAway), BTreeSet::from(["database_away"]), "it says just that");
}

/// What the table says of Prometheus is what promtool shows: there is a case in which the rule rings so
/// long after the fact of minute 5 began, or after its start.
#[test]
fn what_is_said_of_prometheus_is_tested_by_promtool() {
    let cases = concat!(
        include_str!("../../../alerts/tests/facts_test.yml"),
        include_str!("../../../alerts/tests/dogwatch_test.yml")
    );
    let said = TABLE.iter().map(|row| row.4).chain(["DogwatchWatchDead, 90 s"]);
    for text in said {
        let (rule, seconds) = text.split_once(", ").unwrap();
        let seconds: i64 = seconds.trim_end_matches(" s").parse().unwrap();
        let time = |seconds: i64| match (seconds / 60, seconds % 60) {
            (minutes, 0) => format!("{minutes}m"),
            (minutes, rest) => format!("{minutes}m{rest}s"),
        };
        let found = [seconds, seconds + 300].iter().any(|seconds| {
            cases.contains(&format!("      - eval_time: {}\n        alertname: {rule}\n", time(*seconds)))
        });
        assert!(found, "{text}: not in alerts/tests");
    }
}
