//! The tree's own rules, each with what to do instead: floors, heads, lengths, homes of dangerous calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::metadata::{packages, text};

/// Lines of a file without its tests.
const MAX_FILE_LINES: usize = 700;
/// Lines of a function.
const MAX_FUNCTION_LINES: usize = 70;

/// A word that may be used only in its home.
struct Banned {
    word: &'static str,
    homes: &'static [&'static str],
    instead: &'static str,
}

const BANNED: [Banned; 9] = [
    Banned {
        word: "std::fs",
        homes: &["crates/storage/", "crates/testkit/", "xtask/", "/tests/"],
        instead: "go through `storage`",
    },
    Banned {
        word: "println!(",
        homes: &["/examples/", "/tests/", "/build.rs", "xtask/"],
        instead: "hand the text to `messages`",
    },
    Banned {
        word: "Instant::now",
        homes: &["crates/storage/src/host.rs", "crates/cli/", "/examples/", "/tests/", "xtask/"],
        instead: "take the clock from `Host`",
    },
    Banned { word: "SystemTime::now", homes: &["crates/storage/src/host.rs"], instead: "take the clock from `Host`" },
    Banned {
        word: "std::env::",
        homes: &["crates/cli/", "crates/py/", "xtask/", "/examples/"],
        instead: "let the face read it and pass it in",
    },
    Banned { word: "#[allow(", homes: &[], instead: "write `#[expect(.., reason = \"..\")]`" },
    Banned { word: "#[ignore", homes: &[], instead: "assert what happens now and say why" },
    Banned { word: "#[should_panic", homes: &[], instead: "assert the error" },
    Banned { word: "todo!(", homes: &[], instead: "build it, or leave it out" },
];

/// Files beside the kernels that may be `unsafe`: an allocator that counts cannot be had without, and Python's
/// libraries hand each other pointers.
const UNSAFE_HOMES: [&str; 3] =
    ["crates/testkit/src/counting_allocator.rs", "crates/py/src/dlpack.rs", "crates/py/src/memory.rs"];

/// All faults of the tree below `root`.
pub(crate) fn check(root: &Path, metadata: &Value) -> Result<(), String> {
    let mut faults = check_floors(root, metadata)?;
    let mut files = Vec::new();
    for folder in ["crates", "fuzz/src", "fuzz/tests", "xtask"] {
        collect_files(&root.join(folder), &["rs"], &mut files)?;
    }
    files.sort();
    for path in files {
        let content = read(&path)?;
        let name = name_below(root, &path);
        faults.extend(check_file(&name, &content).into_iter().map(|fault| format!("{name}: {fault}")));
    }
    faults.extend(check_paths_in_documents(root)?);
    faults.extend(crate::voice::check(root)?);
    faults.extend(crate::fixtures::check(root)?);
    faults.extend(crate::surface::check(root)?);
    faults.extend(crate::circles::check(root)?);
    faults.extend(crate::public::check(root)?);
    faults.extend(crate::large_files::check(root));
    if faults.is_empty() { Ok(()) } else { Err(format!("{} faults\n  {}", faults.len(), faults.join("\n  "))) }
}

/// The name of a file as faults show it.
pub(crate) fn name_below(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

pub(crate) fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// A file without its unit tests, and those.
pub(crate) fn split_tests(content: &str) -> (&str, &str) {
    content.split_once("#[cfg(test)]\nmod tests").unwrap_or((content, ""))
}

/// Code without what follows `//` in its lines.
pub(crate) fn without_comments(code: &str) -> String {
    code.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// The files below a folder whose names have one of these extensions.
pub(crate) fn collect_files(folder: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_files(&path, extensions, files)?;
        } else if path.extension().is_some_and(|found| extensions.iter().any(|extension| found == *extension)) {
            files.push(path);
        }
    }
    Ok(())
}

fn check_file(name: &str, content: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !content.starts_with("//!") {
        faults.push("its first line must be `//!`: what it is for and what it does not do".to_owned());
    }
    let is_own_test = name.contains("/tests/") || name.ends_with("/tests.rs");
    let (own, _) = split_tests(content);
    let n_lines = own.lines().count();
    if n_lines > MAX_FILE_LINES && !is_own_test {
        faults.push(format!("{n_lines} lines without tests, {MAX_FILE_LINES} at most: split it"));
    }
    if !is_own_test {
        faults.extend(long_functions(own));
    }
    faults.extend(crate::surface::wide_comments(content));
    // This file must name what it forbids.
    if name == "xtask/src/tidy.rs" {
        return faults;
    }
    for banned in &BANNED {
        let is_home =
            banned.homes.iter().any(|home| name.starts_with(home) || (home.starts_with('/') && name.contains(home)));
        let code = own.lines().filter(|line| !line.trim_start().starts_with("//"));
        if !is_home && code.clone().any(|line| line.contains(banned.word)) {
            faults.push(format!("`{}` is not for here: {}", banned.word, banned.instead));
        }
    }
    let may_be_unsafe = name.contains("/src/kernel/") || UNSAFE_HOMES.contains(&name);
    if !may_be_unsafe && own.contains("unsafe {") {
        faults.push("`unsafe` is only for kernels and for what C asks for".to_owned());
    }
    faults.extend(imported_commands(name, own));
    faults
}

/// Commands of the program are leaves: nothing but `lib.rs` imports one. A command may import its own parts, files
/// whose names begin with its name.
fn imported_commands(name: &str, own: &str) -> Vec<String> {
    const COMMANDS: &str = "crate::command::";
    if !name.starts_with("crates/cli/src/") || name == "crates/cli/src/lib.rs" {
        return Vec::new();
    }
    let file = name.strip_prefix("crates/cli/src/command/").unwrap_or_default();
    let command = file.split(['.', '/', '_']).next().filter(|command| !command.is_empty());
    let imports = own.lines().filter_map(|line| line.trim().strip_prefix("use ")?.strip_prefix(COMMANDS));
    let paths = imports.flat_map(|list| match list.strip_prefix('{') {
        Some(group) => group.split(',').collect(),
        None => vec![list],
    });
    let names = paths.filter_map(|path| path.split([':', ';', '}']).next().map(str::trim));
    let names = names.filter(|name| !["", "Outcome"].contains(name));
    let is_part = |name: &&str| command.is_some_and(|command| name.split('_').next() == Some(command));
    let foreign = names.filter(|name| !is_part(name));
    foreign.map(|name| format!("`{COMMANDS}{name}` is a command: move what both use out of `command/`")).collect()
}

/// Functions that do not fit a screen, by the indentation of their first and last line.
fn long_functions(content: &str) -> Vec<String> {
    let lines: Vec<&str> = content.lines().collect();
    let mut faults = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let code = line.trim_start();
        let is_function =
            ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn "].iter().any(|head| code.starts_with(head));
        if !is_function || code.ends_with(';') {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let Some(length) = lines[start..].iter().position(|line| *line == closing) else { continue };
        if length + 1 > MAX_FUNCTION_LINES {
            let name = code.split(['(', '<']).next().unwrap_or(code);
            faults.push(format!("`{name}` has {} lines, {MAX_FUNCTION_LINES} at most", length + 1));
        }
    }
    faults
}

/// Rows of the floor table: crate and what it may import.
fn floor_table(document: &str) -> BTreeMap<String, Vec<String>> {
    let rows = document.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells.get(2)?.strip_prefix('`')?.strip_suffix('`')?;
        let is_floor = cells.get(1).is_some_and(|floor| *floor == "dev" || floor.parse::<u8>().is_ok());
        is_floor.then(|| (name.to_owned(), cells.get(4).map_or("", |cell| cell)))
    });
    let all: Vec<(String, &str)> = rows.collect();
    let imports = |cell: &str| match cell {
        "nothing of ours" => Vec::new(),
        "everything below" => all.iter().map(|(name, _)| name.clone()).collect(),
        list => list.split(',').map(|name| name.trim().to_owned()).collect(),
    };
    all.iter().map(|(name, cell)| (name.clone(), imports(cell))).collect()
}

fn check_floors(root: &Path, metadata: &Value) -> Result<Vec<String>, String> {
    let table = floor_table(&read(&root.join("ARCHITECTURE.md"))?);
    let mut faults = Vec::new();
    let short = |name: &str| name.strip_prefix("thalweg-").unwrap_or(name).to_owned();
    let mut found = Vec::new();
    for package in packages(metadata).filter(|package| package["source"].is_null()) {
        let name = short(text(package, "name"));
        let Some(allowed) = table.get(&name) else {
            faults.push(format!("ARCHITECTURE.md: the floor table has no row for `{name}`"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        for dependency in
            dependencies.filter(|dependency| dependency["kind"].is_null() && !dependency["path"].is_null())
        {
            let import = short(text(dependency, "name"));
            if !allowed.contains(&import) {
                faults.push(format!("`{name}` imports `{import}`, which its row in ARCHITECTURE.md does not allow"));
            }
        }
        found.push(name);
    }
    let missing = table.keys().filter(|name| !found.contains(name));
    faults.extend(missing.map(|name| format!("ARCHITECTURE.md: `{name}` has a row and is not a crate")));
    Ok(faults)
}

/// Back-ticked paths in the documents must exist.
fn check_paths_in_documents(root: &Path) -> Result<Vec<String>, String> {
    let mut documents = Vec::new();
    collect_documents(root, &mut documents)?;
    for folder in ["docs", "bench", "fixtures", "fuzz"] {
        collect_documents(&root.join(folder), &mut documents)?;
    }
    for folder in ["docs/adding", "docs/formats"] {
        collect_documents(&root.join(folder), &mut documents)?;
    }
    documents.sort();
    let mut faults = Vec::new();
    for path in documents {
        let name = name_below(root, &path);
        let is_missing = |word: &&str| !root.join(word).exists();
        faults
            .extend(paths_of(&read(&path)?).filter(is_missing).map(|word| format!("{name}: `{word}` does not exist")));
    }
    Ok(faults)
}

/// The documents in a folder, not in the folders below it.
pub(crate) fn collect_documents(folder: &Path, documents: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    documents.extend(paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    Ok(())
}

/// Back-ticked words that are paths from the root, without patterns and without places to fill in.
fn paths_of(document: &str) -> impl Iterator<Item = &str> {
    const FOLDERS: [&str; 8] = ["crates/", "examples/", "fixtures/", "fuzz/", "docs/", "bench/", "scripts/", "xtask/"];
    let words = document.split('`').skip(1).step_by(2);
    words.filter(|word| {
        FOLDERS.iter().any(|start| word.starts_with(start))
            && !word.contains(['<', '*', ' ', '{'])
            && !word.contains("NAME")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_held_to_its_head_its_length_and_its_words() {
        let faults = |content: &str| check_file("crates/merge/src/x.rs", content).len();
        assert_eq!(faults("//! Head.\n"), 0);
        assert_eq!(faults("fn f() {}\n"), 1);
        assert_eq!(faults("//! Head.\nuse std::fs;\n"), 1);
        assert_eq!(faults("//! Head.\n// std::fs is for storage\n"), 0);
        assert_eq!(faults(&format!("//! Head.\nfn f() {{\n{}}}\n", "    g();\n".repeat(80))), 1);
        assert_eq!(faults(&format!("//! Head.\n{}", "const A: u8 = 1;\n".repeat(701))), 1);
    }

    #[test]
    fn commands_are_leaves() {
        let n_faults = |file: &str, import: &str| {
            check_file(&format!("crates/cli/src/{file}"), &format!("//! Head.\nuse crate::command::{import};\n")).len()
        };
        assert_eq!(n_faults("command/merge.rs", "{Outcome, merge_against::compare}"), 0);
        assert_eq!(n_faults("command/merge.rs", "merge_against::{check_target, compare}"), 0);
        assert_eq!(n_faults("command/inspect_run.rs", "{Outcome, inspect_checkpoint}"), 0);
        assert_eq!(n_faults("lib.rs", "merge"), 0);
        assert_eq!(n_faults("command/sweep.rs", "plan::show_plan"), 1);
        assert_eq!(n_faults("command/mix/plan.rs", "{Outcome, train::read_config, merge}"), 2);
        assert_eq!(n_faults("scoring.rs", "eval_external::Scratch"), 1);
    }

    #[test]
    fn paths_are_told_from_other_code() {
        let found: Vec<&str> =
            paths_of("see `docs/style.md`, `bench/*.py`, `crates/NAME/x`, `cargo run` and `xtask/`").collect();
        assert_eq!(found, ["docs/style.md", "xtask/"]);
    }

    #[test]
    fn the_floor_table_is_read_from_its_rows() {
        let table = floor_table(
            "| 1 | `checkpoint` | opens | tensor, storage | runs |\n| 0 | `tensor` | sums | nothing of ours | files |\n",
        );
        assert_eq!(table["checkpoint"], ["tensor", "storage"]);
        assert!(table["tensor"].is_empty());
    }
}
