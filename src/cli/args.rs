//! The words of the command line.

mod orders;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(super) use orders::{
    AddOverride, ExpireOverride, ListOverrides, OverrideArgs, OverrideCommand, PauseArgs, ResumeArgs, WorkersAction,
};

/// What a stranger types first.
const FIRST_STEPS: &str = "First steps:
  dogwatch demo                                         see it work, in a minute
  dogwatch up                                           run it here; Ctrl-C ends it
  dogwatch submit --each *.txt --wait -- sha256sum {}   in another terminal: work for it
  dogwatch status                                       how things are, and what to do next";

/// Runs GPU workers for tasks in a database, and never goes blind.
#[derive(Debug, Parser)]
#[command(name = "dogwatch", version, max_term_width = 110, after_help = FIRST_STEPS)]
pub(super) struct Cli {
    /// Folder of fleet.db, logs.db and spool/ (DOGWATCH_DATA_DIR).
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What was set by flags, as (setting, value).
    pub(super) fn flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = Vec::new();
        if let Some(path) = &self.data_dir {
            flags.push(("DOGWATCH_DATA_DIR", path.display().to_string()));
        }
        flags
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs everything on this machine: orchestrator, gateway, watch, agents as local processes.
    Up(UpArgs),
    /// The orchestrator for production, on the Postgres of DATABASE_URL; several may run, one leads.
    Run(RunArgs),
    /// A one-minute story on real work in a throwaway folder, with a verdict.
    Demo(DemoArgs),
    /// Runs beside the user's program: registers, claims, runs, captures, reports.
    Agent(AgentArgs),
    /// The independent watchdog.
    Watch(WatchArgs),
    /// Lines from stdin into the spool and on to the exporters.
    Ship(ShipArgs),
    /// Queues tasks.
    Submit(SubmitArgs),
    /// Shows tasks.
    Tasks(TasksArgs),
    /// Shows workers, or orders some.
    Workers(WorkersArgs),
    /// Explains a decision: verdict, queue, sum, every gate, what would have been.
    Why(WhyArgs),
    /// When workers will be asked for, if nothing else changes.
    Eta(EtaArgs),
    /// Orders that overrule a gate for a while.
    Override(OverrideArgs),
    /// Holds the fleet, a pool or a task.
    Pause(PauseArgs),
    /// Lets the fleet, a pool or a task go on.
    Resume(ResumeArgs),
    /// Says in one sentence how things are, and what to do next.
    Status(StatusArgs),
    /// Shows rows of system_logs.
    Logs(LogsArgs),
    /// Shows alarms.
    Alerts(AlertsArgs),
    /// Prints the newest snapshot.
    Snapshot(SnapshotArgs),
    /// Judges snapshots in files by the rules that a running fleet is judged by.
    Replay(ReplayArgs),
    /// Lives a fleet's days in moments: seeds with faults, or a workload under several policies.
    Simulate(SimulateArgs),
    /// Looks into the spools of this folder.
    Spool(SpoolArgs),
    /// Brings the databases to this binary's schema.
    ///
    /// Each migration is applied once. By hand, a file whose function a later one has replaced fails, and
    /// changes nothing.
    Migrate(MigrateArgs),
    /// Looks at settings, rights, schema, clocks and exporters, and says what to do; exit 1 if something is wrong.
    Doctor(DoctorArgs),
    /// Asks /readyz; exit 0 or 1.
    Healthcheck(HealthcheckArgs),
    /// Holds an exclusive lock on a SQLite file, or on system_logs of the URL on stdin, until stdin ends.
    #[command(name = "__hold-lock", hide = true)]
    HoldLock(HoldLockArgs),
    /// Drops the demo's database that stdin names, once stdin ends.
    #[command(name = "__drop-database", hide = true)]
    DropDatabase,
}

/// Output form of a read command.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Output {
    /// JSON on stdout, with schema_version.
    #[arg(long)]
    pub json: bool,
}

/// A time range.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Range {
    /// From then on: a duration back from now (90s, 15m, 2h, 1d) or an RFC 3339 time.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to then: a duration back from now or an RFC 3339 time.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// Address of the gateway; anything but loopback needs DOGWATCH_TOKEN [default: 127.0.0.1:7411].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Most workers (MAX_ACTIVE_GPUS) [default: the machine's cores, at least 2].
    #[arg(long, value_name = "N")]
    pub max_workers: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Who makes the machines of the workers.
    #[arg(long, value_enum)]
    pub provider: ProviderName,
    /// Address of the gateway; anything but loopback needs DOGWATCH_TOKEN [default: 127.0.0.1:7411].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Most workers (MAX_ACTIVE_GPUS) [default: 10].
    #[arg(long, value_name = "N")]
    pub max_workers: Option<u32>,
    /// Keep no watch running: it runs somewhere else.
    #[arg(long)]
    pub no_watch: bool,
    /// With --provider local: the program that agents run tasks with.
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<String>,
}

/// A provider by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ProviderName {
    /// Agents are processes on this machine.
    Local,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// One line of JSON on stdout instead of the story.
    #[arg(long)]
    pub json: bool,
    /// Tell it on this server's Postgres: a database is made for it, and dropped.
    #[arg(long, value_name = "URL")]
    pub postgres: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// Run tasks of type `command`, which may be any command.
    #[arg(long)]
    pub allow_commands: bool,
    /// The user's program for all other tasks.
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// One round, its findings on stdout; exit 1 if an alarm rings.
    #[arg(long)]
    pub once: bool,
    /// With --once: JSON.
    #[arg(long, requires = "once")]
    pub json: bool,
    /// End when this process does.
    #[arg(long, hide = true, value_name = "PID")]
    pub parent: Option<u32>,
    /// Defaults of the demo.
    #[arg(long, hide = true)]
    pub demo: bool,
    /// End the watch that works in the folder, and take its place.
    #[arg(long, hide = true)]
    pub take_over: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShipArgs {
    /// source_id of the lines.
    #[arg(long, value_name = "NAME")]
    pub source: String,
    /// source_type of the lines.
    #[arg(long, value_name = "TYPE", default_value = "external")]
    pub source_type: String,
    /// Say on stdout how many lines are on disk: {"durable": N}.
    #[arg(long)]
    pub acks: bool,
    /// End only when all lines have reached the database.
    #[arg(long)]
    pub wait_delivered: bool,
    /// The input is that of an earlier run from its start: skip what is durable of it.
    #[arg(long)]
    pub resume: bool,
}

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// Whose tasks they are.
    #[arg(long, default_value = "local", value_name = "USER")]
    pub user: String,
    /// What the tasks are; `command` runs the command line.
    #[arg(long = "type", default_value = "command", value_name = "TYPE")]
    pub task_type: String,
    /// One task for each path; {} in the command is replaced by it.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub each: Vec<String>,
    /// Wait for the tasks and print what they print; exit 1 if one does not complete.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub output: Output,
    /// The command, run in this folder, with its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct TasksArgs {
    /// Totals per user instead of tasks.
    #[arg(long, value_name = "KEY", value_parser = ["user"])]
    pub by: Option<String>,
    /// Only tasks of this status: queued, in-progress, complete, failed, cancelled.
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
    /// Only this user's tasks.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// At most this many, the newest.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub limit: usize,
    #[command(flatten)]
    pub range: Range,
    #[command(flatten)]
    pub output: Output,
    /// Only these tasks.
    #[arg(value_name = "ID")]
    pub ids: Vec<uuid::Uuid>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct WorkersArgs {
    #[command(subcommand)]
    pub action: Option<WorkersAction>,
    /// At most this many, the newest.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub limit: usize,
    #[command(flatten)]
    pub range: Range,
    #[command(flatten)]
    pub output: Output,
}

/// Which decision.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct DecisionArgs {
    /// That of this cycle; default: the newest.
    #[arg(long, value_name = "N")]
    pub cycle: Option<i64>,
    /// The one in force then: a duration back from now or an RFC 3339 time.
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    #[command(flatten)]
    pub which: DecisionArgs,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(super) struct EtaArgs {
    #[command(flatten)]
    pub which: DecisionArgs,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The last N minutes.
    #[arg(long, value_name = "N", conflicts_with = "since")]
    pub minutes: Option<u32>,
    /// At least this level: debug, info, warning, error, critical.
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,
    /// Only this source (source_id).
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Only this kind of source.
    #[arg(long, value_name = "TYPE")]
    pub source_type: Option<String>,
    /// Only this worker.
    #[arg(long, value_name = "ID")]
    pub worker: Option<String>,
    /// Only this task.
    #[arg(long, value_name = "ID")]
    pub task: Option<uuid::Uuid>,
    /// Only this cycle.
    #[arg(long, value_name = "N")]
    pub cycle: Option<i64>,
    /// Only this trace, drawn as a tree.
    #[arg(long, value_name = "ID")]
    pub trace: Option<String>,
    /// Only messages that contain this text.
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
    /// Go on with what arrives.
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// At most this many, the newest.
    #[arg(long, short = 'n', default_value_t = 1_000, value_name = "N")]
    pub limit: usize,
    #[command(flatten)]
    pub range: Range,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(super) struct AlertsArgs {
    /// Also those that are over.
    #[arg(long)]
    pub history: bool,
    #[command(flatten)]
    pub range: Range,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    /// Look now instead of printing the newest one that was stored.
    #[arg(long)]
    pub live: bool,
    /// Accepted for uniformity: a snapshot is always JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    pub output: Output,
    /// Snapshot files.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write the files' fleets into the data folder, or the database of DATABASE_URL, which must hold no
    /// live one, so that every other command can be asked about them.
    #[arg(long, requires = "files")]
    pub load: bool,
    /// Take the stored decisions from then on again: a duration back from now or an RFC 3339 time.
    #[arg(long, value_name = "TIME", conflicts_with = "files")]
    pub from: Option<String>,
    /// Up to then.
    #[arg(long, value_name = "TIME", requires = "from")]
    pub to: Option<String>,
    /// JSON object of policy keys that are laid over those of the stored decisions.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub policy: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// Seeds, each a history of its own: from A to below B.
    #[arg(long, value_name = "A..B", default_value = "0..20", conflicts_with = "long")]
    pub seeds: String,
    /// Days of each seed, spells of faults and of calm.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "long")]
    pub days: u32,
    /// 1,000 seeds of 10 days.
    #[arg(long)]
    pub long: bool,
    /// Plays this workload (docs/traces.md) instead of seeds.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "days", "long"])]
    pub trace: Option<PathBuf>,
    /// By these rules: ours, legacy, legacy_breaker_kept or queue_delay; all of them where absent.
    #[arg(long, value_name = "RULES", requires = "trace")]
    pub policy: Option<String>,
    /// Prints the field-like workload of that seed, as a file for --trace.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "days", "long", "trace"])]
    pub field: Option<u64>,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(super) struct SpoolArgs {
    #[command(subcommand)]
    pub command: SpoolCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// Folders, segments, and where each exporter stands.
    Ls(Output),
    /// Records of all folders, one JSON object a line.
    Cat,
    /// Checks every frame and the conservation law; exit 1 if something is wrong.
    Verify(Output),
    /// Sets torn tails right and bad frames aside.
    Repair(Output),
    /// What nobody could deliver: list it, deliver it once more, give it up.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// Each record with its text and the reason.
    Ls(Output),
    /// Delivers records once more; those that are taken leave the quarantine.
    Retry(QuarantinePick),
    /// Gives records up: they are counted as dropped.
    Drop(QuarantinePick),
}

#[derive(Debug, Args)]
pub(super) struct QuarantinePick {
    /// Names as `quarantine ls` shows them.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub names: Vec<String>,
    /// Everything in the quarantine.
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// Say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// The gateway's address [default: 127.0.0.1:7411].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(super) struct HoldLockArgs {
    /// The SQLite file.
    pub file: Option<PathBuf>,
}
