//! `docs/methods.md`, made from the table of schemes and the head of each scheme's file. It reads text, not crates:
//! this program imports nothing of ours.

use std::path::Path;

/// Where the page is.
pub(crate) const METHODS_PATH: &str = "docs/methods.md";
const TABLE_PATH: &str = "crates/merge/src/scheme/mod.rs";
/// The table of rules for experts, and the file whose head explains them.
const RULES_PATH: &str = "crates/merge/src/rule/table.rs";
const RULES_HEAD_PATH: &str = "crates/merge/src/rule/mod.rs";

/// One line of the table of schemes, as its source text says it.
#[derive(Debug, Default, PartialEq)]
struct Entry {
    name: String,
    aliases: Vec<String>,
    help: String,
    equation: String,
    source: String,
    /// How often a rule reads its sources; empty for schemes.
    passes: String,
}

/// Writes the page.
pub(crate) fn write(root: &Path) -> Result<(), String> {
    let page = make_page(root)?;
    std::fs::write(root.join(METHODS_PATH), page).map_err(|error| format!("{METHODS_PATH}: {error}"))
}

/// Fails if the page is not what would be written now.
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let found = std::fs::read_to_string(root.join(METHODS_PATH)).unwrap_or_default();
    if found == make_page(root)? {
        return Ok(());
    }
    Err(format!("{METHODS_PATH} is out of date: run `cargo xtask docs`"))
}

fn make_page(root: &Path) -> Result<String, String> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"));
    let entries = read_table(&read(TABLE_PATH)?, "SCHEMES");
    if entries.is_empty() {
        return Err(format!("{TABLE_PATH}: no table of schemes is found"));
    }
    let mut page = "# Merge schemes\n\n\
        Made by `cargo xtask docs` from the table and the files in `crates/merge/src/scheme/`; change it there.\n\n\
        Of n checkpoints, oldest first, the i-th has the coefficient c_i. Coefficients are exact, and each element of \
        the result is rounded once.\n"
        .to_owned();
    let mut last_file = String::new();
    for entry in &entries {
        page.push_str(&entry_text(entry, TABLE_PATH)?);
        let file = scheme_file(&entry.name);
        page.push_str(&format!("- code: `crates/merge/src/scheme/{file}`\n"));
        // Schemes that share a file share its head: it is shown with the first.
        if file != last_file {
            let head = read_head(&read(&format!("crates/merge/src/scheme/{file}"))?);
            page.push_str(&format!("\n{head}\n"));
            last_file = file;
        }
    }
    let rules = read_table(&read(RULES_PATH)?, "RULES");
    if rules.is_empty() {
        return Err(format!("{RULES_PATH}: no table of rules is found"));
    }
    let head = read_head(&read(RULES_HEAD_PATH)?).replace("\n# ", "\n## ");
    page.push_str(&format!("\n# Rules for experts\n\n`thalweg merge --rule` has these. {head}\n"));
    for rule in &rules {
        page.push_str(&entry_text(rule, RULES_PATH)?);
    }
    Ok(page)
}

/// What the page says about one line of a table.
fn entry_text(entry: &Entry, table: &str) -> Result<String, String> {
    for (what, text) in [("an equation", &entry.equation), ("a source", &entry.source), ("a line of help", &entry.help)]
    {
        if text.is_empty() {
            return Err(format!("{table}: `{}` has not {what}", entry.name));
        }
    }
    let mut text = format!("\n## {}\n\n{}.\n\n", entry.name, capitalise(&entry.help));
    text.push_str(&format!("- equation: `{}`\n- source: {}\n", entry.equation, entry.source));
    if !entry.passes.is_empty() {
        text.push_str(&format!("- passes over the sources: {}\n", entry.passes));
    }
    if !entry.aliases.is_empty() {
        text.push_str(&format!("- also called: {}\n", entry.aliases.join(", ")));
    }
    Ok(text)
}

/// `decay:cosine` is in `decay.rs`, `ema-normalised` in `ema.rs`, `power-ema` in `power_ema.rs`.
fn scheme_file(name: &str) -> String {
    let family = name.split(':').next().unwrap_or(name);
    let family = family.strip_suffix("-normalised").unwrap_or(family);
    format!("{}.rs", family.replace('-', "_"))
}

fn capitalise(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Reads the entries of a static table from the text of its file: one field a line, or a text below its name.
fn read_table(content: &str, name: &str) -> Vec<Entry> {
    let table = content.split_once(&format!("static {name}:")).map_or("", |(_, rest)| rest);
    let table = table.split("\n];").next().unwrap_or("");
    let mut entries = Vec::new();
    for block in table.split("Entry {").skip(1) {
        let strings = |field: &str| -> Vec<String> {
            let head = format!("{field}: ");
            let line = block.lines().find_map(|line| line.trim().strip_prefix(&head)).unwrap_or("");
            line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let one = |field: &str| strings(field).concat();
        entries.push(Entry {
            name: one("name"),
            aliases: strings("aliases"),
            help: one("help"),
            equation: one("equation"),
            source: one("source"),
            passes: one("passes"),
        });
    }
    entries.retain(|entry| !entry.name.is_empty());
    entries
}

/// The `//!` lines at the head of a file, less links that only rustdoc follows.
fn read_head(content: &str) -> String {
    let lines = content.lines().map_while(|line| line.strip_prefix("//!"));
    let text: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    unlink(&text.join("\n"))
}

/// Turns `` [`name`](path) `` and `` [`name`] `` into `` `name` ``.
fn unlink(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("[`") {
        out.push_str(before);
        let Some((name, tail)) = after.split_once("`]") else {
            out.push_str("[`");
            rest = after;
            continue;
        };
        out.push_str(&format!("`{name}`"));
        rest = match tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            Some((_, tail)) => tail,
            None => tail,
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_field_by_field() {
        let text = "pub static SCHEMES: [SchemeEntry; 1] = [\n    SchemeEntry {\n        name: \"sma\",\n        \
            aliases: &[\"uniform\", \"linear\"],\n        help: \"alike\",\n        equation: \"c_i = 1/n\",\n        \
            source: \"eq. 3\",\n    },\n];\nfn other() { name: \"x\" }\n";
        let words = |list: [&str; 2]| list.map(str::to_owned).to_vec();
        let expected = Entry {
            name: "sma".to_owned(),
            aliases: words(["uniform", "linear"]),
            help: "alike".to_owned(),
            equation: "c_i = 1/n".to_owned(),
            source: "eq. 3".to_owned(),
            passes: String::new(),
        };
        assert_eq!(read_table(text, "SCHEMES"), [expected]);
        assert_eq!(scheme_file("decay:1-sqrt"), "decay.rs");
        assert_eq!(scheme_file("power-ema"), "power_ema.rs");
    }

    #[test]
    fn links_of_rustdoc_become_plain_code() {
        assert_eq!(
            unlink("Equal to [`decay:linear`](super::decay) and [`x`]; [a](b)."),
            "Equal to `decay:linear` and `x`; [a](b)."
        );
        assert_eq!(read_head("//! One.\n//!\n//! Two.\nfn f() {}\n//! no"), "One.\n\nTwo.");
    }
}
