//! Runs the program in a scratch folder and writes down what a person sees.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use thalweg_testkit::Scratch;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thalweg"));
    command.current_dir(root()).env("COLUMNS", "100").env_remove("HF_HUB_CACHE").env("HF_HOME", "/nowhere");
    command
}

/// Runs the program at the repository's root.
pub(crate) fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

/// Exit code, standard output and error in one block, with paths, times and speeds blotted out.
pub(crate) fn transcript(arguments: &[&str], scratch: &Path) -> String {
    let output = run(arguments);
    let text = format!(
        "exit {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = text.replace(&*scratch.to_string_lossy(), "[OUT]").replace(&*root().to_string_lossy(), "[ROOT]");
    text.lines().map(blot_measurements).collect::<Vec<_>>().join("\n")
}

/// Times and rates differ from run to run.
fn blot_measurements(line: &str) -> String {
    let is_measured = line.contains("GB/s") || line.contains("memory: at most");
    let is_volatile_key =
        ["\"seconds\"", "\"peak_memory_bytes\"", "\"bytes_written\""].iter().any(|key| line.contains(key));
    if is_measured {
        return line.split([',', ':']).next().unwrap_or(line).to_owned() + ", [MEASURED]";
    }
    if is_volatile_key { line.split(':').next().unwrap_or(line).to_owned() + ": [MEASURED]" } else { line.to_owned() }
}

/// Runs a command line, split at spaces, in a folder.
pub(crate) fn run_in(scratch: &Scratch, line: &str) -> Output {
    program().current_dir(scratch.path()).args(line.split(' ')).output().unwrap()
}

/// The same; checks the exit code and what is said, and returns it.
#[track_caller]
pub(crate) fn check(scratch: &Scratch, line: &str, code: i32, facts: &[&str]) -> String {
    let output = run_in(scratch, line);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}: {text}");
    facts.iter().for_each(|fact| assert!(text.contains(fact), "{line}: `{fact}` is not in: {text}"));
    text
}
