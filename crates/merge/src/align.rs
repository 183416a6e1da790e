//! Do the sources agree? Everything that the headers and configs can show is reported before one data byte is read.
//!
//! Does not read tensors, and decides nothing that is not in the plan's policy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use thalweg_checkpoint::{Checkpoint, compare_configs};
use thalweg_tensor::{Dtype, DtypeClass, Shape, TensorCatalog, TensorEntry, display_name};

use crate::Error;
use crate::plan::{MergePlan, RouterPolicy};

/// How one tensor is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorClass {
    /// Averaged.
    Float,
    /// A router or expert bias: averaged or taken from the newest source, as the plan says.
    Router,
    /// Integers or booleans: copied if equal, or from the newest source.
    Discrete,
    /// State that a layer keeps for itself (`_extra_state`): from the newest source.
    ExtraState,
}

/// The sources agree on this: one catalog for all, and what each tensor is.
///
/// Catalogs are sorted by name and hold the same names, so that a tensor has one number everywhere.
#[derive(Debug, Clone)]
pub struct MergeLayout {
    /// Names, shapes and input dtypes, sorted by name.
    pub catalog: Arc<TensorCatalog>,
    /// One class for each tensor.
    pub classes: Vec<TensorClass>,
    /// What a person should be told, and what did not stop the merge.
    pub notes: Vec<String>,
}

/// A source with the name that messages use.
#[derive(Debug)]
pub struct OpenSource {
    /// Path as the plan gives it.
    pub path: PathBuf,
    /// Optimizer steps done, if known.
    pub step: Option<u64>,
    /// The open checkpoint.
    pub checkpoint: Checkpoint,
}

impl OpenSource {
    fn label(&self) -> String {
        self.step.map_or_else(|| format!("`{}`", self.path.display()), |step| format!("step {step}"))
    }
}

/// One thing on which the sources do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// A tensor that some sources have and others lack.
    Presence {
        /// Its name.
        tensor: String,
        /// Sources that have it.
        present: Vec<String>,
        /// Sources that lack it.
        absent: Vec<String>,
    },
    /// Shape or element type differ.
    Tensor {
        /// Its name.
        tensor: String,
        /// First source of each kind: label, shape, dtype, file.
        rows: Vec<(String, Shape, Dtype, String)>,
    },
    /// An element type that cannot be averaged.
    Refused {
        /// The tensor's name.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// A tensor that a source holds in a way that cannot be read.
    Unreadable {
        /// The tensor's name.
        tensor: String,
        /// The source.
        source: String,
        /// Why not, as the end of a sentence about it.
        reason: String,
    },
    /// A config key that changes the model's function.
    Config {
        /// The key, nested ones with dots.
        key: String,
        /// First source of each value: label, value as JSON (`-` where it is missing).
        rows: Vec<(String, String)>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Presence { tensor, present, absent } => {
                write!(f, "tensor `{}` is not in every source", display_name(tensor))?;
                write!(f, "\n  missing in  {}", shorten(absent))?;
                write!(f, "\n  present in  {}", shorten(present))
            }
            Self::Tensor { tensor, rows } => {
                write!(f, "tensor `{}` differs between sources", display_name(tensor))?;
                rows.iter().try_for_each(|(label, shape, dtype, file)| {
                    write!(f, "\n  {label}  {shape} {}  {file}", dtype.name().to_lowercase())
                })
            }
            Self::Refused { tensor, dtype } => write!(
                f,
                "tensor `{}` is {dtype}: such codes have scales of their own, and averaging them has no meaning",
                display_name(tensor)
            ),
            Self::Unreadable { tensor, source, reason } => {
                write!(f, "tensor `{}` of {source} cannot be read: {reason}", display_name(tensor))
            }
            Self::Config { key, rows } => {
                write!(f, "config key `{key}` differs between sources")?;
                rows.iter().try_for_each(|(label, value)| write!(f, "\n  {label}  {value}"))
            }
        }
    }
}

fn shorten(labels: &[String]) -> String {
    const MAX_LABELS: usize = 6;
    let mut text = labels.iter().take(MAX_LABELS).map(String::as_str).collect::<Vec<_>>().join(", ");
    if labels.len() > MAX_LABELS {
        text.push_str(&format!(" and {} more", labels.len() - MAX_LABELS));
    }
    text
}

/// The next move for a set of differences.
pub(crate) fn hint_for(differences: &[Difference]) -> Option<String> {
    let missing: Vec<&str> = differences
        .iter()
        .filter_map(|difference| match difference {
            Difference::Presence { tensor, .. } => Some(tensor.as_str()),
            _ => None,
        })
        .collect();
    let fused = missing.iter().any(|name| name.contains("experts.gate_up_proj") || name.contains("experts.down_proj"));
    if fused && missing.iter().any(|name| name.contains("experts.0.")) {
        return Some("some sources hold the experts fused, others one by one: save them alike first".to_owned());
    }
    if missing.iter().any(|name| is_output_head(name)) {
        let text = "an output head is tied in some sources and stored in others: save them alike first";
        return Some(text.to_owned());
    }
    differences.iter().find_map(|difference| match difference {
        Difference::Config { key, .. } => Some(format!("if that is meant, waive it with `--allow-config {key}`")),
        Difference::Tensor { rows, .. } => rows.last().map(|row| format!("choose a window on one side of {}", row.0)),
        Difference::Presence { absent, .. } => {
            absent.last().map(|label| format!("choose a window without {label}, or that starts after it"))
        }
        Difference::Unreadable { .. } => {
            Some("save these tensors as plain ones, or name another key with `--key`".to_owned())
        }
        Difference::Refused { .. } => Some("merge the checkpoints in a wider element type".to_owned()),
    })
}

fn is_output_head(name: &str) -> bool {
    matches!(name, "lm_head.weight" | "embed_out.weight" | "output.weight") || name.ends_with(".lm_head.weight")
}

/// Whether a tensor steers a mixture of experts: the router itself or its balancing bias.
///
/// Names of Mixtral, Qwen-MoE, OLMoE, DeepSeek and Megatron.
pub fn is_router(name: &str) -> bool {
    const ENDINGS: [&str; 7] = [
        ".mlp.gate.weight",
        ".mlp.gate.bias",
        ".block_sparse_moe.gate.weight",
        ".router.weight",
        ".router.bias",
        ".e_score_correction_bias",
        ".expert_bias",
    ];
    ENDINGS.iter().any(|ending| name.ends_with(ending)) || name.ends_with(".shared_expert_gate.weight")
}

pub(crate) fn classify(entry: &TensorEntry) -> Result<TensorClass, Difference> {
    if entry.name.ends_with("_extra_state") {
        return Ok(TensorClass::ExtraState);
    }
    match entry.dtype.class() {
        DtypeClass::Mergeable if is_router(&entry.name) => Ok(TensorClass::Router),
        DtypeClass::Mergeable => Ok(TensorClass::Float),
        DtypeClass::Discrete => Ok(TensorClass::Discrete),
        DtypeClass::Refused => Err(Difference::Refused { tensor: entry.name.to_string(), dtype: entry.dtype }),
    }
}

/// Tensors that are there and cannot be read: to leave them out in silence would make another model.
fn unreadable(sources: &[OpenSource]) -> Vec<Difference> {
    let of_source = |source: &OpenSource| {
        let label = source.label();
        let found = source.checkpoint.findings().unreadable.clone().into_iter();
        found
            .map(move |one| Difference::Unreadable { tensor: one.name, source: label.clone(), reason: one.reason })
            .collect::<Vec<_>>()
    };
    sources.iter().flat_map(of_source).collect()
}

/// Establishes that all sources of `plan` hold the same tensors and the same function.
///
/// # Errors
/// `NotAligned` with every difference; `NothingToMerge` when there is no tensor.
pub fn align_sources(sources: &[OpenSource], plan: &MergePlan) -> Result<MergeLayout, Error> {
    let Some(first) = sources.first() else {
        return Err(Error::NothingToMerge { path: PathBuf::new() });
    };
    let mut differences = unreadable(sources);
    differences.extend(compare_catalogs(sources));
    differences.extend(compare_source_configs(sources, plan));
    let catalog = Arc::clone(first.checkpoint.catalog());
    let mut classes = Vec::with_capacity(catalog.entries().len());
    for entry in catalog.entries() {
        match classify(entry) {
            Ok(class) => classes.push(class),
            Err(difference) => differences.push(difference),
        }
    }
    if !differences.is_empty() {
        return Err(Error::NotAligned { differences });
    }
    if catalog.entries().is_empty() {
        return Err(Error::NothingToMerge { path: first.path.clone() });
    }
    let notes = collect_notes(sources, &classes, plan);
    Ok(MergeLayout { catalog, classes, notes })
}

fn collect_notes(sources: &[OpenSource], classes: &[TensorClass], plan: &MergePlan) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        for note in source.checkpoint.notes() {
            let has_it = |other: &OpenSource| other.checkpoint.notes().contains(note);
            if sources.len() == 1 || !sources.iter().all(has_it) {
                notes.push(format!("`{}`: {note}", source.path.display()));
            } else if i == 0 {
                notes.push(format!("each source: {note}"));
            }
        }
    }
    let mut first_by_file: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for (i, source) in sources.iter().enumerate() {
        let Some(file) = source.checkpoint.files().first().filter(|file| file.info.id != (0, 0)) else { continue };
        if let Some(&other) = first_by_file.get(&file.info.id) {
            let other = sources[other].path.display();
            notes.push(format!("`{other}` and `{}` are the same file", source.path.display()));
        }
        first_by_file.entry(file.info.id).or_insert(i);
    }
    if sources.len() == 1 {
        notes.push("one source: the merge equals it".to_owned());
    }
    let n_routers = classes.iter().filter(|&&class| class == TensorClass::Router).count();
    if n_routers > 0 {
        let newest = plan.outputs.iter().any(|output| output.policy.router == RouterPolicy::Newest);
        let how = if newest { "taken from the newest source" } else { "averaged" };
        notes.push(format!("{n_routers} router tensors are {how} (`--router`)"));
    }
    notes
}

fn compare_catalogs(sources: &[OpenSource]) -> Vec<Difference> {
    // Sources of one run share one catalog in memory, so that this is cheap for any number of them.
    let mut groups: Vec<(&Arc<TensorCatalog>, Vec<usize>)> = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let catalog = source.checkpoint.catalog();
        match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, catalog)) {
            Some((_, members)) => members.push(i),
            None => groups.push((catalog, vec![i])),
        }
    }
    if groups.len() < 2 {
        return Vec::new();
    }
    let names: BTreeSet<&str> =
        groups.iter().flat_map(|(catalog, _)| catalog.entries()).map(|entry| &*entry.name).collect();
    names.into_iter().filter_map(|name| compare_tensor(name, sources, &groups)).collect()
}

fn compare_tensor(
    name: &str,
    sources: &[OpenSource],
    groups: &[(&Arc<TensorCatalog>, Vec<usize>)],
) -> Option<Difference> {
    let (mut present, mut absent, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (catalog, members) in groups {
        let Some(entry) = catalog.find(name).map(|i| &catalog.entries()[i]) else {
            absent.extend_from_slice(members);
            continue;
        };
        present.extend_from_slice(members);
        let is_known = rows
            .iter()
            .any(|(_, shape, dtype, _): &(usize, Shape, Dtype, _)| *shape == entry.shape && *dtype == entry.dtype);
        if !is_known {
            let source = &sources[members[0]];
            let file = entry.pieces.first().and_then(|piece| source.checkpoint.files().get(piece.file_idx as usize));
            let file = file.map_or_else(String::new, |file| file.path.display().to_string());
            rows.push((members[0], entry.shape.clone(), entry.dtype, file));
        }
    }
    let labels = |mut members: Vec<usize>| {
        members.sort_unstable();
        members.into_iter().map(|i| sources[i].label()).collect()
    };
    if !absent.is_empty() {
        return Some(Difference::Presence {
            tensor: name.to_owned(),
            present: labels(present),
            absent: labels(absent),
        });
    }
    (rows.len() > 1).then(|| {
        rows.sort_by_key(|row| row.0);
        let rows = rows.into_iter().map(|(i, shape, dtype, file)| (sources[i].label(), shape, dtype, file));
        Difference::Tensor { tensor: name.to_owned(), rows: rows.collect() }
    })
}

fn compare_source_configs(sources: &[OpenSource], plan: &MergePlan) -> Vec<Difference> {
    let configs: Vec<(String, &serde_json::Value)> =
        sources.iter().filter_map(|source| Some((source.label(), source.checkpoint.config()?))).collect();
    let labelled: Vec<(&str, &serde_json::Value)> =
        configs.iter().map(|(label, config)| (label.as_str(), *config)).collect();
    let waived =
        |key: &str| plan.outputs.iter().all(|output| output.policy.allow_config.iter().any(|allowed| allowed == key));
    compare_configs(&labelled)
        .into_iter()
        .filter(|difference| difference.changes_function && !waived(&difference.key))
        .map(|difference| Difference::Config { key: difference.key, rows: first_of_each(difference.values) })
        .collect()
}

/// The first source of each value, so that fifty checkpoints make two lines.
fn first_of_each(values: Vec<(String, Option<serde_json::Value>)>) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    for (label, value) in values {
        let value = value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        if rows.iter().all(|(_, known)| *known != value) {
            rows.push((label, value));
        }
    }
    rows
}
