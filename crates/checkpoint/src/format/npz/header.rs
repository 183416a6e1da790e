//! The header of an array of NumPy: `{'descr': '<f4', 'fortran_order': False, 'shape': (256, 24), }`.
//!
//! A literal of Python, read as data.

use thalweg_tensor::{Dtype, Shape, display_name};

/// What every array begins with, before its version.
const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header that is read. NumPy itself reads 10,000 bytes unless it is told otherwise.
const MAX_HEADER_BYTES: u64 = 64 << 10;
/// Bytes that are enough to know how long the header is.
pub(crate) const START_BYTES: u64 = 12;

/// Where the text of a header is, and where the data begin after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeaderPlace {
    /// First byte of the text.
    pub(crate) text_start: u64,
    /// First byte of the data.
    pub(crate) data_start: u64,
}

/// Finds the header of an array by its first bytes.
///
/// # Errors
/// Why these bytes do not begin an array.
pub(crate) fn find_header(start: &[u8]) -> Result<HeaderPlace, String> {
    let rest = start.strip_prefix(MAGIC).ok_or("it does not begin like a NumPy array")?;
    let number = |n_bytes: usize| {
        let bytes = rest.get(2..2 + n_bytes).ok_or("its header is cut short")?;
        Ok::<u64, &str>(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    let (length, text_start) = match rest {
        [1, 0, ..] => (number(2)?, 10),
        [2 | 3, 0, ..] => (number(4)?, 12),
        [major, minor, ..] => {
            return Err(format!("its header has version {major}.{minor}, but only 1.0, 2.0 and 3.0 are supported"));
        }
        _ => return Err("its header is cut short".to_owned()),
    };
    if length > MAX_HEADER_BYTES {
        return Err(format!("its header has {length} bytes, more than the limit of {MAX_HEADER_BYTES}"));
    }
    Ok(HeaderPlace { text_start, data_start: text_start + length })
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArrayHeader {
    /// Element type; why its elements are not read, otherwise.
    pub(crate) dtype: Result<Dtype, String>,
    /// Whether the first index varies fastest.
    pub(crate) fortran_order: bool,
    /// Dimensions.
    pub(crate) shape: Shape,
    /// Whether the element type is only known by its size, because NumPy has no name for it.
    pub(crate) is_untyped: bool,
}

/// Reads the text of a header.
///
/// # Errors
/// Why it is not as NumPy writes it.
pub(crate) fn parse_header(text: &[u8]) -> Result<ArrayHeader, String> {
    let text = std::str::from_utf8(text).map_err(|_| "its header is not text")?;
    let mut literal = Literal { rest: text };
    let (mut descr, mut order, mut shape) = (None, None, None);
    literal.expect('{')?;
    while !literal.accept('}') {
        let key = literal.string()?;
        literal.expect(':')?;
        let is_known = match &*key {
            "descr" => descr.replace(literal.descr()?).is_some(),
            "fortran_order" => order.replace(literal.boolean()?).is_some(),
            "shape" => shape.replace(literal.numbers()?).is_some(),
            _ => return Err(format!("its header has a key `{}` that NumPy does not write", display_name(&key))),
        };
        if is_known {
            return Err(format!("its header has the key `{}` twice", display_name(&key)));
        }
        if !literal.accept(',') {
            literal.expect('}')?;
            break;
        }
    }
    if !literal.rest.trim().is_empty() {
        return Err("its header has text after its end".to_owned());
    }
    let missing = |key: &str| format!("its header lacks the key `{key}`");
    let descr = descr.ok_or_else(|| missing("descr"))?;
    let shape = Shape::new(shape.ok_or_else(|| missing("shape"))?);
    let fortran_order = order.ok_or_else(|| missing("fortran_order"))?;
    let is_untyped = descr.trim_start_matches(['<', '|']) == "V2";
    Ok(ArrayHeader { dtype: dtype_of(&descr), fortran_order, shape, is_untyped })
}

/// The element type of a `descr`, or why it is not read.
fn dtype_of(descr: &str) -> Result<Dtype, String> {
    let shown = display_name(descr);
    let (order, kind) = match descr.chars().next() {
        Some(order @ ('<' | '>' | '|' | '=')) => (order, &descr[1..]),
        _ => ('=', descr),
    };
    let dtype = match kind {
        "f2" => Dtype::F16,
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        // Of the 8-bit types of ml_dtypes only this one is a float to NumPy.
        "f1" => Dtype::F8E5M2,
        "i1" => Dtype::I8,
        "i2" => Dtype::I16,
        "i4" => Dtype::I32,
        "i8" => Dtype::I64,
        "u1" => Dtype::U8,
        "u2" => Dtype::U16,
        "u4" => Dtype::U32,
        "u8" => Dtype::U64,
        "b1" => Dtype::Bool,
        "c8" => Dtype::C64,
        // The only type of ml_dtypes with two bytes.
        "V2" => Dtype::Bf16,
        "V1" => {
            return Err(format!(
                "its element type `{shown}` may be any 8-bit type of ml_dtypes: NumPy does not record which"
            ));
        }
        "O" => {
            return Err(format!("it is an array of Python objects (`{shown}`), a pickle, which thalweg never opens"));
        }
        _ if descr.starts_with('[') => return Err("its elements are records of several fields".to_owned()),
        _ => return Err(format!("its element type `{shown}` is not a numeric type that can be merged")),
    };
    match order {
        '>' if dtype.bytes() != Some(1) => {
            Err(format!("its bytes are big-endian (`{shown}`), but only little-endian is supported"))
        }
        '=' => Err(format!("its element type `{shown}` does not state a byte order")),
        _ => Ok(dtype),
    }
}

/// A literal of Python, read from its beginning.
struct Literal<'a> {
    rest: &'a str,
}

impl Literal<'_> {
    fn accept(&mut self, wanted: char) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(wanted) {
            Some(after) => {
                self.rest = after;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.accept(wanted) { Ok(()) } else { Err(format!("its header has no `{wanted}` where one is expected")) }
    }

    /// A string without escapes.
    fn string(&mut self) -> Result<String, String> {
        self.rest = self.rest.trim_start();
        let quote = self
            .rest
            .chars()
            .next()
            .filter(|c| matches!(c, '\'' | '"'))
            .ok_or("its header has no string where one is expected")?;
        let (text, after) = self.rest[1..].split_once(quote).ok_or("its header has a string without an end")?;
        self.rest = after;
        Ok(text.to_owned())
    }

    /// The type of an element: a string, or a list of fields, of which only the first character is kept.
    fn descr(&mut self) -> Result<String, String> {
        self.rest = self.rest.trim_start();
        if !self.rest.starts_with('[') {
            return self.string();
        }
        let (mut depth, mut quote) = (0_u32, None);
        for (at, c) in self.rest.char_indices() {
            match (quote, c) {
                (Some(open), _) if open == c => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(c),
                (None, '[' | '(') => depth += 1,
                (None, ']' | ')') => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                self.rest = &self.rest[at + c.len_utf8()..];
                return Ok("[".to_owned());
            }
        }
        Err("its header has a list without an end".to_owned())
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(after) = self.rest.strip_prefix(word) {
                self.rest = after;
                return Ok(value);
            }
        }
        Err("its `fortran_order` is neither True nor False".to_owned())
    }

    /// `()`, `(3,)` or `(3, 4)`; Python 2 wrote `3L`.
    fn numbers(&mut self) -> Result<Vec<u64>, String> {
        self.expect('(')?;
        let mut numbers = Vec::new();
        while !self.accept(')') {
            self.rest = self.rest.trim_start();
            let n_digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
            let number = self.rest[..n_digits].parse().map_err(|_| "its `shape` is not a tuple of sizes")?;
            self.rest = &self.rest[n_digits..];
            self.accept('L');
            numbers.push(number);
            if !self.accept(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(numbers)
    }
}

/// The beginning of an array, up to its data, as NumPy writes it: the data begin at a multiple of 64.
pub(crate) fn write_header(descr: &str, shape: &Shape) -> Vec<u8> {
    let dims: Vec<String> = shape.0.iter().map(u64::to_string).collect();
    let dims = if dims.len() == 1 { format!("{},", dims[0]) } else { dims.join(", ") };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    while !(text.len() + 11).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    // 64 dimensions of 20 digits are shorter than the 65,535 bytes that version 1.0 has room for.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    [MAGIC, &[1, 0], &length, text.as_bytes()].concat()
}

/// What NumPy calls an element type; `None` for one that it has no array of.
pub(crate) fn descr_of(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::F64 => "<f8",
        Dtype::F32 => "<f4",
        Dtype::F16 => "<f2",
        Dtype::Bf16 => "<V2",
        Dtype::I64 => "<i8",
        Dtype::I32 => "<i4",
        Dtype::I16 => "<i2",
        Dtype::I8 => "|i1",
        Dtype::U64 => "<u8",
        Dtype::U32 => "<u4",
        Dtype::U16 => "<u2",
        Dtype::U8 => "|u1",
        Dtype::Bool => "|b1",
        Dtype::C64 => "<c8",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(descr: &str, order: &str, shape: &str) -> Result<ArrayHeader, String> {
        parse_header(format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}   \n").as_bytes())
    }

    #[test]
    fn headers_of_all_versions_are_found() {
        let place = |text_start, data_start| Ok(HeaderPlace { text_start, data_start });
        assert_eq!(find_header(b"\x93NUMPY\x01\0v\0{'"), place(10, 128));
        assert_eq!(find_header(b"\x93NUMPY\x02\0\x74\0\0\0"), place(12, 128));
        assert_eq!(find_header(b"\x93NUMPY\x03\0\x74\x01\0\0"), place(12, 384));
        assert!(find_header(b"\x93NUMPY\x04\0\x74\x01\0\0").unwrap_err().contains("version 4.0"));
        assert!(find_header(b"\x93NUMPY\x02\0\xff\xff\xff\xff").unwrap_err().contains("4294967295 bytes"));
        for cut in [&b""[..], b"\x93NUMP", b"\x93NUMPY", b"\x93NUMPY\x01", b"\x93NUMPY\x01\0v", b"\x93NUMPY\x02\0v\0\0"]
        {
            assert!(find_header(cut).is_err(), "{cut:?}");
        }
    }

    #[test]
    fn types_and_shapes_are_read_as_numpy_writes_them() {
        let whole = header("'<f4'", "False", "(256, 24)").unwrap();
        assert_eq!((whole.dtype, whole.fortran_order, whole.shape), (Ok(Dtype::F32), false, Shape::new([256, 24])));
        assert_eq!(header("'<f2'", "True", "(3,)").unwrap().shape, Shape::new([3]));
        assert_eq!(header("\"|b1\"", "True", "()").unwrap().shape, Shape::new([]));
        assert_eq!(header("'<f1'", "False", "(3,)").unwrap().dtype, Ok(Dtype::F8E5M2));
        assert_eq!(header("'<i8'", "False", "(0L, 3L)").unwrap().shape, Shape::new([0, 3]));
        for untyped in ["'<V2'", "'|V2'"] {
            let found = header(untyped, "False", "(2,)").unwrap();
            assert_eq!((found.dtype, found.is_untyped), (Ok(Dtype::Bf16), true), "{untyped}");
        }
    }

    #[test]
    fn elements_that_are_not_read_are_named() {
        for (descr, reason) in [
            ("'|O'", "a pickle, which thalweg never opens"),
            ("'<V1'", "any 8-bit type of ml_dtypes"),
            ("'>f4'", "big-endian"),
            ("'>V2'", "big-endian"),
            ("'<U3'", "is not a numeric type"),
            ("'<M8[ns]'", "is not a numeric type"),
            ("'<f16'", "is not a numeric type"),
            ("'f4'", "does not state a byte order"),
            ("'='", "is not a numeric type"),
            ("''", "is not a numeric type"),
            ("[('a', '<f4'), ('b', '<i4', (2, 3))]", "records of several fields"),
        ] {
            let dtype = header(descr, "False", "(2,)").unwrap().dtype;
            assert!(dtype.as_ref().is_err_and(|found| found.contains(reason)), "{descr}: {dtype:?}");
        }
        assert_eq!(header("'>i1'", "False", "(2,)").unwrap().dtype, Ok(Dtype::I8));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "{",
            "{}",
            "[]",
            "{'descr': '<f4'}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2.5,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': [2]}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}",
            "{'descr': '<f4, 'fortran_order': False, 'shape': (2,)}",
            "{'descr': [('a', '<f4', 'fortran_order': False, 'shape': (2,)}",
            "__import__('os').system('true')",
        ] {
            assert!(parse_header(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse_header(b"\xff").is_err());
    }

    #[test]
    fn what_is_written_is_read_and_begins_at_a_multiple_of_64() {
        for dtype in Dtype::all() {
            let Some(descr) = descr_of(dtype) else { continue };
            for dims in [&[][..], &[7], &[3, 4], &[u64::MAX; 64]] {
                let shape = Shape::new(dims);
                let bytes = write_header(descr, &shape);
                let place = find_header(&bytes).unwrap();
                assert_eq!((place.data_start, bytes.len() % 64), (bytes.len() as u64, 0));
                let found = parse_header(&bytes[10..]).unwrap();
                assert_eq!((found.dtype, found.fortran_order, found.shape), (Ok(dtype), false, shape));
            }
        }
        let expected = b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (256, 24), }";
        assert!(write_header("<f4", &Shape::new([256, 24])).starts_with(expected));
    }
}
