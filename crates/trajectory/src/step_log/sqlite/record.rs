//! Rows: a list of types, then the values.

use std::borrow::Cow;

use super::{cut_off, damaged};
use crate::step_log::LogError;

/// The most columns that SQLite allows.
const MAX_COLUMNS: usize = 32_767;

/// A row with its id.
#[derive(Debug)]
pub(in crate::step_log) struct Row<'a> {
    row_id: i64,
    payload: Cow<'a, [u8]>,
    /// For each column, its type and where its bytes are.
    places: Vec<(u64, usize)>,
}

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::step_log) enum Value<'a> {
    Null,
    Whole(i64),
    Real(f64),
    /// Text, or bytes.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(in crate::step_log) fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub(in crate::step_log) fn text(self) -> Option<&'a str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    pub(in crate::step_log) fn whole(self) -> Option<i64> {
        if let Self::Whole(whole) = self { Some(whole) } else { None }
    }

    #[expect(clippy::cast_precision_loss, reason = "a metric")]
    pub(in crate::step_log) fn real(self) -> Option<f64> {
        match self {
            Self::Whole(whole) => Some(whole as f64),
            Self::Real(real) => Some(real),
            _ => None,
        }
    }
}

impl Row<'_> {
    /// The value of a column; `None` for one that was added after the row was written.
    pub(in crate::step_log) fn get(&self, column: usize) -> Option<Value<'_>> {
        let &(kind, at) = self.places.get(column)?;
        let bytes = self.payload.get(at..at + value_bytes(kind))?;
        Some(match kind {
            0 => Value::Null,
            7 => Value::Real(f64::from_be_bytes(*bytes.first_chunk()?)),
            8 => Value::Whole(0),
            9 => Value::Whole(1),
            1..=6 => {
                let sign = if bytes.first()? & 0x80 != 0 { -1 } else { 0 };
                Value::Whole(bytes.iter().fold(sign, |whole, &byte| whole << 8 | i64::from(byte)))
            }
            _ => Value::Bytes(bytes),
        })
    }

    /// What an `INTEGER PRIMARY KEY` has, which is not stored.
    pub(in crate::step_log) fn id(&self) -> i64 {
        self.row_id
    }
}

/// Bytes of a value of this type; at most what `usize` holds.
fn value_bytes(kind: u64) -> usize {
    match kind {
        1..=4 => [1, 2, 3, 4][usize::try_from(kind - 1).unwrap_or(0)],
        5 => 6,
        6 | 7 => 8,
        0 | 8..=11 => 0,
        _ => usize::try_from((kind - 12) / 2).unwrap_or(usize::MAX),
    }
}

pub(super) fn read_record(payload: Cow<'_, [u8]>, row_id: i64) -> Result<Row<'_>, LogError> {
    let mut rest = &*payload;
    let header_bytes = read_varint(&mut rest).ok_or_else(cut_off)?;
    let header_bytes = usize::try_from(header_bytes).map_err(|_| cut_off())?;
    let begun = payload.len() - rest.len();
    let mut types = payload.get(begun..header_bytes).ok_or_else(cut_off)?;
    let (mut places, mut at) = (Vec::new(), header_bytes);
    while !types.is_empty() {
        let kind = read_varint(&mut types).ok_or_else(cut_off)?;
        places.push((kind, at));
        at = at.checked_add(value_bytes(kind)).filter(|&end| end <= payload.len()).ok_or_else(cut_off)?;
        if places.len() > MAX_COLUMNS {
            return Err(damaged("a row has too many columns"));
        }
    }
    Ok(Row { row_id, payload, places })
}

/// A number of one to nine bytes, the highest bits first; takes it from `bytes`.
pub(super) fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for i in 0..9 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if i == 8 {
            return Some(number << 8 | u64::from(byte));
        }
        number = number << 7 | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_read() {
        for (bytes, expected) in [
            (&[0x05][..], 5),
            (&[0x81, 0x00], 128),
            (&[0xFF; 9], u64::MAX),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x07], 7),
        ] {
            assert_eq!(read_varint(&mut &*bytes), Some(expected));
        }
        assert_eq!(read_varint(&mut &[0x81][..]), None);
    }

    #[test]
    fn rows_hold_whole_numbers_reals_text_and_nothing() {
        // Types: null, one byte, three bytes, real, 0, 1, text of two.
        let bytes = [&[8, 0, 1, 3, 7, 8, 9, 17, 0xFE, 0xFF, 0xFF, 0xFD][..], &2.5f64.to_be_bytes(), b"ab"].concat();
        let row = read_record(Cow::Borrowed(&bytes), 3).unwrap();
        let values: Vec<_> = (0..8).map(|column| row.get(column)).collect();
        let expected = [
            Value::Null,
            Value::Whole(-2),
            Value::Whole(-3),
            Value::Real(2.5),
            Value::Whole(0),
            Value::Whole(1),
            Value::Bytes(b"ab"),
        ];
        assert_eq!(values[..7], expected.map(Some));
        assert_eq!((values[7], row.id()), (None, 3));
        for end in 0..bytes.len() {
            assert!(read_record(Cow::Borrowed(&bytes[..end]), 3).is_err(), "{end}");
        }
    }
}
