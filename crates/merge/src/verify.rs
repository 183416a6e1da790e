//! Reads an output again and compares it with its receipt; on request the sources too.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_checkpoint::{Checkpoint, ReadOptions, frame_ranges, has_weights_end, open_checkpoint_with, shard_digest};
use thalweg_storage::Storage;
use thalweg_storage::guard::foreign_entries;
use thalweg_tensor::digest::{Digest, DigestKind, ListHasher, SUBTREE_BYTES, bytes_digest, tensor_digest};
use thalweg_tensor::{TensorEntry, TensorSource, display_name, to_index};

use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::frame::frame_digests;
use crate::kept::sources_have_same_bytes;
use crate::output_kind::{OptimizerPolicy, OutputFormat};
use crate::part_hash::RunningHash;
use crate::plan::{PlanSource, SourceRef};
pub use crate::receipt::read_receipt;
use crate::receipt::read_receipt_of;
use crate::receipt::{FileReceipt, MergeReceipt, SourceReceipt};
pub use crate::receipt_check::Verdict;
use crate::receipt_check::check_receipt;
use crate::unit::UnitList;
use crate::workers::for_each_part;

/// What is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyScope {
    /// The output.
    Output,
    /// The output, and the sources that it was made from.
    OutputAndInputs,
}

/// How a source compares with what was merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceState {
    /// It is what was merged.
    Unchanged,
    /// It does not exist.
    Missing,
    /// It holds other bytes, or other files; the text says which.
    Changed(String),
    /// It cannot be read; the text says why.
    Unreadable(String),
}

/// A source of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceVerdict {
    /// Its path by the receipt.
    pub path: PathBuf,
    /// How it compares.
    pub state: SourceState,
}

impl SourceVerdict {
    /// The state in one word, and what is wrong in words.
    pub fn describe(&self) -> (&'static str, Option<String>) {
        match &self.state {
            SourceState::Unchanged => ("unchanged", None),
            SourceState::Missing => ("missing", Some("it no longer exists".to_owned())),
            SourceState::Changed(what) => ("changed", Some(what.clone())),
            SourceState::Unreadable(what) => ("unreadable", Some(what.clone())),
        }
    }

    fn document(&self) -> Value {
        let (state, fault) = self.describe();
        json!({"name": self.path, "equal": fault.is_none(), "state": state, "fault": fault})
    }
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// Files of the output.
    pub files: Vec<Verdict>,
    /// Tensors of the output whose bytes differ.
    pub tensors: Vec<Verdict>,
    /// Facts of the receipt that contradict each other.
    pub facts: Vec<Verdict>,
    /// Sources, when they were asked for.
    pub sources: Vec<SourceVerdict>,
    /// Files of tensors in the output's folder that the receipt does not list: other programs may load them.
    pub strays: Vec<String>,
    /// Whether bytes were compared; without digests only sizes and headers are.
    pub compared_bytes: bool,
}

impl Verification {
    /// Whether output and sources are as the receipt says.
    pub fn is_equal(&self) -> bool {
        self.output_is_equal() && self.sources_are_equal()
    }

    /// Whether the output is as the receipt says, and the receipt does not contradict itself.
    pub fn output_is_equal(&self) -> bool {
        self.faults().next().is_none()
    }

    /// Whether the sources are those that were merged; true if they were not checked.
    pub fn sources_are_equal(&self) -> bool {
        self.sources.iter().all(|source| source.state == SourceState::Unchanged)
    }

    /// The verification as one JSON document.
    pub fn document(&self, scope: VerifyScope) -> Value {
        let row =
            |verdict: &Verdict| json!({"name": verdict.name, "equal": verdict.fault.is_none(), "fault": verdict.fault});
        let verdicts = |verdicts: &[Verdict]| -> Vec<Value> { verdicts.iter().map(row).collect() };
        json!({
            "kind": "thalweg-verify",
            "version": 1,
            "equal": self.is_equal(),
            "output_equal": self.output_is_equal(),
            "sources_equal": (scope == VerifyScope::OutputAndInputs).then(|| self.sources_are_equal()),
            "compared_bytes": self.compared_bytes,
            "facts": verdicts(&self.facts),
            "files": verdicts(&self.files),
            "tensors": verdicts(&self.tensors),
            "sources": self.sources.iter().map(SourceVerdict::document).collect::<Vec<_>>(),
            "strays": self.strays,
        })
    }

    /// What is wrong with the output or its receipt: pairs of a name and what differs.
    pub fn faults(&self) -> impl Iterator<Item = (&str, &str)> {
        let verdicts = [&self.facts, &self.files, &self.tensors].into_iter().flatten();
        verdicts.filter_map(|verdict| Some((verdict.name.as_str(), verdict.fault.as_deref()?)))
    }

    /// The first fault of the output, as text.
    pub(crate) fn first_fault(&self) -> Option<String> {
        self.faults().next().map(|(name, fault)| format!("{name}: {fault}"))
    }
}

/// What a folder was merged from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeSummary {
    /// How many checkpoints.
    pub n_checkpoints: usize,
    /// By which scheme.
    pub scheme: String,
    /// The checkpoint that it is a copy of, perhaps in another format or element type.
    pub copy_of: Option<SourceRef>,
}

/// What the receipt in a folder says; `None` if there is none.
pub fn read_merge(storage: &dyn Storage, folder: &Path) -> Option<MergeSummary> {
    let plan = read_receipt_of(storage, folder).ok()?.plan;
    let copy_of = plan.sources.first().filter(|_| plan.is_copy()).map(PlanSource::source);
    Some(MergeSummary { n_checkpoints: plan.checkpoints().len(), scheme: plan.scheme, copy_of })
}

/// Compares the output in `folder` with its receipt.
///
/// # Errors
/// When there is no receipt, or it cannot be read. A difference is not an error but a verdict.
pub fn verify_output(folder: &Path, scope: VerifyScope, run: &RunContext<'_>) -> Result<Verification, Error> {
    let receipt = read_receipt(folder, run)?;
    let mut found = verify_receipt(folder, &receipt, run)?;
    if scope == VerifyScope::OutputAndInputs {
        let kind = receipt.plan.digest.kind();
        let check = |(i, source): (usize, &SourceReceipt)| {
            Ok(SourceVerdict {
                path: source.path.clone(),
                state: check_source(source, &receipt.plan.reading_of(i), kind, run)?,
            })
        };
        found.sources = receipt.sources.iter().enumerate().map(check).collect::<Result<_, Error>>()?;
        if found.is_equal() {
            let compared = sources_have_same_bytes(folder, &receipt, run);
            run.check_interrupt()?;
            let state = match compared {
                Ok(true) => SourceState::Unchanged,
                Ok(false) => {
                    SourceState::Changed("the bytes around its tensors differ from those that were copied".to_owned())
                }
                Err(error) => SourceState::Unreadable(error.to_string()),
            };
            if let Some(newest) = found.sources.get_mut(receipt.plan.policy.newest) {
                newest.state = state;
            }
        }
    }
    Ok(found)
}

/// Compares a receipt with itself, and the output in `folder` with it.
pub(crate) fn verify_receipt(
    folder: &Path,
    receipt: &MergeReceipt,
    run: &RunContext<'_>,
) -> Result<Verification, Error> {
    let mut found = Verification {
        files: check_files(folder, receipt, run),
        tensors: Vec::new(),
        facts: check_receipt(receipt)?,
        sources: Vec::new(),
        strays: find_strays(folder, receipt, run)?,
        compared_bytes: receipt.plan.digest.kind().is_some(),
    };
    // A file that is missing or has another length cannot be opened as a checkpoint; the verdict is known already.
    if found.files.iter().all(|file| file.fault.is_none()) {
        let plain = ReadOptions::default();
        let reading = if keeps_keys(receipt) { &receipt.plan.reading } else { &plain };
        match open_checkpoint_with(&run.storage, folder, reading) {
            Ok(checkpoint) => match check_tensors(&checkpoint, receipt, run, &mut found) {
                // What surrounds a tensor in its file, such as an archive, is damaged.
                Err(error @ (Error::Access { .. } | Error::Checkpoint(_))) if !is_io(&error) => {
                    found.files.push(Verdict { name: folder.display().to_string(), fault: Some(error.to_string()) });
                }
                checked => checked?,
            },
            Err(error) => {
                check_frames((folder, None), receipt, run, &mut found)?;
                found.files.push(Verdict { name: folder.display().to_string(), fault: Some(error.to_string()) });
            }
        }
    }
    Ok(found)
}

/// Whether the system refused to read, which says nothing about the bytes.
fn is_io(error: &Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(found) = cause {
        if found.is::<std::io::Error>() {
            return true;
        }
        cause = found.source();
    }
    false
}

/// Whether the tensors of an output are under the key of the newest source. Outputs written from scratch hold only what
/// was read.
fn keeps_keys(receipt: &MergeReceipt) -> bool {
    let plan = &receipt.plan;
    let newest = receipt.sources.get(plan.policy.newest);
    let is_like_newest = newest.is_some_and(|source| source.format.as_deref() == Some(&plan.format.to_string()));
    is_like_newest && (plan.policy.optimizer != OptimizerPolicy::Drop || plan.format != OutputFormat::Torch)
}

/// Files of tensors that the receipt does not list.
fn find_strays(folder: &Path, receipt: &MergeReceipt, run: &RunContext<'_>) -> Result<Vec<String>, Error> {
    let listed = receipt.files.iter().map(|file| file.name.clone()).collect();
    let unlisted = foreign_entries(&*run.storage, folder, &listed)?;
    Ok(unlisted.into_iter().filter(|name| has_weights_end(name)).collect())
}

fn check_files(folder: &Path, receipt: &MergeReceipt, run: &RunContext<'_>) -> Vec<Verdict> {
    let check = |file: &crate::receipt::FileReceipt| {
        // The receipt is untrusted: a name must not lead out of the folder.
        if Path::new(&file.name).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Some("the receipt names a path outside the folder".to_owned());
        }
        let path = folder.join(&file.name);
        let info = match run.storage.file_info(&path) {
            Ok(info) => info,
            Err(error) if error.is_not_found() => return Some("missing".to_owned()),
            Err(error) => return Some(error.to_string()),
        };
        if info.len_bytes != file.len_bytes {
            return Some(format!("{} bytes expected, {} found", file.len_bytes, info.len_bytes));
        }
        if file.frame_digest.is_some() || file.name.ends_with(".safetensors") {
            return None;
        }
        let kind = receipt.plan.digest.kind()?;
        match run.storage.read_file(&path, file.len_bytes) {
            Ok(bytes) if Some(bytes_digest(kind, &bytes).to_string()) == file.digest => None,
            Ok(_) => Some("the bytes differ".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    };
    receipt.files.iter().map(|file| Verdict { name: file.name.clone(), fault: check(file) }).collect()
}

fn check_tensors(
    checkpoint: &Checkpoint,
    receipt: &MergeReceipt,
    run: &RunContext<'_>,
    found: &mut Verification,
) -> Result<(), Error> {
    let entries = checkpoint.catalog().entries();
    let is_listed = entries.len() == receipt.tensors.len()
        && entries.iter().zip(&receipt.tensors).all(|(entry, known)| {
            *entry.name == *known.name && entry.dtype.name() == known.dtype && *entry.shape.0 == *known.shape
        });
    if !is_listed {
        let fault = Some("its names, element types or shapes differ from the receipt".to_owned());
        found.tensors.push(Verdict { name: "the tensors".to_owned(), fault });
        return Ok(());
    }
    let Some(kind) = receipt.plan.digest.kind() else { return Ok(()) };
    let digests = digest_tensors(checkpoint, kind, run)?;
    for ((entry, known), digest) in entries.iter().zip(&receipt.tensors).zip(&digests) {
        if known.digest.as_deref() != Some(digest.to_string().as_str()) {
            let fault = Some("the bytes differ".to_owned());
            found.tensors.push(Verdict { name: display_name(&entry.name), fault });
        }
    }
    if !found.tensors.is_empty() {
        return Ok(());
    }
    if receipt.plan.format.is_safetensors() {
        check_headers(checkpoint, receipt, &digests, run, found)
    } else {
        check_frames((checkpoint.path(), Some(checkpoint)), receipt, run, found)
    }
}

/// Compares what files hold besides the tensors. Without an opened checkpoint, only the files without tensors: one of
/// them may be why it cannot be opened.
fn check_frames(
    (folder, checkpoint): (&Path, Option<&Checkpoint>),
    receipt: &MergeReceipt,
    run: &RunContext<'_>,
    found: &mut Verification,
) -> Result<(), Error> {
    let Some(kind) = receipt.plan.digest.kind() else { return Ok(()) };
    let opened = checkpoint.map_or(&[][..], Checkpoint::files);
    let lengths: Vec<u64> = opened.iter().map(|file| file.info.len_bytes).collect();
    let entries = checkpoint.map(Checkpoint::opened_entries).transpose()?.unwrap_or_default();
    let frames = frame_ranges(&entries, &lengths);
    let is_compared = |known: &FileReceipt| {
        known.frame_digest.is_some() && (checkpoint.is_some() || known.digest == known.frame_digest)
    };
    let compared: Vec<usize> = (0..receipt.files.len()).filter(|&i| is_compared(&receipt.files[i])).collect();
    let ranges_of = |&i: &usize| {
        let known = &receipt.files[i];
        let frame = opened.iter().position(|file| file.name == known.name).and_then(|number| frames.get(number));
        frame.cloned().unwrap_or_else(|| std::iter::once(0..known.len_bytes).collect())
    };
    let ranges: Vec<Vec<Range<u64>>> = compared.iter().map(ranges_of).collect();
    let open = |&i: &usize| run.storage.open_file(&folder.join(&receipt.files[i].name));
    let files = compared.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let read = |number: usize, offset: u64, out: &mut [u8]| Ok(files[number].read_exact_at(offset, out)?);
    let digests = frame_digests(kind, &ranges, &read, run)?;
    for (i, digest) in compared.into_iter().zip(digests) {
        let known = &receipt.files[i];
        if known.frame_digest.as_deref() != Some(digest.to_string().as_str()) {
            let is_whole = known.digest == known.frame_digest;
            let fault = if is_whole { "the bytes differ" } else { "its contents other than the merged tensors differ" };
            found.files[i].fault = Some(fault.to_owned());
        }
    }
    Ok(())
}

/// Where all tensors are equal, a shard's digest can differ only by its header.
fn check_headers(
    checkpoint: &Checkpoint,
    receipt: &MergeReceipt,
    digests: &[Digest],
    run: &RunContext<'_>,
    found: &mut Verification,
) -> Result<(), Error> {
    let Some(kind) = receipt.plan.digest.kind() else { return Ok(()) };
    for (file_idx, file) in checkpoint.files().iter().enumerate() {
        let header = read_header(&file.path, run)?;
        let tensors = in_file(checkpoint.catalog().entries(), file_idx, digests);
        let digest = shard_digest(kind, &header, tensors).to_string();
        let known = receipt.files.iter().position(|known| known.name == file.name);
        if known.is_none_or(|at| receipt.files[at].digest.as_deref() != Some(digest.as_str())) {
            let verdict = Verdict { name: file.name.clone(), fault: Some("its header differs".to_owned()) };
            match known {
                Some(at) => found.files[at] = verdict,
                None => found.files.push(verdict),
            }
        }
    }
    Ok(())
}

/// The header of a shard with the eight bytes of its length.
fn read_header(path: &Path, run: &RunContext<'_>) -> Result<Vec<u8>, Error> {
    let file = run.storage.open_file(path)?;
    let mut length = [0; 8];
    file.read_exact_at(0, &mut length)?;
    // The file was opened as a checkpoint before, which refuses a header that is longer than the file or too long.
    let mut header = vec![0; to_index(u64::from_le_bytes(length).min(file.info().len_bytes)) + 8];
    file.read_exact_at(0, &mut header)?;
    Ok(header)
}

/// The digests of the tensors of one file, in the order of their bytes.
fn in_file<'a>(entries: &[TensorEntry], file_idx: usize, digests: &'a [Digest]) -> Vec<&'a Digest> {
    let place = |entry: &TensorEntry| entry.pieces.first().map(|piece| (piece.file_idx as usize, piece.offset));
    let mut tensors: Vec<usize> =
        (0..entries.len()).filter(|&t| place(&entries[t]).is_some_and(|place| place.0 == file_idx)).collect();
    // A tensor without bytes begins where the next one begins.
    tensors.sort_by_key(|&t| (place(&entries[t]), entries[t].n_bytes(), t));
    tensors.into_iter().map(|t| &digests[t]).collect()
}

fn check_source(
    source: &SourceReceipt,
    reading: &ReadOptions,
    kind: Option<DigestKind>,
    run: &RunContext<'_>,
) -> Result<SourceState, Error> {
    if run.storage.file_info(&source.path).is_err_and(|error| error.is_not_found()) {
        return Ok(SourceState::Missing);
    }
    let checkpoint = match open_checkpoint_with(&run.storage, &source.path, reading) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return Ok(SourceState::Unreadable(error.to_string())),
    };
    let lengths = |files: &mut dyn Iterator<Item = (String, u64)>| files.collect::<Vec<_>>();
    let found = lengths(&mut checkpoint.files().iter().map(|file| (file.name.clone(), file.info.len_bytes)));
    let known = lengths(&mut source.files.iter().map(|file| (file.name.clone(), file.len_bytes)));
    let changed = |what: &str| Ok(SourceState::Changed(what.to_owned()));
    if found != known {
        return changed("its files had different names or lengths when it was merged");
    }
    let Some(known) = source.digest.as_ref().filter(|_| kind.is_some()) else { return Ok(SourceState::Unchanged) };
    if has_digest(&checkpoint, known, run)? {
        Ok(SourceState::Unchanged)
    } else {
        changed("its bytes differ from those that were merged")
    }
}

/// The digest of a checkpoint: of its sorted list of (name, dtype, shape, tensor digest).
///
/// # Errors
/// When a tensor cannot be read whole.
pub fn digest_checkpoint(source: &dyn TensorSource, kind: DigestKind, run: &RunContext<'_>) -> Result<Digest, Error> {
    let digests = digest_tensors(source, kind, run)?;
    let mut list = ListHasher::new(kind);
    for (entry, digest) in source.catalog().entries().iter().zip(&digests) {
        list.add_tensor(&entry.name, entry.dtype, &entry.shape, digest);
    }
    Ok(list.finish())
}

/// Whether a checkpoint has this digest, which says how it was made; false where the text is not a digest.
///
/// # Errors
/// When a tensor cannot be read whole.
pub fn has_digest(source: &dyn TensorSource, wanted: &str, run: &RunContext<'_>) -> Result<bool, Error> {
    let Ok(wanted) = wanted.parse::<Digest>() else { return Ok(false) };
    Ok(digest_checkpoint(source, wanted.kind(), run)? == wanted)
}

/// The digest of each tensor, read once, by all threads.
fn digest_tensors(source: &dyn TensorSource, kind: DigestKind, run: &RunContext<'_>) -> Result<Vec<Digest>, Error> {
    /// Bytes held at once by a worker.
    const PIECE_BYTES: u64 = 64 << 10;
    let entries = source.catalog().entries();
    let element_bytes = |t: usize| entries[t].dtype.bytes().unwrap_or(1);
    let units = UnitList::cut(source.catalog(), |_| true, element_bytes);
    run.progress.begin(Stage::Verify, source.catalog().n_bytes());
    let parts = for_each_part(run, &units, &Vec::new, &|part, buffer: &mut Vec<u8>| {
        let entry = &entries[part.tensor_idx];
        let offset = entry.dtype.bytes_of(part.elements.start).unwrap_or(0);
        let mut hash = RunningHash::new(Some(kind), offset / SUBTREE_BYTES, entry.n_bytes());
        let mut at = part.elements.start;
        while at < part.elements.end {
            let end = part.elements.end.min(at + PIECE_BYTES / element_bytes(part.tensor_idx));
            buffer.resize(to_index(entry.dtype.bytes_of(end - at).unwrap_or(0)), 0);
            source
                .read_elements(part.tensor_idx, at..end, buffer)
                .map_err(|source| Error::Access { tensor: display_name(&entry.name), source })?;
            hash.update(buffer);
            run.progress.advance(buffer.len() as u64);
            at = end;
        }
        Ok(hash.finish())
    })?;
    let mut subtrees = vec![Vec::new(); entries.len()];
    parts.into_iter().for_each(|(tensor_idx, _, part)| subtrees[tensor_idx].extend(part));
    Ok(entries.iter().zip(&subtrees).map(|(entry, list)| tensor_digest(kind, list, entry.n_bytes())).collect())
}
