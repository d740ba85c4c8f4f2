//! Every test that needs more than one module, in one binary: one link, one place to look.
//!
//! Unit tests stand beside the code they test. What is here reads the whole tree (tidy, assets)
//! or runs the whole program. Everything checkable is an ordinary test, so that the usual test
//! command is the only one to know.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod assets;
mod crash;
mod delivery;
#[cfg(target_os = "linux")]
mod filesystems;
mod flows;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod instructions;
mod postgres;
mod postgres_fleet;
#[path = "../rig/postgres.rs"]
mod postgres_rig;
#[path = "../rig/postgrest.rs"]
mod postgrest_rig;
#[expect(dead_code, reason = "the tests beside the code use the rest")]
#[path = "../rig/receiver.rs"]
mod receiver_rig;
#[cfg(target_os = "linux")]
mod recorded;
mod secrets;
mod supabase;
mod tidy;
mod tls;
#[path = "../rig/tls.rs"]
mod tls_rig;
