//! `dogwatch replay FILE...`: what the rules say of a fleet that somebody wrote down.
//!
//! Reads each file, asks the orchestrator's own rules, prints the report, and compares it with what
//! the file expects of it. One file prints one JSON object; several print one a line, in the order
//! given. A file that cannot be used prints nothing on stdout, and the others still do.

mod expectation;
mod report;
#[cfg(test)]
mod tests;
mod words;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{self, BadInput, Exit};
use crate::fleet::snapshot::{self, IncidentFile};

pub use expectation::{Mismatch, unmet};
pub use report::{Report, replay};

/// Largest file that is read, bytes.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Replays the files in order: JSON or words on `out`, what is wrong on `err`.
pub fn run(files: &[PathBuf], json: bool, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let mut exit = Exit::Ok;
    for (index, path) in files.iter().enumerate() {
        let one = match load(path) {
            Ok(file) => show(path, &file, json, index > 0, out, err),
            Err(bad) => writeln!(err, "{bad}").map(|()| Exit::BadInput),
        };
        match one {
            Ok(one) => exit = worse(exit, one),
            // Whoever read the output has left: there is nobody to tell the rest to.
            Err(_) => return worse(exit, Exit::Problem),
        }
    }
    exit
}

fn show(
    path: &Path,
    file: &IncidentFile,
    json: bool,
    follows: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Exit> {
    let report = replay(file);
    let unmet = unmet(file, &report);
    if json {
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        let gap = if follows { "\n" } else { "" };
        write!(out, "{gap}{}", words::words(&report, file, &unmet))?;
    }
    out.flush()?;
    for mismatch in &unmet {
        writeln!(err, "{}: {mismatch}", path.display())?;
    }
    Ok(if unmet.is_empty() { Exit::Ok } else { Exit::Problem })
}

/// Reads one file.
pub fn load(path: &Path) -> Result<IncidentFile, BadInput> {
    let unreadable = |what: &str| {
        let remedy = "give a file in the format of incident files, version 1";
        BadInput::new(format!("{}: {what}", path.display()), remedy)
    };
    let opened = std::fs::File::open(path).map_err(|error| unreadable(&error::chain(&error)))?;
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error::chain(&error)))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(&format!("$: more than {FILE_BYTES_MAX} bytes, expected at most that many")));
    }
    let text = String::from_utf8(bytes).map_err(|error| unreadable(&format!("$: {error}, expected UTF-8")))?;
    snapshot::parse(&text).map_err(|error| unreadable(&error.to_string()))
}

/// Bad input before a problem before none.
fn worse(one: Exit, other: Exit) -> Exit {
    match (one, other) {
        (Exit::BadInput, _) | (_, Exit::BadInput) => Exit::BadInput,
        (Exit::Ok, other) => other,
        (one, _) => one,
    }
}
