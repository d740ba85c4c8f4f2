//! The watch on a real store, in the store's virtual time: cut the pipe, hear the alarm.

use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Executor as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use super::alarms::State;
use super::limits::Rhythm;
use super::*;
use crate::fleet::ids::BootId;
use crate::store::sqlite::{SqliteStore, TimeSource};

mod database;
pub(in crate::watch) mod noticed;
mod quiet;

const RHYTHM: Rhythm = Rhythm {
    silence: Duration::from_secs(40),
    cycle: Duration::from_secs(30),
    beat: Duration::from_secs(10),
    progress: Duration::from_secs(600),
};

struct World {
    dir: tempfile::TempDir,
    micros: Arc<AtomicI64>,
    store: Arc<SqliteStore>,
    logs: SqliteConnection,
    orchestrator: BootId,
}

fn process(kind: &str, number: u128) -> Process {
    Process {
        boot_id: BootId(Uuid::from_u128(number)),
        kind: kind.to_owned(),
        source_type: format!("{kind}_type"),
        source_id: format!("{kind}-{number}"),
        version: "0".to_owned(),
        config_hash: String::new(),
        host: "test".to_owned(),
        pid: 1,
        started_at: clock::from_micros(0),
        seen_at: clock::from_micros(0),
        ended_at: None,
    }
}

fn config(data_dir: &std::path::Path) -> WatchConfig {
    WatchConfig {
        data_dir: data_dir.to_path_buf(),
        spool_dir: data_dir.join("spool"),
        spool_cap_bytes: 1 << 30,
        round: Duration::from_secs(5),
        call_limit: Duration::from_secs(5),
        limits: Limits { disk_free_min_bytes: 0, ..Limits::of(RHYTHM) },
        hysteresis: Hysteresis { hold: Duration::ZERO, clear: Duration::ZERO },
        user_task_limit: 5,
        canary_every: Duration::from_secs(20),
        plant: None,
        channels: Channels::default(),
        process: process("watch", 2),
    }
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let micros = Arc::new(AtomicI64::new(1_760_636_131_000_000));
        let time = TimeSource::Fixed(Arc::clone(&micros));
        let store = Arc::new(SqliteStore::open(dir.path(), time).await.unwrap());
        let orchestrator = process("orchestrator", 1);
        store.process_started(&orchestrator).await.unwrap();
        let options = SqliteConnectOptions::new().filename(dir.path().join("logs.db")).create_if_missing(true);
        let mut logs = options.connect().await.unwrap();
        logs.execute(
            "create table system_logs (
                arrival integer primary key autoincrement, timestamp integer, id text, ingested_at integer,
                source_type text, source_id text, log_level text, message text, task_id text, worker_id text,
                cycle_number integer, trace_id text, span_id text, metadata text)",
        )
        .await
        .unwrap();
        World { dir, micros, store, logs, orchestrator: orchestrator.boot_id }
    }

    fn watch(&self) -> Watch {
        Watch::open(self.store.clone(), config(self.dir.path())).unwrap()
    }

    /// A row of the orchestrator arrives.
    async fn row(&mut self) {
        self.late_row(0).await;
    }

    /// A heartbeat record of the orchestrator arrives that was made so long ago, by its own clock.
    async fn late_row(&mut self, seconds: i64) {
        let now = self.micros.load(Ordering::SeqCst);
        let insert = sqlx::query(
            "insert into system_logs (timestamp, id, ingested_at, source_type, source_id, log_level, message, metadata)
             values (?1, ?2, ?3, 'orchestrator_type', 'orchestrator-1', 'INFO', 'telemetry heartbeat', '{\"pid\": 1}')",
        );
        let (id, made) = (Uuid::new_v4().to_string(), now - seconds * 1_000_000);
        insert.bind(made).bind(id).bind(now).execute(&mut self.logs).await.unwrap();
    }

    /// Seconds go by in which the orchestrator lives; then one round.
    async fn round(&self, watch: &mut Watch, seconds: i64) -> Vec<String> {
        self.micros.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
        self.store.process_seen(self.orchestrator).await.unwrap();
        words(&watch.step().await)
    }
}

fn words(round: &Round) -> Vec<String> {
    let word = |change: &Change| {
        format!("{} {} {}", change.state.word(), change.finding.alarm.word(), change.finding.source.source_id)
    };
    round.changes.iter().map(|change| word(change).trim().to_owned()).collect()
}

#[tokio::test]
async fn silence_rings_is_kept_on_disk_and_ends_with_the_next_row() {
    let mut world = World::new().await;
    let mut watch = world.watch();
    world.row().await;
    assert_eq!(world.round(&mut watch, 0).await, [""; 0]);
    assert_eq!(world.round(&mut watch, 39).await, [""; 0]);
    assert_eq!(world.round(&mut watch, 1).await, ["firing log_silence orchestrator-1"]);
    assert_eq!(world.round(&mut watch, 10).await, [""; 0], "told once");
    let firing = alerts::read(world.dir.path()).unwrap().firing();
    assert_eq!(firing.len(), 1);
    assert_eq!(firing[0].source_id.as_deref(), Some("orchestrator-1"));
    assert_eq!(firing[0].since.as_microsecond(), 1_760_636_131_000_000);

    drop(watch);
    let mut watch = world.watch();
    assert_eq!(world.round(&mut watch, 5).await, [""; 0], "a restart neither repeats nor forgets");
    assert_eq!(world.round(&mut watch, 41).await, [""; 0]);
    world.row().await;
    assert_eq!(world.round(&mut watch, 1).await, ["resolved log_silence orchestrator-1"]);
    let alerts = alerts::read(world.dir.path()).unwrap();
    assert_eq!((alerts.firing().len(), alerts.history.len()), (0, 2));
    assert_eq!(alerts.history[1].state, State::Resolved.word());
}

#[tokio::test]
async fn rows_that_another_process_locks_away_are_silence() {
    let mut world = World::new().await;
    let mut watch = world.watch();
    world.row().await;
    assert_eq!(world.round(&mut watch, 0).await, [""; 0]);
    world.logs.execute("begin exclusive").await.unwrap();
    assert_eq!(world.round(&mut watch, 41).await, ["firing log_silence orchestrator-1"]);
    let firing = alerts::read(world.dir.path()).unwrap().firing();
    assert!(firing[0].summary.contains("cannot be read back"), "{}", firing[0].summary);
    world.logs.execute("commit").await.unwrap();
    world.row().await;
    assert_eq!(world.round(&mut watch, 1).await, ["resolved log_silence orchestrator-1"]);
}

#[tokio::test]
async fn a_dead_orchestrator_is_no_silence_but_rings_by_itself() {
    let mut world = World::new().await;
    let mut watch = world.watch();
    world.row().await;
    assert_eq!(world.round(&mut watch, 0).await, [""; 0]);
    world.micros.fetch_add(39_000_000, Ordering::SeqCst);
    assert_eq!(words(&watch.step().await), [""; 0]);
    world.micros.fetch_add(1_000_000, Ordering::SeqCst);
    assert_eq!(words(&watch.step().await), ["firing orchestrator_dead orchestrator-1"]);
    world.store.process_ended(world.orchestrator).await.unwrap();
    assert_eq!(words(&watch.step().await), ["resolved orchestrator_dead orchestrator-1"]);
}

#[tokio::test]
async fn a_clock_that_is_far_behind_is_found_by_what_arrives() {
    let mut world = World::new().await;
    let mut watch = world.watch();
    world.row().await;
    assert_eq!(world.round(&mut watch, 21).await, [""; 0]);
    for (behind, expected) in
        [(5, ""), (3_600, "firing clock_skew orchestrator-1"), (1, "resolved clock_skew orchestrator-1")]
    {
        world.micros.fetch_add(15_000_000, Ordering::SeqCst);
        // What its clock said before must not hide what it says since.
        world.logs.execute("delete from system_logs").await.unwrap();
        world.late_row(behind).await;
        let expected: Vec<&str> = [expected].into_iter().filter(|word| !word.is_empty()).collect();
        assert_eq!(world.round(&mut watch, 1).await, expected, "{behind} s behind");
    }
}

/// A clock that jumps back makes rows that its own earlier ones outrun for as long as it jumped; it is
/// off all that while, also where nothing is written for some looks.
#[tokio::test]
async fn a_clock_that_jumps_back_is_off_until_it_is_put_right() {
    const JUMP: i64 = 900;
    let mut world = World::new().await;
    let mut watch = world.watch();
    let (mut said, mut second) = (Vec::new(), 0);
    for (behind, beats) in [(0, 4), (JUMP, 60), (0, 4)] {
        for beat in 0..beats {
            // One heartbeat of the many does not come.
            if beat != 12 {
                world.late_row(behind).await;
            }
            for _ in 0..3 {
                let before = second;
                second += 5;
                world.micros.fetch_add(5_000_000, Ordering::SeqCst);
                world.store.process_seen(world.orchestrator).await.unwrap();
                let round = watch.step().await;
                said.extend(words(&round).into_iter().map(|word| format!("{before} {word}")));
                let told = round.seen.sources.iter().find(|source| source.is_orchestrator).unwrap().skew_micros;
                // A new value is told when the next heartbeats are read.
                assert!(beat == 0 || told == Some(-behind * 1_000_000), "{before}: {told:?}");
            }
        }
    }
    assert_eq!(said, ["60 firing clock_skew orchestrator-1", "960 resolved clock_skew orchestrator-1"]);
}

#[tokio::test]
async fn the_pages_say_whether_rounds_run() {
    let check = async |silent_max: Duration, token: Option<&str>, path: &str, expected: &str| {
        let token = token.map(|text| crate::http::Token(text.to_owned()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = crate::supervise::task::Stop::new();
        let render: http::Render = Arc::new(|| "dogwatch_alarm_firing 0".to_owned());
        let served = http::serve(listener, http::router(Pulse::new("watch"), silent_max, render, token), stopped);
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            stop.raise();
            answer
        };
        let (served, answer) = tokio::join!(served, ask);
        served.unwrap();
        assert!(answer.contains(expected), "{path}: {answer}");
    };
    check(Duration::from_secs(60), None, "/livez", "200 OK").await;
    check(Duration::ZERO, None, "/livez", "503 Service Unavailable").await;
    check(Duration::ZERO, None, "/metrics", "dogwatch_alarm_firing 0").await;
    check(Duration::ZERO, Some("good"), "/metrics", "dogwatch_alarm_firing 0").await;
    check(Duration::ZERO, Some("other"), "/metrics", "401 Unauthorized").await;
}
