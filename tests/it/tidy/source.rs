//! A Rust file cut into tokens, comments and lines, with its test code marked.
//!
//! Knows just enough of the language to tell code from comments and texts: nested comments, raw
//! strings, characters and lifetimes. It never fails; a file that rustc would refuse gives some
//! tokens or other. Not a parser: what a token means is for its reader.

/// A word, `::`, or one other character of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// From 1.
    pub(super) line: usize,
    /// Whether it stands under `#[cfg(test)]` or `#[test]`.
    pub(super) test: bool,
}

/// One file.
#[derive(Debug, Default)]
pub(super) struct Source<'a> {
    pub(super) tokens: Vec<Token<'a>>,
    /// Comments, cut into lines, each with its number from 1.
    pub(super) comments: Vec<(usize, &'a str)>,
    /// For each line, whether it holds code or text.
    has_code: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Space,
    Comment,
    Text,
    Token,
}

impl<'a> Source<'a> {
    pub(super) fn read(text: &'a str) -> Source<'a> {
        let mut source = Source { has_code: vec![false; text.lines().count() + 1], ..Source::default() };
        let (mut at, mut line) = (0, 1);
        while at < text.len() {
            let (piece, length) = next_piece(&text[at..]);
            let part = &text[at..at + length];
            source.take(piece, part, line);
            line += part.matches('\n').count();
            at += length;
        }
        mark_test_code(&mut source.tokens);
        source
    }

    /// Lines from `first` to `last` that hold code or text.
    pub(super) fn code_lines(&self, first: usize, last: usize) -> usize {
        (first..=last).filter(|line| self.has_code.get(line - 1) == Some(&true)).count()
    }

    /// The word at `at`, or nothing.
    pub(super) fn word(&self, at: usize) -> &'a str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn take(&mut self, piece: Piece, part: &'a str, line: usize) {
        match piece {
            Piece::Space => {}
            Piece::Comment => {
                self.comments.extend(part.lines().enumerate().map(|(below, text)| (line + below, text)));
            }
            Piece::Text => {
                for (below, _) in part.lines().enumerate() {
                    self.has_code[line + below - 1] = true;
                }
            }
            Piece::Token => {
                self.has_code[line - 1] = true;
                self.tokens.push(Token { text: part, line, test: false });
            }
        }
    }
}

/// Where the bracket at `open` closes, or the end.
pub(super) fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

fn next_piece(rest: &str) -> (Piece, usize) {
    let first = rest.chars().next().unwrap_or(' ');
    if first.is_whitespace() {
        return (Piece::Space, first.len_utf8());
    }
    if rest.starts_with("//") {
        return (Piece::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Piece::Comment, block_comment(rest));
    }
    if first == '"' {
        return (Piece::Text, quoted(rest, 1));
    }
    if first == '\'' {
        return character_or_lifetime(rest);
    }
    if rest.starts_with("::") {
        return (Piece::Token, 2);
    }
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    match &rest[..word] {
        "" => (Piece::Token, first.len_utf8()),
        "b" | "c" if rest[word..].starts_with('"') => (Piece::Text, quoted(rest, word + 1)),
        "r" | "br" | "cr" => raw(rest, word),
        _ => (Piece::Token, word),
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Length of a string whose content begins at `from`.
fn quoted(rest: &str, from: usize) -> usize {
    let mut escaped = false;
    for (at, c) in rest[from..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return from + at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A raw string, or the word before it where there is none (`r#type`).
fn raw(rest: &str, word: usize) -> (Piece, usize) {
    let hashes = rest[word..].chars().take_while(|c| *c == '#').count();
    let content = word + hashes + 1;
    if !rest[word + hashes..].starts_with('"') {
        return (Piece::Token, word);
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let length = rest[content..].find(&end).map_or(rest.len(), |at| content + at + end.len());
    (Piece::Text, length)
}

fn character_or_lifetime(rest: &str) -> (Piece, usize) {
    let mut chars = rest.char_indices().skip(1);
    let second = chars.next().map_or(' ', |(_, c)| c);
    let third = chars.next();
    if second == '\\' {
        let from = third.map_or(rest.len(), |(at, c)| at + c.len_utf8());
        return (Piece::Text, rest[from..].find('\'').map_or(rest.len(), |at| from + at + 1));
    }
    if let Some((at, '\'')) = third {
        return (Piece::Text, at + 1);
    }
    let name = rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_');
    (Piece::Token, name.map_or(rest.len(), |at| at + 1))
}

/// Marks every item under an attribute that names `test`.
fn mark_test_code(tokens: &mut [Token<'_>]) {
    let mut at = 0;
    while at < tokens.len() {
        let Some((open, close)) = attribute(tokens, at) else {
            at += 1;
            continue;
        };
        let inside = &tokens[open..close];
        let names = |word: &str| inside.iter().any(|token| token.text == word);
        if names("test") && !names("not") && !names("feature") {
            let whole_file = tokens[at + 1].text == "!";
            let end = if whole_file { tokens.len() } else { item_end(tokens, close + 1) };
            tokens[at..end].iter_mut().for_each(|token| token.test = true);
            at = end;
        } else {
            at = close + 1;
        }
    }
}

/// The brackets of the attribute that begins at `at`.
pub(super) fn attribute(tokens: &[Token<'_>], at: usize) -> Option<(usize, usize)> {
    let word = |at: usize| tokens.get(at).map(|token| token.text);
    if word(at) != Some("#") {
        return None;
    }
    let open = if word(at + 1) == Some("!") { at + 2 } else { at + 1 };
    (word(open) == Some("[")).then(|| (open, closing(tokens, open).min(tokens.len() - 1)))
}

/// One past the end of the item that begins at `at`, its further attributes included.
fn item_end(tokens: &[Token<'_>], mut at: usize) -> usize {
    while let Some((_, close)) = attribute(tokens, at) {
        at = close + 1;
    }
    while at < tokens.len() {
        match tokens[at].text {
            ";" => return at + 1,
            "{" => return (closing(tokens, at) + 1).min(tokens.len()),
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    tokens.len()
}
