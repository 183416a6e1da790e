//! What `wandb leet inspect --json` prints of a run: one object per line; those of the history are records.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::builder::LogBuilder;
use super::columns::ColumnMap;
use super::json::{RecordSeed, quote_non_finite};
use super::lines::{Line, LineFormat, read_text};
use super::{LogError, StepLog};

/// How every line begins; no other log does.
const BEGINNING: &[u8] = b"{\"num\":";
const TYPE: &[u8] = b",\"type\":\"";

/// Whether a line is one of W&B's.
pub(super) fn is_wandb_line(line: &[u8]) -> bool {
    let number = line.strip_prefix(BEGINNING).unwrap_or_default();
    let n_digits = number.iter().take_while(|byte| byte.is_ascii_digit()).count();
    n_digits > 0 && number.get(n_digits..).is_some_and(|rest| rest.starts_with(TYPE))
}

/// Reads the lines that W&B prints of a run.
///
/// # Errors
/// As [`parse_json_lines`](super::parse_json_lines).
pub fn parse_wandb_lines(bytes: &[u8], columns: &ColumnMap) -> Result<StepLog, LogError> {
    let mut builder = LogBuilder::new(columns);
    read_text(bytes, &mut WandbLines, &mut builder)?;
    builder.finish()
}

/// The lines of a run.
#[derive(Debug)]
pub(super) struct WandbLines;

impl LineFormat for WandbLines {
    fn read_line(&mut self, line: Line<'_>, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        let text = line.text.trim_ascii();
        if text.is_empty() {
            return Ok(());
        }
        let text = quote_non_finite(text);
        let mut deserializer = serde_json::Deserializer::from_slice(&text);
        let read = deserializer.deserialize_map(LineVisitor { builder });
        match read.and_then(|is_record| deserializer.end().map(|()| is_record)) {
            Ok(true) => return builder.end_record(),
            Ok(false) => {}
            Err(_) if !line.is_ended => {
                builder.drop_record();
                builder.note_torn_end(&line.place());
            }
            Err(error) => {
                builder.drop_record();
                builder.count_damage(&line.place(), line.error(error.to_string()));
            }
        }
        Ok(())
    }
}

/// Reads a line; whether it is a record.
struct LineVisitor<'a, 'b> {
    builder: &'a mut LogBuilder<'b>,
}

impl<'de> Visitor<'de> for LineVisitor<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut is_record = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "history" {
                is_record |= map.next_value_seed(HistorySeed { builder: self.builder })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(is_record)
    }
}

/// Reads the history of a line: its values, and the number of its step.
struct HistorySeed<'a, 'b> {
    builder: &'a mut LogBuilder<'b>,
}

impl<'de> DeserializeSeed<'de> for HistorySeed<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HistorySeed<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `item`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut is_record = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "item" {
                map.next_value_seed(RecordSeed { builder: self.builder, prefix: "", depth: 0 })?;
                is_record = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(is_record)
    }
}
