//! A program's output to records: every line one `tracing` event with target `dogwatch::program`
//! and the fields task_id, worker_id, attempt and stream.
//!
//! A line that is a JSON object gives `message` (or `msg`) and `level`; its other members travel
//! as JSON text in the field `attributes`. Any other line is a message at INFO (stdout) or WARNING
//! (stderr); a traceback is one record at ERROR. Empty lines make no record. Reading never waits
//! for anything but the program.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::lines::{Entry, Joiner, Splitter};
use super::shared::Shared;
use super::tail::Tail;
use crate::rpc::Claimed;
use crate::telemetry::record::Level;

/// Target of every record that comes from a program.
pub(super) const TARGET: &str = "dogwatch::program";
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// A traceback that pauses for this long is complete.
const TRACEBACK_PAUSE: Duration = Duration::from_millis(200);

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// What the records of one attempt have in common, and the end of its output.
#[derive(Debug)]
pub(super) struct Capture<'a> {
    pub(super) shared: &'a Shared,
    pub(super) worker_id: &'a str,
    pub(super) task_id: String,
    pub(super) attempt: i64,
    tail: Mutex<Tail>,
}

impl<'a> Capture<'a> {
    pub(super) fn new(shared: &'a Shared, worker_id: &'a str, task: &Claimed) -> Capture<'a> {
        Capture {
            shared,
            worker_id,
            task_id: task.task_id.to_string(),
            attempt: task.attempt,
            tail: Mutex::default(),
        }
    }

    /// Looks at the end of the output.
    pub(super) fn with_tail<T>(&self, look: impl FnOnce(&mut Tail) -> T) -> T {
        look(&mut self.tail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a stream to its end.
    pub(super) async fn read(&self, stream: Stream, mut from: impl AsyncRead + Unpin) {
        let (mut splitter, mut joiner) = (Splitter::default(), Joiner::default());
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = from.read(&mut buffer);
            let count = if joiner.holds() {
                match tokio::time::timeout(TRACEBACK_PAUSE, read).await {
                    Ok(count) => count,
                    Err(_) => {
                        joiner.flush(|entry| self.record(stream, &entry));
                        continue;
                    }
                }
            } else {
                read.await
            };
            // A pipe that cannot be read any more has ended, too.
            let Some(bytes) = count.ok().filter(|count| *count > 0).map(|count| &buffer[..count]) else { break };
            self.shared.progress();
            if stream == Stream::Stdout {
                self.with_tail(|tail| tail.stdout(bytes));
            }
            splitter.push(bytes, |line| self.line(stream, line, &mut joiner));
        }
        splitter.finish(|line| self.line(stream, line, &mut joiner));
        joiner.flush(|entry| self.record(stream, &entry));
    }

    fn line(&self, stream: Stream, line: String, joiner: &mut Joiner) {
        self.with_tail(|tail| {
            tail.line(&line);
            if stream == Stream::Stdout {
                tail.stdout_line(&line);
            }
        });
        joiner.push(line, |entry| self.record(stream, &entry));
    }

    fn record(&self, stream: Stream, entry: &Entry) {
        match entry {
            Entry::Traceback(text) => {
                self.emit(stream, &Parsed { level: Level::Error, ..Parsed::plain(stream, text) })
            }
            Entry::Line(line) if line.trim().is_empty() => {}
            Entry::Line(line) => self.emit(stream, &parse(stream, line)),
        }
    }

    fn emit(&self, stream: Stream, parsed: &Parsed) {
        let Capture { worker_id, task_id, attempt, .. } = self;
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let (message, attributes) = (&parsed.message, parsed.attributes.as_deref());
        macro_rules! emit {
            ($level:ident) => {
                tracing::$level!(target: TARGET, task_id, worker_id, attempt, stream, attributes, "{message}")
            };
        }
        match parsed.level {
            Level::Debug => emit!(debug),
            Level::Info => emit!(info),
            Level::Warning => emit!(warn),
            Level::Error | Level::Critical => emit!(error),
        }
    }
}

/// A line taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    level: Level,
    message: String,
    attributes: Option<String>,
}

impl Parsed {
    fn plain(stream: Stream, text: &str) -> Parsed {
        let level = if stream == Stream::Stdout { Level::Info } else { Level::Warning };
        Parsed { level, message: text.to_owned(), attributes: None }
    }
}

fn parse(stream: Stream, line: &str) -> Parsed {
    let plain = Parsed::plain(stream, line);
    if !line.trim_start().starts_with('{') {
        return plain;
    }
    let Ok(mut members) = serde_json::from_str::<Map<String, Value>>(line) else { return plain };
    let Some(message) = ["message", "msg"].iter().find_map(|key| take_text(&mut members, key)) else {
        return plain;
    };
    // A word that is no level stays an attribute.
    let word = members.get("level").and_then(Value::as_str).and_then(Level::from_word);
    let level = word.unwrap_or(plain.level);
    // The record has no level above ERROR on its way through `tracing`: the word is kept.
    if word.is_some() && level != Level::Critical {
        members.remove("level");
    }
    let attributes = (!members.is_empty()).then(|| Value::Object(members).to_string());
    Parsed { level, message, attributes }
}

fn take_text(members: &mut Map<String, Value>, key: &str) -> Option<String> {
    let text = members.get(key)?.as_str()?.to_owned();
    members.remove(key);
    Some(text)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(stream: Stream, line: &str, expected: Expect) {
        let Parsed { level, message, attributes } = parse(stream, line);
        expected.assert_eq(&format!("{} {message:?} {}", level.word(), attributes.unwrap_or_default()));
    }

    #[test]
    fn a_json_line_gives_message_level_and_attributes() {
        check(Stream::Stdout, "plain", expect![[r#"INFO "plain" "#]]);
        check(Stream::Stderr, "plain", expect![[r#"WARNING "plain" "#]]);
        check(
            Stream::Stderr,
            r#"{"message": "m", "level": "Info", "step": 3, "deep": {"a": [1]}}"#,
            expect![[r#"INFO "m" {"deep":{"a":[1]},"step":3}"#]],
        );
        check(Stream::Stdout, r#"{"msg": "m", "level": "fatal"}"#, expect![[r#"CRITICAL "m" {"level":"fatal"}"#]]);
        check(Stream::Stdout, r#"{"msg": "m", "level": 30}"#, expect![[r#"INFO "m" {"level":30}"#]]);
        check(Stream::Stdout, r#"{"step": 3}"#, expect![[r#"INFO "{\"step\": 3}" "#]]);
        check(Stream::Stdout, r#"{"message": "#, expect![[r#"INFO "{\"message\": " "#]]);
    }
}
