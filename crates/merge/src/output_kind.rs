//! The formats of outputs, and what becomes of the state of the optimizer.

use std::fmt;

use serde::{Deserialize, Serialize};
use thalweg_checkpoint::{Checkpoint, can_be_template};

/// The format of an output.
///
/// If the newest source is in the same format and its element types are kept, the output has that source's files with
/// other tensors, so that the trainer resumes from it. Otherwise only the tensors are written, if that is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputFormat {
    /// Safetensors files, as Hugging Face libraries read them.
    #[default]
    Safetensors,
    /// `torch.save` files.
    Torch,
    /// A distributed checkpoint of PyTorch.
    Dcp,
    /// A distributed checkpoint of Megatron-Core.
    MegatronDist,
    /// ZeRO of DeepSpeed; only with the files of the newest source.
    DeepspeedZero,
    /// A universal checkpoint of DeepSpeed; only with the files of the newest source.
    DeepspeedUniversal,
    /// An archive of NumPy arrays.
    Npz,
    /// A GGUF file; only with the metadata of the newest source.
    Gguf,
    /// A checkpoint of Orbax or levanter.
    Orbax,
}

/// Every format that outputs can have, by its name.
pub(crate) const OUTPUT_FORMATS: [(&str, OutputFormat); 9] = [
    ("safetensors", OutputFormat::Safetensors),
    ("torch", OutputFormat::Torch),
    ("dcp", OutputFormat::Dcp),
    ("megatron-dist", OutputFormat::MegatronDist),
    ("deepspeed-zero", OutputFormat::DeepspeedZero),
    ("deepspeed-universal", OutputFormat::DeepspeedUniversal),
    ("npz", OutputFormat::Npz),
    ("gguf", OutputFormat::Gguf),
    ("orbax", OutputFormat::Orbax),
];

/// What a request may name: `same`, for the format of the newest source, or a format.
pub(crate) const FORMAT_CHOICES: [&str; OUTPUT_FORMATS.len() + 1] = {
    let mut names = ["same"; OUTPUT_FORMATS.len() + 1];
    let mut i = 0;
    while i < OUTPUT_FORMATS.len() {
        names[i + 1] = OUTPUT_FORMATS[i].0;
        i += 1;
    }
    names
};

impl fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(OUTPUT_FORMATS.iter().find(|(_, format)| format == self).map_or("safetensors", |(name, _)| name))
    }
}

/// What becomes of the state of the optimizer, and of everything else that a checkpoint holds beside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerPolicy {
    /// It is left out.
    #[default]
    Drop,
    /// It is taken from the newest source.
    Newest,
    /// The moments are averaged with the coefficients of the parameters; everything else is taken from the newest
    /// source.
    Average,
}

impl OptimizerPolicy {
    pub(crate) fn is_drop(&self) -> bool {
        *self == Self::Drop
    }
}

impl OutputFormat {
    /// The format with this name, which is that of [`Checkpoint::format_name`].
    pub fn from_name(name: &str) -> Option<Self> {
        OUTPUT_FORMATS.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    /// The format of a checkpoint, if outputs can have its files, or if its files hold nothing that would be lost.
    pub fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let is_own = |format: &Self| *format == Self::Npz || can_be_template(checkpoint.format_name());
        Self::from_name(checkpoint.format_name()).filter(is_own)
    }

    /// Whether an output of this format can be written without the files of a source: only the tensors.
    pub(crate) fn is_written_from_scratch(self) -> bool {
        !matches!(self, Self::DeepspeedZero | Self::DeepspeedUniversal | Self::Gguf)
    }

    pub(crate) fn is_safetensors(&self) -> bool {
        *self == Self::Safetensors
    }
}
