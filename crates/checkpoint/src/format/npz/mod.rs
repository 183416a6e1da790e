//! Archives of NumPy arrays, `.npz`: a zip archive with a `.npy` file for each array, stored as it is or deflated.
//!
//! Says which file of a folder is meant, and where the arrays are in it. `header` reads the header of an array.

pub(crate) mod header;
pub(crate) mod write;

use std::path::Path;
use std::sync::Arc;

use thalweg_storage::{ReadAt, Storage};
use thalweg_tensor::{Piece, TensorCatalog, TensorEntry, display_name};

use self::header::{ArrayHeader, START_BYTES, find_header, parse_header};
use super::{Findings, Format, FormatContent, OpenFile, Place, Unreadable, choose_file};
use crate::crc_checked::{CrcCheckedFile, SummedParts};
use crate::error::storage_error;
use crate::unpacked::{DecoderPool, Packed, PackedPart, Packing, UnpackedFile};
use crate::zip_directory::{ZipDirectory, ZipError, ZipRecord, read_at};
use crate::{CatalogCache, Error, Note, ReadOptions};

/// Name of the format.
pub(crate) const FORMAT_NAME: &str = "npz";
/// The file that an output has.
pub(crate) const FILE_NAME: &str = "model.npz";
/// What its names end with.
pub(crate) const FILE_END: &str = ".npz";
/// What the names of arrays end with in the archive.
const ARRAY_END: &str = ".npy";
/// The method of records that are stored as they are.
const STORED: u16 = 0;
/// The method of deflated records.
const DEFLATED: u16 = 8;

/// Archives of NumPy arrays.
#[derive(Debug, Clone, Copy)]
pub struct Npz;

impl Format for Npz {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn marks(&self) -> &'static [&'static str] {
        &[FILE_NAME]
    }

    fn file_ends(&self) -> &'static [&'static str] {
        &[FILE_END]
    }

    fn recognises(&self, place: &Place) -> bool {
        match place {
            Place::File { path, .. } => path.extension().is_some_and(|extension| extension == "npz"),
            Place::Folder { .. } => place.file_names().any(|name| name.ends_with(FILE_END)),
        }
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        _options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let (name, path, note) = choose_file(place, FILE_NAME, FILE_END)?;
        let reader = storage.open_file(&path).map_err(|error| storage_error(&path, error))?;
        let mut content = read_archive(&path, reader).map_err(|error| match error {
            NpzError::Storage(error) => Error::Storage(error),
            NpzError::Zip(ZipError::NoEnd) => truncated(&path),
            NpzError::Zip(error) => refuse(&path, error.to_string()),
            NpzError::Array { name, reason } => refuse(&path, format!("array `{}`: {reason}", display_name(&name))),
        })?;
        content.notes.extend(note);
        let twice = |name: Box<str>| refuse(&path, format!("array `{}` appears twice", display_name(&name)));
        let catalog = cache.share(TensorCatalog::new(std::mem::take(&mut content.entries)).map_err(twice)?);
        let files = vec![OpenFile { name, path: path.clone(), reader: Arc::clone(&content.reader) }];
        let ArchiveContent { notes, findings, is_packed, .. } = content;
        Ok(FormatContent { files, catalog, notes, findings, is_packed, ..FormatContent::default() })
    }
}

fn refuse(path: &Path, reason: String) -> Error {
    Error::Layout { path: path.to_owned(), reason }
}

/// The error for an archive without a directory at its end.
fn truncated(path: &Path) -> Error {
    Error::CutOff { path: path.to_owned(), reason: ZipError::NoEnd.to_string() }
}

/// What is wrong with an archive.
enum NpzError {
    Storage(thalweg_storage::Error),
    Zip(ZipError),
    Array { name: String, reason: String },
}

impl From<ZipError> for NpzError {
    fn from(error: ZipError) -> Self {
        Self::Zip(error)
    }
}

/// What an archive holds, and the file through which its arrays are read.
struct ArchiveContent {
    entries: Vec<TensorEntry>,
    findings: Findings,
    notes: Vec<Note>,
    reader: Arc<dyn ReadAt>,
    is_packed: bool,
}

fn read_archive(path: &Path, file: Arc<dyn ReadAt>) -> Result<ArchiveContent, NpzError> {
    let pool = Arc::<DecoderPool>::default();
    let directory = ZipDirectory::open(&*file, 0..file.info().len_bytes)?;
    let mut arrays = Arrays {
        directory: &directory,
        unpacked: UnpackedFile::new(path.to_owned(), Arc::clone(&file), &pool),
        file: &*file,
        n_packed: 0,
        summed: SummedParts::default(),
    };
    let (mut entries, mut findings, mut notes) = (Vec::new(), Findings::default(), Vec::new());
    let (mut others, mut n_untyped) = (Vec::new(), 0);
    for (record_name, record) in &directory.records {
        let Some(name) = record_name.strip_suffix(ARRAY_END) else {
            others.push(record_name.to_string());
            continue;
        };
        let fail = |reason: String| NpzError::Array { name: name.to_owned(), reason };
        let array = arrays.read(record_name, record).map_err(|error| match error {
            ArrayError::Storage(error) => NpzError::Storage(error),
            ArrayError::Zip(error) => NpzError::Zip(error),
            ArrayError::Reason(reason) => fail(reason),
        })?;
        let ArrayHeader { shape, fortran_order, is_untyped, dtype } = array.header;
        let dtype = match dtype {
            Ok(dtype) => dtype,
            Err(reason) => {
                findings.unreadable.push(Unreadable { name: name.to_owned(), reason });
                continue;
            }
        };
        let data_bytes = shape.n_elements().and_then(|n| dtype.bytes_of(n));
        let data_bytes = data_bytes.ok_or_else(|| fail(format!("the size of its shape {shape} overflows 64 bits")))?;
        if data_bytes != array.data_bytes {
            let found = array.data_bytes;
            return Err(fail(format!("shape {shape} of {dtype} needs {data_bytes} bytes, {found} are there")));
        }
        n_untyped += usize::from(is_untyped);
        let whole = Piece::whole(0, array.data_start);
        let piece = if fortran_order { whole.with_strides(&shape, &column_strides(&shape.0)) } else { Some(whole) };
        let piece = piece.ok_or_else(|| fail(format!("the size of its shape {shape} overflows 64 bits")))?;
        let pieces = if data_bytes == 0 { Box::default() } else { [piece].into() };
        entries.push(TensorEntry { name: name.into(), dtype, shape, pieces });
    }
    if n_untyped > 0 {
        notes.push(Note::ReadAsBfloat16 { n_tensors: n_untyped });
    }
    if !others.is_empty() {
        notes.push(Note::ObjectsLeftOut { names: others });
    }
    // Merges open many checkpoints: none keeps the decoders that read its headers.
    pool.clear();
    let is_packed = arrays.n_packed > 0;
    let mut reader: Arc<dyn ReadAt> = if is_packed { Arc::new(arrays.unpacked) } else { Arc::clone(&file) };
    if !arrays.summed.is_empty() {
        reader = Arc::new(CrcCheckedFile::new(path.to_owned(), reader, arrays.summed));
    }
    Ok(ArchiveContent { entries, findings, notes, reader, is_packed })
}

/// Strides of an array whose first index varies fastest. Products that overflow belong to arrays without elements.
fn column_strides(dims: &[u64]) -> Vec<u64> {
    (0..dims.len()).map(|dim| dims[..dim].iter().fold(1_u64, |stride, size| stride.saturating_mul(*size))).collect()
}

/// An array of an archive: its header, and where its data are.
struct Array {
    header: ArrayHeader,
    data_start: u64,
    data_bytes: u64,
}

enum ArrayError {
    Storage(thalweg_storage::Error),
    Zip(ZipError),
    Reason(String),
}

impl From<String> for ArrayError {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

/// Reads the headers of the arrays of an archive.
struct Arrays<'a> {
    directory: &'a ZipDirectory,
    file: &'a dyn ReadAt,
    unpacked: UnpackedFile,
    n_packed: usize,
    /// The data that are stored as they are; a decoder compares the others.
    summed: SummedParts,
}

impl Arrays<'_> {
    fn read(&mut self, name: &str, record: &ZipRecord) -> Result<Array, ArrayError> {
        let range = self.directory.locate(self.file, name, record).map_err(ArrayError::Zip)?;
        let (start, is_packed) = match record.method {
            STORED if record.packed_bytes == record.len_bytes => (range.start, false),
            DEFLATED => {
                let packing = Packing::Deflate { crc: record.crc };
                if !packing.can_hold(record.packed_bytes, record.len_bytes) {
                    let (packed, claimed) = (record.packed_bytes, record.len_bytes);
                    return Err(format!("{packed} deflated bytes cannot expand to the {claimed} that it claims").into());
                }
                let part = PackedPart { packed: Packed::Range(range), len_bytes: record.len_bytes, packing };
                let start = self.unpacked.add(part).ok_or_else(|| "its size overflows 64 bits".to_owned())?;
                self.n_packed += 1;
                (start, true)
            }
            STORED => return Err("it is stored uncompressed, but its two lengths differ".to_owned().into()),
            method => {
                return Err(format!("it is compressed by zip method {method}, but only deflate is supported").into());
            }
        };
        let file: &dyn ReadAt = if is_packed { &self.unpacked } else { self.file };
        let read = |from: u64, n_bytes: u64| read_at(file, start + from, n_bytes).map_err(ArrayError::Storage);
        let first = read(0, record.len_bytes.min(START_BYTES))?;
        let place = find_header(&first)?;
        let data_bytes =
            record.len_bytes.checked_sub(place.data_start).ok_or_else(|| "its header is cut short".to_owned())?;
        let text = read(place.text_start, place.data_start - place.text_start)?;
        let header = parse_header(&text)?;
        if !is_packed && data_bytes > 0 {
            let data = start + place.data_start..start + record.len_bytes;
            let before = first.iter().take(thalweg_tensor::to_index(place.text_start)).chain(&text);
            self.summed.add(data, &before.copied().collect::<Vec<u8>>(), record.crc);
        }
        Ok(Array { header, data_start: start + place.data_start, data_bytes })
    }
}
