//! `cargo xtask dist [TARGET]`: the archive that is published.
//!
//! `target/dist/thalweg-VERSION-TARGET.tar.gz` holds the program, shell completions, man pages and the documents beside
//! them, and a file with its SHA-256 is put next to it. The same tree, toolchain and target make the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::check::{root, say};

/// Files of the repository that travel with the program.
const DOCUMENTS: [&str; 5] = ["README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE-APACHE", "LICENSE-MIT"];
/// Shell and name of its completions.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "thalweg.bash"), ("zsh", "_thalweg"), ("fish", "thalweg.fish")];

/// Builds and packs for a target, or for this machine.
pub(crate) fn run(target: Option<&str>) -> Result<(), String> {
    let root = root();
    if let Some(target) = target {
        check_target(target)?;
    }
    let target = target.map_or_else(this_machine, |target| Ok(target.to_owned()))?;
    let mut build = Command::new(env!("CARGO"));
    build.args(["rustc", "--locked", "--profile", "dist", "--package", "thalweg-cli", "--bin", "thalweg"]);
    build.current_dir(&root);
    // Also for this machine: the flags are not for build scripts.
    build.args(["--target", &target, "--config", &format!("target.{target}.rustflags={:?}", flags_for(&target))]);
    // The binary only calls the library, but the whole program is optimized at the level of the binary.
    build.args(["--", "-Copt-level=3"]);
    succeed(&mut build)?;

    let built = root.join("target").join(&target).join("dist/thalweg");
    let name = format!("thalweg-{}-{target}", env!("CARGO_PKG_VERSION"));
    let packed = root.join("target/dist");
    let folder = packed.join(&name);
    remove(&folder)?;
    create(&folder)?;
    copy(&built, &folder.join("thalweg"))?;
    for document in DOCUMENTS {
        copy(&root.join(document), &folder.join(document))?;
    }
    generate(&built, &folder)?;
    pack(&packed, &name)
}

/// What makes the program smaller and is not part of a profile.
fn flags_for(target: &str) -> Vec<&'static str> {
    match target {
        // Functions with equal code are kept once. The linker of this target is LLVM's; GNU's does not know the flag.
        "x86_64-unknown-linux-gnu" => vec!["-Clink-arg=-Wl,--icf=all"],
        _ => Vec::new(),
    }
}

/// Refuses at once where a build for a target would fail in the middle: without its standard library, or, for musl,
/// without a C compiler, which the hash functions need.
fn check_target(target: &str) -> Result<(), String> {
    let libraries = output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]))?;
    let libraries = Path::new(String::from_utf8_lossy(&libraries).trim()).to_owned();
    let has_std = fs::read_dir(&libraries)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")));
    if !has_std {
        return Err(format!(
            "there is no standard library of `{target}` in `{}`: run `rustup target add {target}`",
            libraries.display()
        ));
    }
    let variable = format!("CC_{}", target.replace('-', "_"));
    let is_told = [&*variable, "TARGET_CC"].iter().any(|name| std::env::var_os(name).is_some());
    if target.contains("-musl") && !is_told && which("musl-gcc").is_none() {
        return Err(format!(
            "there is no C compiler for `{target}`: install `musl-gcc` (package musl-tools), or name one in `{variable}`"
        ));
    }
    Ok(())
}

/// The path of a program.
fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The newest version of glibc whose symbols a program needs; `None` if it needs none.
fn needed_glibc(program: &[u8]) -> Option<(u32, u32)> {
    let text = String::from_utf8_lossy(program);
    let versions = text.match_indices("GLIBC_").filter_map(|(at, name)| {
        let number = text[at + name.len()..].split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let (major, minor) = number.split_once('.')?;
        Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
    });
    versions.max()
}

/// Completions and man pages, by the program itself.
fn generate(program: &Path, folder: &Path) -> Result<(), String> {
    create(&folder.join("completions"))?;
    for (shell, file) in COMPLETIONS {
        let text = output(Command::new(program).args(["generate", "completions", shell]))?;
        write(&folder.join("completions").join(file), &text)?;
    }
    create(&folder.join("man"))?;
    man_pages(program, &[], &folder.join("man"))
}

/// The page of a command, and those of the commands below it, which it names.
fn man_pages(program: &Path, command: &[&str], folder: &Path) -> Result<(), String> {
    let page = output(Command::new(program).args(["generate", "man"]).args(command))?;
    let own_name = std::iter::once("thalweg").chain(command.iter().copied()).collect::<Vec<_>>().join("-");
    write(&folder.join(format!("{own_name}.1")), &page)?;
    let named = String::from_utf8_lossy(&page).replace("\\-", "-");
    let below = named.lines().filter_map(|line| line.strip_suffix("(1)")?.strip_prefix(&own_name)?.strip_prefix('-'));
    // What `help` has a page for, the command itself has one for.
    for name in below.filter(|name| *name != "help") {
        man_pages(program, &[command, &[name]].concat(), folder)?;
    }
    Ok(())
}

/// One archive of a folder, and its SHA-256.
fn pack(packed: &Path, name: &str) -> Result<(), String> {
    let archive = packed.join(format!("{name}.tar.gz"));
    // Nothing of the machine or the hour is in the archive.
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--mode=go-w"]);
    tar.args(["--use-compress-program=gzip -9 -n", "--create", "--file"]).arg(&archive);
    succeed(tar.arg("--directory").arg(packed).arg(name))?;
    let bytes = fs::read(&archive).map_err(|error| format!("{}: {error}", archive.display()))?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    write(&packed.join(format!("{name}.tar.gz.sha256")), format!("{digest}  {name}.tar.gz\n").as_bytes())?;
    let program = packed.join(name).join("thalweg");
    let program = fs::read(&program).map_err(|error| format!("{}: {error}", program.display()))?;
    let needs = needed_glibc(&program)
        .map_or_else(|| "needs no glibc".to_owned(), |(major, minor)| format!("needs glibc {major}.{minor} or later"));
    say(&format!(
        "{}: {} bytes, the program in it {} bytes; it {needs}",
        archive.display(),
        bytes.len(),
        program.len()
    ));
    Ok(())
}

/// The target that the compiler builds for by itself.
fn this_machine() -> Result<String, String> {
    let text = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

fn succeed(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} failed: {status}")),
        Err(error) => Err(format!("{command:?} cannot be started: {error}")),
    }
}

fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(output.stdout),
        Ok(output) => Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{command:?} cannot be started: {error}")),
    }
}

fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display())),
        _ => Ok(()),
    }
}

fn create(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(|_| ()).map_err(|error| format!("{}: {error}", from.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_a_standard_library_is_refused_with_what_to_install() {
        let error = check_target("mips64-unknown-linux-muslabi64").unwrap_err();
        assert!(error.contains("run `rustup target add mips64-unknown-linux-muslabi64`"), "{error}");
        assert!(check_target("no-such-target").is_err());
    }

    #[test]
    fn the_newest_glibc_is_found_among_the_names_of_symbols() {
        let symbols = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0\xff";
        assert_eq!(needed_glibc(symbols), Some((2, 34)));
        assert_eq!(needed_glibc(b"static"), None);
    }
}
