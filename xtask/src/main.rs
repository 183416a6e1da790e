//! `cargo xtask check`: the one command that says whether the tree is whole.

mod check;
mod circles;
mod dist;
mod fixtures;
mod large_files;
mod licences;
mod metadata;
mod methods;
mod public;
mod surface;
mod tidy;
mod voice;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("check") => check::run(),
        Some("tidy") => check::tidy(),
        Some("python") => check::run_stage(&check::PYTHON),
        Some("stores") => check::run_stage(&check::STORES),
        Some("docs") => methods::write(&check::root()),
        Some("dist") => dist::run(arguments.get(1).map(String::as_str)),
        _ => Err("usage: cargo xtask check | tidy | python | stores | docs | dist [TARGET]".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            #[expect(clippy::print_stderr, reason = "this program talks to a person")]
            {
                eprintln!("xtask: {message}");
            }
            ExitCode::FAILURE
        }
    }
}
