//! From the ring to a destination, end to end: `cargo bench --bench export`.
//!
//! [`postgres`]: a recorder that delivers to an indexed table of a private server, beside raw COPY
//! of the same rows into the same table by psql. Times are wall clock; ratios are what counts. Only
//! counts records that the destination has committed to disk.

#[path = "export/postgres.rs"]
mod postgres;
#[path = "../tests/rig/postgres.rs"]
#[expect(dead_code, reason = "the rig has more than a bench needs")]
#[expect(clippy::unwrap_used, reason = "a server that does not start ends the bench")]
mod postgres_rig;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    postgres::main()
}
