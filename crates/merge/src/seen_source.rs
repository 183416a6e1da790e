//! What a plan remembers of its sources.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thalweg_tensor::Digest;

/// A source as a plan saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenSource {
    /// Its folder or file.
    pub path: PathBuf,
    /// Its files.
    pub files: Vec<SeenFile>,
    /// The files beside its tensors that may travel to an output: config, tokenizer and the like. `None` in plans that
    /// did not record them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_files: Option<Vec<SeenSideFile>>,
    /// Its weights that are FP8 codes, if the plan reads them as the values that they stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dequantised: Option<DequantisedWeights>,
    /// Digest of its tensors, as an earlier reading of these very files found it: it is not taken again. A plan file
    /// cannot state one.
    #[serde(skip)]
    pub digest: Option<Digest>,
}

/// A file as a plan saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenFile {
    /// Name within the checkpoint.
    pub name: String,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Time of the last change, nanoseconds since 1970, as decimal digits.
    pub modified_ns: String,
    /// Time of the last change of the file or its entry, where the system tells: it changes even if a program sets the
    /// other one back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_ns: Option<String>,
    /// BLAKE3 digest of what its header says: names, element types, shapes and offsets of its tensors.
    pub header_digest: String,
}

/// A file beside the tensors as a plan saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenSideFile {
    /// Name within the checkpoint.
    pub name: String,
    /// Length in bytes.
    pub len_bytes: u64,
    /// As [`SeenFile::modified_ns`].
    pub modified_ns: String,
    /// As [`SeenFile::changed_ns`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_ns: Option<String>,
}

/// FP8 codes of a source that were multiplied by the scales of their blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DequantisedWeights {
    /// Number of weights. [`TensorReceipt::dequantised`](crate::receipt::TensorReceipt::dequantised) marks them.
    pub n_tensors: usize,
    /// Rows and columns of the blocks that share a scale.
    pub block: [u64; 2],
}

impl DequantisedWeights {
    /// The record of `n_tensors` weights with blocks of this size.
    pub fn new((n_tensors, block): (usize, [u64; 2])) -> Self {
        Self { n_tensors, block }
    }
}
