//! Rules in virtual time: what must ring, when, and what must not.

mod fleet;
mod recorders;
mod silence;

use super::*;
use crate::store::StrayRows;
use crate::watch::limits::Rhythm;
use crate::watch::observation::{
    Away, CanarySeen, DecisionSeen, DiskSeen, FleetSeen, LiveSource, Stage, WorkerSeen,
};

const RHYTHM: Rhythm = Rhythm {
    silence: Duration::from_secs(40),
    cycle: Duration::from_secs(30),
    beat: Duration::from_secs(10),
    progress: Duration::from_secs(600),
};

fn limits() -> Limits {
    Limits::of(RHYTHM)
}

fn at(second: i64) -> Time {
    clock::from_micros((1_000_000 + second) * 1_000_000)
}

fn source(name: &str, since: i64, alive_at: i64, newest: Option<i64>) -> LiveSource {
    LiveSource {
        id: SourceId::new("worker", name),
        since: at(since),
        alive_at: at(alive_at),
        newest: newest.map(at),
        newest_made: newest.map(at),
        skew_micros: None,
        is_orchestrator: false,
    }
}

fn seen(now: i64, sources: Vec<LiveSource>) -> Observation {
    let changed_at = sources.iter().map(|source| source.alive_at).max();
    Observation {
        now: at(now),
        watching_since: at(-10_000),
        database_away: None,
        rows_unreadable: None,
        sources,
        changed_at,
        fleet: FleetSeen::default(),
        recorders: Vec::new(),
        strays: Some(StrayRows::default()),
        disk: DiskSeen {
            spool_bytes: Some(0),
            spool_cap_bytes: 100,
            free_bytes: Some(1 << 40),
            folder: "/data".to_owned(),
        },
        canary: CanarySeen::default(),
    }
}

/// Findings as `alarm source`, in order.
fn check(seen: &Observation, expected: &[&str]) {
    let found: Vec<_> = findings(seen, &limits())
        .iter()
        .map(|finding| format!("{} {}", finding.alarm.word(), finding.source.source_id).trim().to_owned())
        .collect();
    assert_eq!(found, expected, "{seen:?}");
}

/// The summary of the only finding.
fn summary(seen: &Observation) -> String {
    let found = findings(seen, &limits());
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].summary.clone()
}

#[test]
fn what_cannot_be_judged_is_not_called_well() {
    let words =
        |seen: &Observation| unjudged(seen, &limits()).iter().map(|a| a.word()).collect::<Vec<_>>().join(" ");
    let mut start = seen(0, vec![]);
    assert_eq!(words(&start), "");
    start.watching_since = at(-50);
    assert_eq!(words(&start), "no_worker_alive");
    start.watching_since = at(-45);
    assert_eq!(words(&start), "no_worker_alive canary");
    start.watching_since = at(-30);
    assert_eq!(words(&start), "log_silence all_silent orchestrator_dead no_worker_alive workers_unheard canary");
    start.watching_since = at(-10_000);
    start.rows_unreadable = Some("locked".to_owned());
    assert_eq!(words(&start), "records_lost spool_full exporter_blocked clock_skew");
    (start.rows_unreadable, start.strays) = (None, None);
    assert_eq!(words(&start), "default_partition");
    start.database_away = Some(Away { since: at(0), error: "no route".to_owned() });
    assert_eq!(unjudged(&start, &limits()).len(), Alarm::ALL.len() - 2, "all but the database and the disk");
}

#[test]
fn the_defaults_notice_death_and_silence_within_a_minute() {
    for silence in [6, 40] {
        let limits = Limits::of(Rhythm { silence: Duration::from_secs(silence), ..RHYTHM });
        let round = Duration::from_secs(5);
        for limit in [limits.silence, limits.database_away, limits.orchestrator_dead, limits.workers_unheard] {
            assert!(limit + round * 3 <= crate::watch::limits::NOTICED_WITHIN, "{limit:?}");
        }
    }
}
