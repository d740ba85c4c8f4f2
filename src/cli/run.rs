//! `dogwatch run`: the orchestrator for production, until it is told to end.
//!
//! Any number may run on one database: one leads, the others stand by and take over. Workers outlive
//! it, so that a deploy costs none of them.

use super::args::{ProviderName, RunArgs};
use super::node::{Manner, Node, Story};
use super::up::wait_for_signal;
use super::{Outcome, render};
use crate::config::{Config, Profile};
use crate::error::{BadInput, Exit};

pub(super) fn main(args: RunArgs, mut flags: Vec<(&'static str, String)>) -> Outcome {
    flags.extend(args.listen.map(|listen| ("DOGWATCH_LISTEN", listen.to_string())));
    flags.extend(args.max_workers.map(|max| ("MAX_ACTIVE_GPUS", max.to_string())));
    let config = Config::load(Profile::Run, &flags)?;
    if config.database.is_none() {
        return Err(BadInput::new(
            "DATABASE_URL is not set, and production needs a database that outlives this machine",
            "set it to postgres://USER:PASSWORD@HOST:5432/DATABASE, or use `dogwatch up` on this machine alone",
        )
        .into());
    }
    let ProviderName::Local = args.provider;
    let manner = Manner { story: Story::Run, watch: !args.no_watch, program: args.program };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run(config, manner))
}

async fn run(config: Config, manner: Manner) -> Outcome {
    let max = config.policy.max_workers;
    let node = Node::start(config, manner).await?;
    render::note(format!(
        "dogwatch runs on http://{}, fleet {}, at most {}.",
        node.address,
        node.config.lease_name(),
        render::count(max.into(), "worker"),
    ));
    let signal = wait_for_signal().await?;
    tracing::info!(signal, "told to end");
    render::note(format!("dogwatch: {signal}: leadership is given back, workers go on; again ends at once"));
    let ended = tokio::select! {
        ended = node.stop() => ended,
        _ = wait_for_signal() => std::process::exit(130),
    };
    render::note(format!("dogwatch: {ended}"));
    Ok(Exit::Ok)
}
