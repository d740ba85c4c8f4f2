//! The rules of the house, as an ordinary test over the tree's own text.
//!
//! [`check`] is a pure function from files to faults, so that each rule is itself tested by a
//! planted fault. What rustc and clippy can say they say (see Cargo.toml and clippy.toml); here
//! is what they cannot: layers, pure modules, file length, headers, files that nobody declares.

mod layers;
mod paths;
mod purity;
mod shape;
mod size;
mod source;
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use source::Source;

/// A file: its path from the root, with `/`, and its text.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A rule that does not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    path: String,
    line: usize,
    rule: &'static str,
    what: String,
}

impl Fault {
    fn new(path: &str, line: usize, rule: &'static str, what: String) -> Fault {
        Fault { path: path.to_owned(), line, rule, what }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.what)
    }
}

/// Every fault in the files, in order of path and line.
pub(crate) fn check(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut sources = HashMap::new();
    for file in files {
        size::check_blob(file, &mut faults);
        if !file.path.ends_with(".rs") {
            shape::check_text(file, &mut faults);
            continue;
        }
        let source = Source::read(&file.text);
        size::check(file, &source, &mut faults);
        shape::check(file, &source, &mut faults);
        layers::check(&file.path, &source, &mut faults);
        purity::check(&file.path, &source, &mut faults);
        sources.insert(file.path.as_str(), source);
    }
    shape::check_declared(&sources, &mut faults);
    faults.sort();
    faults.dedup();
    faults
}

/// Folders that hold no source of ours.
const SKIPPED: &[&str] = &[".git", "target"];

/// Every file of this tree.
pub(crate) fn tree() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of this tree") {
            let entry = entry.expect("an entry of this tree");
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("the kind of an entry");
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                folders.push(entry.path());
            } else if kind.is_file() && name != ".git" {
                let path = entry.path();
                let relative = path.strip_prefix(root).expect("a path below the root").to_string_lossy();
                let text = String::from_utf8_lossy(&std::fs::read(&path).expect("a readable file")).into_owned();
                files.push(File { path: relative.replace('\\', "/"), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}
