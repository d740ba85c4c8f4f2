//! All that is pure: what a fleet is, and what to do about it.
//!
//! No I/O, no clock, no randomness, no async: everything here is a function of its arguments.
//! The center is the [`snapshot`]: `observe` returns it, [`decision::decide`] reads it, each
//! decision row stores it, `replay` reads it from a file. Explanation is never a second
//! implementation of a rule that stands here.

pub mod breaker;
pub mod cell;
pub mod decision;
pub mod demand;
pub mod findings;
pub mod gates;
pub mod health;
pub mod ids;
pub mod order;
pub mod outcome;
pub mod policy;
pub mod pool;
pub mod reaper;
pub mod refusal;
pub mod scaling;
pub mod snapshot;
pub mod state;
pub mod task;
