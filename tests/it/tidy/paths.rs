//! Every path that a file names, made absolute: `crate::fleet::ids::TaskId`, `std::fs::File`.
//!
//! `use` trees are unfolded; `super` and `self` are resolved from the file's place and the inline
//! modules around them; a path that begins with an imported name is continued from the import.
//! Globs end in `*`. Names that only a macro or a type alias could tell are left as they stand.

use std::collections::HashMap;

use super::source::Source;

/// A path and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    pub(super) test: bool,
}

impl Named {
    pub(super) fn text(&self) -> String {
        self.path.join("::")
    }
}

/// The module that a file below `src/` is; empty for the roots; None for other files.
pub(super) fn module_of(path: &str) -> Option<Vec<String>> {
    let inner = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    if inner == "lib" || inner == "main" {
        return Some(Vec::new());
    }
    Some(inner.split('/').map(str::to_owned).collect())
}

/// All paths of two or more segments that `source`, the file of `module`, names.
pub(super) fn named(source: &Source<'_>, module: &[String]) -> Vec<Named> {
    let mut reader = Reader { source, module, inline: Vec::new(), imports: HashMap::new(), named: Vec::new() };
    // Imports may stand below their use, so they are read first.
    reader.read(Pass::Imports);
    reader.read(Pass::Inline);
    reader.named.sort_by_key(|named| named.line);
    reader.named
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Imports,
    Inline,
}

struct Reader<'s, 'a> {
    source: &'s Source<'a>,
    module: &'s [String],
    /// Inline modules around the token being read, each with the depth of its braces.
    inline: Vec<(String, usize)>,
    imports: HashMap<String, Vec<String>>,
    named: Vec<Named>,
}

impl Reader<'_, '_> {
    fn read(&mut self, pass: Pass) {
        let (mut at, mut depth) = (0, 0usize);
        self.inline.clear();
        while at < self.source.tokens.len() {
            match self.source.word(at) {
                "{" => {
                    depth += 1;
                    if at >= 2 && self.source.word(at - 2) == "mod" {
                        self.inline.push((self.source.word(at - 1).to_owned(), depth));
                    }
                    at += 1;
                }
                "}" => {
                    self.inline.retain(|(_, opened)| *opened < depth);
                    depth = depth.saturating_sub(1);
                    at += 1;
                }
                "use" if self.source.word(at + 1) != "<" => {
                    let (tree, end) = self.use_tree(at + 1, &[]);
                    if pass == Pass::Imports {
                        self.import(at, tree);
                    }
                    at = end;
                }
                word if begins_path(word) => {
                    let (segments, end) = self.segments(at);
                    if pass == Pass::Inline && segments.len() > 1 {
                        let path = self.absolute(segments);
                        self.push(at, path);
                    }
                    at = end;
                }
                _ => at += 1,
            }
        }
    }

    fn import(&mut self, at: usize, tree: Vec<(Vec<String>, String)>) {
        for (segments, name) in tree {
            let path = self.absolute(segments);
            self.push(at, path.clone());
            if name != "*" && name != "_" {
                self.imports.insert(name, path);
            }
        }
    }

    fn push(&mut self, at: usize, path: Vec<String>) {
        let token = &self.source.tokens[at];
        self.named.push(Named { path, line: token.line, test: token.test });
    }

    /// `a::b::c` from `at`; a turbofish ends it.
    fn segments(&self, at: usize) -> (Vec<String>, usize) {
        let mut segments = vec![self.source.word(at).to_owned()];
        let mut at = at + 1;
        while self.source.word(at) == "::" && begins_path(self.source.word(at + 1)) {
            segments.push(self.source.word(at + 1).to_owned());
            at += 2;
        }
        (segments, at)
    }

    /// The leaves of the `use` tree at `at`, each with the name it gets here, and its end.
    fn use_tree(&self, mut at: usize, prefix: &[String]) -> (Vec<(Vec<String>, String)>, usize) {
        let mut path = prefix.to_vec();
        loop {
            match self.source.word(at) {
                "::" => at += 1,
                "{" => {
                    let mut leaves = Vec::new();
                    at += 1;
                    while !matches!(self.source.word(at), "}" | "") {
                        let (inner, end) = self.use_tree(at, &path);
                        leaves.extend(inner);
                        at = end + usize::from(self.source.word(end) == ",");
                    }
                    return (leaves, at + 1);
                }
                "," | "}" | ";" | "" => return (leaf(path, None), at),
                "as" => return (leaf(path, Some(self.source.word(at + 1))), at + 2),
                word => {
                    path.push(word.to_owned());
                    at += 1;
                }
            }
        }
    }

    fn absolute(&self, segments: Vec<String>) -> Vec<String> {
        let here = || {
            let inline = self.inline.iter().map(|(name, _)| name);
            std::iter::once("crate").map(str::to_owned).chain(self.module.iter().chain(inline).cloned())
        };
        let supers = segments.iter().take_while(|segment| *segment == "super").count();
        let first = segments[0].as_str();
        let mut path: Vec<String> = match first {
            "super" | "self" => here().collect(),
            _ => self.imports.get(first).cloned().unwrap_or_else(|| vec![first.to_owned()]),
        };
        path.truncate(path.len().saturating_sub(supers).max(1));
        path.extend(segments.into_iter().skip(supers.max(1)));
        path
    }
}

fn begins_path(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn leaf(mut path: Vec<String>, alias: Option<&str>) -> Vec<(Vec<String>, String)> {
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let name = alias.map(str::to_owned).or_else(|| path.last().cloned());
    name.map(|name| vec![(path, name)]).unwrap_or_default()
}
