//! What was typed: one file a command family, and the wiring of the long-running ones.
//!
//! stdout is data, stderr is progress and diagnostics. Every read command has `--json` with a
//! `schema_version`. Exit codes: 0 ok, 1 a problem was found, 2 bad input, 69 a needed service
//! cannot be reached. Errors are printed once, here, as a chain that ends with the remedy.

mod agent;
mod alerts;
mod args;
mod demo;
mod doctor;
mod healthcheck;
mod import_logs;
mod logs;
mod migrate;
mod node;
mod open;
mod orders;
mod render;
mod replay;
mod run;
mod ship;
mod simulate;
mod snapshot;
mod spool;
mod status;
mod submit;
mod tasks;
mod up;
mod watch;
mod when;
mod why;
mod workers;

use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use self::args::{Cli, Command, WorkersArgs};
use crate::error::{BadInput, Exit, Unavailable};

/// The hidden command that starts an agent's programs.
const EXEC: &str = "__exec";

/// What a command hands back.
type Outcome = anyhow::Result<Exit>;

/// Runs the command that was typed; the process exits with the result.
pub fn main() -> ExitCode {
    // What an agent starts its programs through: it becomes the program before anything else is
    // done, and its words are not for people.
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(EXEC) {
        return crate::agent::guard::main(&words.collect::<Vec<_>>());
    }
    let exit = match Cli::try_parse() {
        Ok(cli) => dispatch(cli).unwrap_or_else(|error| report(&error)),
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { Exit::BadInput } else { Exit::Ok }
        }
    };
    ExitCode::from(exit.code())
}

/// Prints the error once, and says with which code it ends.
fn report(error: &anyhow::Error) -> Exit {
    if error.chain().any(is_broken_pipe) {
        return Exit::Ok;
    }
    let _ = writeln!(std::io::stderr(), "dogwatch: {error:#}");
    if error.chain().any(|cause| cause.is::<BadInput>()) {
        Exit::BadInput
    } else if error.chain().any(|cause| cause.is::<Unavailable>()) {
        Exit::Unavailable
    } else {
        Exit::Problem
    }
}

/// Whoever reads our output has seen enough (`| head`).
fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn dispatch(cli: Cli) -> Outcome {
    let flags = cli.flags();
    match cli.command {
        Command::Up(args) => up::main(&args, flags),
        Command::Run(args) => run::main(args, flags),
        Command::Demo(_) if !flags.is_empty() => Err(BadInput::new(
            "--data-dir has no meaning for demo, which works in a throwaway folder",
            "leave it out, or use it with `dogwatch up`",
        )
        .into()),
        Command::Demo(args) => demo::main(&args),
        Command::Agent(args) => agent::main(&args, flags),
        Command::Watch(args) => watch::main(&args, flags),
        Command::Ship(args) => ship::main(&args, flags),
        Command::Submit(args) => block_on(submit::main(args, flags)),
        Command::Tasks(args) => block_on(tasks::main(args, flags)),
        Command::Workers(WorkersArgs { action: Some(action), .. }) => block_on(orders::workers(action, flags)),
        Command::Workers(args) => block_on(workers::main(args, flags)),
        Command::Why(args) => block_on(why::main(args, flags)),
        Command::Eta(args) => block_on(why::eta(args, flags)),
        Command::Override(args) => block_on(orders::overrides(args, flags)),
        Command::Pause(args) => block_on(orders::pause(args, flags)),
        Command::Resume(args) => block_on(orders::resume(args, flags)),
        Command::Status(args) => block_on(status::main(args, flags)),
        Command::Logs(args) => block_on(logs::main(args, flags)),
        Command::Alerts(args) => alerts::main(&args, flags),
        Command::Snapshot(args) => block_on(snapshot::main(args, flags)),
        Command::Replay(args) => replay::main(args, flags),
        Command::Simulate(args) => simulate::main(&args),
        Command::Spool(args) => spool::main(&args, flags),
        Command::Migrate(args) => block_on(migrate::main(args, flags)),
        Command::Doctor(args) => block_on(doctor::main(args, flags)),
        Command::Healthcheck(args) => block_on(healthcheck::main(args, flags)),
        Command::HoldLock(args) => demo::hold_lock(&args),
        Command::DropDatabase => demo::drop_database(),
    }
}

/// Runs a short command on a runtime of its own.
fn block_on(future: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
