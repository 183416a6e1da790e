//! Public items that need not be: what no other crate, example or document uses, and what only tests use.
//!
//! A name counts as used wherever it appears as a word, so that a common name hides an unused item. A type that
//! another public item of its crate names is used: it could not be private.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use crate::tidy::{collect_files, name_below, read, split_tests, without_comments};

/// Crates that others do not import: programs, Python's library, and what only tests are made with.
const NO_LIBRARIES: [&str; 3] = ["cli", "py", "testkit"];

/// What a file says, by who reads it.
struct Source {
    /// Its folder below `crates`, or "" outside.
    crate_name: String,
    name: String,
    /// Code without comments and unit tests.
    code: String,
    /// Examples in its documentation, which compile as another crate.
    examples: String,
    /// Tests inside the file.
    unit_tests: String,
    is_test: bool,
    /// Part of its crate's library.
    is_library: bool,
}

/// All faults of the crates below `root`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let sources = read_all(root)?;
    let mut crates: Vec<&str> = sources.iter().map(|source| source.crate_name.as_str()).collect();
    crates.sort_unstable();
    crates.dedup();
    let mut faults = Vec::new();
    for name in crates.into_iter().filter(|name| !name.is_empty() && !NO_LIBRARIES.contains(name)) {
        faults.extend(faults_of(name, &sources));
    }
    Ok(faults)
}

fn read_all(root: &Path) -> Result<Vec<Source>, String> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in ["crates", "fuzz/src", "fuzz/fuzz_targets", "fuzz/tests", "examples"] {
        if root.join(folder).exists() {
            collect_files(&root.join(folder), &["rs"], &mut paths)?;
        }
    }
    paths.sort();
    paths.into_iter().map(|path| Ok(Source::new(&name_below(root, &path), &read(&path)?))).collect()
}

impl Source {
    fn new(name: &str, content: &str) -> Self {
        let crate_name = name.strip_prefix("crates/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let (own, unit_tests) = split_tests(content);
        Self {
            crate_name: crate_name.to_owned(),
            name: name.to_owned(),
            code: without_comments(own),
            examples: examples_of(content),
            unit_tests: unit_tests.to_owned(),
            is_test: name.contains("/tests/") || name.ends_with("/tests.rs") || crate_name == "testkit",
            is_library: name.starts_with(&format!("crates/{crate_name}/src/")) && !name.contains("/src/bin/"),
        }
    }
}

/// The code between fences of documentation comments.
fn examples_of(content: &str) -> String {
    let mut is_inside = false;
    let mut examples = String::new();
    for line in content.lines() {
        let line = line.trim_start();
        let Some(text) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            is_inside = false;
            continue;
        };
        if text.trim_start().starts_with("```") {
            is_inside = !is_inside;
        } else if is_inside {
            examples.push_str(text);
            examples.push('\n');
        }
    }
    examples
}

/// The faults of one crate, by file.
fn faults_of(crate_name: &str, sources: &[Source]) -> Vec<String> {
    let (mut outside, mut tests) = (HashSet::new(), HashSet::new());
    let mut signatures: HashSet<String> = HashSet::new();
    let mut inside: BTreeMap<&str, usize> = BTreeMap::new();
    for source in sources {
        let is_own = source.crate_name == crate_name && source.is_library;
        outside.extend(words(&source.examples));
        if !is_own {
            tests.extend(words(&source.unit_tests));
        }
        if source.is_test {
            tests.extend(words(&source.code));
        } else if is_own {
            words(&source.code).for_each(|word| *inside.entry(word).or_default() += 1);
            signatures.extend(public_parts(&source.code).iter().flat_map(|part| words(part).map(str::to_owned)));
        } else {
            outside.extend(words(&source.code));
        }
    }
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| source.crate_name == crate_name && source.is_library) {
        for item in public_items(&source.code) {
            if outside.contains(item.name) || (item.is_type && signatures.contains(item.name)) {
                continue;
            }
            let is_tested = tests.contains(item.name);
            let is_used = inside.get(item.name).is_some_and(|n| *n > 1);
            match (is_tested, is_used) {
                (true, true) => {}
                (true, false) => faults.push(format!("{}: only tests use `{}`: delete it", source.name, item.name)),
                (false, _) => faults.push(format!(
                    "{}: nothing outside the crate uses `{}`: write `pub(crate)`",
                    source.name, item.name
                )),
            }
        }
    }
    faults
}

struct Item<'a> {
    name: &'a str,
    is_type: bool,
}

/// The items that a file declares as public.
fn public_items(code: &str) -> Vec<Item<'_>> {
    code.lines().filter_map(|line| item_of(line.trim_start().strip_prefix("pub ")?)).collect()
}

fn item_of(declaration: &str) -> Option<Item<'_>> {
    let mut parts = declaration.split_whitespace().peekable();
    let mut kind = parts.next()?;
    while matches!(kind, "const" | "unsafe" | "async") && matches!(parts.peek(), Some(&("fn" | "unsafe"))) {
        kind = parts.next()?;
    }
    let is_type = match kind {
        "struct" | "enum" | "trait" | "type" => true,
        "fn" | "const" | "static" => false,
        _ => return None,
    };
    let name = parts.next()?.split(|c: char| !is_word(c)).next()?;
    Some(Item { name, is_type })
}

/// What public items and fields say of types: signatures, fields, variants.
fn public_parts(code: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        // What an implementation gives a trait's type is as public as the trait.
        let Some(rest) = trimmed.strip_prefix("pub ").or(trimmed.strip_prefix("type ")) else { continue };
        let indent = line.len() - line.trim_start().len();
        // The item's own name is not a use of it.
        let own = item_of(rest).map(|item| item.name);
        let mut part = own.map_or_else(|| rest.to_owned(), |own| rest.replacen(own, "", 1));
        let is_open = |text: &str| !text.trim_end().ends_with([';', '}', ',']) && !text.trim_end().ends_with('{');
        let has_variants = rest.starts_with("enum ") || rest.starts_with("trait ") || rest.starts_with("struct ");
        if has_variants && rest.trim_end().ends_with(['{', '(']) {
            let is_enum = !rest.starts_with("struct ");
            for inner in lines.by_ref() {
                if inner.trim().starts_with(['}', ')']) && inner.len() - inner.trim_start().len() <= indent {
                    break;
                }
                if is_enum || inner.trim_start().starts_with("pub ") {
                    part.push('\n');
                    part.push_str(inner);
                }
            }
        } else if is_open(rest) || (rest.contains("fn ") && !rest.contains(')')) {
            for inner in lines.by_ref() {
                part.push('\n');
                part.push_str(inner);
                if inner.trim_end().ends_with(['{', ';', '}']) {
                    break;
                }
            }
        }
        parts.push(part);
    }
    parts
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty())
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(library: &str, user: &str, test: &str) -> Vec<String> {
        let sources = [
            Source::new("crates/a/src/lib.rs", library),
            Source::new("crates/b/src/lib.rs", user),
            Source::new("crates/a/tests/it/main.rs", test),
        ];
        faults_of("a", &sources)
    }

    #[test]
    fn an_item_that_nothing_outside_uses_is_a_fault() {
        let found = faults("pub fn used() {}\npub fn unused() {}\n", "use a::used;", "");
        assert_eq!(found, ["crates/a/src/lib.rs: nothing outside the crate uses `unused`: write `pub(crate)`"]);
    }

    #[test]
    fn a_binary_is_outside_the_library_next_to_it() {
        let user = Source::new("crates/a/src/bin/a.rs", "fn main() { a::start() }");
        let sources = [Source::new("crates/a/src/lib.rs", "pub fn start() {}\n"), user];
        assert_eq!(faults_of("a", &sources), [""; 0]);
    }

    #[test]
    fn an_item_that_only_tests_use_is_a_fault_unless_the_crate_needs_it() {
        let found = faults("pub fn tested() {}\npub fn both() {}\nfn f() { both() }\n", "", "tested(); both();");
        assert_eq!(found, ["crates/a/src/lib.rs: only tests use `tested`: delete it"]);
    }

    #[test]
    fn a_type_that_a_public_signature_names_is_used() {
        let library = "pub struct Given;\npub struct Field;\npub struct Variant;\npub struct Lost;\n\
                       pub fn f(\n    given: Given,\n) {\n}\n\
                       pub struct S {\n    pub field: Field,\n    lost: Lost,\n}\n\
                       pub enum E {\n    V(Variant),\n}\n";
        let found = faults(library, "use a::{f, S, E};", "");
        assert_eq!(found, ["crates/a/src/lib.rs: nothing outside the crate uses `Lost`: write `pub(crate)`"]);
    }

    #[test]
    fn an_example_in_the_documentation_is_a_use() {
        let library = "/// Shows it.\n///\n/// ```\n/// a::shown();\n/// ```\npub fn shown() {}\n";
        assert!(faults(library, "", "").is_empty());
        assert_eq!(faults("/// Not `shown`.\npub fn shown() {}\n", "", "").len(), 1);
    }

    #[test]
    fn comments_and_unit_tests_are_not_uses() {
        let library = "pub fn f() {}\n#[cfg(test)]\nmod tests {\n    f();\n}\n";
        assert_eq!(faults(library, "// f", "").len(), 1);
    }
}
