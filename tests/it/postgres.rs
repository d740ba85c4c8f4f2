//! `system_logs` in a real Postgres: its migrations, its housekeeping, its rights.
//!
//! Each test has a database of its own in the private cluster of this process. Not for delivery
//! through faults; that is `delivery`.

mod maintenance;
mod migrations;
mod reading;
mod rig;
