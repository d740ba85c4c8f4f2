//! The whole program with its fleet in a real Postgres: every command, several orchestrators, and an
//! operator's own tables beside it.

mod claims;
mod commands;
mod doctor;
mod door;
mod imports;
mod leaders;
mod old_callers;
mod operator;
mod outage;
mod pooler;
mod rig;
