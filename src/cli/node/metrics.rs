//! The process's metrics: a Prometheus page, and a push over OTLP where the environment asks for it.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::layers::{Fanout, FanoutBuilder};

use super::otel::Push;
use crate::catalogue;
use crate::gateway::RenderMetrics;
use crate::supervise::Intensity;
use crate::supervise::task::Group;
use crate::telemetry::metrics_push::{self, MetricsPush};

/// Period at which distributions are folded, so that a page nobody reads does not grow.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The installed recorder.
pub(in crate::cli) struct Metrics {
    /// Renders the page.
    pub(in crate::cli) render: RenderMetrics,
    page: PrometheusHandle,
    /// Ends the push when it is dropped.
    pub(in crate::cli) push: Option<MetricsPush>,
}

/// Installs the metrics recorder.
///
/// # Errors
/// Another one is installed already, or the push cannot be started.
pub(in crate::cli) fn metrics(push: Option<Push>) -> anyhow::Result<Metrics> {
    let prometheus = prometheus()?;
    let page = prometheus.handle();
    let push = match push {
        Some(push) => {
            let (both, push) = beside(prometheus, push)?;
            metrics::set_global_recorder(both).map_err(|error| anyhow::anyhow!("{error}"))?;
            Some(push)
        }
        None => {
            metrics::set_global_recorder(prometheus).map_err(|error| anyhow::anyhow!("{error}"))?;
            None
        }
    };
    catalogue::describe();
    let shown = page.clone();
    Ok(Metrics { render: Arc::new(move || shown.render()), page, push })
}

/// The page's recorder. With recommended naming, units and `_total` are appended as
/// `Metric::prometheus` says.
fn prometheus() -> anyhow::Result<PrometheusRecorder> {
    let builder = PrometheusBuilder::new().with_recommended_naming(true).set_buckets(SECONDS_BUCKETS)?;
    Ok(builder.build_recorder())
}

/// One recorder for the page and the push.
fn beside(page: PrometheusRecorder, push: Push) -> anyhow::Result<(Fanout, MetricsPush)> {
    let (recorder, push) = metrics_push::start(push.config, push.resource, SECONDS_BUCKETS)?;
    Ok((FanoutBuilder::default().add_recorder(page).add_recorder(recorder).build(), push))
}

/// Installs the push alone, for a process without a page.
///
/// # Errors
/// As [`metrics`].
pub(in crate::cli) fn push_only(push: Option<Push>) -> anyhow::Result<Option<MetricsPush>> {
    let Some(push) = push else { return Ok(None) };
    let (recorder, push) = metrics_push::start(push.config, push.resource, SECONDS_BUCKETS)?;
    metrics::set_global_recorder(recorder).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(Some(push))
}

impl Metrics {
    /// Keeps the page small, as a member of `group`.
    pub(in crate::cli) fn keep_small(&self, group: &Group) {
        let page = self.page.clone();
        group.start("metrics-upkeep", Intensity::default(), move |pulse, mut stop| {
            let page = page.clone();
            async move {
                while !stop.raised_within(UPKEEP_EVERY).await {
                    pulse.beat();
                    page.run_upkeep();
                }
            }
        });
    }
}

/// Upper bounds of the duration histograms, seconds.
const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
