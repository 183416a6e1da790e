//! What the tree promises and must keep in use: flags with a test, dependencies with a user, comments that fit.

use std::path::{Path, PathBuf};

use crate::tidy::{collect_files, name_below, read};

/// Columns of a line of comment.
const MAX_COMMENT_COLUMNS: usize = 120;

/// All faults of the tree below `root`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut faults = check_flags(root)?;
    faults.extend(check_dependencies(root)?);
    Ok(faults)
}

/// Lines of comment that are wider than the code may be.
pub(crate) fn wide_comments(content: &str) -> Vec<String> {
    let is_wide = |line: &str| line.trim_start().starts_with("//") && line.chars().count() > MAX_COMMENT_COLUMNS;
    let wide = content.lines().enumerate().filter(|(_, line)| is_wide(line));
    wide.map(|(i, _)| format!("line {}: a comment of more than {MAX_COMMENT_COLUMNS} columns", i + 1)).collect()
}

/// Flags of the command line that no test of it names.
fn check_flags(root: &Path) -> Result<Vec<String>, String> {
    let mut arguments = sources_below(&root.join("crates/cli/src"), |name| name.contains("/args"))?;
    // The options that requests have too.
    arguments.extend(sources_below(&root.join("crates/study/src/request"), |_| true)?);
    let tests = sources_below(&root.join("crates/cli/tests"), |_| true)?;
    let tests: Vec<String> = tests.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let mut faults = Vec::new();
    for path in arguments {
        let name = name_below(root, &path);
        for flag in flags_of(&read(&path)?) {
            if !tests.iter().any(|test| flag.spellings().any(|spelling| has_word(test, &spelling))) {
                faults.push(format!("{name}: no test in crates/cli/tests uses `--{}`: write one", flag.long));
            }
        }
    }
    Ok(faults)
}

/// A flag as it is typed.
#[derive(Debug, PartialEq, Eq)]
struct Flag {
    long: String,
    short: Option<char>,
}

impl Flag {
    fn spellings(&self) -> impl Iterator<Item = String> + '_ {
        std::iter::once(format!("--{}", self.long)).chain(self.short.map(|letter| format!("-{letter}")))
    }
}

/// The flags of structs that clap reads: an attribute `#[arg(.., long, ..)]` and the field below it.
fn flags_of(content: &str) -> Vec<Flag> {
    let mut flags = Vec::new();
    for part in content.split("#[arg(").skip(1) {
        let Some((attribute, rest)) = part.split_once(")]\n") else { continue };
        let items: Vec<&str> = attribute.split(',').map(str::trim).collect();
        let field = rest.lines().find_map(|line| line.trim().strip_prefix("pub")).unwrap_or_default();
        let field = field.trim_start_matches("(crate)").split(':').next().unwrap_or_default().trim();
        let quoted = |item: &str, key: &str| {
            let value = item.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim();
            Some(value.trim_matches(|c| c == '"' || c == '\'').to_owned())
        };
        let long = items.iter().find_map(|item| match *item {
            "long" => Some(field.replace('_', "-")),
            item => quoted(item, "long"),
        });
        let short = items.iter().find_map(|item| match *item {
            "short" => field.chars().next(),
            item => quoted(item, "short")?.chars().next(),
        });
        flags.extend(long.map(|long| Flag { long, short }));
    }
    flags
}

/// Whether a text has a word that no letter, digit or dash continues.
fn has_word(text: &str, word: &str) -> bool {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(is_inside);
        let after = text[at + word.len()..].chars().next().is_some_and(is_inside);
        !before && !after
    })
}

/// Dependencies of the workspace that no member has.
fn check_dependencies(root: &Path) -> Result<Vec<String>, String> {
    let workspace = read(&root.join("Cargo.toml"))?;
    let section = workspace.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let mut manifests = Vec::new();
    for folder in ["crates", "fuzz", "xtask"] {
        let mut files = Vec::new();
        collect_files(&root.join(folder), &["toml"], &mut files)?;
        manifests.extend(files.into_iter().filter(|path| path.file_name().is_some_and(|name| name == "Cargo.toml")));
    }
    let members: Vec<String> = manifests.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let is_used = |name: &str| {
        let is_it =
            |line: &str| line.trim_start().strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ' ', '=']));
        members.iter().any(|member| member.lines().any(is_it))
    };
    let names = section.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim());
    let names = names.filter(|name| !name.is_empty() && !name.starts_with('#'));
    Ok(names.filter(|name| !is_used(name)).map(|name| format!("Cargo.toml: no crate uses `{name}`")).collect())
}

fn sources_below(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    collect_files(folder, &["rs"], &mut files)?;
    files.retain(|path| is_wanted(&path.to_string_lossy()));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_from_their_attributes() {
        let content = "#[arg(short, long, alias = \"output\")]\n    pub(crate) out_dir: PathBuf,\n\
                       #[arg(short = 'm', long = \"model\")]\n    pub models: Vec<String>,\n\
                       #[arg(value_name = \"RUN\")]\n    pub(crate) run: PathBuf,\n";
        let flag = |long: &str, short| Flag { long: long.to_owned(), short: Some(short) };
        assert_eq!(flags_of(content), [flag("out-dir", 'o'), flag("model", 'm')]);
    }

    #[test]
    fn a_longer_flag_is_not_a_test_of_a_shorter_one() {
        assert!(has_word("run --count 3", "--count"));
        assert!(!has_word("run --counts 3", "--count"));
        assert!(!has_word("run --out-shard", "-o"));
    }

    #[test]
    fn wide_comments_are_found_and_wide_code_is_not() {
        let long = "x".repeat(130);
        assert_eq!(wide_comments(&format!("    // {long}\n{long}\n// short")).len(), 1);
    }
}
