//! The header of a safetensors file, read strictly: `u64 LE n`, n bytes of JSON, then the tensors.
//!
//! Nothing is allocated by an unchecked length, duplicate names are found also when one of them is
//! escaped, and the tensors must cover the data exactly. Tensor bytes are not read here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use thalweg_storage::ReadAt;
use thalweg_tensor::{Dtype, Shape, to_index};

pub use super::header_error::{HeaderError, SizeFault};
pub(crate) use super::header_error::{MAX_HEADER_BYTES, MAX_RANK};
use crate::Error;
use crate::json::{TextSeed, WholeNumber, describe_json_error};

/// The single file that readers look for first.
pub(crate) const SINGLE_FILE_NAME: &str = "model.safetensors";

/// The index that readers look for next.
pub(crate) const INDEX_FILE_NAME: &str = "model.safetensors.index.json";

/// Bytes before the JSON text: its length.
pub(crate) const LENGTH_BYTES: u64 = 8;

/// The JSON key that holds the file's own remarks and is not a tensor.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// What a header says, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The tensors in the order of their bytes, contiguous from 0 to the end of the data.
    pub tensors: Vec<HeaderTensor>,
    /// The file's remarks, such as `format`.
    pub metadata: BTreeMap<String, String>,
    /// The first field that the format does not define, if there is one; such fields are not interpreted.
    pub unknown_field: Option<String>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTensor {
    /// Name, any Unicode text.
    pub name: Box<str>,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions; product and byte size are known not to overflow.
    pub shape: Shape,
    /// First byte, counted from the end of the header.
    pub begin: u64,
    /// One past the last byte, counted from the end of the header.
    pub end: u64,
}

/// The text of a header as it is in a file, not yet parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderText {
    /// The JSON text with its padding.
    pub text: Vec<u8>,
    /// Bytes that follow it.
    pub data_len: u64,
}

impl HeaderText {
    /// First byte of the data in the file.
    pub fn data_start(&self) -> u64 {
        LENGTH_BYTES + self.text.len() as u64
    }

    /// Checks it; `path` is only for messages.
    ///
    /// # Errors
    /// `Header`.
    pub fn parse(&self, path: &Path) -> Result<Header, Error> {
        let refuse = |source| Error::Header { path: path.to_owned(), source: Box::new(source) };
        parse_header(&self.text, self.data_len).map_err(refuse)
    }
}

/// Reads the text of the header of an open file; `path` is only for messages.
///
/// # Errors
/// `Header` if its length cannot be; `Storage` if the bytes cannot be read.
pub fn read_header_text(file: &dyn ReadAt, path: &Path) -> Result<HeaderText, Error> {
    let refuse = |source| Error::Header { path: path.to_owned(), source: Box::new(source) };
    let file_bytes = file.info().len_bytes;
    if file_bytes < LENGTH_BYTES {
        let found = HeaderError::NoLength { found_bytes: file_bytes };
        return Err(refuse(if file_bytes == 0 { HeaderError::Empty } else { found }));
    }
    let mut length = [0; 8];
    file.read_exact_at(0, &mut length)?;
    let header_bytes = u64::from_le_bytes(length);
    let rest_bytes = file_bytes - LENGTH_BYTES;
    if header_bytes > MAX_HEADER_BYTES {
        return Err(refuse(HeaderError::TooLong { found_bytes: header_bytes }));
    }
    if header_bytes > rest_bytes {
        return Err(refuse(HeaderError::PastEnd { wanted_bytes: header_bytes, found_bytes: rest_bytes }));
    }
    let mut text = vec![0; to_index(header_bytes)];
    file.read_exact_at(LENGTH_BYTES, &mut text)?;
    Ok(HeaderText { text, data_len: rest_bytes - header_bytes })
}

/// Checks the JSON text of a header against the number of data bytes that follow it.
///
/// # Errors
/// The first fault found; syntax before names, names before sizes, sizes before offsets.
///
/// # Example
/// ```
/// use thalweg_checkpoint::format::safetensors::parse_header;
///
/// let text = br#"{"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}  "#;
/// let header = parse_header(text, 12)?;
/// assert_eq!(&*header.tensors[0].name, "w");
/// assert!(parse_header(text, 11).is_err());
/// # Ok::<(), thalweg_checkpoint::format::safetensors::HeaderError>(())
/// ```
pub fn parse_header(header: &[u8], data_len: u64) -> Result<Header, HeaderError> {
    let text = std::str::from_utf8(header).map_err(|error| HeaderError::NotUtf8 { at_byte: error.valid_up_to() })?;
    let text = text.trim_end_matches(' ');
    if !text.starts_with('{') {
        let found = text.chars().next().map_or_else(|| "it is empty".to_owned(), |c| format!("it begins with {c:?}"));
        return Err(HeaderError::NotAnObject { found });
    }
    let mut raw = RawHeader::default();
    let mut parser = serde_json::Deserializer::from_str(text);
    // serde_json stops at a nesting of 128, so that hostile nesting cannot overflow the stack.
    let parsed = HeaderSeed(&mut raw).deserialize(&mut parser).and_then(|()| parser.end());
    if let Err(error) = parsed {
        let tensor = raw.tensors.pop().filter(|_| raw.is_inside == IsInside::Tensor);
        let (message, at_byte) = describe_json_error(text, &error);
        let tensor = tensor.map(|tensor| tensor.name.into_owned());
        return Err(HeaderError::Json { tensor, message, at_byte });
    }
    if !text.ends_with('}') {
        // The parser takes line ends for padding, the format allows spaces only.
        return Err(HeaderError::NotAnObject { found: "something other than spaces follows it".to_owned() });
    }
    check_tensors(raw, data_len)
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum IsInside {
    #[default]
    Header,
    Tensor,
}

#[derive(Default)]
struct RawHeader<'a> {
    tensors: Vec<RawTensor<'a>>,
    metadata: BTreeMap<String, String>,
    has_metadata: Option<()>,
    unknown_field: Option<String>,
    is_inside: IsInside,
}

struct RawTensor<'a> {
    name: Cow<'a, str>,
    dtype: Cow<'a, str>,
    shape: Vec<u64>,
    /// Number of dimensions; `shape` keeps no more than are allowed.
    rank: usize,
    offsets: [u64; 2],
}

fn check_tensors(raw: RawHeader<'_>, data_len: u64) -> Result<Header, HeaderError> {
    let mut by_name: Vec<&str> = raw.tensors.iter().map(|tensor| &*tensor.name).collect();
    by_name.sort_unstable();
    if let Some(pair) = by_name.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(HeaderError::DuplicateTensor { tensor: pair[0].to_owned() });
    }
    let mut tensors = raw.tensors.into_iter().map(check_tensor).collect::<Result<Vec<_>, _>>()?;
    // Empty tensors come before the tensor that begins at the same byte.
    tensors.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    check_coverage(&tensors, data_len)?;
    Ok(Header { tensors, metadata: raw.metadata, unknown_field: raw.unknown_field })
}

fn check_tensor(raw: RawTensor<'_>) -> Result<HeaderTensor, HeaderError> {
    let tensor = || raw.name.clone().into_owned();
    let [begin, end] = raw.offsets;
    let Some(dtype) = Dtype::from_name(&raw.dtype) else {
        return Err(HeaderError::UnknownDtype { tensor: tensor(), dtype: raw.dtype.into_owned() });
    };
    if raw.rank > MAX_RANK {
        return Err(HeaderError::RankTooHigh { tensor: tensor(), rank: raw.rank });
    }
    let shape = Shape::new(raw.shape);
    let n_bits = shape.n_elements().and_then(|n| n.checked_mul(u64::from(dtype.bits())));
    let impossible = |fault| HeaderError::ImpossibleSize { tensor: tensor(), shape: shape.clone(), dtype, fault };
    let n_bits = n_bits.ok_or_else(|| impossible(SizeFault::Overflow))?;
    if !n_bits.is_multiple_of(8) {
        return Err(impossible(SizeFault::PartOfAByte));
    }
    if begin > end {
        return Err(HeaderError::BackwardRange { tensor: tensor(), begin, end });
    }
    if n_bits / 8 != end - begin {
        let (expected_bytes, found_bytes) = (n_bits / 8, end - begin);
        return Err(HeaderError::SizeMismatch { tensor: tensor(), shape, dtype, expected_bytes, found_bytes });
    }
    Ok(HeaderTensor { name: raw.name.into(), dtype, shape, begin, end })
}

fn check_coverage(tensors: &[HeaderTensor], data_len: u64) -> Result<(), HeaderError> {
    let mut expected = 0;
    let mut other: Option<&HeaderTensor> = None;
    for tensor in tensors {
        let (name, found) = (tensor.name.to_string(), tensor.begin);
        if let Some(other) = other.filter(|_| found < expected) {
            return Err(HeaderError::Overlap { tensor: name, other: other.name.to_string(), expected, found });
        }
        if found > expected {
            return Err(HeaderError::Hole { tensor: name, expected, found });
        }
        expected = tensor.end;
        other = Some(tensor);
    }
    if expected > data_len {
        let first_cut = tensors.iter().find(|tensor| tensor.end > data_len);
        let tensor = first_cut.map_or_else(String::new, |tensor| tensor.name.to_string());
        return Err(HeaderError::TruncatedData { tensor, wanted_bytes: expected, found_bytes: data_len });
    }
    if expected < data_len {
        return Err(HeaderError::TrailingData { wanted_bytes: expected, found_bytes: data_len });
    }
    Ok(())
}

struct HeaderSeed<'b, 'a>(&'b mut RawHeader<'a>);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let raw = self.0;
        while let Some(name) = map.next_key_seed(TextSeed)? {
            if name == METADATA_KEY {
                if raw.has_metadata.replace(()).is_some() {
                    return Err(A::Error::custom("`__metadata__` appears twice"));
                }
                raw.metadata = map.next_value_seed(StringMapSeed)?;
                continue;
            }
            // Pushed first, so that an error inside the value can name the tensor.
            raw.tensors.push(RawTensor { name, dtype: Cow::Borrowed(""), shape: Vec::new(), rank: 0, offsets: [0, 0] });
            raw.is_inside = IsInside::Tensor;
            let RawHeader { tensors, unknown_field, .. } = &mut *raw;
            if let Some(tensor) = tensors.last_mut() {
                map.next_value_seed(TensorSeed { tensor, unknown_field })?;
            }
            raw.is_inside = IsInside::Header;
        }
        Ok(())
    }
}

struct TensorSeed<'b, 'a> {
    tensor: &'b mut RawTensor<'a>,
    unknown_field: &'b mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `dtype`, `shape` and `data_offsets`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        const FIELDS: [&str; 3] = ["dtype", "shape", "data_offsets"];
        let mut seen = [None; 3];
        while let Some(field) = map.next_key_seed(TextSeed)? {
            let Some(number) = FIELDS.iter().position(|known| *known == field) else {
                map.next_value::<IgnoredAny>()?;
                self.unknown_field.get_or_insert_with(|| field.into_owned());
                continue;
            };
            if seen[number].replace(()).is_some() {
                return Err(A::Error::duplicate_field(FIELDS[number]));
            }
            match number {
                0 => self.tensor.dtype = map.next_value_seed(TextSeed)?,
                1 => (self.tensor.shape, self.tensor.rank) = map.next_value_seed(DimsSeed)?,
                _ => self.tensor.offsets = map.next_value_seed(OffsetsSeed)?,
            }
        }
        match seen.iter().position(Option::is_none) {
            Some(number) => Err(A::Error::missing_field(FIELDS[number])),
            None => Ok(()),
        }
    }
}

/// The dimensions, and how many there are: a hostile shape of millions is counted, not kept.
struct DimsSeed;

impl<'de> DeserializeSeed<'de> for DimsSeed {
    type Value = (Vec<u64>, usize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for DimsSeed {
    type Value = (Vec<u64>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut dims = Vec::with_capacity(4);
        let mut rank = 0;
        while let Some(WholeNumber(dim)) = seq.next_element()? {
            rank += 1;
            if rank <= MAX_RANK {
                dims.push(dim);
            }
        }
        Ok((dims, rank))
    }
}

struct OffsetsSeed;

impl<'de> DeserializeSeed<'de> for OffsetsSeed {
    type Value = [u64; 2];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for OffsetsSeed {
    type Value = [u64; 2];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of two whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut offsets = [0; 2];
        for (at, offset) in offsets.iter_mut().enumerate() {
            let next = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(at, &self))?;
            let WholeNumber(number) = next;
            *offset = number;
        }
        match seq.next_element::<IgnoredAny>()? {
            Some(_) => Err(A::Error::invalid_length(3, &self)),
            None => Ok(offsets),
        }
    }
}

struct StringMapSeed;

impl<'de> DeserializeSeed<'de> for StringMapSeed {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StringMapSeed {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings in `__metadata__`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if entries.contains_key(&key) {
                return Err(A::Error::custom(format_args!("key `{key}` appears twice in `__metadata__`")));
            }
            entries.insert(key, value);
        }
        Ok(entries)
    }
}
