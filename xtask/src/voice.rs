//! Phrases that the style guide refuses, looked for in comments, documents and texts. The list is the Voice table of
//! the guide and nothing here.

use std::path::{Path, PathBuf};

use crate::tidy::{collect_documents, collect_files, name_below, read};

/// The guide, which must name what it refuses.
const GUIDE: &str = "docs/style.md";
/// Folders with text of ours. Fixtures are files of other programs, and their scripts are listed with digests.
const FOLDERS: [&str; 12] = [
    "crates",
    "xtask",
    "docs",
    "fuzz/src",
    "fuzz/tests",
    "fuzz/libfuzzer/src",
    "bench",
    "scripts",
    "runs",
    "findings",
    "examples",
    "tokenizers",
];
/// Folders of which only the documents are checked.
const DOCUMENT_FOLDERS: [&str; 4] = ["", "fuzz", "fixtures", "corpora"];
/// Endings of files with text.
const EXTENSIONS: [&str; 5] = ["rs", "md", "py", "sh", "toml"];

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// Phrases that are refused.
    refused: Vec<String>,
    /// Longer phrases that hold a refused one and are good English.
    allowed: Vec<String>,
    /// The cell that says what to write.
    instead: String,
}

/// Every place with a refused phrase.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let rows = read_table(&read(&root.join(GUIDE))?);
    if rows.is_empty() {
        return Err(format!("{GUIDE}: the table below `## Voice` has no phrase in back-ticks"));
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in FOLDERS {
        collect_files(&root.join(folder), &EXTENSIONS, &mut files)?;
    }
    for folder in DOCUMENT_FOLDERS {
        collect_documents(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut faults = Vec::new();
    for path in files {
        let name = name_below(root, &path);
        if name != GUIDE {
            faults.extend(find_phrases(&read(&path)?, &rows).into_iter().map(|fault| format!("{name}:{fault}")));
        }
    }
    Ok(faults)
}

/// The rows of the Voice table whose first cell has a phrase in back-ticks. The others are examples.
fn read_table(guide: &str) -> Vec<Row> {
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_ascii_lowercase).collect::<Vec<_>>();
    let lines = guide.lines().skip_while(|line| *line != "## Voice").skip(1);
    let rows = lines.take_while(|line| !line.starts_with("## ")).filter_map(|line| {
        let (refused, instead) = line.strip_prefix('|')?.trim_end().strip_suffix('|')?.split_once('|')?;
        Some(Row { refused: quoted(refused), allowed: quoted(instead), instead: instead.trim().to_owned() })
    });
    rows.filter(|row| !row.refused.is_empty()).collect()
}

/// Line and phrase of each fault, also where a phrase begins on one line and ends on the next.
fn find_phrases(content: &str, rows: &[Row]) -> Vec<String> {
    let (text, starts) = running_text(content);
    let mut faults = Vec::new();
    for row in rows {
        for phrase in &row.refused {
            for (at, _) in text.match_indices(phrase.as_str()).filter(|(at, _)| is_fault(&text, *at, phrase, row)) {
                let line = starts.partition_point(|start| *start <= at);
                faults.push((line, format!("{line}: `{phrase}`: write {}", row.instead)));
            }
        }
    }
    faults.sort();
    faults.into_iter().map(|(_, fault)| fault).collect()
}

/// The words of a file in lower case with single spaces, without the marks of comments, and where each line starts.
fn running_text(content: &str) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(content.len());
    let mut starts = Vec::new();
    for line in content.lines() {
        starts.push(text.len());
        let line = line.trim().trim_start_matches(['/', '!', '#', '>']).trim_end_matches('\\');
        for word in line.split_whitespace() {
            text.push_str(&word.to_ascii_lowercase());
            text.push(' ');
        }
    }
    (text, starts)
}

/// Whether a phrase consists of whole words and is not part of an allowed one.
fn is_fault(text: &str, at: usize, phrase: &str, row: &Row) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let before = text.get(..at).and_then(|text| text.chars().next_back());
    let after = text.get(at + phrase.len()..).and_then(|text| text.chars().next());
    let is_whole = !before.is_some_and(is_word) && !after.is_some_and(is_word);
    let is_allowed = |allowed: &String| {
        let start = allowed.find(phrase).and_then(|shift| at.checked_sub(shift));
        start.and_then(|start| text.get(start..)).is_some_and(|text| text.starts_with(allowed.as_str()))
    };
    is_whole && !row.allowed.iter().any(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE_TEXT: &str = "# Guide\n| `outside` | the table |\n\n## Voice\n\nSay `so`.\n\n| not | but |\n|---|---|\n\
                              | betwixt is an example | between |\n| `betwixt`, `in twain` | between, in two |\n\
                              | `is ne` | is not (`there is ne` is fine) |\n\n## Next\n| `later` | x |\n";

    fn faults(content: &str) -> Vec<String> {
        find_phrases(content, &read_table(GUIDE_TEXT))
    }

    #[test]
    fn the_table_gives_the_phrases_in_back_ticks() {
        let rows = read_table(GUIDE_TEXT);
        let refused: Vec<_> = rows.iter().map(|row| row.refused.join(", ")).collect();
        assert_eq!(refused, ["betwixt, in twain", "is ne"]);
        assert_eq!(rows[1].allowed, ["there is ne"]);
    }

    #[test]
    fn refused_phrases_are_found_in_comments_documents_and_texts() {
        assert_eq!(faults("//! Betwixt two.\n"), ["1: `betwixt`: write between, in two"]);
        assert_eq!(faults("fn f() {}\n/// Cut in\n    /// twain.\n")[0][..13], *"2: `in twain`");
        assert_eq!(faults("let x = \"cut in \\\n    twain\";\n").len(), 1);
        assert_eq!(faults("# Betwixt's\n\n- one betwixt two\n").len(), 2);
    }

    #[test]
    fn parts_of_words_and_allowed_phrases_are_no_faults() {
        assert!(faults("let is_betwixt = betwixt_two(); // betwixtness, pre-betwixt\n").is_empty());
        assert!(faults("There is ne such thing, and if there\n// is ne other\n").is_empty());
        assert_eq!(faults("there it is ne\n").len(), 1);
    }

    #[test]
    fn the_guide_of_this_tree_has_phrases() {
        let guide = read(&crate::check::root().join(GUIDE)).unwrap();
        assert!(read_table(&guide).iter().map(|row| row.refused.len()).sum::<usize>() >= 10);
    }
}
