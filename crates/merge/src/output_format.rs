//! In which files an output is written, and what becomes of the state of the optimizer.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thalweg_checkpoint::{Checkpoint, RenameMap, can_be_template, is_optimizer_state};
use thalweg_storage::Storage;
use thalweg_tensor::{DtypeClass, display_name};

use crate::Error;
use crate::align::OpenSource;
use crate::kept_tensors::KeptTensors;
use crate::masters::find_master;
use crate::output::{kept_source, newest_open, takes_arguments};
use crate::plan::{OutputDtype, OutputPlan};
use crate::side_files::shorten;

/// How many keys a line lists.
const MAX_KEYS: usize = 6;

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
    /// Files of `torch.save`.
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
}

/// Every format that outputs can have, by its name.
pub const OUTPUT_FORMATS: [(&str, OutputFormat); 8] = [
    ("safetensors", OutputFormat::Safetensors),
    ("torch", OutputFormat::Torch),
    ("dcp", OutputFormat::Dcp),
    ("megatron-dist", OutputFormat::MegatronDist),
    ("deepspeed-zero", OutputFormat::DeepspeedZero),
    ("deepspeed-universal", OutputFormat::DeepspeedUniversal),
    ("npz", OutputFormat::Npz),
    ("gguf", OutputFormat::Gguf),
];

impl fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(OUTPUT_FORMATS.iter().find(|(_, format)| format == self).map_or("safetensors", |(name, _)| name))
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
    pub fn is_written_from_scratch(self) -> bool {
        matches!(self, Self::Safetensors | Self::Torch | Self::Dcp | Self::MegatronDist | Self::Npz)
    }

    pub(crate) fn is_safetensors(&self) -> bool {
        *self == Self::Safetensors
    }

    /// Why an output of this format cannot have the files of `newest`; `None` if it can.
    pub fn obstacle(self, newest: &Checkpoint, keeping: Keeping<'_>) -> Option<KeepObstacle> {
        let is_kept = |entry: &thalweg_tensor::TensorEntry| {
            // Moments keep their element type, whatever that of the parameters.
            keeping.optimizer == OptimizerPolicy::Average && is_optimizer_state(&entry.name)
                || entry.dtype.class() != DtypeClass::Mergeable
                || keeping.dtype.resolve(entry.dtype) == entry.dtype
        };
        let renames = newest.findings().idle_renames.len() < keeping.rename.0.len();
        let obstacles = [
            (Self::of(newest) != Some(self), KeepObstacle::Format { found: newest.format_name() }),
            (self == Self::Npz, KeepObstacle::OnlyTensors),
            (keeping.drops, KeepObstacle::Drop),
            (renames, KeepObstacle::Rename),
            (!newest.catalog().entries().iter().all(is_kept), KeepObstacle::Dtype),
            (keeping.optimizer == OptimizerPolicy::Drop, KeepObstacle::Optimizer),
        ];
        obstacles.into_iter().find(|(is_met, _)| *is_met).map(|(_, obstacle)| obstacle)
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

/// What was asked for. Where nothing was, the newest source decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FormatRequest<'a> {
    /// The format; `None` to take that of the newest source where it can be written.
    pub format: Option<RequestedFormat>,
    /// What becomes of the state of the optimizer; `None` to keep it where the output keeps the source's files.
    pub optimizer: Option<OptimizerPolicy>,
    /// Whether files of another size than the source's were asked for.
    pub shards: bool,
    /// A copy of parameters that the merge would not reach, of
    /// [`unreached_masters`](crate::masters::unreached_masters).
    pub unreached_master: Option<&'a str>,
}

/// A format that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedFormat {
    /// That of the newest source.
    Same,
    /// This one.
    Named(OutputFormat),
    /// One that can be read, but not written.
    OnlyRead(&'static str),
}

impl RequestedFormat {
    /// The format of this name, as `inspect` shows it, or of another common name for it; `same` is that of the newest
    /// source.
    pub fn from_name(name: &str) -> Option<Self> {
        const OTHER_NAMES: [(&str, OutputFormat); 4] = [
            ("pt", OutputFormat::Torch),
            ("bin", OutputFormat::Torch),
            ("pytorch", OutputFormat::Torch),
            ("torch_dist", OutputFormat::MegatronDist),
        ];
        const ONLY_READ: [&str; 3] = ["torch-checkpointing", "megatron-legacy", "nanotron"];
        if name == "same" {
            return Some(Self::Same);
        }
        let other = OTHER_NAMES.iter().find(|(other, _)| *other == name).map(|(_, format)| *format);
        let only_read = || ONLY_READ.iter().find(|known| **known == name).map(|known| Self::OnlyRead(known));
        OutputFormat::from_name(name).or(other).map(Self::Named).or_else(only_read)
    }
}

/// What to do about a state that cannot be averaged.
pub(crate) const NEWEST_HINT: &str = "`--optimizer newest` takes the state of the newest checkpoint as it is";

/// A format request that cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The newest source's format cannot be written.
    #[error("checkpoints in the format `{found}` are read, not written")]
    NotWritten {
        /// The format of the newest source.
        found: &'static str,
    },
    /// A format that is written only with the files of a source in that format.
    #[error(
        "the format `{format}` is written only from checkpoints of that format, and the newest source has the format `{found}`"
    )]
    OnlyFromItself {
        /// That of the output.
        format: OutputFormat,
        /// That of the newest source.
        found: &'static str,
    },
    /// A format of one file, for which files of some size were asked.
    #[error("`{format}` is a single file, which `--out-shard-size` cannot cut")]
    OneFile {
        /// That of the output.
        format: OutputFormat,
    },
    /// The training state has copies of the parameters that the merge does not reach.
    #[error(
        "the training state has copies of the parameters, such as `{master}`, that are not merged: a trainer that resumed \
         from them would undo the merge"
    )]
    StaleMasters {
        /// The first of them.
        master: String,
    },
    /// Tensors that share bytes and have different results.
    #[error("{} in the newest source, but {reason}: its files cannot hold both results", shared_bytes(a, b))]
    SharedBytes {
        /// One of them.
        a: String,
        /// The other one; the same name if a tensor repeats its elements.
        b: String,
        /// What differs.
        reason: String,
    },
    /// A format that is written only with the files of the newest source, which the output cannot have.
    #[error("`{format}` is written only with the files of the newest source, which the output cannot have: {why}")]
    NeedsOtherFiles {
        /// That of the output.
        format: OutputFormat,
        /// Why its files cannot be those of the newest source.
        why: KeepObstacle,
    },
    /// The output has not the files of the newest source, which hold the state of the optimizer.
    #[error("the output has no state of the optimizer, because it cannot have the files of its newest source: {why}")]
    NoOptimizer {
        /// What was asked for.
        asked: OptimizerPolicy,
        /// Why the files are not those of the newest source.
        why: KeepObstacle,
    },
    /// Moments that would be averaged with a negative coefficient.
    #[error(
        "`{}` has a negative coefficient: averaged with it, second moments of the optimizer may become negative",
        source_path.display()
    )]
    NegativeMoments {
        /// The source.
        source_path: PathBuf,
    },
}

fn shared_bytes(a: &str, b: &str) -> String {
    if a == b {
        format!("elements of tensor `{a}` share bytes")
    } else {
        format!("tensors `{a}` and `{b}` share bytes")
    }
}

impl FormatError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotWritten { .. }
            | Self::OnlyFromItself { .. }
            | Self::NeedsOtherFiles { .. }
            | Self::SharedBytes { .. } => "`--format safetensors` writes the tensors of any checkpoint",
            Self::OneFile { .. } => "leave out `--out-shard-size`",
            Self::StaleMasters { .. } => "leave the training state out with `--optimizer drop`",
            Self::NoOptimizer { asked: OptimizerPolicy::Average, .. } => "leave out `--optimizer average`",
            Self::NoOptimizer { .. } => "leave out `--optimizer newest`",
            Self::NegativeMoments { .. } => NEWEST_HINT,
        }
    }
}

/// Why an output cannot have the files of its newest source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepObstacle {
    /// The newest source has another format.
    Format {
        /// That format.
        found: &'static str,
    },
    /// Files of this format hold tensors and nothing else.
    OnlyTensors,
    /// Tensors are left out.
    Drop,
    /// Tensors of the newest source get other names.
    Rename,
    /// Tensors get another element type.
    Dtype,
    /// The state of the optimizer is left out.
    Optimizer,
    /// The files are to have another size.
    Shards,
}

impl fmt::Display for KeepObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format { found } => write!(f, "the newest source has the format `{found}`"),
            Self::OnlyTensors => f.write_str("its files hold tensors and nothing else"),
            Self::Drop => f.write_str("`--drop` leaves out tensors"),
            Self::Rename => f.write_str("`--rename` gives its tensors other names"),
            Self::Dtype => f.write_str("`--dtype` gives its tensors another element type"),
            Self::Optimizer => f.write_str("the state of the optimizer is left out"),
            Self::Shards => f.write_str("the files are to have another size"),
        }
    }
}

/// The format that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenFormat {
    /// In which files the output is written.
    pub format: OutputFormat,
    /// What becomes of the state of the optimizer.
    pub optimizer: OptimizerPolicy,
    /// What a person should be told about it.
    pub note: Option<String>,
}

/// What decides whether an output can have the files of its newest source.
#[derive(Debug, Clone, Copy)]
pub struct Keeping<'a> {
    /// Element type of the output.
    pub dtype: OutputDtype,
    /// Names that are changed.
    pub rename: &'a RenameMap,
    /// Whether tensors are left out.
    pub drops: bool,
    /// What becomes of the state of the optimizer.
    pub optimizer: OptimizerPolicy,
}

impl<'a> Keeping<'a> {
    /// What an output's plan says.
    pub fn of(output: &'a OutputPlan) -> Self {
        Self {
            dtype: output.dtype,
            rename: &output.reading.rename,
            drops: !output.policy.drop.is_empty(),
            optimizer: output.policy.optimizer,
        }
    }
}

/// Chooses the format of an output by its newest source, `newest`. What the plan says of format and optimizer is not
/// looked at.
///
/// # Errors
/// A [`FormatError`] if what was asked for is impossible.
pub fn choose_format(
    request: FormatRequest<'_>,
    newest: &Checkpoint,
    output: &OutputPlan,
) -> Result<ChosenFormat, FormatError> {
    let found = newest.format_name();
    let own = OutputFormat::of(newest);
    let optimizer = request.optimizer.unwrap_or(OptimizerPolicy::Newest);
    let keeping = Keeping { optimizer, ..Keeping::of(output) };
    let obstacle = |format: OutputFormat| {
        let shards = request.shards.then_some(KeepObstacle::Shards);
        format.obstacle(newest, keeping).or(shards)
    };
    let keeps_files = |format: OutputFormat| obstacle(format).is_none() && request.unreached_master.is_none();
    let can_be_made = |format: &OutputFormat| format.is_written_from_scratch() || keeps_files(*format);
    let (format, note) = match request.format {
        Some(RequestedFormat::Named(format)) => (format, None),
        Some(RequestedFormat::OnlyRead(found)) => return Err(FormatError::NotWritten { found }),
        Some(RequestedFormat::Same) if found == "safetensors" => (OutputFormat::Safetensors, None),
        Some(RequestedFormat::Same) => (own.ok_or(FormatError::NotWritten { found })?, None),
        None => match own.filter(can_be_made) {
            Some(format) => (format, None),
            None if found == "safetensors" => (OutputFormat::Safetensors, None),
            None => {
                let why = own.and_then(obstacle).map_or_else(String::new, |obstacle| format!(": {obstacle}"));
                let note =
                    format!("the sources are in the format `{found}`; the output is written as safetensors{why}");
                (OutputFormat::Safetensors, Some(note))
            }
        },
    };
    if format == OutputFormat::Npz && request.shards {
        return Err(FormatError::OneFile { format });
    }
    // Copies of the parameters that the merge does not reach, if they are all that is in the way.
    let is_in_the_way = own.is_some_and(|own| obstacle(own).is_none() && (own == format || request.format.is_none()));
    let stale = request.unreached_master.filter(|_| is_in_the_way).map(str::to_owned);
    if !can_be_made(&format) {
        return Err(match (stale, obstacle(format)) {
            (Some(master), _) => FormatError::StaleMasters { master },
            (None, Some(KeepObstacle::Format { found })) => FormatError::OnlyFromItself { format, found },
            (None, why) => FormatError::NeedsOtherFiles { format, why: why.unwrap_or(KeepObstacle::Optimizer) },
        });
    }
    let kept = keeps_files(format);
    let optimizer = match request.optimizer {
        Some(OptimizerPolicy::Newest | OptimizerPolicy::Average) if !kept => {
            return Err(match (stale, obstacle(format)) {
                (Some(master), _) => FormatError::StaleMasters { master },
                (None, why) => {
                    FormatError::NoOptimizer { asked: optimizer, why: why.unwrap_or(KeepObstacle::Optimizer) }
                }
            });
        }
        Some(OptimizerPolicy::Average) => OptimizerPolicy::Average,
        // Files that are kept hold the state.
        _ if kept => OptimizerPolicy::Newest,
        _ => OptimizerPolicy::Drop,
    };
    let left_out = |master| format!("{}; it is left out", FormatError::StaleMasters { master });
    let notes: Vec<String> = stale.map(left_out).into_iter().chain(note).collect();
    Ok(ChosenFormat { format, optimizer, note: (!notes.is_empty()).then(|| notes.join("; ")) })
}

/// What an output has of its newest source beside the merged tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptState {
    /// Paths of tensors that are other names of merged ones, and so change with them.
    pub other_names: Vec<String>,
}

/// Looks at what an output keeps of its newest source; `None` if it does not have that source's files. Reads headers,
/// and samples of tensors that may be copies of the parameters.
///
/// # Errors
/// `StaleMasters` and `SharedBytes` of [`FormatError`]; an error of the checkpoint if it cannot be opened again.
pub fn find_kept_state(
    output: &OutputPlan,
    sources: &[OpenSource],
    storage: &Arc<dyn Storage>,
) -> Result<Option<KeptState>, Error> {
    let Some(newest) = kept_source(output, sources).filter(|_| !output.format.is_safetensors()) else {
        return Ok(None);
    };
    let tensors = KeptTensors::look(storage, &newest.checkpoint, &output.reading)?;
    if let Some(master) = find_master(&tensors)? {
        return Err(FormatError::StaleMasters { master }.into());
    }
    Ok(Some(KeptState { other_names: tensors.other_names()? }))
}

/// In which files an output is written and what it has besides the merged tensors, in a line; `None` for safetensors
/// made from safetensors. `kept` is what [`find_kept_state`] found.
pub fn describe_format(output: &OutputPlan, sources: &[OpenSource], kept: Option<&KeptState>) -> Option<String> {
    let newest = newest_open(output, sources)?;
    let format = output.format;
    let Some(kept) = kept else {
        if format == OutputFormat::Npz && newest.checkpoint.format_name() == format.to_string() {
            return Some(format!("written as {format}"));
        }
        let is_plain = format.is_safetensors() && newest.checkpoint.format_name() == format.to_string();
        let kept = if takes_arguments(output, sources) { "with its `common.pt` and " } else { "" };
        return (!is_plain).then(|| format!("written as {format}, {kept}without the state of the training"));
    };
    let name = newest.path.file_name().unwrap_or(newest.path.as_os_str()).to_string_lossy().into_owned();
    let n_changed = |key: &str| {
        let is_below = |name: &&String| name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        kept.other_names.iter().filter(is_below).count()
    };
    let keys = newest.checkpoint.findings().other_keys.iter().map(|(key, n)| (key, n.saturating_sub(n_changed(key))));
    let keys = keys.filter(|(_, n)| *n > 0).map(|(key, n)| format!("`{}` ({n})", display_name(key)));
    let keys: Vec<String> = keys.take(MAX_KEYS).collect();
    let tensors = if keys.is_empty() { String::new() } else { format!(", also the tensors under {}", keys.join(", ")) };
    let replaced = if output.policy.side_files_from == output.policy.newest {
        ""
    } else {
        ", except for the files of `--side-files-from`"
    };
    let line = format!("written as {format}; everything else is as in `{}`{tensors}{replaced}", display_name(&name));
    let changed = kept.other_names.iter().map(|name| format!("`{}`", display_name(name))).collect();
    Some(match kept.other_names.len() {
        0 => line,
        1 => format!("{line}; {} shares its bytes with a merged tensor and changes with it", shorten(changed)),
        _ => format!("{line}; {} share their bytes with merged tensors and change with them", shorten(changed)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_plans_hold() {
        for (name, format) in OUTPUT_FORMATS {
            assert_eq!(serde_json::to_string(&format).unwrap(), format!("\"{name}\""));
            assert_eq!((OutputFormat::from_name(name), format.to_string().as_str()), (Some(format), name));
        }
    }
}
