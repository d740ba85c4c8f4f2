//! dogwatch's command line; everything is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dogwatch::cli::main()
}
