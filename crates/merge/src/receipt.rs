//! The receipt: what was done, from what, with which coefficients. It is also the output's manifest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thalweg_checkpoint::{Params, is_optimizer_state};
use thalweg_storage::FileInfo;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::error::Error;
use crate::output_kind::OptimizerPolicy;
use crate::plan::{OutputPlan, RouterPolicy};

/// A receipt of a hundred thousand tensors has about 30 MB.
pub(crate) const MAX_RECEIPT_BYTES: u64 = 1 << 30;
use crate::context::RunContext;
pub use crate::seen_source::DequantisedWeights;
use std::path::Path;
pub use thalweg_checkpoint::RECEIPT_NAME;
use thalweg_storage::Storage;
/// `kind` of a receipt.
pub(crate) const RECEIPT_KIND: &str = "thalweg-receipt";
/// `version` of the receipts that this program writes and reads.
pub(crate) const RECEIPT_VERSION: u32 = 1;

/// Record of a merge that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeReceipt {
    /// Always [`RECEIPT_KIND`].
    pub kind: String,
    /// Always [`RECEIPT_VERSION`].
    pub version: u32,
    /// Name and version of the program.
    pub tool: String,
    /// The plan of this output.
    pub plan: OutputPlan,
    /// Its digest: equal plans over equal sources give equal bytes.
    pub plan_digest: String,
    /// The sources as they were, in the plan's order.
    pub sources: Vec<SourceReceipt>,
    /// Digest of the output: of its sorted list of (name, dtype, shape, tensor digest). `None` without digests.
    pub digest: Option<String>,
    /// Every file of the output but this one.
    pub files: Vec<FileReceipt>,
    /// Every tensor, sorted by name.
    pub tensors: Vec<TensorReceipt>,
    /// When the merge ended, seconds since 1970-01-01 UTC.
    pub finished_unix_seconds: u64,
    /// Wall time.
    pub seconds: f64,
    /// Bytes of tensors read from sources, for all outputs of the same reading.
    pub bytes_read: u64,
    /// Bytes of this output's files.
    pub bytes_written: u64,
    /// Largest resident memory, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// Worker threads.
    pub n_threads: usize,
    /// BLAKE3 digest of this receipt without this line; `None` in receipts of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt_digest: Option<String>,
}

/// A source as it was when it was merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceReceipt {
    /// Its path.
    pub path: PathBuf,
    /// Optimizer steps done, if known.
    pub step: Option<u64>,
    /// Training tokens consumed, if known.
    pub tokens: Option<u64>,
    /// Its coefficient, to read; the plan has the exact one.
    pub coefficient: f64,
    /// The name of the format that it was read from; `None` for safetensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The key of its tensors, in files that hold several state dicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Which parameters were read, in formats that may hold both the module's weights and the optimizer's masters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Params>,
    /// Its weights that are FP8 codes, which were read as the numbers that they stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dequantised: Option<DequantisedWeights>,
    /// Digest of all its tensors as they were read; `None` when some were not read or only in a wider element type, or
    /// without digests.
    pub digest: Option<String>,
    /// Whether the digest was taken by an earlier reading of files of these sizes and times, with the same headers, and
    /// not while they were merged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub digest_is_earlier: bool,
    /// Size and time of its files with tensors.
    pub files: Vec<SourceFile>,
    /// Of the newest source, size and time of every file that the output has from it; empty if it has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_files: Vec<SourceFile>,
}

/// Size and time of a source's file: what tells whether it is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Name within the checkpoint.
    pub name: String,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Time of the last change, nanoseconds since 1970, as decimal digits.
    pub modified_ns: String,
    /// Time of the last change of content or metadata, in the same form, if the file system has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_ns: Option<String>,
}

impl SourceFile {
    /// The record of a file.
    pub fn new(name: &str, info: &FileInfo) -> Self {
        let changed_ns = Some(info.changed_ns).filter(|changed| *changed != 0).map(|changed| changed.to_string());
        Self { name: name.to_owned(), len_bytes: info.len_bytes, modified_ns: info.modified_ns.to_string(), changed_ns }
    }
}

/// A file of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReceipt {
    /// Name within the output.
    pub name: String,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Of a safetensors file: digest of its header's digest and its tensors' digests, in file order. Of another file:
    /// of its bytes; where there is a `frame_digest`, the same, and only if no merged tensor is in the file.
    pub digest: Option<String>,
    /// Of a file with the newest source's form: digest of the bytes that belong to no merged tensor, in pieces of a
    /// mebibyte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_digest: Option<String>,
}

impl FileReceipt {
    /// The record of a small file that is at hand whole.
    pub(crate) fn of_bytes(name: &str, bytes: &[u8], kind: Option<DigestKind>) -> Self {
        let digest = kind.map(|kind| bytes_digest(kind, bytes).to_string());
        Self { name: name.to_owned(), len_bytes: bytes.len() as u64, digest, frame_digest: None }
    }
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorReceipt {
    /// Its name.
    pub name: String,
    /// Element type, by its safetensors name.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// Digest of its bytes.
    pub digest: Option<String>,
    /// Euclidean distance to the newest source's tensor; `None` when that was not read.
    pub distance_to_newest: Option<f64>,
    /// Largest change of an element against the newest source.
    pub max_abs_change: Option<f64>,
    /// Euclidean norm of the newest source's tensor; `None` when that was not read as numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_of_newest: Option<f64>,
    /// Elements that are NaN or infinite.
    pub n_non_finite: u64,
    /// What the policy for routers did with it; `None` for tensors that it does not apply to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterPolicy>,
    /// Whether the tensor of some source is FP8 codes with scales.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dequantised: bool,
}

impl MergeReceipt {
    /// The document that `from_json` reads, with its own digest as its last line.
    ///
    /// # Errors
    /// `PlanInvalid` if it cannot be serialised.
    pub fn seal(&mut self) -> Result<Vec<u8>, Error> {
        self.receipt_digest = None;
        let mut json = self.to_bare_json()?;
        let digest = bytes_digest(DigestKind::Blake3, &json).to_string();
        // A receipt of many tensors is large. It is serialised once, and its digest inserted before the closing brace.
        json.truncate(json.len().saturating_sub(2));
        json.extend_from_slice(format!(",\n  \"receipt_digest\": \"{digest}\"\n}}\n").as_bytes());
        self.receipt_digest = Some(digest);
        Ok(json)
    }

    /// Whether the receipt is unchanged since it was sealed; `None` for receipts of earlier versions, which have no
    /// digest.
    ///
    /// # Errors
    /// `PlanInvalid` if it cannot be serialised.
    pub(crate) fn is_as_sealed(&self) -> Result<Option<bool>, Error> {
        let Some(digest) = &self.receipt_digest else { return Ok(None) };
        let bare = Self { receipt_digest: None, ..self.clone() };
        Ok(Some(bytes_digest(DigestKind::Blake3, &bare.to_bare_json()?).to_string() == *digest))
    }

    fn to_bare_json(&self) -> Result<Vec<u8>, Error> {
        let unwritable = |error| Error::PlanInvalid { what: format!("the receipt cannot be written: {error}") };
        serde_json::to_vec_pretty(self).map_err(unwritable)
    }

    /// Reads a receipt.
    ///
    /// # Errors
    /// `ReceiptInvalid` with what is wrong.
    pub fn from_json(bytes: &[u8], path: &std::path::Path) -> Result<Self, Error> {
        let fail = |what: String| Error::ReceiptInvalid { path: path.to_owned(), what };
        let receipt: Self = serde_json::from_slice(bytes).map_err(|error| fail(error.to_string()))?;
        if receipt.kind != RECEIPT_KIND || receipt.version != RECEIPT_VERSION {
            return Err(fail(format!(
                "kind `{RECEIPT_KIND}` version {RECEIPT_VERSION} expected, `{}` version {} found",
                receipt.kind, receipt.version
            )));
        }
        Ok(receipt)
    }

    /// Euclidean distance of all parameters to those of the newest source; `None` when that was not read.
    pub fn distance_to_newest(&self) -> Option<f64> {
        let squares = self.params().map(|tensor| tensor.distance_to_newest.map(|distance| distance * distance));
        squares.sum::<Option<f64>>().map(f64::sqrt)
    }

    /// Distance of all parameters to those of the newest source as a share of their norm; `None` when that was not
    /// read.
    pub fn relative_distance(&self) -> Option<f64> {
        let squares = |norm: Option<f64>| norm.map(|norm| norm * norm);
        let norm = self.params().filter_map(|tensor| squares(tensor.norm_of_newest)).sum::<f64>().sqrt();
        self.distance_to_newest().filter(|_| norm > 0.0).map(|distance| distance / norm)
    }

    /// Largest change of a parameter against the newest source; `None` when that was not read.
    pub fn max_abs_change(&self) -> Option<f64> {
        self.params().map(|tensor| tensor.max_abs_change).try_fold(0.0, |max: f64, next| Some(max.max(next?)))
    }

    /// The tensors that do not belong to a state of the optimizer that is merged with them.
    fn params(&self) -> impl Iterator<Item = &TensorReceipt> {
        let has_state = self.plan.policy.optimizer == OptimizerPolicy::Average;
        self.tensors.iter().filter(move |tensor| !has_state || !is_optimizer_state(&tensor.name))
    }
}

/// The receipt of the output in `folder`.
///
/// # Errors
/// `NoReceipt` where there is none; `ReceiptInvalid` where it cannot be parsed.
pub fn read_receipt(folder: &Path, run: &RunContext<'_>) -> Result<MergeReceipt, Error> {
    read_receipt_of(&*run.storage, folder)
}

pub(crate) fn read_receipt_of(storage: &dyn Storage, folder: &Path) -> Result<MergeReceipt, Error> {
    let receipt_path = folder.join(RECEIPT_NAME);
    let no_receipt = |error: thalweg_storage::Error| match error {
        error if error.is_not_found() => Error::NoReceipt { folder: folder.to_path_buf() },
        error => error.into(),
    };
    let bytes = storage.read_file(&receipt_path, MAX_RECEIPT_BYTES).map_err(no_receipt)?;
    MergeReceipt::from_json(&bytes, &receipt_path)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::MergeReceipt;
    use crate::plan::MergePlan;

    #[test]
    fn text_of_a_refused_file_cannot_steer_a_terminal() {
        let hostile = r#"{"\u001b[2J": 1}"#;
        let receipt = MergeReceipt::from_json(hostile.as_bytes(), Path::new("thalweg.json")).unwrap_err().to_string();
        let plan = MergePlan::from_json(hostile).unwrap_err().to_string();
        for message in [receipt, plan] {
            assert!(message.contains("unknown field `\\u{1b}[2J`"), "{message}");
            assert!(!message.contains('\u{1b}'), "{message:?}");
        }
    }
}
