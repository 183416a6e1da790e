//! In which files an output is written, and what becomes of the state of the optimizer.

use std::sync::Arc;

use thalweg_checkpoint::{Checkpoint, left_out_weights};
use thalweg_storage::Storage;
use thalweg_tensor::display_name;

use crate::Error;
pub use crate::format_error::{FormatError, KeepObstacle};
use crate::kept_tensors::KeptTensors;
use crate::listing::shorten;
use crate::masters::find_master;
pub use crate::newest::Keeping;
use crate::newest::{kept_source, newest_open, takes_arguments};
use crate::open_source::OpenSource;
pub use crate::output_kind::{OptimizerPolicy, OutputFormat};
use crate::plan::OutputPlan;

/// How many keys a line lists.
const MAX_KEYS: usize = 6;

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
    if newest.findings().n_ranks > 0 {
        check_parts(request, newest, &obstacle)?;
    }
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
                    format!("the newest source is in the format `{found}`; the output is written as safetensors{why}");
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

/// Refuses an output without the files of a newest source that is in files of ranks.
fn check_parts(
    request: FormatRequest<'_>,
    newest: &Checkpoint,
    obstacle: &dyn Fn(OutputFormat) -> Option<KeepObstacle>,
) -> Result<(), FormatError> {
    let asked = match request.format {
        Some(RequestedFormat::Named(format)) => Some(format),
        _ => OutputFormat::of(newest),
    };
    let Some(format) = asked else { return Ok(()) };
    let refusal = match (obstacle(format), request.unreached_master) {
        (Some(obstacle), _) => FormatError::of_parts(newest, format, obstacle),
        (None, master) => master.and_then(|master| FormatError::of_stale_parts(newest, master)),
    };
    refusal.map_or(Ok(()), Err)
}

/// What an output has of its newest source beside the merged tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptState {
    /// Paths of tensors that are other names of merged ones, and so change with them.
    pub other_names: Vec<String>,
    /// Files and folders of that source that the output leaves out: its weights in another form.
    pub left_out: Vec<String>,
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
    let left_out = left_out_weights(&**storage, &newest.checkpoint)?;
    Ok(Some(KeptState { other_names: tensors.other_names()?, left_out }))
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
    let left_out: Vec<String> = kept.left_out.iter().map(|name| format!("`{}`", display_name(name))).collect();
    let without = match left_out.len() {
        0 => String::new(),
        1 => format!(", without {}, which has the weights of that checkpoint in another form", shorten(left_out)),
        _ => format!(", without {}, which have the weights of that checkpoint in other forms", shorten(left_out)),
    };
    let as_in = display_name(&name);
    let line = format!("written as {format}; everything else is as in `{as_in}`{tensors}{replaced}{without}");
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
    use crate::output_kind::OUTPUT_FORMATS;

    #[test]
    fn names_are_those_that_plans_hold() {
        for (name, format) in OUTPUT_FORMATS {
            assert_eq!(serde_json::to_string(&format).unwrap(), format!("\"{name}\""));
            assert_eq!((OutputFormat::from_name(name), format.to_string().as_str()), (Some(format), name));
        }
    }
}
