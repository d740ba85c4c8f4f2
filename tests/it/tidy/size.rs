//! Sizes: files, functions, blobs.

use super::source::{Source, closing};
use super::{Fault, File};

/// Longest Rust file, lines.
const FILE_LINES_MAX: usize = 500;
/// Longest function body, lines with code.
const FUNCTION_LINES_MAX: usize = 70;
/// Largest file of any kind, bytes: more is data, not source.
const FILE_BYTES_MAX: usize = 512 * 1024;

pub(super) fn check_blob(file: &File, faults: &mut Vec<Fault>) {
    let bytes = file.text.len();
    if bytes > FILE_BYTES_MAX {
        faults.push(Fault::new(&file.path, 1, "blob", format!("{bytes} bytes; at most {FILE_BYTES_MAX}")));
    }
}

pub(super) fn check(file: &File, source: &Source<'_>, faults: &mut Vec<Fault>) {
    let lines = file.text.lines().count();
    if lines > FILE_LINES_MAX {
        faults.push(Fault::new(
            &file.path,
            lines,
            "file length",
            format!("{lines} lines; at most {FILE_LINES_MAX}"),
        ));
    }
    for at in 0..source.tokens.len() {
        if source.word(at) == "fn"
            && let Some((open, close)) = body(source, at)
        {
            let lines =
                source.code_lines(source.tokens[open].line + 1, source.tokens[close].line.saturating_sub(1));
            if lines > FUNCTION_LINES_MAX {
                let what = format!("`{}` has {lines} lines; at most {FUNCTION_LINES_MAX}", source.word(at + 1));
                faults.push(Fault::new(&file.path, source.tokens[at].line, "function length", what));
            }
        }
    }
}

/// The braces of the function whose `fn` is at `at`; None for a declaration or a pointer type.
fn body(source: &Source<'_>, at: usize) -> Option<(usize, usize)> {
    let mut open = at + 2;
    if source.word(at + 1) == "(" {
        return None;
    }
    while open < source.tokens.len() {
        match source.word(open) {
            "{" => {
                let close = closing(&source.tokens, open).min(source.tokens.len() - 1);
                return Some((open, close));
            }
            ";" => return None,
            "(" | "[" => open = closing(&source.tokens, open) + 1,
            _ => open += 1,
        }
    }
    None
}
