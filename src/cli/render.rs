//! Tables, ages and JSON for people and scripts.

use std::io::{self, IsTerminal as _, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::clock::{self, Time};

/// Version of every JSON document that a command prints.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// One JSON document on stdout: `{"schema_version": 1, <key>: value}`.
pub(super) fn json(key: &str, value: &impl Serialize) -> anyhow::Result<()> {
    let mut document = serde_json::Map::new();
    document.insert("schema_version".to_owned(), SCHEMA_VERSION.into());
    document.insert(key.to_owned(), serde_json::to_value(value)?);
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)?;
    Ok(())
}

/// One line on stdout.
pub(super) fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref())?;
    Ok(())
}

/// One line on stderr; a stderr that is gone is no reason to fail.
pub(super) fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// A table on stdout; its header alone where there is nothing to show.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(if io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    table.set_header(header.iter().map(|title| title.to_uppercase()));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| printable(&cell)));
    }
    // The preset pads each cell on both sides; the first one needs no space before it.
    let text: Vec<_> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    line(text.join("\n"))
}

/// Text that cannot move the cursor or ring the bell: a worker's log line is not to be trusted.
/// A line break is written as `\n`, so that one row stays one line.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            c if c.is_control() && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// How long ago, in two units at most: `3m 20s ago`.
pub(super) fn ago(now: Time, then: Option<Time>) -> String {
    then.map_or_else(|| "-".to_owned(), |then| format!("{} ago", duration(clock::age(now, then).as_secs())))
}

/// A duration in two units at most.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// `1 task`, `2 tasks`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let check = |seconds, text: &str| assert_eq!(duration(seconds), text);
        check(0, "0s");
        check(200, "3m 20s");
        check(7_260, "2h 1m");
        check(200_000, "2d 7h");
        assert_eq!(count(1, "task"), "1 task");
        assert_eq!(count(0, "worker"), "0 workers");
    }

    #[test]
    fn escape_sequences_of_a_log_line_are_not_played() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\nd"), "a\u{fffd}[2Jb\tc\\nd");
    }
}
