//! The header of a GGUF file: metadata, then a list of tensors. Values of metadata are stepped over, not kept, except
//! for the few that say what the file is.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_storage::ReadAt;
use thalweg_tensor::{Dtype, Shape, display_name, to_index};

/// What a file begins with.
pub(crate) const MAGIC: &[u8] = b"GGUF";
/// The longest header that is read. Those of large vocabularies have some 20 MB.
const MAX_HEADER_BYTES: u64 = 256 << 20;
/// Bytes that are read at once.
const WINDOW_BYTES: u64 = 64 << 10;
/// The longest name of a tensor or key.
const MAX_NAME_BYTES: u64 = 1 << 16;
/// The longest value that is kept.
const MAX_KEPT_BYTES: u64 = 256;
/// Most dimensions of a tensor; ggml has four.
const MAX_RANK: u32 = 8;
/// Deepest nesting of arrays in metadata.
const MAX_DEPTH: u32 = 4;
/// The alignment where metadata states none.
const DEFAULT_ALIGNMENT: u64 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";
const SPLIT_KEY: &str = "split.count";

/// Why a header is refused.
#[derive(Debug)]
pub(crate) enum HeaderFault {
    Storage(thalweg_storage::Error),
    /// The file ends inside of what it says to hold.
    CutOff(String),
    Broken(String),
}

impl From<String> for HeaderFault {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

/// A tensor as the header states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub(crate) name: Box<str>,
    /// Row-major: the file lists the fastest dimension first.
    pub(crate) shape: Shape,
    /// Element type; the name of a quantisation otherwise.
    pub(crate) dtype: Result<Dtype, String>,
    /// Place in the file.
    pub(crate) offset: u64,
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GgufHeader {
    pub(crate) tensors: Vec<TensorInfo>,
    /// Short texts of metadata whose keys begin with `general.`.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Reads the header of a file.
///
/// # Errors
/// Why the file is not GGUF that can be read.
pub(crate) fn read_header(file: &dyn ReadAt) -> Result<GgufHeader, HeaderFault> {
    let mut reader =
        HeaderReader { file, len_bytes: file.info().len_bytes, at: 0, window: Vec::new(), window_start: 0 };
    if reader.bytes(4)? != MAGIC {
        return Err("it does not begin with `GGUF`".to_owned().into());
    }
    match reader.u32()? {
        2 | 3 => {}
        1 => {
            return Err("its version is 1, but only 2 and 3 are supported: convert it with a newer llama.cpp"
                .to_owned()
                .into());
        }
        version if version.swap_bytes() < 0x100 => {
            return Err("it is big-endian, but only little-endian files are supported".to_owned().into());
        }
        version => return Err(format!("its version is {version}, but only 2 and 3 are supported").into()),
    }
    let (n_tensors, n_values) = (reader.u64()?, reader.u64()?);
    let mut header = GgufHeader::default();
    let mut keys = BTreeSet::new();
    let mut alignment = DEFAULT_ALIGNMENT;
    for _ in 0..n_values {
        let key = reader.name("a key")?;
        let kind = reader.u32()?;
        let number = match &*key {
            ALIGNMENT_KEY | SPLIT_KEY => reader.small_number(kind)?,
            _ => None,
        };
        match (&*key, number) {
            (ALIGNMENT_KEY, Some(number)) if number.is_power_of_two() => alignment = number,
            (ALIGNMENT_KEY, _) => return Err(format!("its `{ALIGNMENT_KEY}` is not a power of two").into()),
            (SPLIT_KEY, Some(n_parts)) if n_parts > 1 => {
                return Err(format!("it is one of {n_parts} parts: join them with `llama-gguf-split --merge`").into());
            }
            (SPLIT_KEY, Some(_)) => {}
            (_, _) if key.starts_with("general.") && kind == Kind::STRING => {
                if let Some(text) = reader.short_text()? {
                    header.metadata.insert(key.to_string(), text);
                }
            }
            _ => reader.skip_value(kind, 0)?,
        }
        if !keys.insert(key.clone()) {
            return Err(format!("its metadata has the key `{}` twice", display_name(&key)).into());
        }
    }
    drop(keys);
    for _ in 0..n_tensors {
        header.tensors.push(reader.tensor()?);
    }
    let data_start = reader.at.next_multiple_of(alignment);
    for tensor in &mut header.tensors {
        let name = display_name(&tensor.name);
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(format!("tensor `{name}` begins at {}, not at a multiple of {alignment}", tensor.offset).into());
        }
        let offset = data_start.checked_add(tensor.offset);
        tensor.offset = offset.ok_or_else(|| format!("tensor `{name}` begins beyond the largest possible file"))?;
    }
    check_places(&header.tensors, reader.len_bytes)?;
    Ok(header)
}

/// Checks that tensors lie in the file, and that no two share bytes.
fn check_places(tensors: &[TensorInfo], len_bytes: u64) -> Result<(), HeaderFault> {
    let mut places = Vec::new();
    for tensor in tensors {
        let name = display_name(&tensor.name);
        let n_elements = tensor.shape.n_elements();
        let n_elements = n_elements
            .ok_or_else(|| format!("tensor `{name}`: the size of its shape {} overflows 64 bits", tensor.shape))?;
        // What is quantised is never read.
        let Ok(dtype) = tensor.dtype else { continue };
        let n_bytes = dtype.bytes_of(n_elements);
        let end = n_bytes.and_then(|n_bytes| tensor.offset.checked_add(n_bytes));
        let end =
            end.ok_or_else(|| format!("tensor `{name}`: the size of its shape {} overflows 64 bits", tensor.shape))?;
        if end > len_bytes {
            return Err(HeaderFault::CutOff(format!(
                "the file ends at byte {len_bytes}, but tensor `{name}` needs {end}"
            )));
        }
        if end > tensor.offset {
            places.push((tensor.offset, end, &tensor.name));
        }
    }
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            let (a, b) = (display_name(pair[0].2), display_name(pair[1].2));
            Err(format!("tensors `{a}` and `{b}` share bytes").into())
        }
    }
}

/// The element type of a number of ggml; its name otherwise.
fn dtype_of(number: u32) -> Result<Dtype, String> {
    const QUANTISED: [(u32, &str); 27] = [
        (2, "Q4_0"),
        (3, "Q4_1"),
        (6, "Q5_0"),
        (7, "Q5_1"),
        (8, "Q8_0"),
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (12, "Q4_K"),
        (13, "Q5_K"),
        (14, "Q6_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (29, "IQ1_M"),
        (31, "Q4_0_4_4"),
        (32, "Q4_0_4_8"),
        (33, "Q4_0_8_8"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    Ok(match number {
        0 => Dtype::F32,
        1 => Dtype::F16,
        24 => Dtype::I8,
        25 => Dtype::I16,
        26 => Dtype::I32,
        27 => Dtype::I64,
        28 => Dtype::F64,
        30 => Dtype::Bf16,
        _ => {
            let known = QUANTISED.iter().find(|(known, _)| *known == number);
            return Err(known.map_or_else(|| format!("type {number} of ggml"), |(_, name)| (*name).to_owned()));
        }
    })
}

/// Types of values in metadata.
struct Kind;

impl Kind {
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;

    /// Length of a value, if all of this type have the same.
    fn fixed_bytes(kind: u32) -> Option<u64> {
        match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        }
    }
}

/// Reads a file from its beginning through a window.
struct HeaderReader<'a> {
    file: &'a dyn ReadAt,
    len_bytes: u64,
    at: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl HeaderReader<'_> {
    /// Steps over bytes, which must be there.
    fn advance(&mut self, n_bytes: u64) -> Result<u64, HeaderFault> {
        let start = self.at;
        let end = start.checked_add(n_bytes).filter(|end| *end <= self.len_bytes);
        let cut = || HeaderFault::CutOff(format!("the file ends at byte {}, inside its header", self.len_bytes));
        self.at = end.ok_or_else(cut)?;
        if self.at > MAX_HEADER_BYTES {
            return Err(format!("its header has more than the limit of {MAX_HEADER_BYTES} bytes").into());
        }
        Ok(start)
    }

    /// The next bytes, at most a window of them.
    fn bytes(&mut self, n_bytes: u64) -> Result<&[u8], HeaderFault> {
        let start = self.advance(n_bytes)?;
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if start < held.start || self.at > held.end {
            let window_bytes = WINDOW_BYTES.min(self.len_bytes - start).max(n_bytes);
            self.window.resize(to_index(window_bytes), 0);
            self.file.read_exact_at(start, &mut self.window).map_err(HeaderFault::Storage)?;
            self.window_start = start;
        }
        let from = to_index(start - self.window_start);
        Ok(&self.window[from..from + to_index(n_bytes)])
    }

    fn u32(&mut self) -> Result<u32, HeaderFault> {
        let bytes = self.bytes(4)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn u64(&mut self) -> Result<u64, HeaderFault> {
        self.number(8)
    }

    fn number(&mut self, n_bytes: u64) -> Result<u64, HeaderFault> {
        let bytes = self.bytes(n_bytes)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn name(&mut self, what: &str) -> Result<Box<str>, HeaderFault> {
        let n_bytes = self.u64()?;
        if n_bytes > MAX_NAME_BYTES {
            return Err(
                format!("{what} in its header has {n_bytes} bytes, more than the limit of {MAX_NAME_BYTES}").into()
            );
        }
        let text = std::str::from_utf8(self.bytes(n_bytes)?);
        text.map(Into::into).map_err(|_| format!("{what} in its header is not UTF-8").into())
    }

    /// A text, if it is short.
    fn short_text(&mut self) -> Result<Option<String>, HeaderFault> {
        let n_bytes = self.u64()?;
        if n_bytes > MAX_KEPT_BYTES {
            self.advance(n_bytes)?;
            return Ok(None);
        }
        Ok(std::str::from_utf8(self.bytes(n_bytes)?).ok().map(str::to_owned))
    }

    /// An unsigned number; none if the value is something else, which is stepped over.
    fn small_number(&mut self, kind: u32) -> Result<Option<u64>, HeaderFault> {
        match (kind, Kind::fixed_bytes(kind)) {
            // Integers with and without a sign: those that are used are small.
            (0..=5 | 10 | 11, Some(n_bytes)) => self.number(n_bytes).map(Some),
            _ => self.skip_value(kind, 0).map(|()| None),
        }
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Result<(), HeaderFault> {
        if let Some(n_bytes) = Kind::fixed_bytes(kind) {
            return self.advance(n_bytes).map(drop);
        }
        match kind {
            Kind::STRING => {
                let n_bytes = self.u64()?;
                self.advance(n_bytes).map(drop)
            }
            Kind::ARRAY if depth >= MAX_DEPTH => {
                Err(format!("arrays in its metadata are nested more than {MAX_DEPTH} deep").into())
            }
            Kind::ARRAY => {
                let (inner, n_values) = (self.u32()?, self.u64()?);
                if let Some(n_bytes) = Kind::fixed_bytes(inner) {
                    return self.advance(n_bytes.saturating_mul(n_values)).map(drop);
                }
                // Each of these values has eight bytes at least, so the file bounds their number.
                (0..n_values).try_for_each(|_| self.skip_value(inner, depth + 1))
            }
            _ => Err(format!("its metadata has a value of the unknown type {kind}").into()),
        }
    }

    fn tensor(&mut self) -> Result<TensorInfo, HeaderFault> {
        let name = self.name("the name of a tensor")?;
        let rank = self.u32()?;
        if rank > MAX_RANK {
            return Err(format!("tensor `{}` has {rank} dimensions, more than {MAX_RANK}", display_name(&name)).into());
        }
        let mut dims = (0..rank).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        dims.reverse();
        let (number, offset) = (self.u32()?, self.u64()?);
        Ok(TensorInfo { name, shape: Shape::new(dims), dtype: dtype_of(number), offset })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use thalweg_storage::{MemoryStorage, Storage};

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn value(key: &str, kind: u32, bytes: &[u8]) -> Vec<u8> {
        [&text(key), &kind.to_le_bytes()[..], bytes].concat()
    }

    fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
        let mut bytes = text(name);
        bytes.extend(u32::try_from(dims.len()).unwrap().to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes
    }

    /// A file of these values and tensors, with `n_data` bytes after the aligned end of the header.
    fn file(values: &[Vec<u8>], tensors: &[Vec<u8>], n_data: usize) -> Vec<u8> {
        let counts = [tensors.len() as u64, values.len() as u64].map(u64::to_le_bytes).concat();
        let mut bytes = [MAGIC, &3_u32.to_le_bytes(), &counts, &values.concat(), &tensors.concat()].concat();
        bytes.resize(bytes.len().next_multiple_of(32) + n_data, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<GgufHeader, String> {
        let storage = MemoryStorage::new();
        let path = Path::new("/x.gguf");
        storage.create_file(path, bytes.len() as u64).unwrap().write_all_at(0, bytes).unwrap();
        read_header(&*storage.open_file(path).unwrap()).map_err(|fault| match fault {
            HeaderFault::Storage(error) => error.to_string(),
            HeaderFault::CutOff(reason) => format!("cut off: {reason}"),
            HeaderFault::Broken(reason) => reason,
        })
    }

    #[test]
    fn values_of_every_type_are_stepped_over() {
        let mut values: Vec<Vec<u8>> = (0..=12)
            .filter_map(|kind| {
                let n_bytes = usize::try_from(Kind::fixed_bytes(kind)?).unwrap();
                Some(value(&format!("fixed{kind}"), kind, &vec![1; n_bytes]))
            })
            .collect();
        assert_eq!(values.len(), 11);
        let array = |kind: u32, n: u64, bytes: &[u8]| [&kind.to_le_bytes(), &n.to_le_bytes()[..], bytes].concat();
        let strings = array(8, 2, &[text("a"), text("bc")].concat());
        let nested = array(9, 2, &[strings.clone(), array(5, 1, &[0; 4])].concat());
        values.extend([
            value("general.name", 8, &text("tiny")),
            value("general.licence", 8, &text(&"x".repeat(300))),
            value("tokens", 9, &strings),
            value("scores", 9, &array(6, 1000, &[0; 4000])),
            value("nested", 9, &nested),
        ]);
        let header = read(&file(&values, &[tensor("w", &[2, 3], 1, 0), tensor("v", &[8], 0, 32)], 64)).unwrap();
        assert_eq!(header.metadata, BTreeMap::from([("general.name".to_owned(), "tiny".to_owned())]));
        let [w, v] = &*header.tensors else { panic!("{header:?}") };
        assert_eq!((&*w.name, &w.dtype, &w.shape), ("w", &Ok(Dtype::F16), &Shape::new([3, 2])));
        assert_eq!((&*v.name, &v.dtype, v.offset), ("v", &Ok(Dtype::F32), w.offset + 32));
    }

    #[test]
    fn alignment_is_that_of_the_metadata() {
        let aligned = |alignment: u32, offset: u64| {
            let values = [value("general.alignment", 4, &alignment.to_le_bytes())];
            read(&file(&values, &[tensor("w", &[4], 0, offset)], 4096)).map(|header| header.tensors[0].offset)
        };
        assert_eq!(aligned(1024, 1024), Ok(2048));
        assert_eq!(aligned(8, 8).map(|offset| offset % 8), Ok(0));
        assert!(aligned(32, 8).unwrap_err().contains("not at a multiple of 32"));
        for wrong in [0, 3, 100] {
            assert!(aligned(wrong, 0).unwrap_err().contains("power of two"), "{wrong}");
        }
    }

    #[test]
    fn quantised_tensors_are_named() {
        let header = read(&file(&[], &[tensor("w", &[256], 12, 0), tensor("v", &[4], 77, 0)], 32)).unwrap();
        assert_eq!(header.tensors[0].dtype, Err("Q4_K".to_owned()));
        assert_eq!(header.tensors[1].dtype, Err("type 77 of ggml".to_owned()));
    }

    #[test]
    fn headers_that_no_writer_makes_are_refused() {
        let whole = file(&[value("a", 8, &text("b"))], &[tensor("w", &[4], 0, 0)], 16);
        assert!(read(&whole).is_ok());
        for n in 0..whole.len() {
            assert!(read(&whole[..n]).unwrap_err().starts_with("cut off"), "{n}");
        }
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = whole.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            read(&changed).unwrap_err()
        };
        assert!(with(0, b"GGJT").contains("does not begin"));
        assert!(with(4, &[1, 0, 0, 0]).contains("version is 1"));
        assert!(with(4, &[0, 0, 0, 3]).contains("big-endian"));
        assert!(with(4, &[9, 9, 9, 9]).contains("only 2 and 3"));
        assert!(with(8, &[0xff; 8]).contains("ends at byte"));
        assert!(!with(16, &[0xff; 8]).is_empty());
        assert!(with(24, &[0xff; 8]).contains("more than the"));
        let huge = [&8_u32.to_le_bytes(), &u64::MAX.to_le_bytes()[..]].concat();
        assert!(read(&file(&[value("a", 9, &huge)], &[], 64)).unwrap_err().starts_with("cut off"));
        let huge = [&10_u32.to_le_bytes(), &u64::MAX.to_le_bytes()[..]].concat();
        assert!(read(&file(&[value("a", 9, &huge)], &[], 64)).unwrap_err().starts_with("cut off"));
        let nest = [&9_u32.to_le_bytes(), &1_u64.to_le_bytes()[..]].concat().repeat(9);
        assert!(read(&file(&[value("a", 9, &nest)], &[], 64)).unwrap_err().contains("nested"));
        assert!(read(&file(&[value("a", 13, &[])], &[], 64)).unwrap_err().contains("unknown type 13"));
        let twice = [value("a", 0, &[1]), value("a", 0, &[1])];
        assert!(read(&file(&twice, &[], 64)).unwrap_err().contains("key `a` twice"));
        let split = [value("split.count", 2, &[3, 0])];
        assert!(read(&file(&split, &[], 64)).unwrap_err().contains("one of 3 parts"));
        let shares = [tensor("w", &[16], 0, 0), tensor("v", &[4], 0, 32)];
        assert!(read(&file(&[], &shares, 64)).unwrap_err().contains("`w` and `v` share bytes"));
        for dims in [&[u64::MAX, 2][..], &[u64::MAX], &[1 << 62]] {
            assert!(read(&file(&[], &[tensor("w", dims, 0, 0)], 64)).unwrap_err().contains("overflows 64 bits"));
        }
        assert!(
            read(&file(&[], &[tensor("w", &[4], 0, u64::MAX - 31)], 64))
                .unwrap_err()
                .contains("beyond the largest possible file")
        );
        assert!(read(&file(&[], &[tensor("w", &[1; 9], 0, 0)], 64)).unwrap_err().contains("9 dimensions"));
    }
}
