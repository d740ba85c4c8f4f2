//! `dogwatch agent`, and the hidden command that starts its programs.

use std::time::Duration;

use super::args::AgentArgs;
use super::node::{self, Story};
use super::up::wait_for_signal;
use super::{Outcome, open, render};
use crate::agent::{self, AgentConfig, AgentEnd, ApiKey};
use crate::config::{Config, Profile, environment};
use crate::error::{BadInput, Exit};
use crate::fleet::ids::{BootId, WorkerId};
use crate::provider::WorkerToken;
use crate::supervise::task::Stop;
use crate::telemetry::otel_env::NAMES;

/// Time the recorder has to deliver the last lines before the agent leaves.
const DELIVER_WITHIN: Duration = Duration::from_secs(5);
/// What a drained program gets on a machine of one's own, where nothing else is set.
const DRAIN_DEFAULT: Duration = Duration::from_secs(10);

pub(super) fn main(args: &AgentArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let config = Config::load(Profile::Run, &flags)?;
    if let Some(parent) = config.values.whole("DOGWATCH_DIE_WITH_PARENT")
        && !crate::provider::local::die_with_parent(u32::try_from(parent).unwrap_or(0))?
    {
        return Ok(Exit::Problem);
    }
    let agent = agent_config(&config, args)?;
    open::data_dir(&config)?;
    let boot = BootId(uuid::Uuid::new_v4());
    let (settings, push) = node::with_otel(node::agent_config(&config, &agent, boot))?;
    let guard = node::install(settings, Story::Up)?;
    let push = node::push_only(push)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let end = runtime.block_on(async {
        let (handle, stop) = Stop::new();
        let mut work = std::pin::pin!(agent::run(agent, stop));
        tokio::select! {
            end = &mut work => return end.map_err(anyhow::Error::from),
            signal = wait_for_signal() => tracing::info!(signal = signal?, "told to end: finishing the task in hand"),
        }
        handle.raise();
        Ok(work.await?)
    });
    let left = guard.shutdown(DELIVER_WITHIN);
    drop(push);
    render::note(format!("dogwatch agent: {left}"));
    match end? {
        AgentEnd::Stopped | AgentEnd::Ordered => Ok(Exit::Ok),
        end @ (AgentEnd::Superseded { .. } | AgentEnd::DeadMan) => {
            render::note(format!("dogwatch agent: {end}"));
            Ok(Exit::Problem)
        }
    }
}

fn agent_config(config: &Config, args: &AgentArgs) -> Result<AgentConfig, BadInput> {
    let needed = |name: &str| {
        config.values.text(name).ok_or_else(|| {
            BadInput::new(
                format!("{name} is not set"),
                "an agent is started by the orchestrator, or by hand with DOGWATCH_BASE_URL, DOGWATCH_WORKER_ID \
                 and DOGWATCH_WORKER_TOKEN",
            )
        })
    };
    let token = WorkerToken(needed("DOGWATCH_WORKER_TOKEN")?);
    let mut agent = AgentConfig::new(needed("DOGWATCH_BASE_URL")?, WorkerId(needed("DOGWATCH_WORKER_ID")?), token);
    agent.api_key = config.values.text("DOGWATCH_API_KEY").map(ApiKey);
    // An endpoint may hold a key: then it is ours alone, as the headers are.
    agent.hidden_env.extend(NAMES.iter().filter(|name| name.ends_with("_ENDPOINT")).filter_map(|name| {
        let endpoint = environment(name)?;
        endpoint.contains(['@', '?']).then(|| (*name).to_owned())
    }));
    agent.allow_commands = args.allow_commands;
    agent.program = (!args.program.is_empty()).then(|| args.program.clone());
    agent.run_type = config.values.text("DOGWATCH_RUN_TYPE");
    agent.drain_limit = config.values.duration("DOGWATCH_DRAIN_SECONDS").unwrap_or(DRAIN_DEFAULT);
    Ok(agent)
}
