//! Recognises the kind of a log from its first bytes.

use super::builder::LogBuilder;
use super::columns::ColumnMap;
use super::csv::is_header;
use super::lines::trim_nul;
use super::sqlite::is_database;
use super::wandb::is_wandb_line;

/// The most lines that are examined.
const MAX_LINES: usize = 256;

/// The kinds of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogKind {
    JsonLines,
    /// One document over many lines, or a file that may turn out to be one.
    JsonDocument,
    Csv,
    Console,
    Events,
    /// Of trackio or mlflow.
    Database,
    /// What W&B prints of a run.
    WandbLines,
}

/// The kind, from the name and the beginning of a file; `None` if it is neither text nor an event file.
pub(super) fn sniff_kind(name: &str, head: &[u8], columns: &ColumnMap) -> Option<LogKind> {
    if name.contains("tfevents") {
        return Some(LogKind::Events);
    }
    if is_database(head) {
        return Some(LogKind::Database);
    }
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let lines = head.split(|byte| *byte == b'\n').take(MAX_LINES).map(|line| trim_nul(line).trim_ascii());
    let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    let first = *lines.first()?;
    if is_wandb_line(first) {
        return Some(LogKind::WandbLines);
    }
    if is_list(&lines) {
        return Some(LogKind::JsonDocument);
    }
    let n_objects = lines.iter().filter(|line| is_object(line)).count();
    // Console output may begin with a configuration that was printed as JSON.
    if is_object(first) && (first == b"{" || 4 * n_objects >= lines.len()) {
        let is_document = name.ends_with(".json") || first == b"{";
        return Some(if is_document { LogKind::JsonDocument } else { LogKind::JsonLines });
    }
    if first.contains(&0) {
        return None;
    }
    if is_header(first, lines.get(1).copied(), &mut LogBuilder::new(columns)) {
        return Some(LogKind::Csv);
    }
    // A log whose beginning was cut off may start in the middle of a line.
    Some(if 2 * n_objects > lines.len() { LogKind::JsonLines } else { LogKind::Console })
}

/// Whether these lines begin a JSON list of objects: console output has other things behind a bracket.
fn is_list(lines: &[&[u8]]) -> bool {
    let behind = lines.first().and_then(|line| line.strip_prefix(b"[")).map(<[u8]>::trim_ascii_start);
    let next = behind.filter(|rest| !rest.is_empty()).or_else(|| behind.and(lines.get(1).copied()));
    next.is_some_and(|next| next.starts_with(b"{"))
}

/// Whether a line begins like a JSON object: a Python dictionary has other quotes.
fn is_object(line: &[u8]) -> bool {
    let inner = line.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    inner.is_some_and(|inner| matches!(inner.first(), None | Some(b'"' | b'}')))
}
