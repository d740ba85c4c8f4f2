//! From the ring or the spool to a destination, end to end: `cargo bench --bench export`, or one of
//! them with `-- postgres` or `-- otlp` behind it.
//!
//! [`postgres`]: a recorder that delivers to an indexed table of a private server, beside raw COPY
//! of the same rows into the same table by psql. Times are wall clock; ratios are what counts. Only
//! counts records that the destination has committed to disk. [`otlp`]: a backlog to a receiver that
//! discards, beside Rotel where it is there.

#[path = "export/discard.rs"]
mod discard;
#[path = "export/otlp.rs"]
mod otlp;
#[path = "export/postgres.rs"]
mod postgres;
#[path = "../tests/rig/postgres.rs"]
#[expect(dead_code, reason = "the rig has more than a bench needs")]
#[expect(clippy::unwrap_used, reason = "a server that does not start ends the bench")]
mod postgres_rig;

use std::error::Error;
use std::io::{self, Write as _};

fn main() -> Result<(), Box<dyn Error>> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    // The receivers are processes of their own, so that their work is not counted as ours.
    if asked.iter().any(|word| word == discard::WORD) {
        return discard::serve();
    }
    let wants = |name: &str| asked.is_empty() || asked.iter().any(|word| word == name);
    if wants("otlp") {
        io::stdout().write_all(otlp::run()?.as_bytes())?;
    }
    if wants("postgres") {
        postgres::main()?;
    }
    Ok(())
}
