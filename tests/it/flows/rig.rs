//! A folder, ports, and the program in them; nothing of it outlives the value.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use dogwatch::{clock, config};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

/// The program.
const DOGWATCH: &str = env!("CARGO_BIN_EXE_dogwatch");
/// Time that anything has which takes a moment on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Period of looks.
const LOOK: Duration = Duration::from_millis(20);
/// Names of the outside world that no test may depend on.
const FOREIGN: &[&str] = &["DOGWATCH_CONFIG", "SUPABASE_KEY", "TRACEPARENT"];

/// A place to run the program in.
pub(crate) struct Rig {
    folder: TempDir,
    pub(crate) gateway: u16,
    pub(crate) watch: u16,
    runs: Cell<u32>,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        let folder = tempfile::Builder::new().prefix("dogwatch-flow-").tempdir().unwrap();
        Rig { folder, gateway: free_port(), watch: free_port(), runs: Cell::new(0) }
    }

    /// A path in the flow's folder, beside the data folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file in the flow's folder.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The program with these words, not yet started.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(DOGWATCH);
        for setting in config::settings::ALL {
            for name in std::iter::once(&setting.name).chain(setting.aliases) {
                command.env_remove(name);
            }
        }
        for name in FOREIGN.iter().chain(dogwatch::telemetry::otel_env::NAMES) {
            command.env_remove(name);
        }
        command
            .env("DOGWATCH_DATA_DIR", self.data())
            .env("DOGWATCH_LISTEN", format!("127.0.0.1:{}", self.gateway))
            .env("DOGWATCH_WATCH_LISTEN", format!("127.0.0.1:{}", self.watch))
            .args(words)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts a command whose output goes to files of the folder.
    pub(crate) fn start(&self, mut command: Command) -> Running {
        let run = self.runs.replace(self.runs.get() + 1);
        let (out, err) = (self.path(&format!("{run}.out")), self.path(&format!("{run}.err")));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        Running { child: command.spawn().unwrap(), out, err }
    }

    /// Runs words to their end.
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        self.start(self.command(words)).wait()
    }

    /// Runs words that must end well, and gives what they print.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
        said.out
    }

    /// What a read command has under `key` with `--json`.
    pub(crate) fn json(&self, key: &str, words: &[&str]) -> Value {
        let words = [words, &["--json"]].concat();
        let said = self.run(&words);
        let mut document: Value =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{words:?}: {error}: {said:?}"));
        assert_eq!(document["schema_version"], 1, "{words:?}");
        assert!(document.get(key).is_some(), "{words:?}: no {key}: {document}");
        document[key].take()
    }

    /// `dogwatch up`, once it answers; `words` are further flags.
    pub(crate) fn up(&self, words: &[&str]) -> Running {
        self.up_with(words, &[])
    }

    /// The same with further settings.
    pub(crate) fn up_with(&self, words: &[&str], settings: &[(&str, &str)]) -> Running {
        let mut command = self.command(&[&["up"], words].concat());
        command.envs(settings.iter().copied());
        let mut up = self.start(command);
        eventually("up to answer", || {
            assert!(up.child.try_wait().unwrap().is_none(), "up ended: {}", up.err());
            get(self.gateway, "/readyz").filter(|(code, _)| *code == 200)
        });
        up
    }

    /// Queues commands and gives the ids of their tasks.
    pub(crate) fn submit(&self, words: &[&str]) -> Vec<String> {
        self.ok(&[&["submit"], words].concat()).lines().map(str::to_owned).collect()
    }

    /// These tasks as `tasks --json` shows them, in the order of `ids`.
    pub(crate) fn tasks(&self, ids: &[String]) -> Vec<Value> {
        let all = self.json("tasks", &["tasks", "--limit", "10000"]);
        let find = |id: &String| all.as_array().unwrap().iter().find(|task| task["id"] == **id).cloned();
        ids.iter().map(|id| find(id).unwrap_or_else(|| panic!("task {id} is lost"))).collect()
    }

    /// These tasks, once all have ended.
    pub(crate) fn ended(&self, ids: &[String]) -> Vec<Value> {
        eventually("the tasks to end", || {
            let tasks = self.tasks(ids);
            let is_final = |task: &Value| matches!(task["status"].as_str().unwrap(), "Complete" | "Failed");
            tasks.iter().all(is_final).then_some(tasks)
        })
    }

    /// The conservation law holds, from disk alone.
    pub(crate) fn spools_add_up(&self) {
        let said = self.run(&["spool", "verify", "--json"]);
        assert_eq!(said.code, Some(0), "spool verify: {said:?}");
    }

    /// Processes that name the flow's folder.
    pub(crate) fn processes(&self) -> Vec<(Pid, String)> {
        let needle = self.folder.path().display().to_string();
        let own = rustix::process::getpid();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let Some(pid) = pid.filter(|pid| *pid != own) else { continue };
            let read = |name: &str| {
                let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let words = read("cmdline");
            if words.contains(&needle) || read("environ").contains(&needle) {
                found.push((pid, words));
            }
        }
        found
    }

    /// Waits until no process names the folder.
    pub(crate) fn is_left_alone(&self) {
        let limit = clock::monotonic() + Duration::from_secs(10);
        while !self.processes().is_empty() {
            assert!(clock::monotonic() < limit, "these stay behind: {:?}", self.processes());
            pause(LOOK);
        }
    }
}

impl Rig {
    fn kill_what_is_left(&self) {
        // What is killed may have started something in between, so look again.
        for _ in 0..10 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for (pid, _) in left {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            pause(LOOK);
        }
    }
}

impl Drop for Rig {
    /// Nothing is left running, and every decision in the data folder can be taken again.
    fn drop(&mut self) {
        self.kill_what_is_left();
        let is_fleet = std::fs::read(self.data().join("fleet.db")).is_ok_and(|file| file.starts_with(b"SQLite"));
        if is_fleet && !std::thread::panicking() {
            let Said { code, out, err } = self.run(ALL_DECISIONS);
            decisions_hold(code, &out, &err);
        }
    }
}

impl Running {
    pub(crate) fn err(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    pub(crate) fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its stdin, where that is a pipe.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> Said {
        self.wait_for(LIMIT)
    }

    /// Waits so long for its end.
    pub(crate) fn wait_for(mut self, limit: Duration) -> Said {
        let until = clock::monotonic() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if clock::monotonic() > until {
                let _ = self.child.kill();
                panic!("it has not ended within {limit:?}: {}{}", self.out(), self.err());
            }
            pause(Duration::from_millis(5));
        };
        Said { code: status.code(), out: self.out(), err: self.err() }
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Waits a moment between two looks.
pub(crate) fn pause(time: Duration) {
    let _ = crossbeam_channel::after(time).recv();
}

/// Waits until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = clock::monotonic() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::monotonic() < limit, "waited in vain for {what}");
        pause(LOOK);
    }
}

/// Status and body of a page; None where nobody answers.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A port that is free, below those that the kernel gives away by itself.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 12_000 + u16::try_from(std::process::id() % 900).unwrap() * 20;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// One number out of logs.db.
pub(crate) fn count(data: &Path, sql: &'static str) -> i64 {
    column(&data.join("logs.db"), sql).remove(0)
}

/// A column of text out of a SQLite file.
pub(crate) fn rows_of(file: &Path, sql: &'static str) -> Vec<String> {
    column(file, sql)
}

fn column<T>(file: &Path, sql: &'static str) -> Vec<T>
where
    T: Send + Unpin + sqlx::Type<sqlx::Sqlite> + for<'r> sqlx::Decode<'r, sqlx::Sqlite>,
{
    use sqlx::Connection as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options =
            sqlx::sqlite::SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_secs(10));
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let rows = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows
    })
}

/// Reads what `replay --from .. --json` said over all that a test has written: every decision row must
/// give its decision again. Counted like those of the library's tests.
#[expect(clippy::print_stdout, reason = "a test says what it has looked at")]
pub(crate) fn decisions_hold(code: Option<i32>, out: &str, err: &str) {
    let found: Value = serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let found = &found["replay"];
    assert!(code == Some(0) && found["not_reproduced"] == 0, "a row is another decision: {found} {err}");
    println!("{} decisions taken again", found["decisions"]);
    if let Some(path) = config::environment("DOGWATCH_TEST_DECISIONS") {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{}\n", found["decisions"]).as_bytes()).unwrap();
    }
}

/// The question behind it.
pub(crate) const ALL_DECISIONS: &[&str] = &["replay", "--from", "1970-01-01T00:00:00Z", "--json"];

/// Whether the long versions are asked for.
pub(crate) fn is_long() -> bool {
    config::environment("DOGWATCH_TEST_LONG").is_some_and(|value| value == "1")
}
