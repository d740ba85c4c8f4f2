//! How an error reaches a human: its chain printed once, and the exit code that goes with it.
//!
//! A message never repeats its source; [`chain`] joins them where the error is handled.
//! [`BadInput`] names the thing that is wrong and the remedy. Not for branching: each edge has
//! its own small enum for that.

use std::error::Error;
use std::fmt::Write as _;

/// What the process says to its caller when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// It ran, and found a problem or an expectation that is not met.
    Problem,
    /// Bad input, usage or configuration; nothing was changed.
    BadInput,
    /// A service that it needs cannot be reached.
    Unavailable,
}

impl Exit {
    /// The number of this exit: 0, 1, 2 or 69 (sysexits' EX_UNAVAILABLE).
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Problem => 1,
            Exit::BadInput => 2,
            Exit::Unavailable => 69,
        }
    }
}

/// Input that cannot be used: what is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct BadInput {
    /// The thing and its fault, such as "MAX_ACTIVE_GPUS is \"ten\", not a whole number".
    pub what: String,
    /// What the user does next, such as "set it to 0 or more".
    pub remedy: String,
}

impl BadInput {
    /// An error that names the thing and the remedy.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        BadInput { what: what.into(), remedy: remedy.into() }
    }
}

/// A service that is needed and does not answer (exit 69).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{service} cannot be reached: {detail}")]
pub struct Unavailable {
    /// The service, such as "the gateway at http://127.0.0.1:7411".
    pub service: String,
    /// What was seen.
    pub detail: String,
}

/// The error and all its sources, joined by ": ". A driver's error that repeats its source says it once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the cursor")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_says_each_cause_once() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "cannot read the cursor: disk on fire");
        let error = Outer(std::io::Error::other(Outer(std::io::Error::other("cannot read the cursor"))));
        assert_eq!(chain(&error), "cannot read the cursor");
    }
}
