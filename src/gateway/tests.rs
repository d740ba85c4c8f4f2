//! Through a real gateway on a real SQLite store over real HTTP.

mod calls;
mod end_to_end;
mod fuzz;
mod rig;
mod server;
