//! The `thalweg` command; all of it is in the library's `cli` module, so that it can be tested.

use std::process::ExitCode;

fn main() -> ExitCode {
    thalweg::cli::main()
}
