//! The same program with failpoints and deliberately broken behaviours, for tests only.

use std::process::ExitCode;

fn main() -> ExitCode {
    tablemap::cli::main()
}
