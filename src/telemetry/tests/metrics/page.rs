//! The metrics page of this process, as a scraper reads it.

use std::collections::BTreeMap;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::catalogue::{self, Kind, Metric};
use crate::telemetry::tests::rig::until;

/// What a series that has moved is said by.
pub(super) const MOVED: &str = "moved ";

pub(super) struct Page(PrometheusHandle);

/// A series in one word: name and labels, in order.
pub(super) fn key(metric: &Metric, labels: &[(&str, &str)]) -> String {
    let mut labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    labels.sort();
    format!("{}{{{}}}", metric.prometheus(), labels.join(","))
}

impl Page {
    pub(super) fn install() -> Page {
        let recorder = PrometheusBuilder::new().with_recommended_naming(true).build_recorder();
        let page = recorder.handle();
        metrics::set_global_recorder(recorder).unwrap();
        catalogue::describe();
        Page(page)
    }

    /// Each line: of a distribution its sum and its count.
    fn lines(&self) -> BTreeMap<String, f64> {
        let mut lines = BTreeMap::new();
        for line in self.0.render().lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
            let mut labels: Vec<&str> = labels.split(',').collect();
            labels.sort_unstable();
            lines.insert(format!("{name}{{{}}}", labels.join(",")), value.parse().unwrap());
        }
        lines
    }

    /// The series as it stands; one that is not there yet stands at 0.
    pub(super) fn series(&self, metric: Metric, labels: &[(&str, &str)]) -> Series<'_> {
        let key = key(&metric, labels);
        let (name, labels) = key.split_once('{').unwrap();
        let shown = match metric.kind {
            // Its sum: seconds.
            Kind::Histogram => format!("{name}_sum{{{labels}"),
            Kind::Counter | Kind::Gauge => key.clone(),
        };
        let mut series = Series { page: self, key, shown, before: 0.0 };
        series.before = series.value();
        series
    }

    /// Nothing else is on the page.
    pub(super) fn holds_nothing_but(&self, metrics: &[Metric]) {
        let known: Vec<String> = metrics.iter().map(Metric::prometheus).collect();
        let stranger = self.lines().into_keys().find(|line| !known.iter().any(|name| line.starts_with(name)));
        assert_eq!(stranger, None, "not in the recorder's part of the catalogue");
    }
}

/// One series, and where it stood when it was last looked at.
pub(super) struct Series<'a> {
    page: &'a Page,
    key: String,
    shown: String,
    before: f64,
}

impl Series<'_> {
    pub(super) fn value(&self) -> f64 {
        self.page.lines().get(&self.shown).copied().unwrap_or(0.0)
    }

    /// Waits until it has moved to what `expected` says.
    pub(super) fn becomes_what(&mut self, expected: impl Fn() -> f64) {
        let says = |value: f64| (value - expected()).abs() < 1e-9;
        let what = || format!("{} is {} and should be {}", self.shown, self.value(), expected());
        until(&what(), || says(self.value()) && (self.value() - self.before).abs() > 0.0);
        self.has_moved();
    }

    pub(super) fn becomes(&mut self, expected: impl Into<f64>) {
        let expected = expected.into();
        self.becomes_what(|| expected);
    }

    /// Waits until it is above both that and where it stood.
    pub(super) fn rises_above(&mut self, limit: f64) {
        let what = format!("{} was {} and should rise above {limit}", self.shown, self.before);
        until(&what, || self.value() > limit.max(self.before));
        self.has_moved();
    }

    fn has_moved(&mut self) {
        self.before = self.value();
        println!("{MOVED}{}", self.key);
    }
}
