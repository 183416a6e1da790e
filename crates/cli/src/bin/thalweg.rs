//! The program; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    thalweg_cli::start()
}
