//! Bytes of a program's output to the texts of records. Pure.
//!
//! [`Splitter`] cuts lines: invalid UTF-8 is replaced, a carriage return overwrites what stands
//! before it in the line as on a terminal (progress bars), a line without end is cut at
//! [`LINE_BYTES_MAX`]. [`Joiner`] puts the lines of a Python traceback or fault report back into
//! one text, because half a traceback explains nothing.

/// Longest text of a record, bytes; longer lines become several records.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;

/// Bytes to lines.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    buffer: Vec<u8>,
}

impl Splitter {
    /// Takes bytes as they come and hands out every line that is complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(String)) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.buffer.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.buffer.extend_from_slice(&window[..end]);
                bytes = &bytes[end + 1..];
                each(text(&std::mem::take(&mut self.buffer)));
                continue;
            }
            self.buffer.extend_from_slice(window);
            bytes = &bytes[window.len()..];
            if self.buffer.len() == LINE_BYTES_MAX {
                let rest = self.buffer.split_off(whole_chars(&self.buffer));
                each(text(&std::mem::replace(&mut self.buffer, rest)));
            }
        }
    }

    /// Hands out what stands after the last line end.
    pub(super) fn finish(&mut self, mut each: impl FnMut(String)) {
        if !self.buffer.is_empty() {
            each(text(&std::mem::take(&mut self.buffer)));
        }
    }
}

/// The line as a terminal would show it.
fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let shown = line.iter().rposition(|byte| *byte == b'\r').map_or(line, |at| &line[at + 1..]);
    String::from_utf8_lossy(shown).into_owned()
}

/// Length of `bytes` without a character that is cut off at the end.
fn whole_chars(bytes: &[u8]) -> usize {
    let lead = bytes.iter().rposition(|byte| byte & 0xC0 != 0x80).unwrap_or(0);
    let needs = match bytes[lead] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    };
    if bytes.len() - lead < needs && lead > 0 { lead } else { bytes.len() }
}

/// A text for one record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// One line.
    Line(String),
    /// All lines of a traceback or fault report.
    Traceback(String),
}

/// Lines to entries.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    block: String,
    state: State,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// Outside of a traceback.
    #[default]
    Plain,
    /// Between a head and the exception's line.
    Frames,
    /// After the exception's line: a chained traceback may follow.
    Ended,
}

impl Joiner {
    /// Whether lines are held back that a pause in the output should release.
    pub(super) fn holds(&self) -> bool {
        !self.block.is_empty()
    }

    /// Takes a line and hands out what is complete.
    pub(super) fn push(&mut self, line: String, mut each: impl FnMut(Entry)) {
        if self.block.len() + line.len() > LINE_BYTES_MAX {
            self.flush(&mut each);
        }
        let is_indented = line.starts_with([' ', '\t']);
        match self.state {
            State::Plain if is_head(&line) => self.begin(&line),
            State::Plain => each(Entry::Line(line)),
            State::Frames if is_indented || line.is_empty() || is_head(&line) || is_link(&line) => self.add(&line),
            State::Frames => {
                self.add(&line);
                self.state = State::Ended;
            }
            State::Ended if is_link(&line) => {
                self.add(&line);
                self.state = State::Frames;
            }
            State::Ended if (is_indented || line.is_empty()) && !is_head(&line) => self.add(&line),
            State::Ended => {
                self.flush(&mut each);
                self.push(line, each);
            }
        }
    }

    /// Hands out what is held back.
    pub(super) fn flush(&mut self, mut each: impl FnMut(Entry)) {
        self.state = State::Plain;
        let block = std::mem::take(&mut self.block);
        if !block.is_empty() {
            each(Entry::Traceback(block.trim_end().to_owned()));
        }
    }

    fn begin(&mut self, line: &str) {
        self.block = line.to_owned();
        self.state = State::Frames;
    }

    fn add(&mut self, line: &str) {
        self.block.push('\n');
        self.block.push_str(line);
    }
}

/// Whether a traceback or a report of Python's faulthandler begins here.
fn is_head(line: &str) -> bool {
    let bare = line.trim_start_matches([' ', '+', '|']);
    ["Traceback (most recent call last):", "Exception Group Traceback (most recent call last):"].contains(&bare)
        || line.starts_with("Fatal Python error: ")
}

/// Whether the line links two parts of one report.
fn is_link(line: &str) -> bool {
    line.starts_with("During handling of the above exception")
        || line.starts_with("The above exception was the direct cause")
        || ((line.starts_with("Thread 0x") || line.starts_with("Current thread 0x"))
            && line.ends_with("(most recent call first):"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        chunks.iter().for_each(|chunk| splitter.push(chunk, |line| lines.push(line)));
        splitter.finish(|line| lines.push(line));
        lines
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        let input = "eins\nzwei ä€𝄞\r\n\nlast without end".as_bytes();
        let expected = ["eins", "zwei ä€𝄞", "", "last without end"];
        for cut in 0..=input.len() {
            assert_eq!(split(&[&input[..cut], &input[cut..]]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn bad_bytes_are_replaced_and_nul_is_kept() {
        assert_eq!(split(&[b"a\xffb\0c\n"]), ["a\u{fffd}b\0c"]);
    }

    #[test]
    fn a_carriage_return_overwrites() {
        assert_eq!(split(&[b" 10%\r 20%", b"\r100%\nnext\n"]), ["100%", "next"]);
    }

    #[test]
    fn an_endless_line_is_cut_between_characters_and_nothing_is_lost() {
        for shift in 0..4 {
            let input = "x".repeat(shift) + &"€".repeat(LINE_BYTES_MAX);
            let lines = split(&[input.as_bytes()]);
            assert_eq!(lines.concat(), input);
            assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX && !line.is_empty()));
        }
        let rubbish = vec![0x80; 3 * LINE_BYTES_MAX + 1];
        assert_eq!(split(&[&rubbish]).concat().chars().count(), rubbish.len());
    }

    fn join(text: &str) -> Vec<Entry> {
        let (mut joiner, mut entries) = (Joiner::default(), Vec::new());
        text.lines().for_each(|line| joiner.push(line.to_owned(), |entry| entries.push(entry)));
        joiner.flush(|entry| entries.push(entry));
        entries
    }

    #[test]
    fn a_chained_traceback_is_one_entry() {
        let first =
            "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    f()\nKeyError: 'x'";
        let chained = format!(
            "{first}\n\nDuring handling of the above exception, another exception occurred:\n\n\
             Traceback (most recent call last):\n  File \"a.py\", line 3, in <module>\n    g()\n    ^^^\nValueError: two\n  lines"
        );
        let entries = join(&format!("before\n{chained}\nafter\n{first}\n\n{first}"));
        let traceback = |text: &str| Entry::Traceback(text.to_owned());
        let line = |text: &str| Entry::Line(text.to_owned());
        assert_eq!(
            entries,
            [line("before"), traceback(&chained), line("after"), traceback(first), traceback(first)]
        );
    }

    #[test]
    fn a_fault_report_is_one_entry() {
        let fault = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x00007f (most recent call first):\n  File \"a.py\", line 5 in f\n  File \"a.py\", line 9 in <module>";
        assert_eq!(join(fault), [Entry::Traceback(fault.to_owned())]);
    }

    #[test]
    fn a_traceback_without_end_is_bounded() {
        let text = "Traceback (most recent call last):\n".to_owned() + &"  frame\n".repeat(100_000);
        let longest = join(&text).iter().map(|(Entry::Line(t) | Entry::Traceback(t))| t.len()).max().unwrap();
        assert!(longest <= LINE_BYTES_MAX + 100, "{longest}");
    }
}
