//! The end of a program's output, kept for its report: the last bytes of stdout and the last lines
//! of both streams. Bounded, however much the program writes. Pure.

use std::collections::VecDeque;

/// Bytes of stdout that an output keeps.
pub(super) const TAIL_BYTES_MAX: usize = 64 * 1024;
/// Lines that a crash report keeps.
pub(super) const LAST_LINES_MAX: usize = 50;
/// Bytes of each of them.
const LAST_LINE_BYTES_MAX: usize = 2 * 1024;
/// Bytes of output text in an error.
const ERROR_BYTES_MAX: usize = 8 * 1024;

/// The end of an output.
#[derive(Debug, Default)]
pub(super) struct Tail {
    stdout: VecDeque<u8>,
    is_cut: bool,
    lines: VecDeque<String>,
    last_stdout_line: String,
}

impl Tail {
    /// Bytes of stdout.
    pub(super) fn stdout(&mut self, bytes: &[u8]) {
        self.stdout.extend(&bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..]);
        if self.stdout.len() > TAIL_BYTES_MAX {
            self.is_cut = true;
            self.stdout.drain(..self.stdout.len() - TAIL_BYTES_MAX);
        }
    }

    /// A line of either stream.
    pub(super) fn line(&mut self, line: &str) {
        if self.lines.len() == LAST_LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(without_nul(clip(line, LAST_LINE_BYTES_MAX)));
    }

    /// A line of stdout: the last one may be the result.
    pub(super) fn stdout_line(&mut self, line: &str) {
        if !line.trim().is_empty() {
            line.clone_into(&mut self.last_stdout_line);
        }
    }

    /// The last 64 KiB of stdout as text that every database can take.
    pub(super) fn stdout_text(&self) -> String {
        let skipped =
            if self.is_cut { self.stdout.iter().take(3).take_while(|b| **b & 0xC0 == 0x80).count() } else { 0 };
        let bytes: Vec<u8> = self.stdout.iter().skip(skipped).copied().collect();
        without_nul(&String::from_utf8_lossy(&bytes))
    }

    /// The last line of stdout where it is a JSON object.
    pub(super) fn result(&self) -> Option<serde_json::Value> {
        let text = self.last_stdout_line.replace("\\u0000", "\\ufffd");
        serde_json::from_str(&text).ok().filter(serde_json::Value::is_object)
    }

    /// The last 50 lines of both streams, oldest first.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    /// The last line that says anything.
    pub(super) fn last_line(&self) -> Option<&str> {
        self.lines.iter().rev().map(String::as_str).find(|line| !line.trim().is_empty())
    }

    /// As many of the last lines as an error has room for, oldest first.
    pub(super) fn error_text(&self) -> String {
        let mut room = ERROR_BYTES_MAX;
        let fit = self.lines.iter().rev().take_while(|line| {
            let fits = line.len() < room;
            room = room.saturating_sub(line.len() + 1);
            fits
        });
        let mut lines: Vec<&str> = fit.map(String::as_str).collect();
        lines.reverse();
        lines.join("\n")
    }
}

fn clip(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// NUL is text to a program and poison to Postgres.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_end_and_whole_characters() {
        let mut tail = Tail::default();
        let text = "ab\0".to_owned() + &"€".repeat(TAIL_BYTES_MAX);
        text.as_bytes().chunks(1_000).for_each(|chunk| tail.stdout(chunk));
        let kept = tail.stdout_text();
        assert!(kept.len() <= TAIL_BYTES_MAX && kept.len() > TAIL_BYTES_MAX - 4);
        assert!(kept.chars().all(|c| c == '€'));
        let mut short = Tail::default();
        short.stdout(b"a\0b");
        assert_eq!(short.stdout_text(), "a\u{fffd}b");
    }

    #[test]
    fn only_a_json_object_on_the_last_line_is_a_result() {
        let result = |lines: &[&str]| {
            let mut tail = Tail::default();
            lines.iter().for_each(|line| tail.stdout_line(line));
            tail.result()
        };
        assert_eq!(result(&["x", r#"{"a": 1}"#, ""]), Some(serde_json::json!({"a": 1})));
        for none in [&["{\"a\": 1}", "x"][..], &["[1]"], &["5"], &["{\"a\""], &[]] {
            assert_eq!(result(none), None, "{none:?}");
        }
    }

    #[test]
    fn last_lines_and_errors_are_bounded() {
        let mut tail = Tail::default();
        (0..200).for_each(|n| tail.line(&format!("{n} {}", "y".repeat(5_000))));
        let lines = tail.last_lines();
        assert_eq!(lines.len(), LAST_LINES_MAX);
        assert!(lines[0].starts_with("150 ") && lines[49].starts_with("199 "));
        let error = tail.error_text();
        assert!(error.len() <= ERROR_BYTES_MAX && error.contains("199 "), "{}", error.len());
        assert!(tail.last_line().unwrap().starts_with("199 "));
    }
}
