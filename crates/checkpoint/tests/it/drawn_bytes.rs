//! The bytes that the pages on formats draw are those of our own files.

use std::fs;
use std::path::Path;

use crate::support::fixture;

/// Pages with bytes, and how many lines of them are compared. Pages that draw files that they do not name are left out.
const PAGES: [(&str, usize); 9] = [
    ("dcp", 2),
    ("deepspeed", 4),
    ("gguf", 6),
    ("megatron", 3),
    ("megatron-legacy", 4),
    ("npz", 7),
    ("orbax", 5),
    ("torch", 8),
    ("torch-checkpointing", 5),
];

/// A line such as `04  71 00 00`: an offset and the bytes there. Words and other remarks end it.
fn drawn(line: &str) -> Option<(usize, Vec<u8>)> {
    let (offset, rest) = line.split_once("  ")?;
    let offset = usize::from_str_radix(offset, 16).ok()?;
    let hex = rest.split("  ").next()?.split(' ');
    let is_byte = |text: &&str| text.len() == 2;
    let bytes: Vec<u8> = hex.take_while(is_byte).map_while(|text| u8::from_str_radix(text, 16).ok()).collect();
    (!bytes.is_empty()).then_some((offset, bytes))
}

/// The fixture that a line names last.
fn named(line: &str) -> Option<Vec<u8>> {
    let names = line.split('`').filter_map(|part| part.strip_prefix("fixtures/"));
    names.filter_map(|name| fs::read(fixture(name)).ok()).next_back()
}

fn compare(page: &str) -> usize {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats");
    let text = fs::read_to_string(pages.join(format!("{page}.md"))).unwrap();
    let (mut n_lines, mut file) = (0, None);
    for line in text.lines() {
        if line.starts_with("## ") {
            file = None;
        }
        file = named(line).or(file);
        if let (Some(file), Some((offset, bytes))) = (&file, drawn(line)) {
            assert!(file[offset..].starts_with(&bytes), "{page}.md: {line}");
            n_lines += 1;
        }
    }
    n_lines
}

#[test]
fn the_pages_on_formats_draw_the_bytes_of_the_fixtures() {
    for (page, n_lines) in PAGES {
        assert_eq!(compare(page), n_lines, "lines of bytes in {page}.md");
    }
}
