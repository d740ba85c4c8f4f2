//! `telemetry_silence()` and the watch follow one rule: both are asked about the same database, in
//! which every combination of what logs and fleet can say of a source is a source of its own.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::*;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::tests::{cluster::Database, database, open};
use crate::watch::alarm::Alarm;

/// Seconds before now at which something was; None: it never was.
type Age = Option<i64>;

/// A fleet's database, at an instant.
struct Fleet {
    database: Database,
    store: PostgresStore,
    micros: i64,
    dir: tempfile::TempDir,
}

impl Fleet {
    async fn new() -> Fleet {
        let database = database();
        let micros = clock::now().as_microsecond();
        let store = open(&database, TimeSource::Fixed(Arc::new(AtomicI64::new(micros)))).await;
        Fleet { database, store, micros, dir: tempfile::tempdir().unwrap() }
    }

    /// Runs statements, as many at once as a command line holds.
    fn run(&self, sql: &str) {
        let statements: Vec<&str> = sql.split_inclusive(';').collect();
        for some in statements.chunks(100) {
            self.database.run(&some.concat());
        }
    }

    /// That instant as SQL; null for what never was.
    fn at(&self, age: Age) -> String {
        age.map_or_else(
            || "null::timestamptz".to_owned(),
            |age| format!("(to_timestamp(0) + interval '{} us')", self.micros - age * 1_000_000),
        )
    }

    fn row(&self, sql: &mut String, source: (&str, &str), arrived: Age) {
        if arrived.is_some() {
            let (kind, id, at) = (source.0, source.1, self.at(arrived));
            let values = format!("{at}, {at}, '{kind}', '{id}', 'INFO', 'x'");
            let _ = write!(
                sql,
                "insert into public.system_logs (timestamp, ingested_at, source_type, source_id, log_level, message)
                 values ({values});"
            );
        }
    }

    fn process(&self, sql: &mut String, kind: &str, id: &str, (since, alive, ended): (i64, i64, Age)) {
        let _ = write!(
            sql,
            "insert into dogwatch.processes (boot_id, kind, source_type, source_id, version, config_hash, host, pid,
                 started_at, seen_at, ended_at)
             values (gen_random_uuid(), '{kind}', '{kind}_type', '{id}', '0', '', 'h', 1, {}, {}, {});",
            self.at(Some(since)),
            self.at(Some(alive)),
            self.at(ended)
        );
    }

    fn worker(&self, sql: &mut String, id: &str, state: &str, (since, alive): (i64, i64)) {
        let ended = if state == "gone" { Some(alive) } else { None };
        let outcome = ended.map_or("null", |_| "'planned'");
        let _ = write!(
            sql,
            "insert into dogwatch.workers (id, status, state, state_since, created_at, pool, first_heartbeat_at,
                 last_heartbeat, ended_at, outcome)
             values ('{id}', dogwatch.status_of('{state}'), '{state}', {1}, {0}, 'default', {0}, {1}, {2}, {outcome});",
            self.at(Some(since)),
            self.at(Some(alive)),
            self.at(ended)
        );
    }

    /// Who is silent, by the watch and by the function.
    async fn silent(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let config = config(self.dir.path());
        let found = look(&self.store, &config).await;
        let name = |finding: &rules::Finding| match finding.alarm {
            Alarm::LogSilence => Some(finding.source.source_id.clone()),
            Alarm::AllSilent => Some("*".to_owned()),
            _ => None,
        };
        let limit = config.limits.silence.as_secs();
        let asked = self.database.ask(&format!(
            "select source_id from telemetry_silence(p_limit => '{limit} seconds', p_now => {}) where silent",
            self.at(Some(0))
        ));
        (found.iter().filter_map(name).collect(), asked.lines().map(str::to_owned).collect())
    }
}

#[tokio::test]
async fn the_function_and_the_watch_call_the_same_sources_silent() {
    let fleet = Fleet::new().await;
    let mut sql = String::new();
    for since in [5, 39, 40, 55, 300] {
        for alive in [0, 19, 20, 21, 41, 290] {
            for arrived in [None, Some(1), Some(39), Some(40), Some(41), Some(60), Some(280), Some(400)] {
                let name = |kind: &str| format!("{kind} {since} {alive} {arrived:?}");
                for state in ["idle", "busy", "draining", "starting", "gone"] {
                    let id = name(state);
                    fleet.worker(&mut sql, &id, state, (since.max(alive), alive));
                    fleet.row(&mut sql, ("worker", &id), arrived);
                }
            }
        }
    }
    for (since, alive, ended, arrived) in [
        (300, 2, None, Some(100)),
        (300, 2, None, Some(3)),
        (300, 100, None, Some(110)),
        (300, 100, Some(99), Some(200)),
        (300, 2, None, None),
        (41, 20, None, None),
        (39, 1, None, None),
    ] {
        for kind in ["orchestrator", "watch", "gateway", "client"] {
            let id = format!("{kind} {since} {alive} {ended:?} {arrived:?}");
            fleet.process(&mut sql, kind, &id, (since, alive, ended));
            fleet.row(&mut sql, (&format!("{kind}_type"), &id), arrived);
        }
    }
    fleet.row(&mut sql, ("external", "a shipper that has ended"), Some(3_000));
    fleet.run(&sql);
    let (watch, function) = fleet.silent().await;
    assert_eq!(function, watch);
    let of = |kind: &str| watch.iter().filter(|id| id.starts_with(kind)).count();
    assert!(of("idle") > 20 && of("orchestrator") > 1 && of("gateway") > 1, "{watch:?}");
    assert_eq!((of("gone"), of("starting"), of("client"), of("a shipper"), of("*")), (0, 0, 0, 0, 0));
}

#[tokio::test]
async fn everybody_is_silent_only_while_workers_or_cycles_change() {
    let decision = |at: String| {
        format!(
            "with s as (insert into dogwatch.snapshots (sha256, body) values ('x', 'x') returning id)
             insert into dogwatch.decisions (boot_id, cycle, term, at, snapshot_id, as_of, decision, actions)
             select gen_random_uuid(), 1, 1, {at}, id, '', '{{}}', 0 from s;"
        )
    };
    for (worker_came, cycle, arrived, is_silent) in [
        (None, None, Some(50), false),
        (Some(10), None, Some(50), true),
        (Some(10), None, Some(39), false),
        (Some(31), None, Some(50), false),
        (None, Some(5), Some(50), true),
        (None, Some(31), Some(50), false),
        (Some(5), None, None, true),
    ] {
        let fleet = Fleet::new().await;
        let mut sql = String::new();
        // It lived on for too short a time to be silent by itself.
        fleet.process(&mut sql, "orchestrator", "one", (60, 45, None));
        fleet.row(&mut sql, ("orchestrator_type", "one"), arrived);
        if let Some(age) = worker_came {
            fleet.worker(&mut sql, "new", "created", (age, age));
            sql.push_str("update dogwatch.workers set first_heartbeat_at = null, last_heartbeat = null;");
        }
        // The watch takes each decision again, and these cannot be read: only the function is asked.
        sql.extend(cycle.map(|age| decision(fleet.at(Some(age)))));
        fleet.run(&sql);
        let (watch, function) = fleet.silent().await;
        assert_eq!(function.contains("*"), is_silent, "{worker_came:?} {cycle:?} {arrived:?}: {function:?}");
        if cycle.is_none() {
            assert_eq!(function, watch, "{worker_came:?} {arrived:?}");
        }
    }
}

#[tokio::test]
async fn without_a_fleet_age_alone_is_silence_and_only_who_may_asks() {
    let fleet = Fleet::new().await;
    let mut sql = String::new();
    fleet.row(&mut sql, ("external", "old"), Some(41));
    fleet.row(&mut sql, ("external", "new"), Some(39));
    fleet.run(&sql);
    assert_eq!(fleet.silent().await.1, BTreeSet::from(["old".to_owned()]));
    for (role, may) in [("anon", "f"), ("authenticated", "f"), ("service_role", "t")] {
        let function = "telemetry_silence(interval, interval, timestamptz)";
        let asked =
            fleet.database.ask(&format!("select has_function_privilege('{role}', '{function}', 'execute')"));
        assert_eq!(asked, may, "{role}");
    }
}
