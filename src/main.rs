//! The `tablemap` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    tablemap::cli::main()
}
