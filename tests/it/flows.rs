//! The whole program as a stranger uses it: only the built binary, in a folder and on ports of its
//! own, with what it prints as the only evidence.
//!
//! Every flow ends what it started, also when it fails: whatever process still names the flow's
//! folder in its environment or arguments is killed when its [`rig::Rig`] goes. Long versions run
//! with DOGWATCH_TEST_LONG=1. Not for rules that a unit can show; those stand beside their module.

#![expect(clippy::unwrap_used, reason = "whatever fails here is the test's failure")]

mod again;
mod agents;
mod demo;
mod input;
mod killed;
#[cfg(target_os = "linux")]
mod noticed;
mod orders;
mod otel;
mod postgres;
mod prometheus;
pub(crate) mod rig;
mod ship;
mod silence;
mod spool;
mod stopped;
mod supabase;
mod work;
