//! What `up` says on stderr while it works: one short line an event, for eyes.
//!
//! The records themselves are in system_logs, with everything; here stand the time, the level, the
//! message and its own fields. A cycle that did nothing is not said: it comes every few seconds.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::render;
use crate::clock;

/// Counters of a cycle's last words.
const CYCLE_DID: [&str; 3] = ["spawned", "terminated", "failed"];

/// Writes events as lines.
pub(super) struct Console;

impl<S, N> FormatEvent<S, N> for Console
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        if said.is_idle_cycle() {
            return Ok(());
        }
        let time = clock::now().strftime("%H:%M:%SZ");
        writeln!(out, "{time} {:5} {}", event.metadata().level(), render::printable(&said.text()))
    }
}

/// An event's message and fields.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Said {
    fn is_idle_cycle(&self) -> bool {
        CYCLE_DID.iter().all(|name| self.fields.iter().any(|(field, value)| field == name && value == "0"))
    }

    fn text(&self) -> String {
        let fields = self.fields.iter().map(|(name, value)| format!(" {name}={value}"));
        std::iter::once(self.message.clone()).chain(fields).collect()
    }

    fn take(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}
