//! `dogwatch up`: everything on this machine, until it is told to end.

use super::args::UpArgs;
use super::node::{Node, Story};
use super::{Outcome, render};
use crate::config::{Config, Profile};
use crate::error::Exit;

pub(super) fn main(args: &UpArgs, mut flags: Vec<(&'static str, String)>) -> Outcome {
    flags.extend(args.listen.map(|listen| ("DOGWATCH_LISTEN", listen.to_string())));
    flags.extend(args.max_workers.map(|max| ("MAX_ACTIVE_GPUS", max.to_string())));
    let config = Config::load(Profile::Up, &flags)?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run(config))
}

async fn run(config: Config) -> Outcome {
    if let Some(address) = &config.database {
        render::note(format!(
            "dogwatch: DATABASE_URL is set: logs go to Postgres at {address}; the fleet itself stays in the data folder."
        ));
    }
    let max = config.policy.max_workers;
    let node = Node::start(config, Story::Up).await?;
    render::note(format!(
        "dogwatch is up on http://{}, data in {}, at most {}.\n\
         In another terminal: dogwatch submit -- CMD · dogwatch status · dogwatch logs --follow\n\
         Ctrl-C ends it; tasks in hand are queued again.",
        node.address,
        node.config.data_dir.display(),
        render::count(max.into(), "worker"),
    ));
    let signal = wait_for_signal().await?;
    tracing::info!(signal, "told to end");
    render::note(format!("dogwatch: {signal}: ending workers; again ends at once"));
    let ended = tokio::select! {
        ended = node.stop() => ended,
        _ = wait_for_signal() => std::process::exit(130),
    };
    render::note(format!("dogwatch: {ended}"));
    Ok(Exit::Ok)
}

/// Waits for SIGINT or SIGTERM, and says which.
pub(super) async fn wait_for_signal() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}
