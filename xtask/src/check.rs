//! The steps of the check, in the order in which they are cheap to fail.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const STEPS: [(&str, &[&str]); 4] = [
    ("formatting", &["fmt", "--all", "--check"]),
    ("clippy, and everything compiles", &["build", "--workspace", "--all-targets", "--quiet"]),
    ("tests", &["test", "--workspace", "--lib", "--bins", "--tests"]),
    ("doc tests", &["test", "--workspace", "--doc"]),
];

/// Makes cargo compile with clippy, which then lints what it compiles. `cargo clippy` would compile everything for
/// itself, only to throw it away: a quarter of a fresh check.
///
/// Clippy compiles as the compiler does, but for the optimizations of the middle representation, which it turns off.
fn compile_with_clippy(cargo: &mut Command) {
    // `cargo xtask` says which package runs. Build scripts that look at that would run again after every other
    // command of cargo, and all that depends on them would be compiled again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
            cargo.env_remove(name);
        }
    }
    cargo.env("RUSTC_WORKSPACE_WRAPPER", Path::new(env!("CARGO")).with_file_name("clippy-driver"));
    // How `cargo clippy` hands `-D warnings` on.
    cargo.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
}

/// Twice as many as there are cores: many tests wait for a disk or for a process that they started. With as many
/// threads as cores, the tests of the command line take a third longer.
fn n_test_threads() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs every step; stops at the first that fails.
pub(crate) fn run() -> Result<(), String> {
    for (name, arguments) in STEPS {
        let started = Instant::now();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(arguments);
        compile_with_clippy(&mut cargo);
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            cargo.env("RUST_TEST_THREADS", n_test_threads().to_string());
        }
        let status = cargo.status();
        let passed = status.map_err(|error| format!("cargo cannot be started: {error}"))?.success();
        if !passed {
            return Err(format!("{name} failed: cargo {}", arguments.join(" ")));
        }
        say(&format!("{name}: passed in {:.1} s", started.elapsed().as_secs_f64()));
    }
    tidy()?;
    for stage in [&STORES, &PYTHON] {
        match std::env::var_os(stage.variable) {
            Some(_) => run_stage(stage)?,
            None => say(&format!(
                "{name}: skipped; `cargo xtask {name}` runs it, and so does this check with {variable}=1",
                name = stage.name,
                variable = stage.variable
            )),
        }
    }
    Ok(())
}

/// A part of the check that needs more than Rust.
pub(crate) struct Stage {
    name: &'static str,
    /// Set where the check includes it.
    variable: &'static str,
    script: &'static str,
}

/// The wheel, its tests and its types: needs Python and PyTorch.
pub(crate) const PYTHON: Stage =
    Stage { name: "python", variable: "THALWEG_CHECK_PYTHON", script: "scripts/python_check.sh" };
/// Merges over S3, Google and Azure, with the program that the tests built: needs Python and npm.
pub(crate) const STORES: Stage =
    Stage { name: "stores", variable: "THALWEG_CHECK_STORES", script: "scripts/object_stores.sh" };

pub(crate) fn run_stage(stage: &Stage) -> Result<(), String> {
    let started = Instant::now();
    let mut script = Command::new("bash");
    // Otherwise all that the check compiled would be compiled again.
    compile_with_clippy(script.arg(root().join(stage.script)));
    if !script.status().map_err(|error| format!("bash cannot be started: {error}"))?.success() {
        return Err(format!("{} failed: {}", stage.name, stage.script));
    }
    say(&format!("{}: passed in {:.1} s", stage.name, started.elapsed().as_secs_f64()));
    Ok(())
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The rules of the tree, what is generated in it, and the licences of its dependencies.
pub(crate) fn tidy() -> Result<(), String> {
    let metadata = crate::metadata::read()?;
    let root = root();
    crate::tidy::check(&root, &metadata).map_err(|faults| format!("tidy: {faults}"))?;
    say("tidy: passed");
    crate::methods::check(&root)?;
    say("generated files are up to date: passed");
    crate::licences::check(&metadata)?;
    say("licences of dependencies: passed");
    Ok(())
}

pub(crate) fn say(text: &str) {
    // A reader such as `head` may have closed the pipe; what is checked does not depend on it.
    let _closed = writeln!(std::io::stdout(), "{text}");
}
