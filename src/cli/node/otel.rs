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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::telemetry::record::Source;

    fn applied(pairs: &[(&str, &str)]) -> Result<(telemetry::Config, Option<Push>), BadInput> {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let resource = vec![pair("service.name", "dogwatch"), pair("host.name", "h")];
        let source = Source { source_type: "external".into(), source_id: "me".into(), resource };
        let settings = telemetry::Config::new(Path::new("/nowhere"), source);
        apply(settings, |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn without_an_endpoint_nothing_changes() {
        let (settings, push) =
            applied(&[("OTEL_EXPORTER_OTLP_HEADERS", "a=b"), ("OTEL_LOGS_EXPORTER", "otlp")]).unwrap();
        assert!(settings.otlp.is_none() && !settings.stdout && push.is_none());
    }

    #[test]
    fn an_endpoint_switches_all_signals_on_under_the_resource_that_was_asked_for() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        let name = ("OTEL_SERVICE_NAME", "shop");
        let (settings, push) = applied(&[base, name, ("OTEL_LOGS_EXPORTER", "otlp,console")]).unwrap();
        let otlp = settings.otlp.unwrap();
        assert_eq!(otlp.logs.unwrap().url.as_str(), "http://127.0.0.1:4318/v1/logs");
        assert_eq!(otlp.traces.unwrap().url.as_str(), "http://127.0.0.1:4318/v1/traces");
        let push = push.unwrap();
        assert_eq!(push.config.endpoint.url.as_str(), "http://127.0.0.1:4318/v1/metrics");
        assert_eq!(push.resource, settings.source.resource);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(push.resource, [pair("host.name", "h"), pair("service.name", "shop")]);
        assert!(settings.stdout);
    }

    #[test]
    fn what_is_not_spoken_is_bad_input_with_a_remedy() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
        let error = applied(&[base, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).err().unwrap();
        assert_eq!(error.what, "OTEL_EXPORTER_OTLP_PROTOCOL is grpc, which dogwatch does not speak");
        assert!(error.remedy.contains("http/protobuf") && error.remedy.contains("4318"), "{}", error.remedy);
    }
}
