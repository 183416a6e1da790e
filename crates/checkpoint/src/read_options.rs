//! How the user wants a checkpoint to be read.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LlamaHeads, RenameMap};

/// What to read from a checkpoint that holds several things.
///
/// # Example
/// ```
/// use thalweg_checkpoint::ReadOptions;
///
/// let options = ReadOptions { key: Some("ema".to_owned()), ..ReadOptions::default() };
/// assert!(!options.is_default());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadOptions {
    /// Key of the state dict in files that hold several, with dots between its parts; `.` for the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Which values of the parameters to read, if a checkpoint has both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Params>,
    /// Other names for the tensors.
    #[serde(skip_serializing_if = "RenameMap::is_empty")]
    pub rename: RenameMap,
    /// The heads of a Llama of torchtitan that is read as one of Hugging Face, after the names have changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_huggingface: Option<LlamaHeads>,
    /// Whether the tensors of the optimizer's state are listed too, under names that
    /// [`is_optimizer_state`](crate::is_optimizer_state) knows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optimizer: bool,
    /// Whether FP8 codes with scales for blocks are read as the numbers that they stand for, where these are known. In
    /// a plan this follows from the element type of the output.
    #[serde(skip)]
    pub dequantise: bool,
}

/// Which values of the parameters are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Params {
    /// The weights that the module computes with, mostly 16-bit.
    Module,
    /// The F32 masters that the optimizer updates.
    Master,
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Module => "module",
            Self::Master => "master",
        })
    }
}

impl ReadOptions {
    /// Whether the user asked for nothing in particular.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
