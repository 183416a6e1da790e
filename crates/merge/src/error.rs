//! What can stop a merge.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use thalweg_tensor::{AccessError, Dtype, counted, display_name, shell_word};

use crate::align::{Difference, Relation};

/// Whose tensor `--take-newest` takes where a rule merges experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenFrom {
    /// The base's.
    Base,
    /// That of the newest source: the rule has no base.
    Newest,
}

impl TakenFrom {
    fn hint(self, tensor: &str) -> String {
        let of = match self {
            Self::Base => "the base's",
            Self::Newest => "the newest source's",
        };
        format!("take {of} tensor as it is with `--take-newest {}`", shell_word(tensor))
    }
}

/// Why a merge, a verification or a geometry pass did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A stop was asked for; what is staged stays and is resumed by the same plan.
    #[error("interrupted")]
    Interrupted,
    /// A plan does not say one thing.
    #[error("the plan cannot be executed: {}", display_name(what))]
    PlanInvalid {
        /// What is wrong with it.
        what: String,
    },
    /// A source could not be opened, or an output not be staged, committed or verified.
    #[error(transparent)]
    Checkpoint(#[from] thalweg_checkpoint::Error),
    /// Storage refused, outside of a checkpoint.
    #[error(transparent)]
    Storage(#[from] thalweg_storage::Error),
    /// Bytes of a tensor could not be read or written.
    #[error("tensor `{tensor}`: {}", describe_access(source))]
    Access {
        /// Its name, safe to print.
        tensor: String,
        /// What failed.
        source: AccessError,
    },
    /// The coefficients cannot be used.
    #[error(transparent)]
    Scheme(#[from] crate::scheme::SchemeError),
    /// The sources do not agree; every difference that the headers show is listed.
    #[error("{}", describe_differences(differences))]
    NotAligned {
        /// The differences, in the order of the tensors' names.
        differences: Vec<Difference>,
        /// What the sources are to each other.
        relation: Relation,
    },
    /// No tensor at all.
    #[error("`{}` holds no tensors: there is nothing to merge", path.display())]
    NothingToMerge {
        /// The first source.
        path: PathBuf,
    },
    /// The patterns of `--drop` fit every tensor.
    #[error("`--drop` leaves out every tensor of the sources: there is nothing to merge")]
    AllDropped,
    /// Integers or booleans differ between sources.
    #[error("tensor `{tensor}` ({dtype}) differs between `{}` and `{}`, and {dtype} cannot be averaged", path_a.display(), path_b.display())]
    NonFloatDiffers {
        /// Its name, safe to print.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// How such a tensor is treated.
        class: crate::tensor_class::TensorClass,
        /// A source.
        path_a: PathBuf,
        /// A source with other values.
        path_b: PathBuf,
    },
    /// NaN or infinity in a source.
    #[error("tensor `{tensor}` of `{}` holds a value that is not finite, at element {element_idx}", path.display())]
    NonFinite {
        /// Whether the newest source holds it.
        is_newest: bool,
        /// For a rule that needs sums over the whole tensor, so that IEEE rules would make all of it NaN: whose tensor
        /// `--take-newest` takes.
        summed: Option<TakenFrom>,
        /// Its name, safe to print.
        tensor: String,
        /// The source.
        path: PathBuf,
        /// Row-major index of the first one.
        element_idx: u64,
    },
    /// A finite sum is too large for the output's element type.
    #[error("tensor `{tensor}`, element {element_idx}: the merged value{} is too large for {dtype}", shown_value(*value))]
    Overflow {
        /// Its name, safe to print.
        tensor: String,
        /// Row-major index.
        element_idx: u64,
        /// About the value; infinity or NaN where it exceeds a double.
        value: f64,
        /// Element type of the output.
        dtype: Dtype,
    },
    /// The kernel refused its input.
    #[error("tensor `{tensor}`: {source}")]
    Sum {
        /// Its name, safe to print.
        tensor: String,
        /// Why.
        source: thalweg_tensor::kernel::SumError,
    },
    /// A rule has no answer for the values of a tensor.
    #[error("tensor `{tensor}`: its values are too large for the sums over the tensor that `{kind}` needs")]
    RuleUndefined {
        /// Its name, safe to print.
        tensor: String,
        /// The rule.
        kind: crate::rule::RuleKind,
        /// Whose tensor `--take-newest` takes.
        taken_from: TakenFrom,
    },
    /// A row that would have to be sorted in memory.
    #[error("tensor `{tensor}` has rows of {n_elements} elements, and rows of more than {max_elements} are not ranked")]
    RowTooLong {
        /// Its name, safe to print.
        tensor: String,
        /// Elements of a row.
        n_elements: u64,
        /// The most that are ranked.
        max_elements: u64,
    },
    /// The memory limit is too small.
    #[error(
        "a memory limit of {} is too small: this merge needs at least {least_bytes}",
        thalweg_tensor::counted(*limit_bytes, "byte")
    )]
    MemoryTooSmall {
        /// What was allowed.
        limit_bytes: u64,
        /// The least that works with as many threads.
        least_bytes: u64,
        /// Threads; each has buffers.
        n_threads: NonZeroUsize,
    },
    /// The output cannot fit on its disk.
    #[error(
        "`{}` needs {}, but only {} is free there",
        path.display(),
        thalweg_tensor::show_size(*needed_bytes),
        thalweg_tensor::show_size(*free_bytes)
    )]
    DiskFull {
        /// The output.
        path: PathBuf,
        /// What it needs.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// There is another output of ours, or a damaged one, where the output should go.
    #[error("`{}` {}", path.display(), if holds.is_empty() { "exists" } else { holds })]
    OutputExists {
        /// The output.
        path: PathBuf,
        /// What is wrong with it, as a predicate after its path; empty if it only exists.
        holds: String,
    },
    /// The output, or its stage, would be written over one of the sources.
    #[error("the output `{}` would be written over the source `{}`", path.display(), source_path.display())]
    OutputIsSource {
        /// The output.
        path: PathBuf,
        /// The source.
        source_path: PathBuf,
    },
    /// Sources are not those that a plan was made for.
    #[error("{}", describe_changes(changes))]
    SourcesChanged {
        /// What changed, one for each source.
        changes: Vec<String>,
    },
    /// A prepared sum does not hold what was written.
    #[error("the prepared sum of `{}` has changed since it was written", path.display())]
    HeadChanged {
        /// Its description.
        path: PathBuf,
    },
    /// A stage belongs to another plan, or its sources changed since.
    #[error("`{}` holds an interrupted merge of {what}", path.display())]
    ForeignStage {
        /// The stage.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// A stage holds shares of a merge that is not this one.
    #[error("`{}` holds shares of a merge by {what}", path.display())]
    ForeignShares {
        /// The stage.
        path: PathBuf,
        /// What it is merged by.
        what: String,
    },
    /// There is nothing to finish.
    #[error("there are no shares of this merge in `{}`", stage.display())]
    NoShares {
        /// The stage.
        stage: PathBuf,
    },
    /// There is no receipt, so there is nothing to compare with.
    #[error("`{}` holds no `{}`", folder.display(), thalweg_checkpoint::RECEIPT_NAME)]
    NoReceipt {
        /// The folder.
        folder: PathBuf,
    },
    /// A receipt does not read.
    #[error("`{}` is not a receipt of this program: {}", path.display(), display_name(what))]
    ReceiptInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A format that the output cannot have.
    #[error(transparent)]
    Format(#[from] crate::format_error::FormatError),
    /// A worker thread died; a defect of ours.
    #[error("a worker thread stopped unexpectedly")]
    WorkerDied,
    /// A state that must not occur; a defect of ours.
    #[error("a bug in thalweg: {what}; nothing was published")]
    Bug {
        /// What should have held.
        what: &'static str,
    },
}

impl Error {
    /// Whether the same command may succeed later, once a disk or a network is repaired: then a stage is worth keeping.
    /// What fails because of the sources' values fails again.
    pub(crate) fn can_be_resumed(&self) -> bool {
        matches!(
            self,
            Self::Interrupted
                | Self::Storage(_)
                | Self::Access { .. }
                | Self::WorkerDied
                | Self::Checkpoint(thalweg_checkpoint::Error::Storage(_))
        )
    }

    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Checkpoint(error) => error.hint().map(str::to_owned),
            Self::Interrupted => Some("rerun the command to resume".to_owned()),
            Self::NonFloatDiffers { tensor, dtype: Dtype::C64, .. } => {
                Some(format!("take the newest source's with `--take-newest {}`", shell_word(tensor)))
            }
            Self::NonFloatDiffers { class: crate::tensor_class::TensorClass::Opaque, .. } => {
                Some("merge the checkpoints as they were in a wider element type".to_owned())
            }
            Self::NonFloatDiffers { tensor, .. } => Some(format!(
                "take the newest source's (where a rule merges experts, the base's) with `--take-newest {}`, or all such tensors \
                 with `--non-float newest`",
                shell_word(tensor)
            )),
            Self::NonFinite { summed: Some(from), tensor, .. } => {
                Some(format!("leave that checkpoint out, or {}", from.hint(tensor)))
            }
            Self::NonFinite { is_newest: true, .. } => {
                Some("leave that checkpoint out, or merge by IEEE rules with `--allow-non-finite`".to_owned())
            }
            Self::NonFinite { tensor, .. } => Some(format!(
                "leave that checkpoint out; for a buffer, take the newest source's (where a rule merges experts, the base's) with \
                 `--take-newest {}`; or merge by IEEE rules with `--allow-non-finite`",
                shell_word(tensor)
            )),
            Self::Overflow { dtype: Dtype::F64, .. } => Some("choose other coefficients".to_owned()),
            Self::Overflow { .. } => Some("choose a wider `--dtype`, or other coefficients".to_owned()),
            Self::RuleUndefined { tensor, taken_from, .. } => Some(taken_from.hint(tensor)),
            Self::RowTooLong { tensor, .. } => Some(TakenFrom::Base.hint(tensor)),
            Self::MemoryTooSmall { least_bytes, n_threads, .. } => {
                let or_threads = if n_threads.get() > 1 { ", or fewer `--threads`" } else { "" };
                Some(format!("`--memory {}MB`{or_threads}", least_bytes.div_ceil(1_000_000)))
            }
            Self::DiskFull { .. } => Some("free some space, or choose another `-o`".to_owned()),
            Self::OutputExists { .. } => Some("`--force` replaces it".to_owned()),
            Self::OutputIsSource { .. } => Some("choose another `-o`".to_owned()),
            Self::SourcesChanged { .. } => {
                Some("recreate the plan, or merge the sources as they are now with `--allow-changed`".to_owned())
            }
            Self::HeadChanged { .. } => Some("remove the file, and merge again".to_owned()),
            Self::ForeignStage { .. } => Some(
                "`--discard-partial` starts over (of a merge in shares: `--shard I/N --discard-partial` with each of them); or \
                 finish that merge with its own command"
                    .to_owned(),
            ),
            Self::ForeignShares { .. } => Some(
                "rerun the command with the plan and the number of shares that they were made with, or start over with \
                 `--discard-partial`"
                    .to_owned(),
            ),
            Self::AllDropped => Some("use `--drop` only for tensors that the model does not need".to_owned()),
            Self::NoShares { .. } => Some("`--shard 0/1` does the whole work as one share".to_owned()),
            Self::NoReceipt { .. } => {
                Some("only outputs of `merge` and `sweep` can be verified; `inspect` shows any checkpoint".to_owned())
            }
            Self::Format(error) => Some(error.hint().to_owned()),
            Self::NotAligned { differences, relation } => crate::difference::hint_for(differences, *relation),
            Self::Scheme(error) => error.hint(),
            Self::Storage(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}

/// The cause with its path where there is one: that a tensor could not be read is said already.
fn describe_access(error: &AccessError) -> String {
    error.source.as_ref().map_or_else(|| error.to_string(), ToString::to_string)
}

/// A value in the middle of a sentence, if a double holds it.
fn shown_value(value: f64) -> String {
    if value.is_finite() { format!(" {value:e}") } else { String::new() }
}

fn describe_changes(changes: &[String]) -> String {
    let n_more = changes.len().saturating_sub(MAX_SHOWN);
    let mut text = format!(
        "{} changed since the plan was made:",
        if changes.len() == 1 { "a source has" } else { "sources have" }
    );
    changes.iter().take(MAX_SHOWN).for_each(|change| text.push_str(&format!("\n  {change}")));
    if n_more > 0 {
        text.push_str(&format!("\n  and {n_more} more"));
    }
    text
}

/// How many differences are printed before the rest is counted.
const MAX_SHOWN: usize = 20;

fn describe_differences(differences: &[Difference]) -> String {
    let mut text = match differences {
        [only] => return only.to_string(),
        many if many.iter().any(|one| matches!(one, Difference::Contents { .. })) => {
            format!("the sources cannot be merged, for {} reasons", many.len())
        }
        many => format!("the sources differ in {} places", many.len()),
    };
    let (shown, n_left) = one_of_each_kind(differences);
    for (difference, n_alike) in shown {
        text.push_str("\n  ");
        text.push_str(&difference.to_string().replace('\n', "\n  "));
        if n_alike > 0 {
            text.push_str(&format!("\n    and the same for {}", counted(n_alike, "other tensor")));
        }
    }
    if n_left > 0 {
        text.push_str(&format!("\n  and {n_left} more"));
    }
    text
}

/// The first differences, each with the number of tensors that differ in the same way, and how many others are left.
fn one_of_each_kind(differences: &[Difference]) -> (Vec<(&Difference, usize)>, usize) {
    let mut shown: Vec<(&Difference, usize)> = Vec::new();
    let mut n_left = 0;
    for difference in differences {
        match shown.iter().position(|(first, _)| first.is_alike(difference)) {
            Some(i) => shown[i].1 += 1,
            None if shown.len() < MAX_SHOWN => shown.push((difference, 0)),
            None => n_left += 1,
        }
    }
    (shown, n_left)
}
