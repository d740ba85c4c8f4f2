//! Who may import whom (invariant I10).
//!
//! A module imports modules of lower layers; inside a layer only where [`INSIDE`] says so; and
//! the orchestrator never telemetry, although it lies below: it calls the macros of `tracing`
//! and `metrics` like any service. Test code obeys the same rules.

use super::Fault;
use super::paths::{self, Named};
use super::source::Source;

/// The layers, lowest first.
const LAYERS: &[&[&str]] = &[
    &["clock", "backoff", "error", "catalogue", "http", "rpc"],
    &["supervise"],
    &["telemetry", "fleet"],
    &["store", "provider"],
    &["orchestrator", "explain", "watch", "agent", "simulate"],
    &["gateway"],
    &["config", "cli"],
];

/// Imports inside a layer: the first may import the second.
const INSIDE: &[(&str, &str)] =
    &[("explain", "orchestrator"), ("watch", "orchestrator"), ("simulate", "orchestrator"), ("cli", "config")];

/// Imports that the layers would allow and the design does not.
const NEVER: &[(&str, &str)] = &[("orchestrator", "telemetry")];

pub(super) fn check(path: &str, source: &Source<'_>, faults: &mut Vec<Fault>) {
    let Some(module) = paths::module_of(path) else { return };
    // The two roots name everything: that is their task.
    let Some(from) = module.first() else { return };
    if layer(from).is_none() {
        faults.push(Fault::new(path, 1, "layer", format!("`{from}` is in no layer")));
        return;
    }
    for named in paths::named(source, &module) {
        if let Some(why) = refusal(from, &named) {
            faults.push(Fault::new(path, named.line, "layer", why));
        }
    }
}

fn refusal(from: &str, named: &Named) -> Option<String> {
    let [root, to, ..] = named.path.as_slice() else { return None };
    if root != "crate" || to == from {
        return None;
    }
    let pair = (from, to.as_str());
    let (Some(own), Some(other)) = (layer(from), layer(to)) else {
        return Some(format!("`{}` is in no layer", named.text()));
    };
    let allowed = !NEVER.contains(&pair) && (other < own || INSIDE.contains(&pair));
    (!allowed).then(|| format!("`{from}` may not import `{}`", named.text()))
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}
