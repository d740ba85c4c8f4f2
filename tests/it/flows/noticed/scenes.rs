//! The faults.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dogwatch::clock;
use rustix::process::{Signal, kill_process};

use super::fleet::{Fleet, Manner, ROLE};
use super::measure::{Look, Pace, Row, measure};
use crate::delivery::proxy::Hole;
use crate::filesystems::mount;
use crate::flows::rig::Rig;
use crate::postgres_rig::PASSWORD;
use crate::receiver_rig::{Receiver, Reply};

/// Inside, a fault is noticed within so many seconds, at any pace.
const INSIDE: u64 = 10;
/// What the recorder's watchdog says of an exporter that takes nothing.
const OVERDUE: &[&str] = &["has taken nothing for"];
/// Nothing is pinged for so long: period and grace of the dead-man's switch.
const DEADMAN: Duration = Duration::from_secs(3);
/// Time by which the clock jumps back.
const SKEW: &str = "-300";
/// Where Debian has a library that gives a process another clock.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";

/// Wires to the database that stay open and carry nothing: the exporter's, the orchestrator's,
/// everybody's.
pub(super) fn wires() -> Vec<Row> {
    let (fleet, pace) = (Fleet::start(Rig::new(), &Manner::default()), Pace::get());
    let start = clock::monotonic();
    fleet.line.set_hole(Hole::Exports);
    let hung = measure(
        "exporter hung",
        start,
        [
            Some(fleet.says(INSIDE, OVERDUE)),
            Some(fleet.rings(pace.silence, "log_silence", &[])),
            Some(fleet.fires(pace.slow_silence, "DogwatchLogSilence")),
            Some(fleet.is_silent()),
        ],
    );
    fleet.line.set_hole(Hole::None);
    fleet.is_well();
    let start = clock::monotonic();
    fleet.line.set_hole(Hole::All);
    let consequences = ["log_silence", "orchestrator_dead", "workers_unheard"];
    let black = measure(
        "connection black-holed",
        start,
        [
            Some(fleet.says(INSIDE, OVERDUE)),
            Some(fleet.rings(pace.silence, "orchestrator_dead", &consequences)),
            Some(fleet.fires(pace.slow_silence, "DogwatchOrchestratorDead")),
            Some(fleet.is_silent()),
        ],
    );
    let start = clock::monotonic();
    fleet.watch_line.set_hole(Hole::All);
    let away = measure(
        "database away",
        start,
        [
            None,
            Some(fleet.rings(pace.silence / 2, "database_away", &consequences)),
            Some(fleet.fires(pace.silence / 2, "DogwatchDatabaseAway")),
            None,
        ],
    );
    vec![hung, black, away]
}

/// A table that somebody holds, and rights that are gone.
pub(super) fn rights() -> Vec<Row> {
    let (fleet, pace) = (Fleet::start(Rig::new(), &Manner::default()), Pace::get());
    let holder = hold_table(&fleet);
    let start = clock::monotonic();
    let locked = measure(
        "table locked",
        start,
        [
            Some(fleet.says(INSIDE, OVERDUE)),
            Some(fleet.rings(pace.silence, "all_silent", &["log_silence", "canary"])),
            Some(fleet.fires(pace.slow_silence, "DogwatchAllSilent")),
            Some(Look::new(INSIDE, || {
                let asked = fleet.database.try_ask("select count(*) from telemetry_silence()");
                asked
                    .is_err_and(|text| text.contains("lock timeout"))
                    .then(|| "telemetry_silence() cannot tell".to_owned())
            })),
        ],
    );
    fleet.database.run(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query = '{HOLD}'"
    ));
    holder.wait();
    fleet.is_well();
    let start = clock::monotonic();
    fleet.database.run(&format!("revoke insert on system_logs from {ROLE}"));
    let revoked = measure(
        "rights revoked",
        start,
        [
            Some(fleet.shows(INSIDE, "dogwatch_exporter_blocked{exporter=\"postgres\"}", 1.0)),
            Some(fleet.rings(pace.silence, "all_silent", &["log_silence", "canary", "exporter_blocked"])),
            Some(fleet.fires(pace.slow_silence, "DogwatchAllSilent")),
            Some(fleet.is_silent()),
        ],
    );
    vec![locked, revoked]
}

const HOLD: &str = "begin; lock table public.system_logs in access exclusive mode; select pg_sleep(900)";

/// Holds the log table, as a migration does that hangs.
fn hold_table(fleet: &Fleet) -> crate::flows::rig::Running {
    let mut psql = Command::new(crate::postgres_rig::program("psql"));
    psql.args(["-X", "-q", "-c", HOLD]).arg(fleet.database.url().replace(&format!(":{PASSWORD}"), ""));
    psql.env("PGPASSWORD", PASSWORD);
    let holder = fleet.rig.start(psql);
    let holds = "select count(*) from pg_locks where relation = 'public.system_logs'::regclass
                 and mode = 'AccessExclusiveLock' and granted";
    fleet.wait("the lock", || fleet.database.ask(holds) == "1");
    holder
}

/// The disk of the data folder runs full; the database has another one.
pub(super) fn disk() -> Vec<Row> {
    let fault = "disk full";
    let rig = Rig::new();
    let disk = match Small::mount(&rig.data()) {
        Ok(disk) => disk,
        Err(why) => return vec![Row::not_shown(fault, &why)],
    };
    let settings = [("DOGWATCH_RING_BYTES", "1048576"), ("DOGWATCH_DISK_FREE_BYTES", "4194304")];
    let fleet = Fleet::start(rig, &Manner { orchestrator: &settings, watch: &settings });
    // Goes first, however this ends: a folder with a file system in it cannot be removed.
    let disk = disk;
    let start = clock::monotonic();
    let consequences = ["log_silence", "all_silent", "canary"];
    let row = measure(
        fault,
        start,
        [
            Some(fleet.says(INSIDE, &["is nearly full", "records wait in memory"]).after(|| disk.fill())),
            Some(fleet.rings(0, "disk_full", &consequences)),
            Some(fleet.fires(0, "DogwatchDiskFull")),
            Some(fleet.is_silent().after(|| disk.fill())),
        ],
    );
    vec![row]
}

/// A file system of some megabytes in memory.
struct Small(PathBuf);

impl Small {
    fn mount(on: &Path) -> Result<Small, String> {
        mount(&["-t", "tmpfs", "-o", "size=96m,mode=700", "tmpfs"], on)?;
        Ok(Small(on.to_path_buf()))
    }

    /// Takes what is free, also what was freed since: what has been delivered leaves the disk.
    fn fill(&self) {
        let mut ballast = fs::File::options().create(true).append(true).open(self.0.join("ballast")).unwrap();
        for size in [1 << 20, 4 << 10, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The orchestrator is stopped and killed, and then there is no watch any more.
pub(super) fn stops() -> Vec<Row> {
    let switch = Receiver::start(|_| Reply::status(200));
    let url = format!("{}/ping", switch.base);
    let watch = [("DOGWATCH_DEADMAN_URL", url.as_str()), ("DOGWATCH_DEADMAN_SECONDS", "1")];
    let fleet = Fleet::start(Rig::new(), &Manner { orchestrator: &[], watch: &watch });
    let pace = Pace::get();
    let ended = |fault, signal| {
        let start = clock::monotonic();
        fleet.orchestrator.signal(signal);
        let consequences = ["log_silence", "workers_unheard"];
        measure(
            fault,
            start,
            [
                None,
                Some(fleet.rings(pace.silence, "orchestrator_dead", &consequences)),
                Some(fleet.fires(pace.slow_silence, "DogwatchOrchestratorDead")),
                Some(fleet.is_silent()),
            ],
        )
    };
    let stopped = ended("orchestrator SIGSTOPped", Signal::STOP);
    fleet.orchestrator.signal(Signal::CONT);
    fleet.is_well();
    let killed = ended("orchestrator SIGKILLed", Signal::KILL);
    let start = clock::monotonic();
    fleet.watch.signal(Signal::KILL);
    let (mut pings, mut newest) = (0, start);
    let unheard = Look::new(DEADMAN.as_secs() + 1, || {
        let now = clock::monotonic();
        let count = switch.seen().len();
        if count != pings {
            (pings, newest) = (count, now);
        }
        (now.saturating_sub(newest) >= DEADMAN).then(|| "dead-man's switch".to_owned())
    });
    let watch = measure(
        "watch itself dead",
        start,
        [None, Some(unheard), Some(fleet.fires(pace.slow_silence, "DogwatchWatchDead")), None],
    );
    vec![stopped, killed, watch]
}

/// Agents that do nothing any more.
pub(super) fn agents() -> Vec<Row> {
    let (fleet, pace) = (Fleet::start(Rig::new(), &Manner::default()), Pace::get());
    let start = clock::monotonic();
    for agent in fleet.agents() {
        let _ = kill_process(agent, Signal::STOP);
    }
    let silent = measure(
        "all agents silent",
        start,
        [
            Some(fleet.ends("stalled")),
            Some(fleet.rings(pace.silence, "workers_unheard", &["log_silence"])),
            Some(fleet.fires(pace.slow_silence, "DogwatchWorkersUnheard")),
            // Who does not beat is the watch's to tell: by its rule of silence a dead source is not silent.
            None,
        ],
    );
    vec![silent]
}

/// The clock of the orchestrator's machine jumps back; and an agent beats beside a program that does
/// nothing.
pub(super) fn skew() -> Vec<Row> {
    let (rig, fault) = (Rig::new(), "clock skewed");
    let (offset, library) = (rig.file("offset", "+0"), faketime());
    let preloaded = library.as_deref().map(|library| {
        [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", offset.as_str()),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    });
    let settings = preloaded.as_ref().map_or(&[][..], |settings| &settings[..]);
    let fleet = Fleet::start(rig, &Manner { orchestrator: settings, watch: &[] });
    if library.is_none() {
        return vec![Row::not_shown(fault, "install libfaketime"), hung_program(&fleet)];
    }
    let start = clock::monotonic();
    fs::write(&offset, SKEW).unwrap();
    let skewed = measure(
        fault,
        start,
        [None, Some(fleet.rings(15, "clock_skew", &[])), Some(fleet.fires(60, "DogwatchClockSkew")), None],
    );
    fs::write(&offset, "+0").unwrap();
    fleet.is_well();
    vec![skewed, hung_program(&fleet)]
}

fn hung_program(fleet: &Fleet) -> Row {
    let limit = Pace::get().hung;
    fleet.database.run("insert into dogwatch.tasks (task_type, user_id) values ('render', 'user')");
    fleet.wait("a busy worker", || fleet.database.count("dogwatch.workers where state = 'busy'") == 1);
    let start = clock::monotonic();
    measure(
        "agent beats, program hung",
        start,
        [
            Some(fleet.ends("stalled")),
            Some(fleet.rings(limit, "worker_hung", &[])),
            Some(fleet.fires(limit, "DogwatchWorkerHung")),
            None,
        ],
    )
}

fn faketime() -> Option<String> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|folder| folder.path().join(FAKETIME));
    folders.filter(|path| path.exists()).map(|path| path.display().to_string()).next()
}
