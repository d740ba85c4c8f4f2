//! Records into `system_logs` of a Postgres database.
//!
//! The table has its own migrations ([`schema`]), which `dogwatch migrate` applies; nothing here
//! ever changes a schema by itself.

mod connect;
pub mod schema;

pub use self::connect::{Address, AddressError};
