//! The kubectl plugin.

fn main() -> std::process::ExitCode {
    tablemap::plugin::main()
}
