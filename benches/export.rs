//! How fast records leave the spool: `cargo bench --bench export`.
//!
//! One table for each destination; rounds of the contenders alternate, the table holds medians.

#[path = "export/discard.rs"]
mod discard;
#[path = "export/otlp.rs"]
mod otlp;

use std::error::Error;
use std::io::{self, Write as _};

fn main() -> Result<(), Box<dyn Error>> {
    // The receivers are processes of their own, so that their work is not counted as ours.
    if std::env::args().nth(1).as_deref() == Some(discard::WORD) {
        return discard::serve();
    }
    let table = otlp::run()?;
    io::stdout().write_all(table.as_bytes())?;
    Ok(())
}
