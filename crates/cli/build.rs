//! Tells the program its commit and target, for `--version`.

use std::process::Command;

fn main() {
    println!("cargo:rustc-env=THALWEG_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    // Without a repository, as in an archive, there is no commit.
    let head = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Ok(head) = head
        && head.status.success()
    {
        println!("cargo:rustc-env=THALWEG_COMMIT={}", String::from_utf8_lossy(&head.stdout).trim());
    }
    let path = Command::new("git").args(["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]).output();
    match path {
        Ok(path) if path.status.success() => {
            println!("cargo:rerun-if-changed={}", String::from_utf8_lossy(&path.stdout).trim());
        }
        _ => println!("cargo:rerun-if-changed=build.rs"),
    }
}
