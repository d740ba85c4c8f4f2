//! Explanation and forensics: the orchestrator's own rules, asked again.
//!
//! Nothing here decides anything by itself. Whatever is explained is taken from a stored snapshot or
//! from a file, by the very functions that the orchestrator and the watch run.

pub mod replay;
pub mod what_if;
pub mod why;
