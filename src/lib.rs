//! dogwatch scales GPU workers for tasks in a database and never goes dark.
//!
//! # Layout
//!
//! Bottom up; a module imports only what stands above it here (a test enforces it).
//!
//! - `clock`, `backoff`, `error`, `catalogue`, `rpc`: time, delays, error texts, metric names, the
//!   workers' protocol.
//! - `supervise`: children that are started, watched and restarted.
//! - `telemetry`: the flight recorder. It can be built alone, for any Rust service
//!   (`--no-default-features --features telemetry`).
//! - `fleet`: all that is pure; the snapshot and the decision.
//! - `store`, `provider`: the database and the machines.
//! - `orchestrator`, `watch`, `explain`, `agent`, `simulate`: observe, decide, act; the independent
//!   watchdog; forensics; the process beside the user's program; a fleet's life in a moment.
//! - `gateway`: HTTP.
//! - `cli`, `config`: what was typed and set.

pub mod backoff;
pub mod catalogue;
pub mod clock;
pub mod error;
pub mod http;
pub mod rpc;

pub mod supervise;

#[cfg(feature = "full")]
pub mod agent;
#[cfg(feature = "full")]
pub mod fleet;
#[cfg(feature = "full")]
pub mod gateway;
#[cfg(feature = "full")]
pub mod provider;
#[cfg(feature = "full")]
pub mod store;
pub mod telemetry;

#[cfg(feature = "full")]
pub mod cli;
#[cfg(feature = "full")]
pub mod config;
#[cfg(feature = "full")]
pub mod explain;
#[cfg(feature = "full")]
pub mod orchestrator;
#[cfg(feature = "full")]
pub mod simulate;
#[cfg(feature = "full")]
pub mod watch;
