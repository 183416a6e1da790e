//! TensorBoard event files: framed records, each a protobuf message of which only scalars are read.
//!
//! A record is length (u64), masked CRC-32C of the length (u32), data, masked CRC-32C of the data (u32), all little
//! endian (TensorFlow, `core/lib/io/record_writer.cc`). Field numbers are those of `event.proto`, `summary.proto` and
//! `tensor.proto`.

use std::borrow::Cow;

use super::builder::LogBuilder;
use super::columns::ColumnMap;
use super::number::LogNumber;
use super::{LogError, StepLog};

/// Scalars are small. A larger record holds images, graphs or histograms, and is skipped unread.
const MAX_RECORD_BYTES: u64 = 1 << 20;
const HEAD_BYTES: usize = 12;
const TAIL_BYTES: usize = 4;

/// Names of folders whose files are not about training.
const EVALUATIONS: [&str; 7] = ["eval", "evaluation", "val", "valid", "validation", "test", "dev"];

/// The folder of an event file below the one that was asked for, and what it says about the tags in the file.
///
/// `add_scalars` writes each series into a separate folder, all with the same tag: torch names the folder `loss_train`,
/// tensorboardX `loss/train`. The series then takes its name from the folder instead of the tag.
#[derive(Debug, Default)]
pub(super) struct SeriesFolder {
    /// Names of folders, outermost first.
    pub(super) names: Vec<String>,
}

impl SeriesFolder {
    fn name_series<'a>(&self, tag: &'a str) -> Cow<'a, str> {
        let Some((own, above)) = self.names.split_last() else { return Cow::Borrowed(tag) };
        let flat = tag.replace('/', "_");
        if own.strip_prefix(&flat).is_some_and(|rest| rest.len() > 1 && rest.starts_with('_')) {
            return Cow::Owned(own.clone());
        }
        let depth = tag.split('/').count();
        let outer = above.get(above.len().saturating_sub(depth)..).unwrap_or_default();
        if outer.iter().map(String::as_str).eq(tag.split('/')) {
            return Cow::Owned(format!("{tag}/{own}"));
        }
        let is_evaluation = |name: &&String| EVALUATIONS.contains(&&*name.to_ascii_lowercase());
        match self.names.iter().find(is_evaluation) {
            Some(name) => Cow::Owned(format!("{name}/{tag}")),
            None => Cow::Borrowed(tag),
        }
    }
}

/// Reads the scalars of an event file, written by any TensorBoard writer.
///
/// Damaged records are skipped and counted; a torn last one is noted.
///
/// # Errors
/// `Record` for the first damage if more records are damaged than not; `NoColumn`, `NoSuchColumn`, `Ambiguous`,
/// `TooManyRecords`.
pub fn parse_event_file(bytes: &[u8], columns: &ColumnMap) -> Result<StepLog, LogError> {
    let mut builder = LogBuilder::new(columns);
    read_events(bytes, &SeriesFolder::default(), &mut builder)?;
    builder.finish()
}

/// Adds the scalars of one file.
pub(super) fn read_events(bytes: &[u8], folder: &SeriesFolder, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
    let mut at = 0;
    // Bounds the search for whole records after damaged ones: forged lengths must not make it quadratic.
    let mut budget = bytes.len().saturating_mul(2).saturating_add(1 << 20);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let place = format_args!("byte {at}").to_string();
        let refuse = |message| LogError::Record { at_byte: at as u64, message };
        match cut_record(rest) {
            Cut::Torn => {
                builder.note_torn_end(&place);
                return Ok(());
            }
            Cut::Large { len_bytes } => {
                builder.count_large_record();
                at += len_bytes;
            }
            Cut::Whole { data, len_bytes } => {
                if let Err(message) = read_event(data, folder, builder)? {
                    builder.count_damage(&place, refuse(message));
                }
                at += len_bytes;
            }
            Cut::Damaged { message } => {
                let Some(next) = find_record(rest, &mut budget) else {
                    // No whole record follows: the end is torn, or this is not an event file.
                    builder.count_damage(&place, refuse(message));
                    return Ok(());
                };
                builder.count_damage(&place, refuse(message));
                at += next;
            }
        }
    }
    Ok(())
}

/// The record at the beginning of some bytes.
#[derive(Debug)]
enum Cut<'a> {
    /// The bytes end before the record does.
    Torn,
    /// Images, graphs or histograms.
    Large {
        len_bytes: usize,
    },
    Whole {
        data: &'a [u8],
        len_bytes: usize,
    },
    Damaged {
        message: &'static str,
    },
}

fn cut_record(bytes: &[u8]) -> Cut<'_> {
    let Some((length, rest)) = split_head(bytes) else { return Cut::Torn };
    let Some(length) = length else {
        let message = "the checksum of the length is wrong: this is not an event file, or it is damaged";
        return Cut::Damaged { message };
    };
    let needed = usize::try_from(length).ok().and_then(|length| length.checked_add(TAIL_BYTES));
    let Some((body, next)) = needed.and_then(|needed| rest.split_at_checked(needed)) else { return Cut::Torn };
    let len_bytes = bytes.len() - next.len();
    if length > MAX_RECORD_BYTES {
        return Cut::Large { len_bytes };
    }
    let (data, checksum) = body.split_at(body.len().saturating_sub(TAIL_BYTES));
    if read_u32(checksum) == Some(mask_checksum(crc32c::crc32c(data))) {
        return Cut::Whole { data, len_bytes };
    }
    if next.is_empty() { Cut::Torn } else { Cut::Damaged { message: "the checksum of the data is wrong" } }
}

/// The distance in bytes to the next whole record after a damaged one; `None` if there is none or the budget is spent.
fn find_record(bytes: &[u8], budget: &mut usize) -> Option<usize> {
    for at in 1..bytes.len() {
        let rest = bytes.get(at..)?;
        let Some((Some(length), _)) = split_head(rest) else { continue };
        *budget = budget.checked_sub(usize::try_from(length.min(MAX_RECORD_BYTES)).ok()?)?;
        if matches!(cut_record(rest), Cut::Whole { .. }) {
            return Some(at);
        }
    }
    None
}

/// The length of the next record (`None` if its checksum is wrong) and what follows; `None` if the file ends before.
fn split_head(bytes: &[u8]) -> Option<(Option<u64>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (length, checksum) = head.split_at(8);
    let is_right = read_u32(checksum) == Some(mask_checksum(crc32c::crc32c(length)));
    let length = length.try_into().ok().map(u64::from_le_bytes);
    Some((length.filter(|_| is_right), rest))
}

/// Checksums are rotated and shifted, so that data holding checksums do not check themselves.
fn mask_checksum(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// One `Event`: `step` is field 2, `summary` field 5. The outer error is the builder's, the inner one the message's.
fn read_event(
    data: &[u8],
    folder: &SeriesFolder,
    builder: &mut LogBuilder<'_>,
) -> Result<Result<(), &'static str>, LogError> {
    let mut step = 0;
    let mut summaries = Vec::new();
    for field in Fields(data) {
        match field {
            Ok((2, FieldValue::Varint(value))) => step = value,
            Ok((5, FieldValue::Bytes(summary))) => summaries.push(summary),
            Ok(_) => {}
            Err(message) => return Ok(Err(message)),
        }
    }
    // `step` is signed in the schema; before the first step some writers put -1.
    if i64::try_from(step).is_err() {
        return Ok(Ok(()));
    }
    let mut n_scalars = 0;
    for value in summaries.into_iter().flat_map(Fields) {
        let read = match value {
            Ok((1, FieldValue::Bytes(value))) => read_summary_value(value),
            Ok(_) => Ok(None),
            Err(message) => Err(message),
        };
        match read {
            Ok(Some((tag, number))) => {
                builder.push(&folder.name_series(tag), LogNumber::Real(number));
                n_scalars += 1;
            }
            Ok(None) => {}
            Err(message) => {
                builder.drop_record();
                return Ok(Err(message));
            }
        }
    }
    if n_scalars > 0 {
        builder.set_step(step);
        builder.end_record()?;
    }
    Ok(Ok(()))
}

/// One `Summary.Value`: `tag` is field 1, `simple_value` field 2, `tensor` field 8.
fn read_summary_value(data: &[u8]) -> Result<Option<(&str, f64)>, &'static str> {
    let mut tag = None;
    let mut number = None;
    for field in Fields(data) {
        match field? {
            (1, FieldValue::Bytes(text)) => tag = std::str::from_utf8(text).ok(),
            (2, FieldValue::Fixed32(bits)) => number = Some(f64::from(f32::from_bits(bits))),
            (8, FieldValue::Bytes(tensor)) => number = read_scalar_tensor(tensor)?.or(number),
            _ => {}
        }
    }
    Ok(tag.zip(number))
}

/// A `TensorProto` of one number: `dtype` is field 1, `tensor_content` 4, `float_val` 5, `double_val` 6, `int_val` 7,
/// `int64_val` 10. `None` for tensors of more numbers or of other kinds.
fn read_scalar_tensor(data: &[u8]) -> Result<Option<f64>, &'static str> {
    const FLOAT: u64 = 1;
    const DOUBLE: u64 = 2;
    const INT32: u64 = 3;
    const INT64: u64 = 9;
    let mut dtype = 0;
    let mut number = None;
    let mut content: &[u8] = &[];
    for field in Fields(data) {
        match field? {
            (1, FieldValue::Varint(value)) => dtype = value,
            (4, FieldValue::Bytes(bytes)) => content = bytes,
            (5, FieldValue::Fixed32(bits)) => number = Some(f64::from(f32::from_bits(bits))),
            (5, FieldValue::Bytes(bytes)) => number = read_f32(bytes),
            (6, FieldValue::Fixed64(bits)) => number = Some(f64::from_bits(bits)),
            (6, FieldValue::Bytes(bytes)) => number = read_f64(bytes),
            (7 | 10, FieldValue::Varint(value)) => number = Some(signed_real(value)),
            (7 | 10, FieldValue::Bytes(bytes)) => {
                number = split_varint(bytes).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| signed_real(value));
            }
            _ => {}
        }
    }
    let from_content = match dtype {
        FLOAT => read_f32(content),
        DOUBLE => read_f64(content),
        INT32 => read_u32(content).map(|bits| f64::from(bits.cast_signed())),
        INT64 => content.try_into().ok().map(u64::from_le_bytes).map(signed_real),
        _ => None,
    };
    let is_number = matches!(dtype, FLOAT | DOUBLE | INT32 | INT64);
    Ok(from_content.or(number).filter(|_| is_number))
}

fn read_f32(bytes: &[u8]) -> Option<f64> {
    read_u32(bytes).map(|bits| f64::from(f32::from_bits(bits)))
}

fn read_f64(bytes: &[u8]) -> Option<f64> {
    bytes.try_into().ok().map(f64::from_le_bytes)
}

fn signed_real(value: u64) -> f64 {
    value.cast_signed() as f64
}

#[derive(Debug, Clone, Copy)]
enum FieldValue<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message, with their numbers.
#[derive(Debug)]
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, FieldValue<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match split_field(self.0) {
            Some((number, value, rest)) => {
                self.0 = rest;
                Some(Ok((number, value)))
            }
            None => {
                self.0 = &[];
                Some(Err("its message is malformed"))
            }
        }
    }
}

fn split_field(bytes: &[u8]) -> Option<(u64, FieldValue<'_>, &[u8])> {
    let (key, rest) = split_varint(bytes)?;
    let (value, rest) = match key & 7 {
        0 => split_varint(rest).map(|(value, rest)| (FieldValue::Varint(value), rest))?,
        1 => {
            let (value, rest) = rest.split_at_checked(8)?;
            (FieldValue::Fixed64(u64::from_le_bytes(value.try_into().ok()?)), rest)
        }
        2 => {
            let (length, rest) = split_varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (FieldValue::Bytes(value), rest)
        }
        5 => {
            let (value, rest) = rest.split_at_checked(4)?;
            (FieldValue::Fixed32(read_u32(value)?), rest)
        }
        _ => return None,
    };
    Some((key >> 3, value, rest))
}

fn split_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (idx, byte) in bytes.iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7f);
        // The tenth byte holds the topmost bit alone.
        if idx == 9 && part > 1 {
            return None;
        }
        value |= part << (7 * idx);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(idx + 1..)?));
        }
    }
    None
}
