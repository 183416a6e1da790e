//! TOML text as a tree of values with places.

use toml::de::{DeTable, DeValue};

use super::error::RecipeFault;
use super::tree::{Entry, Node, NodeValue, Place, ScalarKind};

/// Line and column of byte offsets.
struct LineIndex<'a> {
    text: &'a str,
    /// Byte offsets at which lines begin.
    starts: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    fn new(text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(i, _)| i + 1);
        Self { text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    fn place(&self, span: std::ops::Range<usize>) -> Place {
        let line_idx = self.starts.partition_point(|&start| start <= span.start).saturating_sub(1);
        let count = |range| self.text.get(range).map_or(0, |part: &str| part.chars().count());
        let line_end = self.starts.get(line_idx + 1).copied().unwrap_or(self.text.len());
        Place {
            line: line_idx + 1,
            column: count(self.starts[line_idx]..span.start) + 1,
            n_chars: count(span.start..span.end.min(line_end).max(span.start)).max(1),
        }
    }
}

/// Reads TOML. Nesting is bounded by the parser itself, and values by the length of the text.
pub(super) fn read_toml(text: &str) -> Result<Node, (Place, RecipeFault)> {
    let lines = LineIndex::new(text);
    let root = DeTable::parse(text).map_err(|error| {
        let place = lines.place(error.span().unwrap_or(0..0));
        (place, RecipeFault::Syntax { message: error.message().lines().next().unwrap_or("no TOML").to_owned() })
    })?;
    Ok(Node { place: lines.place(0..0), value: NodeValue::Table(convert_table(&lines, root.get_ref())) })
}

fn convert_table(lines: &LineIndex<'_>, table: &DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<(usize, Entry)> = table
        .iter()
        .map(|(key, value)| {
            let key_place = lines.place(key.span());
            let node = Node { place: lines.place(value.span()), value: convert(lines, value.get_ref()) };
            (key.span().start, Entry { key: key.get_ref().to_string(), key_place, node })
        })
        .collect();
    // The map is sorted by key; problems are reported in the order of the text.
    entries.sort_by_key(|(start, _)| *start);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn convert(lines: &LineIndex<'_>, value: &DeValue<'_>) -> NodeValue {
    let scalar = |text: String, kind| NodeValue::Scalar { text, kind };
    match value {
        DeValue::String(text) => scalar(text.to_string(), ScalarKind::Quoted),
        DeValue::Integer(number) => scalar(number.to_string(), ScalarKind::Number),
        DeValue::Float(number) => scalar(number.to_string(), ScalarKind::Number),
        DeValue::Boolean(value) => scalar(value.to_string(), ScalarKind::Bool),
        DeValue::Datetime(date) => scalar(date.to_string(), ScalarKind::Date),
        DeValue::Array(items) => NodeValue::List(
            items
                .iter()
                .map(|item| Node { place: lines.place(item.span()), value: convert(lines, item.get_ref()) })
                .collect(),
        ),
        DeValue::Table(table) => NodeValue::Table(convert_table(lines, table)),
    }
}
