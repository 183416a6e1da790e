//! Circles of files: within a crate, imports go one way.
//!
//! An arrow leads from a file to the file that has what it imports, through re-exports. What a file takes from the
//! files above it (`super::`) is not an arrow: a folder's first file holds what its parts share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::tidy::{collect_files, read, split_tests, without_comments};

/// A file as the path of its module; empty for the root of the crate.
type Module = Vec<String>;

/// All circles of the crates below `root`, each as its files.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let crates = root.join("crates");
    let entries = std::fs::read_dir(&crates).map_err(|error| format!("{}: {error}", crates.display()))?;
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let mut faults = Vec::new();
    for name in names {
        let files = files_of(&crates.join(&name).join("src"))?;
        for circle in circles(&arrows(&files)) {
            let shown: Vec<String> = circle.iter().map(|module| module.join("/")).collect();
            faults.push(format!("crates/{name}: files import each other in a circle: {}", shown.join(", ")));
        }
    }
    Ok(faults)
}

/// The text of each file of a crate, without its tests.
fn files_of(source: &Path) -> Result<BTreeMap<Module, String>, String> {
    let mut paths = Vec::new();
    if source.exists() {
        collect_files(source, &["rs"], &mut paths)?;
    }
    let mut files = BTreeMap::new();
    for path in paths {
        let below = path.strip_prefix(source).unwrap_or(&path).with_extension("");
        let mut module: Module = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
            module.pop();
        }
        if module.last().is_none_or(|last| last != "tests") {
            files.insert(module, without_comments_and_tests(&read(&path)?));
        }
    }
    Ok(files)
}

fn without_comments_and_tests(content: &str) -> String {
    without_comments(split_tests(content).0)
}

/// Which file imports which.
fn arrows(files: &BTreeMap<Module, String>) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut exports: BTreeMap<&Module, BTreeMap<String, Module>> = BTreeMap::new();
    let mut imports: Vec<(&Module, Module)> = Vec::new();
    for (module, text) in files {
        for (is_public, tree) in uses(text) {
            for path in expand(tree).iter().filter_map(|path| absolute(module, path, files)) {
                match (is_public, path.last()) {
                    (true, Some(name)) => drop(exports.entry(module).or_default().insert(name.clone(), path)),
                    _ => imports.push((module, path)),
                }
            }
        }
        imports.extend(paths_in(text).iter().filter_map(|path| Some((module, absolute(module, path, files)?))));
    }
    let mut arrows: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, path) in imports {
        let to = home_of(&path, files, &exports, 0);
        if !from.starts_with(&to) {
            arrows.entry(from.clone()).or_default().insert(to);
        }
    }
    arrows
}

/// The file that has what a path names, where re-exports lead.
fn home_of(
    path: &[String],
    files: &BTreeMap<Module, String>,
    exports: &BTreeMap<&Module, BTreeMap<String, Module>>,
    depth: usize,
) -> Module {
    const MAX_DEPTH: usize = 8;
    let n_module = (0..=path.len()).rev().find(|&n| files.contains_key(&path[..n])).unwrap_or(0);
    let (module, rest) = path.split_at(n_module);
    let module = module.to_vec();
    let onwards = rest.first().and_then(|name| exports.get(&module)?.get(name));
    match onwards {
        Some(target) if depth < MAX_DEPTH => {
            home_of(&[target.as_slice(), &rest[1..]].concat(), files, exports, depth + 1)
        }
        _ => module,
    }
}

/// The trees of `use` items, and whether each is a re-export.
fn uses(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let items = text.split_inclusive(';').filter_map(|item| {
        let item = item.strip_suffix(';')?;
        let at = item.rfind("use ").filter(|&at| !item[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))?;
        let line = item[..at].rsplit('\n').next().unwrap_or_default().trim();
        (line.is_empty() || line.starts_with("pub")).then_some((line.starts_with("pub"), &item[at + 4..]))
    });
    items.filter(|(_, tree)| !tree.contains(['(', '=', '<']))
}

/// The paths of a `use` tree.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some((before, inside)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        return vec![path.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()];
    };
    let before: Vec<String> =
        before.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect();
    let inside = inside.rsplit_once('}').map_or(inside, |(inside, _)| inside);
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (i, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    let below = parts.into_iter().filter(|part| !part.trim().is_empty()).flat_map(expand);
    below.map(|path| [before.clone(), path].concat()).collect()
}

/// Paths that are written out where they are used.
fn paths_in(text: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let is_continued = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let end = text[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(0);
            let path: Vec<String> = text[at..at + end].split("::").map(str::to_owned).collect();
            if !is_continued && !path.iter().any(String::is_empty) {
                paths.push(path);
            }
        }
    }
    paths
}

/// A path from the root of the crate; `None` for paths into other crates.
fn absolute(module: &Module, path: &[String], files: &BTreeMap<Module, String>) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module.as_slice(), rest].concat()),
        "super" => {
            let n_up = path.iter().take_while(|part| *part == "super").count();
            let above = &module[..module.len().saturating_sub(n_up)];
            Some([above, &path[n_up..]].concat())
        }
        _ => {
            let below = [module.as_slice(), path].concat();
            files.contains_key(&below[..=module.len()]).then_some(below)
        }
    }
}

/// Groups of modules that reach each other.
fn circles(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<&Module>> {
    let reach: BTreeMap<&Module, BTreeSet<&Module>> = arrows.keys().map(|from| (from, reached(from, arrows))).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (from, to) in &reach {
        if !to.contains(from) || seen.contains(from) {
            continue;
        }
        let together: Vec<&Module> =
            to.iter().copied().filter(|other| reach.get(other).is_some_and(|back| back.contains(from))).collect();
        seen.extend(together.iter().copied());
        found.push(together);
    }
    found
}

fn reached<'a>(from: &'a Module, arrows: &'a BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in arrows.get(module).into_iter().flatten() {
            if reached.insert(next) {
                open.push(next);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let module = |name: &str| name.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let files = files.iter().map(|(name, text)| (module(name), without_comments_and_tests(text))).collect();
        let arrows = arrows(&files);
        circles(&arrows).iter().map(|circle| circle.iter().map(|m| m.join("/")).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn files_that_import_each_other_are_a_circle() {
        let one_way = [("", "mod a; mod b;"), ("a", "use crate::b::B;"), ("b", "pub struct B;")];
        assert!(found(&one_way).is_empty());
        let both = [("", ""), ("a", "use crate::b::B;"), ("b", "fn f() -> crate::a::A {}")];
        assert_eq!(found(&both), ["a b"]);
        let three =
            [("", ""), ("a", "use crate::{b::B, x};"), ("b", "use super::c;"), ("c", "use crate::a::{\n A,\n};")];
        assert_eq!(found(&three), ["a b c"]);
    }

    #[test]
    fn re_exports_are_followed_and_the_folders_own_file_is_free() {
        let through = [("", "pub use a::A;"), ("a", "use crate::b::B;"), ("b", "use crate::A;")];
        assert_eq!(found(&through), ["a b"]);
        let parts = [("", ""), ("a", "mod b;\nuse self::b::B;"), ("a/b", "use super::A;")];
        assert!(found(&parts).is_empty());
    }

    #[test]
    fn tests_and_comments_are_no_arrows() {
        let text = "// use crate::a::A;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n";
        assert!(found(&[("", ""), ("a", "use crate::b::B;"), ("b", text)]).is_empty());
    }
}
