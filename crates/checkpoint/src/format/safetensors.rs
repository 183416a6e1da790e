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
use thalweg_tensor::{Dtype, Shape, display_name, to_index};

use crate::Error;
use crate::json::{TextSeed, WholeNumber, describe_json_error};

/// The longest header that is read, in bytes: the reference implementation's limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The most dimensions a tensor may have. The format sets no limit; PyTorch and NumPy stop at 64.
pub const MAX_RANK: usize = 64;

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

/// Why a header is refused. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Not even the length of the header.
    #[error("the file has {found_bytes} bytes, fewer than the 8 of the header length")]
    NoLength {
        /// Length of the file.
        found_bytes: u64,
    },
    /// The header is longer than any that is read.
    #[error("the header claims {found_bytes} bytes, more than the {MAX_HEADER_BYTES} allowed")]
    TooLong {
        /// Claimed length.
        found_bytes: u64,
    },
    /// The file ends inside the header.
    #[error("the header claims {wanted_bytes} bytes, the file ends after {found_bytes} of them")]
    PastEnd {
        /// Claimed length.
        wanted_bytes: u64,
        /// Bytes after the header length.
        found_bytes: u64,
    },
    /// The header is not UTF-8.
    #[error("the header is not UTF-8 at byte {at_byte}")]
    NotUtf8 {
        /// Position in the header.
        at_byte: usize,
    },
    /// The header is not one JSON object followed by spaces.
    #[error("the header is not a JSON object: {found}")]
    NotAnObject {
        /// What is there instead.
        found: String,
    },
    /// The JSON text is broken or a value has the wrong type.
    #[error("{}{message}, at byte {at_byte} of the header", tensor_prefix(tensor.as_deref()))]
    Json {
        /// The tensor that was being read, if any.
        tensor: Option<String>,
        /// What is wrong, with what was expected.
        message: String,
        /// Position in the header.
        at_byte: usize,
    },
    /// A name appears twice.
    #[error("tensor `{}` appears twice in the header", display_name(tensor))]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// An element type that the format does not define.
    #[error("tensor `{}` has the unknown dtype `{}`", display_name(tensor), display_name(dtype))]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// What the header says.
        dtype: String,
    },
    /// More dimensions than anyone uses.
    #[error("tensor `{}` has {rank} dimensions, more than the {MAX_RANK} allowed", display_name(tensor))]
    RankTooHigh {
        /// The tensor.
        tensor: String,
        /// Number of dimensions.
        rank: usize,
    },
    /// The product of the shape, in bits or bytes, does not fit or does not fill whole bytes.
    #[error("tensor `{}` with shape {shape} and dtype {dtype} {fault}", display_name(tensor))]
    ImpossibleSize {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Shape,
        /// Its element type.
        dtype: Dtype,
        /// Too large, or not whole bytes.
        fault: SizeFault,
    },
    /// A range that runs backwards.
    #[error("tensor `{}` begins at byte {begin} and ends before, at {end}", display_name(tensor))]
    BackwardRange {
        /// The tensor.
        tensor: String,
        /// First byte.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// Shape and dtype ask for another number of bytes than the range has.
    #[error(
        "tensor `{}` with shape {shape} and dtype {dtype} needs {expected_bytes} bytes, its range has {found_bytes}",
        display_name(tensor)
    )]
    SizeMismatch {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Shape,
        /// Its element type.
        dtype: Dtype,
        /// Bytes by shape and dtype.
        expected_bytes: u64,
        /// Bytes by the offsets.
        found_bytes: u64,
    },
    /// Bytes that belong to no tensor.
    #[error(
        "tensor `{}` begins at byte {found}, {expected} expected: the bytes between belong to no tensor",
        display_name(tensor)
    )]
    Hole {
        /// The tensor after the hole.
        tensor: String,
        /// Where it should begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// Two tensors share bytes.
    #[error(
        "tensor `{}` begins at byte {found}, inside tensor `{}`, which ends at {expected}",
        display_name(tensor),
        display_name(other)
    )]
    Overlap {
        /// The later tensor.
        tensor: String,
        /// The tensor before it.
        other: String,
        /// Where the later one should begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// The file ends before the last tensor does.
    #[error(
        "the file ends inside tensor `{}`: {wanted_bytes} bytes of data expected, {found_bytes} found",
        display_name(tensor)
    )]
    TruncatedData {
        /// The first tensor that is not whole.
        tensor: String,
        /// Bytes of data that the header asks for.
        wanted_bytes: u64,
        /// Bytes of data in the file.
        found_bytes: u64,
    },
    /// The file has bytes after the last tensor.
    #[error("the tensors end after {wanted_bytes} bytes of data, the file holds {found_bytes}")]
    TrailingData {
        /// Bytes of data that the header asks for.
        wanted_bytes: u64,
        /// Bytes of data in the file.
        found_bytes: u64,
    },
}

/// Why a size cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeFault {
    /// The product overflows 64 bits.
    Overflow,
    /// Packed elements end inside a byte.
    PartOfAByte,
}

impl fmt::Display for SizeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overflow => "has more bytes than 64 bits can count",
            Self::PartOfAByte => "does not fill whole bytes",
        })
    }
}

impl HeaderError {
    /// Whether the file is only too short: the mark of a save or copy that did not finish.
    pub fn is_truncated(&self) -> bool {
        matches!(self, Self::Empty | Self::NoLength { .. } | Self::PastEnd { .. } | Self::TruncatedData { .. })
    }
}

fn tensor_prefix(tensor: Option<&str>) -> String {
    tensor.map_or_else(String::new, |name| format!("tensor `{}`: ", display_name(name)))
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
