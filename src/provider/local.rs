//! A provider that starts agents as processes on this machine.
//!
//! A pod is one `dogwatch agent` process that leads its own group. What must outlive us stands in a
//! state file per worker, so that a restarted orchestrator finds its agents again by pid and start
//! time. The worker's token travels in the agent's environment, never in its arguments; beside what
//! is configured, an agent inherits nothing.
//!
//! It promises: a listing is complete (a state file that cannot be read makes it partial); `terminate`
//! returns only when the process is gone; no zombie stays longer than until the next listing. Exit
//! code and signal are known only of agents that this very process started.

mod files;
mod process;
mod spawner;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;

use self::files::{Files, PodFile};
pub use self::process::die_with_parent;
use self::process::{ProcessKey, Reach};
use self::spawner::Spawner;
use super::{Listing, Pod, PodRequest, Provider, ProviderError};
use crate::clock;
use crate::fleet::ids::{PodId, WorkerId};
use crate::fleet::snapshot::PodStatus;

/// Variables that an agent inherits where they are set; everything else must be configured.
pub const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];
/// Carries the pid of the parent whose death is the agent's own; see [`die_with_parent`].
pub const DIE_WITH_PARENT: &str = "DOGWATCH_DIE_WITH_PARENT";
const WORKER_ID: &str = "DOGWATCH_WORKER_ID";
const WORKER_TOKEN: &str = "DOGWATCH_WORKER_TOKEN";
const DATA_DIR: &str = "DOGWATCH_DATA_DIR";

/// Ended pods whose last lines are kept.
const ENDED_KEPT_MAX: usize = 100;
/// Period at which a terminated process is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long the kernel may take to end a process after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A pod that was asked for this long ago and has no process was never started.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How agents are started.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalConfig {
    /// The program, as a rule dogwatch itself.
    pub program: PathBuf,
    /// Its arguments, such as `agent --allow-commands`.
    pub args: Vec<String>,
    /// Its whole environment but id, token and data folder; see [`INHERITED`].
    pub env: Vec<(String, String)>,
    /// Folder of state files, output and the agents' data folders.
    pub state_dir: PathBuf,
    /// Whether agents are killed when this process ends.
    pub die_with_parent: bool,
    /// Agents that may run at the same time.
    pub workers_max: u32,
    /// Time between SIGTERM and SIGKILL when a pod is terminated.
    pub kill_after: Duration,
}

/// Starts agents on this machine.
pub struct LocalProvider {
    config: LocalConfig,
    files: Files,
    spawner: Spawner,
    pods: Mutex<BTreeMap<String, Held>>,
}

/// A pod, and its process where this process started it.
struct Held {
    file: PodFile,
    child: Option<Child>,
    starting: bool,
}

impl LocalProvider {
    /// Opens the state folder and finds the agents that are still there.
    ///
    /// # Errors
    /// The folder cannot be made or read, or no thread can be started.
    pub fn open(config: LocalConfig) -> io::Result<LocalProvider> {
        let files = Files::open(&config.state_dir)?;
        let files::Found { pods: found, unreadable } = files.load()?;
        for file in &unreadable {
            tracing::error!(file, "state file of a local worker cannot be read: listings are partial");
        }
        let mut pods = BTreeMap::new();
        for (worker, mut file) in found {
            if file.process.is_none() && file.ended.is_none() {
                file.process = process::find_by_environment(&format!("{WORKER_ID}={worker}"));
                files.save(&worker, &file)?;
            }
            pods.insert(worker, Held { file, child: None, starting: false });
        }
        prune(&files, &mut pods);
        let spawner = Spawner::start()?;
        Ok(LocalProvider { config, files, spawner, pods: Mutex::new(pods) })
    }

    /// Data folders of agents that have ended: their spools may hold records for somebody to adopt.
    pub fn ended_data_dirs(&self) -> Vec<PathBuf> {
        let pods = self.lock();
        pods.values().filter(|held| held.file.ended.is_some()).map(|held| held.file.data_dir.clone()).collect()
    }

    fn command(&self, request: &PodRequest, data_dir: &std::path::Path) -> io::Result<Command> {
        let output = self.files.output(&request.worker.0)?;
        let mut command = Command::new(&self.config.program);
        command.args(&self.config.args).env_clear();
        command.envs(self.config.env.iter().map(|(name, value)| (name, value)));
        command.env(WORKER_ID, &request.worker.0).env(WORKER_TOKEN, &request.token.0).env(DATA_DIR, data_dir);
        if self.config.die_with_parent {
            command.env(DIE_WITH_PARENT, std::process::id().to_string());
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        Ok(command)
    }

    /// Takes the worker's place, in memory and on disk, before anything is started.
    fn reserve(&self, request: &PodRequest) -> Result<PodFile, ProviderError> {
        let worker = &request.worker.0;
        if !files::is_file_name(worker) {
            return Err(ProviderError::Refused(format!("{worker:?} is no worker id")));
        }
        let file = PodFile {
            name: request.name.clone(),
            process: None,
            created_at: clock::now(),
            data_dir: self.files.data_dir(worker),
            ended: None,
            terminated: false,
        };
        let mut pods = self.lock();
        if pods.contains_key(worker) {
            return Err(ProviderError::Refused(format!("{worker} was started before")));
        }
        let running = pods.values_mut().filter(|held| held.file.ended.is_none()).count();
        if running >= self.config.workers_max as usize {
            return Err(ProviderError::Capacity(format!("{running} local workers run, no more are allowed")));
        }
        self.files.save(worker, &file).map_err(|error| unreachable("write its state file", &error))?;
        pods.insert(worker.clone(), Held { file: file.clone(), child: None, starting: true });
        Ok(file)
    }

    /// Nobody waits for the start of that agent any more; the spawner sees to it that there is none.
    fn given_up(&self, worker: &str) {
        if let Some(held) = self.lock().get_mut(worker) {
            held.starting = false;
            held.file.ended = Some(process::Ending::default());
            self.save(worker, held);
        }
    }

    async fn start(&self, request: &PodRequest, file: &PodFile) -> io::Result<Child> {
        std::fs::create_dir_all(&file.data_dir)?;
        self.spawner.spawn(self.command(request, &file.data_dir)?).await
    }

    /// Looks at a pod; whether it is over. A pod that nobody knows is.
    fn is_over(&self, worker: &str) -> bool {
        let mut pods = self.lock();
        pods.get_mut(worker).is_none_or(|held| self.look(worker, held))
    }

    /// Finds out whether the agent has ended, and writes it down.
    fn look(&self, worker: &str, held: &mut Held) -> bool {
        if held.file.ended.is_some() {
            return true;
        }
        let ended = match (&mut held.child, held.file.process) {
            (Some(child), _) => process::reap(child),
            (None, Some(key)) => (!key.is_alive()).then(Default::default),
            // Another orchestrator on this folder may be about to start it.
            (None, None) => {
                let asked = clock::age(clock::now(), held.file.created_at);
                (!held.starting && asked >= START_LIMIT).then(Default::default)
            }
        };
        if ended.is_some() {
            held.file.ended = ended;
            held.child = None;
            self.save(worker, held);
        }
        ended.is_some()
    }

    fn save(&self, worker: &str, held: &Held) {
        if let Err(error) = self.files.save(worker, &held.file) {
            tracing::error!(worker_id = worker, %error, "state file of a local worker cannot be written");
        }
    }

    fn signal(&self, pod: &PodId, signal: Signal, reach: Reach) {
        let pods = self.lock();
        let held = pods.get(&pod.0).filter(|held| held.file.ended.is_none());
        if let Some(key) = held.and_then(|held| held.file.process) {
            key.signal(signal, reach);
        }
    }

    /// Waits until the pod is over. False: not within `limit`.
    async fn over_within(&self, pod: &PodId, limit: Duration) -> bool {
        let looks = limit.as_millis() / LOOK.as_millis();
        for _ in 0..=looks {
            if self.is_over(&pod.0) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.is_over(&pod.0)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Provider for LocalProvider {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn create(&self, request: &PodRequest) -> Result<PodId, ProviderError> {
        let file = self.reserve(request)?;
        let worker = &request.worker.0;
        let unanswered = Unanswered { provider: self, worker };
        let started = self.start(request, &file).await;
        std::mem::forget(unanswered);
        let mut pods = self.lock();
        match started {
            Ok(child) => {
                let held = pods.entry(worker.clone()).or_insert(Held { file, child: None, starting: true });
                held.file.process = ProcessKey::of(child.id());
                held.child = Some(child);
                held.starting = false;
                self.save(worker, held);
                Ok(PodId(worker.clone()))
            }
            Err(error) => {
                pods.remove(worker);
                self.files.remove(worker, &file);
                Err(ProviderError::Refused(format!("cannot start {}: {error}", self.config.program.display())))
            }
        }
    }

    async fn list(&self) -> Result<Listing, ProviderError> {
        let found = self.files.load().map_err(|error| unreachable("read the state files", &error))?;
        let mut pods = self.lock();
        meet(&mut pods, found.pods);
        let mut listing = Listing { pods: Vec::new(), missing: None };
        for (worker, held) in pods.iter_mut() {
            self.look(worker, held);
            if let Err(error) = self.files.cap_output(worker) {
                tracing::warn!(worker_id = worker, %error, "output of a local worker cannot be cut");
            }
            if !held.file.terminated {
                listing.pods.push(listed(worker, held));
            }
        }
        if !found.unreadable.is_empty() {
            listing.missing = Some(format!("unreadable state files: {}", found.unreadable.join("; ")));
        }
        Ok(listing)
    }

    async fn drain(&self, pod: &PodId) -> Result<(), ProviderError> {
        self.signal(pod, Signal::TERM, Reach::Process);
        Ok(())
    }

    async fn terminate(&self, pod: &PodId) -> Result<(), ProviderError> {
        self.signal(pod, Signal::TERM, Reach::Group);
        if !self.over_within(pod, self.config.kill_after).await {
            self.signal(pod, Signal::KILL, Reach::Group);
            if !self.over_within(pod, KILL_LIMIT).await {
                return Err(ProviderError::Ambiguous(format!("{pod} does not end, even by SIGKILL")));
            }
        }
        let mut pods = self.lock();
        if let Some(held) = pods.get_mut(&pod.0) {
            held.file.terminated = true;
            self.save(&pod.0, held);
        }
        prune(&self.files, &mut pods);
        Ok(())
    }

    async fn last_lines(&self, pod: &PodId) -> Result<Vec<String>, ProviderError> {
        let known = files::is_file_name(&pod.0);
        Ok(if known { self.files.last_lines(&pod.0) } else { Vec::new() })
    }
}

impl LocalConfig {
    /// Puts the variables of [`INHERITED`] before the configured ones; `lookup` reads the
    /// environment.
    #[must_use]
    pub fn inheriting(mut self, lookup: impl Fn(&str) -> Option<String>) -> LocalConfig {
        let inherited = INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), lookup(name)?)));
        self.env = inherited.chain(std::mem::take(&mut self.env)).collect();
        self
    }
}

/// A start that may be given up before its answer is there, as after a stop longer than the caller's
/// patience.
struct Unanswered<'a> {
    provider: &'a LocalProvider,
    worker: &'a str,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.provider.given_up(self.worker);
    }
}

/// What other orchestrators on this folder have done: their pods, and what became of them.
fn meet(pods: &mut BTreeMap<String, Held>, found: Vec<(String, PodFile)>) {
    let is_others = |held: &Held| held.child.is_none() && !held.starting;
    let on_disk: std::collections::BTreeSet<&String> = found.iter().map(|(worker, _)| worker).collect();
    pods.retain(|worker, held| !is_others(held) || on_disk.contains(worker));
    for (worker, file) in found {
        match pods.get_mut(&worker) {
            // What this process has seen of an end it knows better than the file.
            Some(held) if is_others(held) && held.file.ended.is_some() => held.file.terminated |= file.terminated,
            Some(held) if is_others(held) => held.file = file,
            Some(_) => {}
            None => {
                pods.insert(worker, Held { file, child: None, starting: false });
            }
        }
    }
}

fn listed(worker: &str, held: &Held) -> Pod {
    let starting = held.starting || held.file.process.is_none();
    let status = match (held.file.ended, starting) {
        (Some(_), _) => PodStatus::Exited,
        (None, true) => PodStatus::Starting,
        (None, false) => PodStatus::Running,
    };
    let ended = held.file.ended.unwrap_or_default();
    Pod {
        id: PodId(WorkerId(worker.to_owned()).0),
        name: held.file.name.clone(),
        status,
        exit_code: ended.exit_code,
        signal: ended.signal,
        created_at: Some(held.file.created_at),
    }
}

/// Forgets the oldest of the pods that were terminated.
fn prune(files: &Files, pods: &mut BTreeMap<String, Held>) {
    let over = |held: &Held| held.file.terminated && held.file.ended.is_some();
    let mut ended: Vec<_> = pods
        .iter()
        .filter(|(_, held)| over(held))
        .map(|(worker, held)| (held.file.created_at, worker.clone()))
        .collect();
    ended.sort();
    let surplus = ended.len().saturating_sub(ENDED_KEPT_MAX);
    for (_, worker) in ended.into_iter().take(surplus) {
        if let Some(held) = pods.remove(&worker) {
            files.remove(&worker, &held.file);
        }
    }
}

fn unreachable(doing: &str, error: &io::Error) -> ProviderError {
    ProviderError::Unreachable(format!("cannot {doing}: {error}"))
}

#[cfg(test)]
mod tests;
