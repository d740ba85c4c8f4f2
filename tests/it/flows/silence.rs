//! Who notices, with real processes: each fault of docs/who-noticed.md that can be had on one machine,
//! by the watch's own alarm log. Limits are scaled down, and there is three times the time; with
//! DOGWATCH_TEST_LONG=1 they are those of a real fleet.

use std::process::Stdio;
use std::time::Duration;

use dogwatch::clock;
use rustix::process::{Pid, Signal};

use super::rig::{FAST_SETTINGS, Rig, Running, eventually, is_long, pause};

/// How much longer than promised a fault may stay unnoticed on a busy machine.
const SLACK: u32 = 3;

/// The limit of silence, and the settings of a faster fleet.
pub(super) fn pace() -> (Duration, Vec<(&'static str, &'static str)>) {
    if is_long() {
        return (Duration::from_secs(60), vec![]);
    }
    (Duration::from_secs(10), FAST_SETTINGS.to_vec())
}

/// The exit code of one round by hand.
fn once(rig: &Rig) -> Option<i32> {
    let mut command = rig.command(&["watch", "--once"]);
    command.envs(pace().1);
    rig.start(command).wait().code
}

/// `up` that is well: everybody's rows arrive and nothing is wrong.
fn well(rig: &Rig) -> Running {
    let up = rig.up_with(&["--max-workers", "2"], &pace().1);
    eventually("all to be well", || {
        let sources = rig.json("logs", &["logs", "--source-type", "watch"]);
        let arrives = sources.as_array().is_some_and(|rows| !rows.is_empty());
        // A canary has come back through the real path, and was what had been written.
        let page = super::rig::get(rig.watch, "/metrics").map(|(_, page)| page).unwrap_or_default();
        let whole = page.contains("dogwatch_canary_took_seconds ") && page.contains("dogwatch_canary_changed 0\n");
        (arrives && whole && once(rig) == Some(0)).then_some(())
    });
    up
}

/// Waits for the alarm, and says how long after `since` it was noticed. Only alarms of `allowed` may ring.
#[expect(clippy::print_stdout, reason = "what a run showed is for its reader")]
fn noticed(rig: &Rig, what: &str, alarm: &str, since: Duration, allowed: &[&str]) {
    let (promised, _) = pace();
    let found = loop {
        let firing = rig.json("alerts", &["alerts"]);
        for row in firing.as_array().unwrap() {
            let word = row["alarm"].as_str().unwrap();
            assert!(word == alarm || allowed.contains(&word), "{what}: {row}");
        }
        if let Some(row) = firing.as_array().unwrap().iter().find(|row| row["alarm"] == alarm) {
            break row.clone();
        }
        let late = clock::monotonic().saturating_sub(since);
        assert!(late <= promised * SLACK, "{what} was not noticed within {promised:?} x {SLACK}: {alarm}");
        pause(Duration::from_millis(50));
    };
    let took = clock::monotonic().saturating_sub(since).as_secs_f64();
    println!("{what}: noticed after {took:.1} s (promised {promised:?}): {}", found["summary"].as_str().unwrap());
}

/// Waits until nothing rings.
fn over(rig: &Rig, what: &str) {
    eventually(&format!("{what} to be over"), || {
        rig.json("alerts", &["alerts"]).as_array().unwrap().is_empty().then_some(())
    });
}

/// Holds an exclusive lock on logs.db until it is dropped.
struct Lock(Option<Running>);

impl Lock {
    fn take(rig: &Rig) -> Lock {
        let file = rig.data().join("logs.db").display().to_string();
        let mut command = rig.command(&["__hold-lock", &file]);
        command.stdin(Stdio::piped());
        let held = rig.start(command);
        eventually("the lock", || held.out().contains("locked").then_some(()));
        Lock(Some(held))
    }

    fn release(mut self) {
        let mut held = self.0.take().unwrap();
        drop(held.stdin());
        assert_eq!(held.wait().code, Some(0));
    }
}

/// The processes that run these words.
fn pids(rig: &Rig, words: &str) -> Vec<Pid> {
    rig.processes().into_iter().filter(|(_, line)| line.contains(words)).map(|(pid, _)| pid).collect()
}

fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = rustix::process::kill_process(*pid, signal);
    }
}

#[test]
fn the_incident_of_17_35_is_noticed_named_and_the_gap_is_filled() {
    let rig = Rig::new();
    let before = well(&rig);
    before.signal(Signal::TERM);
    assert_eq!(before.wait().code, Some(0));
    // The new deploy starts, and its exporter is dead from the first record on.
    let lock = Lock::take(&rig);
    let start = clock::monotonic();
    let deploy = rig.up_with(&["--max-workers", "2"], &pace().1);
    let ids = rig.submit(&["--each", "a", "b", "c", "d", "--", "echo", "in the gap: {}"]);
    // Workers keep being created, and do their work.
    let tasks = rig.ended(&ids);
    assert!(tasks.iter().all(|task| task["status"] == "Complete"), "{tasks:?}");
    noticed(&rig, "17:35", "log_silence", start, &["all_silent", "canary"]);
    let rows = rig.json("alerts", &["alerts"]);
    let named = rows.as_array().unwrap().iter().any(|row| row["source_type"] == "orchestrator_gpu");
    assert!(named, "the silent source is named: {rows}");
    assert_eq!(once(&rig), Some(1));
    lock.release();
    over(&rig, "the silence");
    // The records of the gap are there afterwards: of the orchestrator, of workers, of their programs.
    eventually("the records of the gap", || {
        let logs = rig.json("logs", &["logs", "--grep", "in the gap: d"]);
        (!logs.as_array().unwrap().is_empty()).then_some(())
    });
    let created = rig.json("workers", &["workers", "--since", "1h"]);
    let ids: Vec<&str> =
        created.as_array().unwrap().iter().map(|row| row["worker"]["id"].as_str().unwrap()).collect();
    assert!(!ids.is_empty(), "{created}");
    for id in &ids {
        let logs = rig.json("logs", &["logs", "--grep", id, "--source-type", "orchestrator_gpu"]);
        assert!(!logs.as_array().unwrap().is_empty(), "nothing of the creation of {id}");
    }
    deploy.signal(Signal::TERM);
    assert_eq!(deploy.wait().code, Some(0));
    rig.spools_add_up();
    println!("{} workers were created in the gap, and all of it can be read", ids.len());
}

#[test]
fn a_stopped_and_a_killed_orchestrator_are_noticed() {
    let rig = Rig::new();
    let up = well(&rig);
    let start = clock::monotonic();
    up.signal(Signal::STOP);
    noticed(&rig, "orchestrator SIGSTOPped", "orchestrator_dead", start, &["all_silent", "log_silence"]);
    up.signal(Signal::CONT);
    over(&rig, "the stop");
    let start = clock::monotonic();
    up.kill();
    noticed(&rig, "orchestrator SIGKILLed", "orchestrator_dead", start, &["all_silent", "log_silence"]);
    signal(&pids(&rig, " watch "), Signal::TERM);
    rig.is_left_alone();
}

#[test]
fn agents_that_fall_silent_and_a_dead_watch_are_noticed() {
    let rig = Rig::new();
    let up = well(&rig);
    let watch = pids(&rig, " watch ");
    assert_eq!(watch.len(), 1);
    let start = clock::monotonic();
    signal(&watch, Signal::KILL);
    eventually("another watch", || {
        let found = pids(&rig, " watch ");
        (found.len() == 1 && found != watch).then_some(())
    });
    println!("watch itself dead: started again after {:.1} s", (clock::monotonic() - start).as_secs_f64());
    rig.submit(&["--each", "300", "301", "--", "sleep", "{}"]);
    let busy = |word: &str| {
        let rows = rig.json("workers", &["workers"]);
        rows.as_array().unwrap().iter().filter(|row| row["worker"]["live"]["state"] == word).count()
    };
    eventually("two busy workers", || (busy("busy") == 2).then_some(()));
    // It has looked long enough to hold silence against anybody.
    eventually("a round after its grace", || {
        let page = super::rig::get(rig.watch, "/metrics")?.1;
        page.lines().any(|line| line.starts_with("dogwatch_watch_beat_age_seconds")).then_some(())
    });
    let agents = pids(&rig, " agent ");
    let start = clock::monotonic();
    signal(&agents, Signal::STOP);
    noticed(&rig, "all agents silent", "workers_unheard", start, &["log_silence"]);
    signal(&agents, Signal::CONT);
    over(&rig, "the silence of the agents");
    up.signal(Signal::TERM);
    pause(Duration::from_millis(200));
    up.signal(Signal::TERM);
    up.wait();
}
