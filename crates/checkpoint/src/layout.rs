//! Where every byte of an output will be, known before the first one is written.
//!
//! Pure: entries in, names, sizes, headers and offsets out. So a worker can write any range at any time, an
//! interrupted output can be checked, and any subset of the shards can be made alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use thalweg_tensor::{Dtype, Piece, Shape, TensorCatalog, TensorEntry, to_index};

use crate::Error;
use crate::format::safetensors::{INDEX_FILE_NAME, SINGLE_FILE_NAME};
use crate::format::safetensors::{LENGTH_BYTES, MAX_HEADER_BYTES, MAX_RANK, METADATA_KEY};
use crate::gather::shares_of;

/// A tensor that an output will hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutEntry {
    /// Name.
    pub name: Box<str>,
    /// Element type in the output.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Shape,
}

/// A file of an output that is written in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// Name within the output, with `/` between folders.
    pub name: String,
    /// Final length.
    pub len_bytes: u64,
    /// The bytes that belong to no tensor, in file order; bytes in neither are zero.
    pub frame: Vec<FramePart>,
    /// CRC-32 checksums that the file holds of ranges with tensors, which are known only at the end.
    pub checksums: Vec<Checksum>,
    /// Positions in the catalog of the tensors that it holds, in the order of their bytes.
    pub tensors: Vec<usize>,
}

impl OutputFile {
    /// The bytes from the beginning up to the first tensor, if they are known; empty otherwise.
    pub fn header(&self) -> &[u8] {
        match self.frame.first() {
            Some(FramePart { offset: 0, content: FrameContent::Bytes(bytes) }) => bytes,
            _ => &[],
        }
    }
}

/// Bytes of an output file that belong to no tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramePart {
    /// Where they begin.
    pub offset: u64,
    /// Where they come from.
    pub content: FrameContent,
}

/// Where bytes that belong to no tensor come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameContent {
    /// They are known.
    Bytes(Vec<u8>),
    /// They are copied from another file.
    Copy(CopiedBytes),
}

/// A range of a file that an output copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedBytes {
    /// Path of the file.
    pub path: PathBuf,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the range.
    pub len_bytes: u64,
}

/// A CRC-32 checksum (IEEE 802.3, as in zip archives) of a range of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// The bytes that it is the sum of.
    pub range: Range<u64>,
    /// Offsets at which the file holds it, as four bytes, little-endian.
    pub places: Vec<u64>,
}

/// A small file that is written whole once all tensors are, such as an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its name.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The files of an output and the place of every tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputLayout {
    files: Vec<OutputFile>,
    catalog: Arc<TensorCatalog>,
    copies: Arc<TensorCatalog>,
    documents: Vec<Document>,
}

impl OutputLayout {
    /// A layout of these files; pieces of the catalog count them from 0. The documents are written last, in this order.
    pub fn new(files: Vec<OutputFile>, catalog: Arc<TensorCatalog>, documents: Vec<Document>) -> Self {
        Self { files, catalog, copies: Arc::default(), documents }
    }

    /// The same layout with further copies of tensors, which have other element types.
    #[must_use]
    pub(crate) fn with_copies(self, copies: Arc<TensorCatalog>) -> Self {
        Self { copies, ..self }
    }

    /// Further copies of tensors of the catalog, with the same names and other element types: the module's weights
    /// beside the masters, or the reverse. They are written once the tensors are.
    pub fn copies(&self) -> &Arc<TensorCatalog> {
        &self.copies
    }

    /// Names of all files besides side files, also of those that describe the others.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        reserved_names(self)
    }

    /// The files; pieces of the catalog count them from 0.
    pub fn files(&self) -> &[OutputFile] {
        &self.files
    }

    /// The tensors and the places of their elements.
    pub fn catalog(&self) -> &Arc<TensorCatalog> {
        &self.catalog
    }

    /// The small files that are written once all tensors are, in this order.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Numbers of the files that hold some of a tensor's elements.
    pub fn files_of(&self, tensor_idx: usize, elements: &Range<u64>) -> BTreeSet<usize> {
        let Some(entry) = self.catalog.entries().get(tensor_idx) else { return BTreeSet::new() };
        let shares = shares_of(entry, elements).into_iter();
        shares.map(|share| to_index(entry.pieces[share.piece_idx].file_idx.into())).collect()
    }

    /// Numbers of the files in which elements of a tensor are not contiguous: their neighbours are written with them,
    /// so one process has to write such a file alone.
    pub fn strided_files(&self) -> BTreeSet<usize> {
        let pieces = self.catalog.entries().iter().flat_map(|entry| &entry.pieces);
        let strided = pieces.filter(|piece| piece.strides().is_some());
        strided.map(|piece| to_index(piece.file_idx.into())).collect()
    }

    /// Length of all files together.
    pub fn len_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len_bytes).sum()
    }
}

/// Lays out an output: tensors go to shards in the order of their names.
///
/// A shard holds at most `max_shard_bytes` of tensors; a larger tensor gets a separate shard. Within a file
/// wide elements come first, then names, so that every tensor is aligned to its element; the reference writer
/// does the same. `metadata` goes into every header, with `format` = `pt` where it is not given.
///
/// # Errors
/// `NothingToWrite`; `UnwritableTensor` for a name that appears twice or is reserved, and for impossible sizes;
/// `HeaderTooLong`.
///
/// # Example
/// ```
/// use thalweg_checkpoint::{LayoutEntry, layout_output};
/// use thalweg_tensor::{Dtype, Shape};
///
/// let entry = |name: &str| LayoutEntry { name: name.into(), dtype: Dtype::F32, shape: Shape::new([2]) };
/// let layout = layout_output(&[entry("a"), entry("b")], 8, &Default::default())?;
/// assert_eq!(layout.files()[1].name, "model-00002-of-00002.safetensors");
/// assert_eq!(layout.files()[1].len_bytes, layout.catalog().entries()[1].pieces[0].offset + 8);
/// # Ok::<(), thalweg_checkpoint::Error>(())
/// ```
pub fn layout_output(
    entries: &[LayoutEntry],
    max_shard_bytes: u64,
    metadata: &BTreeMap<String, String>,
) -> Result<OutputLayout, Error> {
    let mut sorted: Vec<&LayoutEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let sizes = check_entries(&sorted)?;
    let shards = fill_shards(&sizes, max_shard_bytes);
    let mut metadata = metadata.clone();
    // Readers of the transformers 4 line refuse files that do not say it.
    metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
    let mut files = Vec::with_capacity(shards.len());
    let mut places = vec![(0, 0); sorted.len()];
    for ((file_idx, shard), number) in (0..).zip(&shards).zip(1..) {
        let name = shard_name(number, shards.len());
        let mut tensors: Vec<usize> = shard.clone().collect();
        tensors.sort_by_key(|&at| (Reverse(sorted[at].dtype.bits()), Reverse(sorted[at].dtype), &sorted[at].name));
        let header = write_header(&tensors, &sorted, &sizes, &metadata);
        let header_bytes = header.len() as u64;
        if header_bytes - LENGTH_BYTES > MAX_HEADER_BYTES {
            let (found_bytes, limit_bytes) = (header_bytes - LENGTH_BYTES, MAX_HEADER_BYTES);
            return Err(Error::HeaderTooLong { file: name, found_bytes, limit_bytes });
        }
        let mut len_bytes = header_bytes;
        for &at in &tensors {
            places[at] = (file_idx, len_bytes);
            len_bytes += sizes[at];
        }
        let frame = vec![FramePart { offset: 0, content: FrameContent::Bytes(header) }];
        files.push(OutputFile { name, len_bytes, frame, checksums: Vec::new(), tensors });
    }
    let entries: Vec<TensorEntry> =
        sorted.iter().zip(&places).map(|(entry, place)| place_entry(entry, *place)).collect();
    let index = (files.len() > 1).then(|| Document {
        name: INDEX_FILE_NAME.to_owned(),
        bytes: write_index(&entries, files.iter().map(|file| (&*file.name, &*file.tensors))),
    });
    let catalog = TensorCatalog::new(entries).map_err(|name| unwritable(&name, "its name appears twice"))?;
    Ok(OutputLayout::new(files, Arc::new(catalog), index.into_iter().collect()))
}

fn place_entry(entry: &LayoutEntry, (file_idx, offset): (u32, u64)) -> TensorEntry {
    let pieces = Box::new([Piece::whole(file_idx, offset)]);
    TensorEntry { name: entry.name.clone(), dtype: entry.dtype, shape: entry.shape.clone(), pieces }
}

pub(crate) fn unwritable(tensor: &str, reason: &'static str) -> Error {
    Error::UnwritableTensor { tensor: tensor.to_owned(), reason }
}

/// The size of each entry; their sum is known to leave room for the headers.
pub(crate) fn check_entries(sorted: &[&LayoutEntry]) -> Result<Vec<u64>, Error> {
    if sorted.is_empty() {
        return Err(Error::NothingToWrite);
    }
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(unwritable(&pair[0].name, "its name appears twice"));
    }
    let mut total_bytes = 0_u64;
    let mut size_of = |entry: &&LayoutEntry| {
        if *entry.name == *METADATA_KEY {
            return Err(unwritable(&entry.name, "the format reserves this name"));
        }
        if entry.shape.0.len() > MAX_RANK {
            return Err(unwritable(&entry.name, "it has more than 64 dimensions"));
        }
        let size = entry.shape.n_elements().and_then(|n| entry.dtype.bytes_of(n));
        let size = size.ok_or_else(|| unwritable(&entry.name, "its size in bytes cannot be computed"))?;
        total_bytes = total_bytes
            .checked_add(size)
            .filter(|total| *total < u64::MAX / 2)
            .ok_or_else(|| unwritable(&entry.name, "the output would be larger than any disk"))?;
        Ok(size)
    };
    sorted.iter().map(&mut size_of).collect()
}

/// Runs of neighbours, each within the limit or of one tensor.
pub(crate) fn fill_shards(sizes: &[u64], max_shard_bytes: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut filled_bytes) = (0, 0_u64);
    for (at, &size) in sizes.iter().enumerate() {
        if at > start && filled_bytes + size > max_shard_bytes {
            shards.push(start..at);
            (start, filled_bytes) = (at, 0);
        }
        filled_bytes += size;
    }
    shards.push(start..sizes.len());
    shards
}

fn shard_name(number: usize, n_shards: usize) -> String {
    if n_shards == 1 {
        return SINGLE_FILE_NAME.to_owned();
    }
    format!("model-{number:05}-of-{n_shards:05}.safetensors")
}

/// A JSON string with its quotes.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

fn write_header(
    tensors: &[usize],
    sorted: &[&LayoutEntry],
    sizes: &[u64],
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let remarks: Vec<String> = metadata.iter().map(|(key, value)| format!("{}:{}", quote(key), quote(value))).collect();
    let mut text = format!("{{{}:{{{}}}", quote(METADATA_KEY), remarks.join(","));
    let mut begin = 0;
    for &at in tensors {
        let (entry, end) = (sorted[at], begin + sizes[at]);
        let dims: Vec<String> = entry.shape.0.iter().map(u64::to_string).collect();
        let (name, dtype, dims) = (quote(&entry.name), entry.dtype, dims.join(","));
        // Writing into a string cannot fail.
        let _infallible =
            write!(text, r#",{name}:{{"dtype":"{dtype}","shape":[{dims}],"data_offsets":[{begin},{end}]}}"#);
        begin = end;
    }
    text.push('}');
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(text.as_bytes());
    header
}

/// The index as transformers writes it: sorted keys, two spaces, a line end.
///
/// `files` has the name of each file and the positions in `entries` of its tensors.
pub(crate) fn write_index<'a>(entries: &[TensorEntry], files: impl Iterator<Item = (&'a str, &'a [usize])>) -> Vec<u8> {
    let n_params: u64 = entries.iter().map(TensorEntry::n_elements).sum();
    let n_bytes: u64 = entries.iter().map(TensorEntry::n_bytes).sum();
    let file_of: BTreeMap<usize, &str> =
        files.flat_map(|(name, tensors)| tensors.iter().map(move |&at| (at, name))).collect();
    let lines: Vec<String> =
        file_of.iter().map(|(&at, file)| format!("    {}: {}", quote(&entries[at].name), quote(file))).collect();
    let totals = format!("    \"total_parameters\": {n_params},\n    \"total_size\": {n_bytes}");
    let lines = lines.join(",\n");
    format!("{{\n  \"metadata\": {{\n{totals}\n  }},\n  \"weight_map\": {{\n{lines}\n  }}\n}}\n").into_bytes()
}

/// The names that an output of this layout holds besides its side files.
pub(crate) fn reserved_names(layout: &OutputLayout) -> impl Iterator<Item = &str> {
    layout.files.iter().map(|file| &*file.name).chain(layout.documents.iter().map(|document| &*document.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, dtype: Dtype, dims: &[u64]) -> LayoutEntry {
        LayoutEntry { name: name.into(), dtype, shape: Shape::new(dims) }
    }

    fn check_shards(sizes: &[u64], max_shard_bytes: u64, expected_counts: &[usize]) {
        let shards = fill_shards(sizes, max_shard_bytes);
        assert_eq!(shards.iter().map(ExactSizeIterator::len).collect::<Vec<_>>(), expected_counts);
        assert_eq!(shards.into_iter().flatten().collect::<Vec<_>>(), (0..sizes.len()).collect::<Vec<_>>());
    }

    #[test]
    fn shards_are_filled_up_to_the_limit_and_no_further() {
        check_shards(&[4, 4, 4], 8, &[2, 1]);
        check_shards(&[4, 4, 4], 7, &[1, 1, 1]);
        check_shards(&[4, 100, 4], 8, &[1, 1, 1]);
        check_shards(&[100], 1, &[1]);
        check_shards(&[0, 0, 9, 0], 0, &[2, 1, 1]);
        check_shards(&[4, 4], u64::MAX, &[2]);
    }

    #[test]
    fn names_of_many_shards_widen() {
        assert_eq!(shard_name(1, 1), "model.safetensors");
        assert_eq!(shard_name(7, 12), "model-00007-of-00012.safetensors");
        assert_eq!(shard_name(7, 123_456), "model-00007-of-123456.safetensors");
        assert_eq!(shard_name(123_456, 123_456), "model-123456-of-123456.safetensors");
    }

    #[test]
    fn every_tensor_is_aligned_to_its_element() {
        let dtypes = [Dtype::F4, Dtype::U8, Dtype::Bf16, Dtype::F64, Dtype::F32, Dtype::F6E2M3];
        let entries: Vec<LayoutEntry> =
            dtypes.iter().map(|dtype| entry(&format!("{dtype}\n\"ü"), *dtype, &[3, 4])).collect();
        let layout = layout_output(&entries, u64::MAX, &BTreeMap::new()).unwrap();
        for placed in layout.catalog().entries() {
            let width = u64::from(placed.dtype.bits()).div_ceil(8);
            assert!(placed.pieces[0].offset.is_multiple_of(width), "{}", placed.dtype);
        }
    }

    #[test]
    fn what_cannot_be_written_is_refused_by_name() {
        let lay = |entries: &[LayoutEntry]| layout_output(entries, 100, &BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(lay(&[]), "there is no tensor to write");
        let twice = [entry("w", Dtype::F32, &[1]), entry("w", Dtype::F32, &[1])];
        assert_eq!(lay(&twice), "tensor `w` cannot be written: its name appears twice");
        assert!(lay(&[entry("__metadata__", Dtype::F32, &[1])]).contains("reserves"));
        assert!(lay(&[entry("w", Dtype::F4, &[3])]).contains("cannot be computed"));
        assert!(lay(&[entry("w", Dtype::F32, &[u64::MAX, 2])]).contains("cannot be computed"));
        let huge: Vec<LayoutEntry> = (0..5).map(|i| entry(&format!("w{i}"), Dtype::U8, &[u64::MAX / 8])).collect();
        assert!(lay(&huge).contains("larger than any disk"));
    }
}
