//! What the environment's `OTEL_*` variables change in a command's recorder. `demo` and commands
//! that end soon do not ask.

use crate::cli::render;
use crate::config::environment;
use crate::error::BadInput;
use crate::telemetry;
use crate::telemetry::otel_env::{self, MetricsConfig};

/// The push of metrics: where to, and under which resource.
pub(in crate::cli) struct Push {
    pub(in crate::cli) config: MetricsConfig,
    pub(in crate::cli) resource: Vec<(String, String)>,
}

/// The settings with the exporter `otlp`, the console and the resource that the environment asks
/// for; and the push of metrics. What was ignored is said on stderr.
///
/// # Errors
/// The environment asks for what cannot work, such as gRPC.
pub(in crate::cli) fn with_otel(
    settings: telemetry::Config,
) -> Result<(telemetry::Config, Option<Push>), BadInput> {
    apply(settings, environment)
}

fn apply(
    mut settings: telemetry::Config,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<(telemetry::Config, Option<Push>), BadInput> {
    let env = otel_env::read(lookup).map_err(|error| {
        let text = error.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, "correct it"));
        BadInput::new(what, remedy)
    })?;
    for warning in &env.warnings {
        render::note(format!("dogwatch: {warning}"));
    }
    let resource = &mut settings.source.resource;
    resource.retain(|(key, _)| env.resource.iter().all(|(other, _)| other != key));
    resource.extend(env.resource);
    let push = env.metrics.map(|config| Push { config, resource: resource.clone() });
    settings.otlp = env.otlp;
    settings.stdout |= env.console;
    Ok((settings, push))
}
