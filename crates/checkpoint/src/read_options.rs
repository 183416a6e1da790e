//! What a user says about how a checkpoint is to be read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What to read of a checkpoint that holds several things.
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
    /// Key of the state dict in files that hold several, with points between its parts; `.` for the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Which numbers of the parameters, where a checkpoint has both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Params>,
}

/// Which numbers of the parameters are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Params {
    /// The weights with which the module computes, mostly of 16 bits.
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
    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
