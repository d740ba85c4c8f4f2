//! Through a real gateway on real stores over real HTTP, and straight on the functions of Postgres.

mod attacks;
mod calls;
mod end_to_end;
mod fuzz;
mod rig;
mod server;
