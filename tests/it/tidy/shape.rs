//! The shape of the tree and of its files: names, headers, forgotten files, words that a finished
//! tree does not contain.

use std::collections::HashMap;

use super::source::{Source, attribute};
use super::{Fault, File};

/// Marks of unfinished work; in texts of a program they mean nothing.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX"];

pub(super) fn check(file: &File, source: &Source<'_>, faults: &mut Vec<Fault>) {
    let mut fault = |line: usize, rule: &'static str, what: String| {
        faults.push(Fault::new(&file.path, line, rule, what));
    };
    if file.path.ends_with("/mod.rs") {
        fault(1, "no mod.rs", "name it after its folder and put it beside".to_owned());
    }
    if !file.text.starts_with("//!") {
        fault(1, "header", "begins with no `//!` header".to_owned());
    }
    for (line, comment) in &source.comments {
        for word in UNFINISHED.iter().filter(|word| comment.contains(**word)) {
            fault(*line, "unfinished", format!("{word} in a comment"));
        }
    }
    let ring = file.path == "src/telemetry/ring.rs" || file.path.starts_with("src/telemetry/ring/");
    for (at, token) in source.tokens.iter().enumerate() {
        match token.text {
            "todo" | "unimplemented" if source.word(at + 1) == "!" => {
                fault(token.line, "unfinished", format!("{}!", token.text));
            }
            "unsafe" if file.path.starts_with("src/") && !ring => {
                fault(token.line, "unsafe", "only telemetry/ring may".to_owned());
            }
            "#" => {
                let Some((open, close)) = attribute(&source.tokens, at) else { continue };
                let names = |word: &str| (open..close).any(|inside| source.word(inside) == word);
                let conditional = source.word(open + 1) == "cfg_attr";
                for word in ["ignore", "should_panic", "allow"] {
                    if source.word(open + 1) == word || conditional && names(word) {
                        fault(token.line, "attribute", format!("#[{word}] is not used here"));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Text files of other kinds: unfinished work, and one title for each page.
pub(super) fn check_text(file: &File, faults: &mut Vec<Fault>) {
    for (line, text) in (1..).zip(file.text.lines()) {
        for word in UNFINISHED.iter().filter(|word| text.contains(**word)) {
            faults.push(Fault::new(&file.path, line, "unfinished", word.to_string()));
        }
    }
    if file.path.ends_with(".md") {
        let mut fenced = false;
        let is_title = |line: &&str| {
            fenced ^= line.starts_with("```");
            !fenced && line.starts_with("# ")
        };
        let titles = file.text.lines().filter(is_title).count();
        if titles != 1 {
            faults.push(Fault::new(&file.path, 1, "one title", format!("{titles} titles")));
        }
    }
}

/// Rust files that no other file declares: the compiler never sees them, so nothing in them holds.
pub(super) fn check_declared(sources: &HashMap<&str, Source<'_>>, faults: &mut Vec<Fault>) {
    for path in sources.keys() {
        let Some((folder, name)) = path.trim_end_matches(".rs").rsplit_once('/') else { continue };
        let parents = match folder {
            "src" => vec!["src/lib.rs".to_owned(), "src/main.rs".to_owned()],
            "tests/it" => vec!["tests/it/main.rs".to_owned()],
            _ if folder.starts_with("src/") || folder.starts_with("tests/it/") => vec![format!("{folder}.rs")],
            _ => continue,
        };
        if parents.iter().any(|parent| parent == path) {
            continue;
        }
        let declares = |parent: &String| {
            let Some(source) = sources.get(parent.as_str()) else { return false };
            (0..source.tokens.len()).any(|at| source.word(at) == "mod" && source.word(at + 1) == name)
        };
        if !parents.iter().any(declares) {
            faults.push(Fault::new(path, 1, "declared", format!("no `mod {name}` in {}", parents.join(" or "))));
        }
    }
}
