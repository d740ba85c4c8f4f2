//! From the `metrics` facade to the OpenTelemetry SDK.
//!
//! Whoever counts asks the facade for a handle each time, so that a handle must find the value that
//! is there: counters and gauges are values of their own that the SDK reads when it collects, and
//! so are exactly what Prometheus shows. Histograms are the SDK's. Names, units and help are those
//! of the catalogue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::catalogue::{self, Metric};

/// Most combinations of name and labels; what comes after them is not counted here.
const SERIES_MAX: usize = 4_096;

/// A recorder of the facade whose values the push reads.
pub struct PushRecorder {
    meter: Meter,
    bounds: Vec<f64>,
    series: RwLock<Series>,
}

#[derive(Default)]
struct Series {
    counters: HashMap<Key, Arc<AtomicU64>>,
    gauges: HashMap<Key, Arc<AtomicU64>>,
    histograms: HashMap<Key, Arc<Distribution>>,
    /// The values that an instrument reads, by its name.
    read: HashMap<String, Values>,
}

type Values = Arc<RwLock<Vec<(Vec<KeyValue>, Arc<AtomicU64>)>>>;

struct Distribution {
    histogram: opentelemetry::metrics::Histogram<f64>,
    labels: Vec<KeyValue>,
}

impl HistogramFn for Distribution {
    fn record(&self, value: f64) {
        self.histogram.record(value, &self.labels);
    }
}

impl Series {
    fn is_full(&self) -> bool {
        self.counters.len() + self.gauges.len() + self.histograms.len() >= SERIES_MAX
    }

    /// A value that is read under `name`; true: the first of it, so that an instrument is needed.
    fn value(&mut self, key: &Key) -> (Arc<AtomicU64>, Values, bool) {
        let is_first = !self.read.contains_key(key.name());
        let values = Arc::clone(self.read.entry(key.name().to_owned()).or_default());
        let value = Arc::new(AtomicU64::new(0));
        values.write().unwrap_or_else(PoisonError::into_inner).push((labels(key), Arc::clone(&value)));
        (value, values, is_first)
    }
}

impl PushRecorder {
    pub(super) fn new(meter: Meter, bounds: Vec<f64>) -> PushRecorder {
        PushRecorder { meter, bounds, series: RwLock::default() }
    }

    /// What `found` finds, else what `make` makes; None: there are too many.
    fn find<T>(
        &self,
        found: impl Fn(&Series) -> Option<Arc<T>>,
        make: impl FnOnce(&mut Series) -> Arc<T>,
    ) -> Option<Arc<T>> {
        if let Some(value) = found(&self.series.read().unwrap_or_else(PoisonError::into_inner)) {
            return Some(value);
        }
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        match found(&series) {
            Some(value) => Some(value),
            None if series.is_full() => None,
            None => Some(make(&mut series)),
        }
    }
}

impl Recorder for PushRecorder {
    // The catalogue describes.
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let counter = self.find(
            |series| series.counters.get(key).cloned(),
            |series| {
                let (value, values, is_first) = series.value(key);
                if is_first {
                    let (unit, help) = described(key);
                    let builder = self.meter.u64_observable_counter(key.name().to_owned());
                    builder
                        .with_unit(unit)
                        .with_description(help)
                        .with_callback(move |observer| {
                            each(&values, |value, labels| observer.observe(value, labels));
                        })
                        .build();
                }
                series.counters.insert(key.clone(), Arc::clone(&value));
                value
            },
        );
        counter.map_or_else(Counter::noop, Counter::from_arc)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let gauge = self.find(
            |series| series.gauges.get(key).cloned(),
            |series| {
                let (value, values, is_first) = series.value(key);
                if is_first {
                    let (unit, help) = described(key);
                    let builder = self.meter.f64_observable_gauge(key.name().to_owned());
                    builder
                        .with_unit(unit)
                        .with_description(help)
                        .with_callback(move |observer| {
                            each(&values, |bits, labels| observer.observe(f64::from_bits(bits), labels));
                        })
                        .build();
                }
                series.gauges.insert(key.clone(), Arc::clone(&value));
                value
            },
        );
        gauge.map_or_else(Gauge::noop, Gauge::from_arc)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let histogram = self.find(
            |series| series.histograms.get(key).cloned(),
            |series| {
                let (unit, help) = described(key);
                let builder = self.meter.f64_histogram(key.name().to_owned());
                let builder = builder.with_unit(unit).with_description(help);
                let histogram = builder.with_boundaries(self.bounds.clone()).build();
                let distribution = Arc::new(Distribution { histogram, labels: labels(key) });
                series.histograms.insert(key.clone(), Arc::clone(&distribution));
                distribution
            },
        );
        histogram.map_or_else(Histogram::noop, Histogram::from_arc)
    }
}

fn each(values: &Values, mut see: impl FnMut(u64, &[KeyValue])) {
    for (labels, value) in values.read().unwrap_or_else(PoisonError::into_inner).iter() {
        see(value.load(Ordering::Relaxed), labels);
    }
}

fn labels(key: &Key) -> Vec<KeyValue> {
    key.labels().map(|label| KeyValue::new(label.key().to_owned(), label.value().to_owned())).collect()
}

/// Unit and help of the catalogue.
fn described(key: &Key) -> (&'static str, &'static str) {
    let metric: Option<&Metric> = catalogue::ALL.iter().find(|metric| metric.name == key.name());
    metric.map_or(("1", ""), |metric| (metric.unit, metric.help.trim()))
}
