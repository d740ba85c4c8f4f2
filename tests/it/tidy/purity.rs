//! Pure modules do no I/O, read no clock, roll no dice and never wait.
//!
//! What is pure can be tested with data, replayed on a laptop and simulated a day in a
//! millisecond. Their test code is free.

use super::Fault;
use super::paths;
use super::source::Source;

/// Pure with all that is below them.
const PURE: &[&str] =
    &["backoff", "fleet", "telemetry::delivery", "telemetry::spool::frame", "telemetry::spool::retention"];

/// Paths that a pure module does not name, nor anything below them.
const BANNED: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::BufRead",
    "std::io::BufReader",
    "std::io::BufWriter",
    "std::io::Read",
    "std::io::Seek",
    "std::io::Write",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "axum",
    "fastrand",
    "getrandom",
    "metrics",
    "rand",
    "reqwest",
    "rustix",
    "sqlx",
    "tokio",
    "tracing",
    "uuid::Uuid::new_v4",
    "uuid::Uuid::now_v7",
];

pub(super) fn check(path: &str, source: &Source<'_>, faults: &mut Vec<Fault>) {
    let Some(module) = paths::module_of(path) else { return };
    if !is_pure(&module) {
        return;
    }
    let mut fault = |line: usize, what: String| faults.push(Fault::new(path, line, "pure", what));
    for named in paths::named(source, &module).into_iter().filter(|named| !named.test) {
        let text = named.text();
        let reads_clock = text.ends_with("::now") || text.ends_with("::monotonic");
        if reads_clock || BANNED.iter().any(|banned| is_under(&text, banned)) {
            fault(named.line, format!("a pure module may not name `{text}`"));
        }
    }
    for token in source.tokens.iter().filter(|token| !token.test) {
        if matches!(token.text, "async" | "await") {
            fault(token.line, format!("a pure module may not be `{}`", token.text));
        }
    }
}

fn is_pure(module: &[String]) -> bool {
    // Files of tests alone are test code.
    let tests = module.last().is_some_and(|last| last == "tests");
    let path = module.join("::");
    !tests && PURE.iter().any(|pure| is_under(&path, pure))
}

fn is_under(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
