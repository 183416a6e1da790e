//! JSON lines and `trainer_state.json`. Records are flattened while they are read; no tree is built.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::builder::LogBuilder;
use super::columns::ColumnMap;
use super::lines::{Line, LineFormat, read_text};
use super::number::{ABSENT, LogNumber};
use super::{LogError, StepLog};
use crate::{Step, Tokens};

/// How deep names are joined: `train/loss` is two.
const MAX_DEPTH: usize = 4;

/// Reads JSON lines: one object per line, blank lines skipped, a torn last line noted.
///
/// Nested objects are joined with `/`, so `{"train": {"loss": 2}}` has the column `train/loss`. The tokens NaN and
/// Infinity, which Python writes, are numbers. Lines that are torn, glued together or filled with NUL bytes, as kills
/// and lost pages leave them, are skipped and counted.
///
/// # Errors
/// `Line` for the first damaged line if more lines are damaged than not; `NoColumn` if no step or loss is there;
/// `NoSuchColumn`; `Ambiguous`; `MicroBatches`; `TooManyRecords`.
///
/// # Example
/// ```
/// use thalweg_trajectory::{ColumnMap, parse_json_lines};
///
/// let log = parse_json_lines(b"{\"step\": 1, \"loss\": 9.5}\n{\"step\": 2, \"loss\": NaN}\n", &ColumnMap::default())?;
/// assert!(log.entries()[1].loss.is_some_and(f64::is_nan));
/// # Ok::<(), thalweg_trajectory::LogError>(())
/// ```
pub fn parse_json_lines(bytes: &[u8], columns: &ColumnMap) -> Result<StepLog, LogError> {
    let mut builder = LogBuilder::new(columns);
    read_text(bytes, &mut JsonLines, &mut builder)?;
    builder.finish()
}

/// JSON lines.
#[derive(Debug)]
pub(super) struct JsonLines;

impl LineFormat for JsonLines {
    fn read_line(&mut self, line: Line<'_>, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        let text = line.text.trim_ascii();
        if text.is_empty() {
            if line.had_nul {
                builder.count_damage(&line.place(), line.error("it is filled with NUL"));
            }
            return Ok(());
        }
        match read_record(text, builder) {
            Ok(()) => return builder.end_record(),
            // Without a line break behind it, the writer was interrupted or is still writing.
            Err(_) if !line.is_ended => {
                builder.drop_record();
                builder.note_torn_end(&line.place());
            }
            Err(message) => builder.count_damage(&line.place(), line.error(message)),
        }
        Ok(())
    }
}

/// What a trainer's state says of its progress, without the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrainerState {
    /// `global_step`.
    pub step: Option<Step>,
    /// `num_input_tokens_seen`; `None` where it is 0, which is what trainers write that do not count.
    pub tokens: Option<Tokens>,
}

/// Reads the `log_history` of a `trainer_state.json`.
///
/// # Errors
/// `Json` with the position; `NoHistory`; `NoColumn`, `NoSuchColumn`, `TooManyRecords`.
pub fn parse_trainer_state(bytes: &[u8], columns: &ColumnMap) -> Result<StepLog, LogError> {
    let mut builder = LogBuilder::new(columns);
    read_state(bytes, &mut builder)?;
    builder.finish()
}

/// Adds the metrics of one record, an object, whose step is set. `place` is where it is.
pub(super) fn read_metrics(text: &[u8], place: &str, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
    match read_record(text, builder) {
        Ok(()) => builder.end_record(),
        Err(message) => {
            builder.drop_record();
            builder.count_damage(place, LogError::Json { message: format!("{place}: {message}") });
            Ok(())
        }
    }
}

/// Adds the history of a trainer's state.
pub(super) fn read_state(bytes: &[u8], builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
    let mut has_history = false;
    read_document(bytes, StateSeed { builder, has_history: &mut has_history })?;
    if has_history { Ok(()) } else { Err(LogError::NoHistory) }
}

/// Adds a JSON list of records, as a script that keeps its log in memory writes it.
pub(super) fn read_list(bytes: &[u8], builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
    let text = quote_non_finite(bytes);
    let refuse = |error: serde_json::Error| LogError::Json { message: error.to_string() };
    let mut deserializer = serde_json::Deserializer::from_slice(&text);
    HistorySeed { builder }.deserialize(&mut deserializer).map_err(refuse)?;
    deserializer.end().map_err(refuse)
}

/// Reads how far a `trainer_state.json` has come.
///
/// # Errors
/// `Json` with the position.
pub fn parse_trainer_progress(bytes: &[u8]) -> Result<TrainerState, LogError> {
    read_document(bytes, ProgressSeed)
}

/// Whether a JSON document has a history at its top.
pub(super) fn has_history(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(default)]
        log_history: Option<IgnoredAny>,
    }
    let text = quote_non_finite(bytes);
    let mut deserializer = serde_json::Deserializer::from_slice(&text);
    Probe::deserialize(&mut deserializer).is_ok_and(|probe| probe.log_history.is_some())
}

fn read_document<S>(bytes: &[u8], seed: S) -> Result<TrainerState, LogError>
where
    S: for<'de> DeserializeSeed<'de, Value = TrainerState>,
{
    let text = quote_non_finite(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let refuse = |error: serde_json::Error| LogError::Json { message: error.to_string() };
    // serde would take a list of values for the fields in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(LogError::Json { message: "it is not a JSON object".to_owned() });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(&text);
    let value = seed.deserialize(&mut deserializer).map_err(refuse)?;
    deserializer.end().map_err(refuse)?;
    Ok(value)
}

fn read_record(line: &[u8], builder: &mut LogBuilder<'_>) -> Result<(), String> {
    let text = quote_non_finite(line);
    // The line is known from outside; serde would say "line 1" again.
    let refuse = |error: serde_json::Error| {
        let text = error.to_string();
        text.split(" at line").next().map_or(text.clone(), |text| format!("{text} at column {}", error.column()))
    };
    let mut deserializer = serde_json::Deserializer::from_slice(&text);
    RecordSeed { builder, prefix: "", depth: 0 }.deserialize(&mut deserializer).map_err(refuse)?;
    deserializer.end().map_err(refuse)
}

/// Puts quotes around NaN, Infinity and -Infinity outside strings: JSON does not know them, Python writes them.
pub(super) fn quote_non_finite(bytes: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    // Both hold an `N` or an `I` outside of what numbers and `true`, `false`, `null` use.
    let is_odd = |at: usize| bytes.get(at..).is_some_and(|rest| rest.starts_with(b"NaN") || rest.starts_with(b"Inf"));
    if !memchr::memchr2_iter(b'N', b'I', bytes).any(is_odd) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut is_in_string = false;
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        if !is_in_string && let Some(word) = WORDS.iter().find(|word| rest.starts_with(word)) {
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
            rest = rest.get(word.len()..).unwrap_or_default();
            continue;
        }
        out.push(byte);
        rest = tail;
        match byte {
            b'"' => is_in_string = !is_in_string,
            b'\\' if is_in_string => {
                if let Some((&escaped, tail)) = rest.split_first() {
                    out.push(escaped);
                    rest = tail;
                }
            }
            _ => {}
        }
    }
    Cow::Owned(out)
}

/// Reads one object into the current record.
pub(super) struct RecordSeed<'a, 'b> {
    pub(super) builder: &'a mut LogBuilder<'b>,
    pub(super) prefix: &'a str,
    pub(super) depth: usize,
}

impl<'de> DeserializeSeed<'de> for RecordSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of names and numbers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let name = if self.prefix.is_empty() { key } else { Cow::Owned(format!("{}/{key}", self.prefix)) };
            map.next_value_seed(ValueSeed { builder: self.builder, name: &name, depth: self.depth + 1 })?;
        }
        Ok(())
    }
}

/// Reads a name without copying it, where that can be done: serde's own `Cow` always copies.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// Reads one value: a number is kept, an object is joined, anything else is skipped.
struct ValueSeed<'a, 'b> {
    builder: &'a mut LogBuilder<'b>,
    name: &'a str,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.builder.push_null(self.name);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.builder.push(self.name, LogNumber::Whole(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.builder.push(self.name, LogNumber::Real(value as f64));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.builder.push(self.name, LogNumber::Real(value));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if let Some(number) = (text.len() <= 32).then(|| LogNumber::parse(text)).flatten() {
            self.builder.push(self.name, number);
        } else if ABSENT.contains(&text) {
            self.builder.push_null(self.name);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.depth < MAX_DEPTH {
            return RecordSeed { builder: self.builder, prefix: self.name, depth: self.depth }.visit_map(map);
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// Reads the top of a trainer's state, its history into the builder.
struct StateSeed<'a, 'b> {
    builder: &'a mut LogBuilder<'b>,
    has_history: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for StateSeed<'_, '_> {
    type Value = TrainerState;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<TrainerState, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StateSeed<'_, '_> {
    type Value = TrainerState;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the state of a trainer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TrainerState, A::Error> {
        while let Some(key) = map.next_key_seed(KeySeed)? {
            if key == "log_history" {
                *self.has_history = true;
                map.next_value_seed(HistorySeed { builder: self.builder })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(TrainerState::default())
    }
}

struct HistorySeed<'a, 'b> {
    builder: &'a mut LogBuilder<'b>,
}

impl<'de> DeserializeSeed<'de> for HistorySeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for HistorySeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(RecordSeed { builder: self.builder, prefix: "", depth: 0 })?.is_some() {
            self.builder.end_record().map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

struct ProgressSeed;

impl<'de> DeserializeSeed<'de> for ProgressSeed {
    type Value = TrainerState;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<TrainerState, D::Error> {
        #[derive(Deserialize)]
        struct Progress {
            #[serde(default)]
            global_step: MaybeWhole,
            #[serde(default)]
            num_input_tokens_seen: MaybeWhole,
        }
        let progress = Progress::deserialize(deserializer)?;
        Ok(TrainerState {
            step: progress.global_step.0.map(Step),
            tokens: progress.num_input_tokens_seen.0.filter(|n| *n > 0).map(Tokens),
        })
    }
}

/// A whole number, or anything else as nothing.
#[derive(Debug, Default)]
struct MaybeWhole(Option<u64>);

impl<'de> Deserialize<'de> for MaybeWhole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let columns = ColumnMap::default();
        let mut builder = LogBuilder::new(&columns);
        // The reader of values keeps what is a number under the name `step` and skips the rest.
        ValueSeed { builder: &mut builder, name: "step", depth: MAX_DEPTH }.deserialize(deserializer)?;
        Ok(Self(builder.current_step()))
    }
}
