//! A database with an empty fleet, and the program on it; nothing of it outlives the value.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use dogwatch::config;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::flows::rig::{ALL_DECISIONS, decisions_hold};
use crate::postgres_rig::{Cluster, Database, until};

/// The program.
const DOGWATCH: &str = env!("CARGO_BIN_EXE_dogwatch");

/// A fleet's database, and a folder for the processes on it.
pub(super) struct Fleet {
    pub(super) folder: TempDir,
    pub(super) database: Database,
}

/// A process of the program.
pub(super) struct Running {
    child: Child,
    err: PathBuf,
}

impl Fleet {
    /// A database that was migrated.
    pub(super) fn new() -> Fleet {
        // Roles belong to the whole cluster, and a migration gives rights to those that are there: none
        // may come after it.
        static ROLES: Once = Once::new();
        ROLES.call_once(|| Cluster::shared().database().make_supabase_roles());
        Fleet::on(Cluster::shared().database())
    }

    /// The same on a database that may hold something already.
    pub(super) fn on(database: Database) -> Fleet {
        let fleet = Fleet::unmigrated(database);
        fleet.ok(&["migrate"]);
        fleet
    }

    /// The same before anything was done to it.
    pub(super) fn unmigrated(database: Database) -> Fleet {
        let folder = tempfile::Builder::new().prefix("dogwatch-pg-fleet-").tempdir().unwrap();
        Fleet { folder, database }
    }

    /// The program with these words, not yet started.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(DOGWATCH);
        for setting in config::settings::ALL {
            for name in std::iter::once(&setting.name).chain(setting.aliases) {
                command.env_remove(name);
            }
        }
        command
            .env("DATABASE_URL", self.database.url())
            .env("DOGWATCH_DATA_DIR", self.folder.path().join("data"))
            .env("DOGWATCH_LISTEN", "127.0.0.1:0")
            .env("DOGWATCH_WATCH_LISTEN", "127.0.0.1:0")
            .args(words)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs words to their end: code, stdout, stderr.
    pub(super) fn run(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let said = self.command(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (said.status.code(), text(&said.stdout), text(&said.stderr))
    }

    /// Runs words that must end well, and gives what they print.
    pub(super) fn ok(&self, words: &[&str]) -> String {
        let (code, out, err) = self.run(words);
        assert_eq!(code, Some(0), "{words:?}: {out}{err}");
        out
    }

    /// What a read command has under `key` with `--json`.
    pub(super) fn json(&self, key: &str, words: &[&str]) -> serde_json::Value {
        let (_, out, err) = self.run(&[words, &["--json"]].concat());
        let mut document: serde_json::Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error}: {out}{err}"));
        document[key].take()
    }

    /// Starts a process that goes on.
    pub(super) fn start(&self, name: &str, mut command: Command) -> Running {
        let err = self.folder.path().join(format!("{name}.err"));
        command.stdout(Stdio::null()).stderr(File::create(&err).unwrap());
        Running { child: command.spawn().unwrap(), err }
    }

    /// Workers of all agents that run, a line an agent.
    pub(super) fn agents(&self) -> Vec<String> {
        let worker = |environment: &str| {
            environment.split('\0').find_map(|pair| pair.strip_prefix("DOGWATCH_WORKER_ID=")).map(str::to_owned)
        };
        let is_agent = |words: &str| words.split('\0').nth(1) == Some("agent");
        let all = self.processes().into_iter();
        all.filter(|(_, words, _)| is_agent(words)).filter_map(|(_, _, environment)| worker(&environment)).collect()
    }

    /// Processes that name the fleet's folder: pid, words, environment, each of these parted by NUL.
    fn processes(&self) -> Vec<(Pid, String, String)> {
        let needle = self.folder.path().display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
            else {
                continue;
            };
            let read = |file: &str| {
                String::from_utf8_lossy(&std::fs::read(entry.path().join(file)).unwrap_or_default()).into_owned()
            };
            let (words, environment) = (read("cmdline"), read("environ"));
            if pid != rustix::process::getpid() && (words.contains(&needle) || environment.contains(&needle)) {
                found.push((pid, words, environment));
            }
        }
        found
    }
}

impl Drop for Fleet {
    /// Nothing is left running, and every decision in the database can be taken again.
    fn drop(&mut self) {
        for (pid, _, _) in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
        if !std::thread::panicking() && self.database.count("dogwatch.decisions") > 0 {
            let (code, out, err) = self.run(ALL_DECISIONS);
            decisions_hold(code, &out, &err);
        }
    }
}

impl Running {
    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until it has said something.
    pub(super) fn says(&mut self, words: &str) {
        let child = &mut self.child;
        let err = &self.err;
        until(words, || {
            let text = std::fs::read_to_string(err).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "it ended: {text}");
            text.contains(words)
        });
    }

    /// Ends it with SIGTERM and gives its exit code.
    pub(super) fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        until("the process to end", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits a part of a second that a test has drawn, by a clock of the kernel's.
pub(super) fn let_pass(span: Duration) {
    let _ = crossbeam_channel::after(span).recv();
}
