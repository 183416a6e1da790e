//! Re-reads checkpoints: digests of their tensors and files, compared with what a receipt says.
//!
//! What a receipt looks like is not known here; its facts come in as lists.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use thalweg_storage::Storage;
use thalweg_tensor::digest::{
    Digest, DigestKind, ListHasher, SUBTREE_BYTES, SubtreeDigest, SubtreeHasher, bytes_digest, n_subtrees,
    tensor_digest,
};
use thalweg_tensor::{AccessError, Dtype, Shape, TensorEntry, TensorSource, to_index};

use crate::index::check_file_name;
use crate::side_files::MAX_SIDE_FILE_BYTES;
use crate::{Checkpoint, Error, open_checkpoint};

/// Subtrees that are read at once: 3 MiB are whole elements of every dtype, the packed ones with 6 bits too.
const SUBTREES_PER_READ: u64 = 3;

/// A file that a checkpoint must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub len_bytes: u64,
    /// Digest as text: of a shard by [`shard_digest`], of any other file over its bytes. `None`: not compared.
    pub digest: Option<String>,
}

/// A tensor that a checkpoint must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Shape,
    /// Digest over its bytes, as text. `None`: not compared.
    pub digest: Option<String>,
}

/// What a checkpoint must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectations {
    /// With which hash the digests were made; `None` compares sizes and headers only.
    pub digest_kind: Option<DigestKind>,
    /// Files, in any order; others in the folder do not matter, but for shards.
    pub files: Vec<ExpectedFile>,
    /// All tensors, in any order.
    pub tensors: Vec<ExpectedTensor>,
}

/// How something differs from what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyFault {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// It is there and was not expected.
    #[error("was not expected")]
    Unexpected,
    /// Another length.
    #[error("has {found_bytes} bytes, {expected_bytes} expected")]
    Length {
        /// What the receipt says.
        expected_bytes: u64,
        /// What it has.
        found_bytes: u64,
    },
    /// Another dtype or shape.
    #[error("is {found_dtype} {found_shape}, {expected_dtype} {expected_shape} expected")]
    Form {
        /// What the receipt says.
        expected_dtype: Dtype,
        /// What the receipt says.
        expected_shape: Shape,
        /// What the header says.
        found_dtype: Dtype,
        /// What the header says.
        found_shape: Shape,
    },
    /// Other bytes.
    #[error("has the digest {found}, {expected} expected")]
    Digest {
        /// What the receipt says.
        expected: String,
        /// What its bytes give.
        found: String,
    },
}

/// A file or tensor and what is wrong with it, if anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Name of the file or tensor.
    pub name: String,
    /// `None`: as expected.
    pub fault: Option<VerifyFault>,
}

/// The outcome for every file and tensor, in the order of the expectations, unexpected ones last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// The files.
    pub files: Vec<Verdict>,
    /// The tensors.
    pub tensors: Vec<Verdict>,
}

impl VerifyReport {
    /// Whether everything is as expected.
    pub fn is_equal(&self) -> bool {
        self.files.iter().chain(&self.tensors).all(|verdict| verdict.fault.is_none())
    }
}

/// Digests of all tensors of a source, in the order of its catalog; every byte is read once.
///
/// Memory: 3 MiB for each thread and 32 bytes for each MiB of tensors.
///
/// # Errors
/// The first read that failed.
pub fn digest_tensors(
    source: &dyn TensorSource,
    kind: DigestKind,
    n_threads: usize,
) -> Result<Vec<Digest>, AccessError> {
    let entries = source.catalog().entries();
    // Numbers of reads: entry i owns the reads starts[i]..starts[i + 1].
    let mut starts = vec![0_u64];
    for entry in entries {
        let n_reads = n_subtrees(entry.n_bytes()).div_ceil(SUBTREES_PER_READ);
        starts.push(starts.last().copied().unwrap_or(0) + n_reads);
    }
    let n_reads = starts.last().copied().unwrap_or(0);
    let (next, has_failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let hashed = Mutex::new(Ok(Vec::new()));
    let hash_some = || {
        let mut buffer = Vec::new();
        while !has_failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= n_reads {
                return;
            }
            let tensor_idx = starts.partition_point(|start| *start <= number) - 1;
            let result = hash_read(source, kind, tensor_idx, number - starts[tensor_idx], &mut buffer);
            let mut hashed = hashed.lock().unwrap_or_else(PoisonError::into_inner);
            match (result, &mut *hashed) {
                (Ok(subtrees), Ok(all)) => all.push((number, subtrees)),
                (Err(error), _) => {
                    has_failed.store(true, Ordering::Relaxed);
                    *hashed = Err(error);
                }
                (Ok(_), Err(_)) => {}
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..n_threads {
            // Where the system refuses a thread, the others do its share.
            let _refused = thread::Builder::new().spawn_scoped(scope, hash_some);
        }
        hash_some();
    });
    let mut hashed = hashed.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    hashed.sort_by_key(|(number, _)| *number);
    let digest_of = |(entry, range): (&TensorEntry, &[u64])| {
        let own = &hashed[to_index(range[0])..to_index(range[1])];
        let subtrees: Vec<SubtreeDigest> = own.iter().flat_map(|(_, subtrees)| subtrees).copied().collect();
        tensor_digest(kind, &subtrees, entry.n_bytes())
    };
    Ok(entries.iter().zip(starts.windows(2)).map(digest_of).collect())
}

/// Reads up to three subtrees of a tensor and hashes each.
fn hash_read(
    source: &dyn TensorSource,
    kind: DigestKind,
    tensor_idx: usize,
    read_idx: u64,
    buffer: &mut Vec<u8>,
) -> Result<Vec<SubtreeDigest>, AccessError> {
    let entry = &source.catalog().entries()[tensor_idx];
    let n_bytes = entry.n_bytes();
    let start = read_idx * SUBTREES_PER_READ * SUBTREE_BYTES;
    let end = n_bytes.min(start + SUBTREES_PER_READ * SUBTREE_BYTES);
    let elements = elements_of(entry, start..end);
    buffer.resize(to_index(end - start), 0);
    source.read_elements(tensor_idx, elements.clone(), buffer)?;
    source.done_reading(tensor_idx, elements);
    let first_subtree = read_idx * SUBTREES_PER_READ;
    let mut digests = Vec::new();
    // An empty tensor is one subtree without bytes.
    for number in 0..n_subtrees(end - start) {
        let from = to_index(number * SUBTREE_BYTES);
        let to = buffer.len().min(from + to_index(SUBTREE_BYTES));
        let mut hasher = SubtreeHasher::new(kind, first_subtree + number, n_bytes);
        hasher.update(&buffer[from..to]);
        digests.push(hasher.finish());
    }
    Ok(digests)
}

/// Elements of a byte range that begins and ends between elements.
fn elements_of(entry: &TensorEntry, bytes: Range<u64>) -> Range<u64> {
    let bits = u64::from(entry.dtype.bits());
    // Sizes in bits fit, because the product was checked when the catalog was made.
    bytes.start * 8 / bits..bytes.end * 8 / bits
}

/// The digest of a shard: over the digest of its header (with the 8 bytes of its length) and the digests of its
/// tensors in the order of their bytes. So no byte has to be hashed twice, and every byte of the file counts.
pub fn shard_digest<'a>(kind: DigestKind, header: &[u8], tensors: impl IntoIterator<Item = &'a Digest>) -> Digest {
    let mut list = ListHasher::new(kind);
    list.add_digest(&bytes_digest(kind, header));
    tensors.into_iter().for_each(|digest| list.add_digest(digest));
    list.finish()
}

/// Re-reads a published checkpoint and compares it with what it should hold.
///
/// # Errors
/// `BadFileName` for an expected file outside the folder; as [`open_checkpoint`]; `Access` if bytes cannot be
/// read. A difference is a verdict, not an error.
pub fn verify_checkpoint(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    expected: &Expectations,
    n_threads: usize,
) -> Result<VerifyReport, Error> {
    // The list may come from a file that somebody else wrote: it names files of this folder and no others.
    if let Some(file) = expected.files.iter().find(|file| check_file_name(&file.name).is_err()) {
        return Err(Error::BadFileName { name: file.name.clone() });
    }
    let mut report = VerifyReport { files: check_lengths(storage, folder, expected), tensors: Vec::new() };
    if report.files.iter().any(|verdict| verdict.fault.is_some()) {
        // A cut-off or missing shard would only be told again, in other words, as a refusal to open.
        return Ok(report);
    }
    let checkpoint = open_checkpoint(storage, folder)?;
    let digests = match expected.digest_kind {
        Some(kind) => Some((kind, digest_tensors(&checkpoint, kind, n_threads)?)),
        None => None,
    };
    report.tensors = check_tensors(&checkpoint, expected, digests.as_ref().map(|(_, digests)| &**digests));
    if let Some((kind, digests)) = digests {
        for (verdict, file) in report.files.iter_mut().zip(&expected.files) {
            verdict.fault = check_file_digest(storage, &checkpoint, folder, file, kind, &digests)?;
        }
    }
    let is_expected = |name: &str| expected.files.iter().any(|file| file.name == name);
    let strays = checkpoint.files().iter().filter(|file| !is_expected(&file.name));
    let unexpected = |name: &str| Verdict { name: name.to_owned(), fault: Some(VerifyFault::Unexpected) };
    report.files.extend(strays.map(|file| unexpected(&file.name)));
    checkpoint.check_unchanged()?;
    Ok(report)
}

fn check_lengths(storage: &Arc<dyn Storage>, folder: &Path, expected: &Expectations) -> Vec<Verdict> {
    let verdict = |file: &ExpectedFile| {
        let fault = match storage.file_info(&folder.join(&file.name)) {
            Err(_) => Some(VerifyFault::Missing),
            Ok(info) if info.len_bytes == file.len_bytes => None,
            Ok(info) => Some(VerifyFault::Length { expected_bytes: file.len_bytes, found_bytes: info.len_bytes }),
        };
        Verdict { name: file.name.clone(), fault }
    };
    expected.files.iter().map(verdict).collect()
}

fn compare_digests(expected: Option<&String>, found: &Digest) -> Option<VerifyFault> {
    let found = found.to_string();
    let expected = expected.filter(|expected| **expected != found)?;
    Some(VerifyFault::Digest { expected: expected.clone(), found })
}

fn check_tensors(checkpoint: &Checkpoint, expected: &Expectations, digests: Option<&[Digest]>) -> Vec<Verdict> {
    let catalog = checkpoint.catalog();
    let mut is_expected = vec![false; catalog.entries().len()];
    let mut verdicts = Vec::with_capacity(expected.tensors.len());
    for tensor in &expected.tensors {
        let found = catalog.find(&tensor.name);
        let fault = found.map_or(Some(VerifyFault::Missing), |tensor_idx| {
            is_expected[tensor_idx] = true;
            let entry = &catalog.entries()[tensor_idx];
            if entry.dtype != tensor.dtype || entry.shape != tensor.shape {
                return Some(VerifyFault::Form {
                    expected_dtype: tensor.dtype,
                    expected_shape: tensor.shape.clone(),
                    found_dtype: entry.dtype,
                    found_shape: entry.shape.clone(),
                });
            }
            compare_digests(tensor.digest.as_ref(), digests?.get(tensor_idx)?)
        });
        verdicts.push(Verdict { name: tensor.name.clone(), fault });
    }
    let strays = catalog.entries().iter().zip(is_expected).filter(|(_, is_expected)| !is_expected);
    verdicts.extend(
        strays.map(|(entry, _)| Verdict { name: entry.name.to_string(), fault: Some(VerifyFault::Unexpected) }),
    );
    verdicts
}

fn check_file_digest(
    storage: &Arc<dyn Storage>,
    checkpoint: &Checkpoint,
    folder: &Path,
    file: &ExpectedFile,
    kind: DigestKind,
    digests: &[Digest],
) -> Result<Option<VerifyFault>, Error> {
    if file.digest.is_none() {
        return Ok(None);
    }
    let found = match checkpoint.files().iter().position(|shard| shard.name == file.name) {
        None => bytes_digest(kind, &storage.read_file(&folder.join(&file.name), MAX_SIDE_FILE_BYTES)?),
        Some(file_idx) => {
            let file_idx = file_idx as u64;
            let first_offset = |entry: &TensorEntry| entry.pieces.first().map_or(0, |piece| piece.offset);
            let entries = checkpoint.catalog().entries().iter().zip(digests);
            let mut own: Vec<_> = entries
                .filter(|(entry, _)| entry.pieces.first().is_some_and(|piece| u64::from(piece.file_idx) == file_idx))
                .collect();
            own.sort_by_key(|(entry, _)| (first_offset(entry), entry.n_bytes(), &entry.name));
            let header_bytes = own.first().map_or(file.len_bytes, |(entry, _)| first_offset(entry));
            let mut header = vec![0; to_index(header_bytes)];
            storage.open_file(&folder.join(&file.name))?.read_exact_at(0, &mut header)?;
            shard_digest(kind, &header, own.into_iter().map(|(_, digest)| digest))
        }
    };
    Ok(compare_digests(file.digest.as_ref(), &found))
}
