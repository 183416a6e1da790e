//! The exact sums of a mean, kept so that checkpoints can be added to it when the old ones are gone.
//!
//! A sum is kept as doubles: plane 1 is the sum, rounded once; where that is not exact, plane 2 is what the rounding
//! took away, with its sign turned, so that a sum of zeros keeps the sign of zero.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_merge::Coefficients;
use thalweg_merge::align::{TensorClass, align_sources};
use thalweg_merge::context::{Progress, RunContext, Stage};
use thalweg_merge::engine::{ExecuteOptions, PartialStage, execute_merge, open_sources};
use thalweg_merge::output_format::OptimizerPolicy;
use thalweg_merge::own::merged_contents;
use thalweg_merge::plan::{
    DigestChoice, MeanCheckpoint, MergePlan, NonFloatPolicy, OutputDtype, OutputPlan, PlanSource, RouterPolicy,
    SourceRef,
};
use thalweg_merge::receipt::MergeReceipt;
use thalweg_merge::verify::{VerifyScope, read_receipt, verify_output};
use thalweg_storage::guard::{
    Contents, OwnFolder, Place, check_folder, foreign_entries, is_empty_folder, is_json_of_kind, look_at, output_path,
    shown_names,
};
use thalweg_storage::publish::{Replace, publish_file, publish_folder};
use thalweg_storage::{Error as StorageError, Storage};
use thalweg_tensor::{Dtype, TensorSource, to_index};
use thalweg_trajectory::check_outside_checkpoints;

use crate::Error;
use crate::document::{DocumentKind, Head};

/// Name of the description, in a folder of sums.
const SUMS_NAME: &str = "sums.json";
const SUMS: DocumentKind = DocumentKind::new("a description of exact sums", "thalweg-sums", 2);
const MAX_SUMS_BYTES: u64 = 256 << 20;
/// The planes, in a folder of sums.
pub(crate) const PLANES: [&str; 2] = ["plane-1", "plane-2"];
/// A plane that would only be needed if two were not enough.
const REST: &str = "rest";
/// Bytes of a plane that are looked at together.
const LOOK_BYTES: u64 = 1 << 20;
/// What always works without sums.
const WITHOUT_SUMS: &str = "leave out `--keep-sums`: appending then reads the old checkpoints again";

/// A folder of kept sums.
const SUMS_FOLDER: OwnFolder<'static> = OwnFolder { what: "kept sums", contents_of: &sums_contents };

/// The exact sum of the checkpoints of a mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptSums {
    kind: String,
    version: u64,
    /// Digest of each plane of doubles.
    planes: Vec<String>,
    /// Digest of the mean.
    digest: Option<String>,
    /// Digest of the mean's receipt, which tells it where the mean has none.
    receipt_digest: Option<String>,
    /// Element type of the mean.
    pub(crate) dtype: OutputDtype,
    /// What is in the sum, oldest first.
    pub(crate) checkpoints: Vec<MeanCheckpoint>,
}

impl KeptSums {
    /// Reads the description in a folder.
    pub(crate) fn read(folder: &Path, storage: &dyn Storage) -> Result<Self, Error> {
        let refuse = |what: String| refuse_sums(folder, &what, "give the folder that `--keep-sums` wrote");
        let bytes =
            storage.read_file(&folder.join(SUMS_NAME), MAX_SUMS_BYTES).map_err(|error| refuse(error.to_string()))?;
        let head: Head = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        if head.kind != SUMS.kind {
            return Err(refuse(format!("it holds `{}`, not exact sums", head.kind)));
        }
        if head.version != SUMS.version {
            let what = format!(
                "its sums have version {}, but this program reads version {}, which lists the checkpoints",
                head.version, SUMS.version
            );
            return Err(refuse_sums(
                folder,
                &what,
                "leave out `--sums` while the old checkpoints exist, and keep new sums with `--keep-sums`",
            ));
        }
        let sums: Self = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        if !(1..=PLANES.len()).contains(&sums.planes.len()) || sums.checkpoints.is_empty() {
            return Err(refuse("it names no planes or no checkpoints".to_owned()));
        }
        Ok(sums)
    }

    /// The planes in `folder`, which must hold the bytes that were kept: nothing else tells once the checkpoints are
    /// gone.
    pub(crate) fn checked_planes(&self, folder: &Path, cx: &RunContext<'_>) -> Result<Vec<PathBuf>, Error> {
        let check = |(name, digest): (&&str, &String)| {
            let path = folder.join(name);
            let receipt = read_receipt(&path, cx)?;
            if receipt.digest.as_ref() == Some(digest) && verify_output(&path, VerifyScope::Output, cx)?.is_equal() {
                return Ok(path);
            }
            let what = format!("`{name}` has changed since it was written");
            Err(refuse_sums(folder, &what, "leave out `--sums` while the old checkpoints exist, or restore the folder"))
        };
        PLANES.iter().zip(&self.planes).map(check).collect()
    }

    /// Whether these are the sums of a mean.
    pub(crate) fn is_of(&self, receipt: &MergeReceipt) -> bool {
        let is_same = |own: &Option<String>, other: &Option<String>| own.is_some() && own == other;
        is_same(&self.digest, &receipt.digest) || is_same(&self.receipt_digest, &receipt.receipt_digest)
    }
}

pub(crate) fn refuse_sums(folder: &Path, what: &str, hint: &str) -> Error {
    Error::request_with_hint(format!("`{}`: {what}", folder.display()), hint)
}

/// What a folder holds in addition to kept sums.
fn sums_contents(storage: &dyn Storage, folder: &Path) -> Result<Contents, StorageError> {
    if !is_json_of_kind(storage, &folder.join(SUMS_NAME), SUMS.kind)? {
        return Ok(Contents::NotOurs);
    }
    let inside = PLANES.map(|name| format!("{name}/"));
    let names: BTreeSet<String> = std::iter::once(SUMS_NAME.to_owned()).chain(inside.clone()).collect();
    let mut foreign = Vec::new();
    for entry in storage.list_folder(folder)? {
        if !PLANES.contains(&entry.name.as_str()) {
            continue;
        }
        match merged_contents(storage, &folder.join(&entry.name))? {
            Contents::NotOurs => foreign.push(entry.name),
            Contents::Ours { foreign: theirs, .. } => {
                foreign.extend(theirs.into_iter().map(|name| format!("{}/{name}", entry.name)));
            }
        }
    }
    let others = foreign_entries(storage, folder, &names)?;
    foreign.extend(others.into_iter().filter(|name| !inside.iter().any(|plane| name.starts_with(plane))));
    Ok(Contents::Ours { manifest: SUMS_NAME.to_owned(), foreign })
}

/// What an old plan says beside its window.
pub(crate) fn like(old: &OutputPlan, output: OutputPlan, newest: usize) -> OutputPlan {
    let mut policy = old.policy.clone();
    (policy.newest, policy.side_files_from) = (newest, newest);
    OutputPlan {
        dtype: old.dtype,
        format: old.format,
        reading: old.reading.clone(),
        policy,
        out_shard_bytes: old.out_shard_bytes,
        digest: old.digest,
        ..output
    }
}

/// Whether a plan is the plain mean of its checkpoints.
pub(crate) fn is_mean(plan: &OutputPlan) -> bool {
    let first = plan.sources.first().map(|source| &source.numerator);
    let is_equal = || plan.sources.iter().all(|source| Some(&source.numerator) == first);
    plan.rule.is_none() && (plan.mean.is_some() || plan.scheme == "sma" && is_equal())
}

/// The checkpoints of a mean, with the digests that its receipt has.
pub(crate) fn checkpoints_of(receipt: &MergeReceipt) -> Vec<MeanCheckpoint> {
    let digest_of =
        |path: &Path| receipt.sources.iter().find(|one| one.path == path).and_then(|one| one.digest.clone());
    match &receipt.plan.mean {
        None => receipt.plan.sources.iter().map(|one| describe(&one.source(), digest_of(&one.path))).collect(),
        Some(mean) => {
            let known = |one: &MeanCheckpoint| one.digest.clone().or_else(|| digest_of(&one.path));
            mean.checkpoints.iter().map(|one| MeanCheckpoint { digest: known(one), ..one.clone() }).collect()
        }
    }
}

/// A checkpoint of a mean.
pub(crate) fn describe(source: &SourceRef, digest: Option<String>) -> MeanCheckpoint {
    MeanCheckpoint { path: source.path.clone(), step: source.step, tokens: source.tokens, digest }
}

/// Sums that can be kept once their mean is written.
#[derive(Debug, Clone)]
pub struct SumsToKeep {
    folder: PathBuf,
    dtype: OutputDtype,
    /// Tensors that are averaged; the others are taken from the newest checkpoint.
    summed: BTreeSet<String>,
    replace: Replace,
}

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumsKept {
    /// Planes of doubles.
    pub n_planes: usize,
    /// Bytes of their sums.
    pub n_bytes: u64,
    /// Whether they were there already.
    pub was_done: bool,
}

/// Checks before a merge that its sums can be kept in `folder`.
///
/// # Errors
/// `Request` where the merge is not one mean, averages what sums do not hold, or has several element types, and where
/// `folder` holds the sums of another merge or is inside something else; those of opening and aligning the sources.
pub fn prepare_sums(
    plan: &MergePlan,
    folder: &Path,
    replace: Replace,
    cx: &RunContext<'_>,
) -> Result<SumsToKeep, Error> {
    let [output] = plan.outputs.as_slice() else {
        let what = format!("`--keep-sums` keeps the sum of one merge, but the plan has {}", plan.outputs.len());
        return Err(Error::request_with_hint(what, "leave it out, or give a plan of one output"));
    };
    if !is_mean(output) {
        let what = format!("`--keep-sums` keeps the sum of a plain mean, but this merge is by `{}`", output.scheme);
        return Err(Error::request_with_hint(what, "leave it out, or merge by `sma`"));
    }
    if output.policy.optimizer == OptimizerPolicy::Average {
        let what = "`--keep-sums` keeps the sum of the parameters only, but `--optimizer average` averages moments too";
        return Err(Error::request_with_hint(what, WITHOUT_SUMS));
    }
    let folder = check_sums_place(output, folder, replace, cx)?;
    let sources = open_sources(plan, cx)?;
    let layout = align_sources(&sources, plan, &*cx.storage)?;
    let averages_routers = output.policy.router == RouterPolicy::Average;
    let is_summed =
        |class: TensorClass| class == TensorClass::Float || class == TensorClass::Router && averages_routers;
    let summed = layout.catalog.entries().iter().zip(&layout.classes).filter(|(_, class)| is_summed(**class));
    let mut dtypes: Vec<Dtype> = summed.clone().map(|(entry, _)| output.dtype.resolve(entry.dtype)).collect();
    dtypes.dedup();
    let dtype = match dtypes.as_slice() {
        [Dtype::F32] => OutputDtype::F32,
        [Dtype::Bf16] => OutputDtype::Bf16,
        [Dtype::F16] => OutputDtype::F16,
        _ => {
            return Err(Error::request_with_hint(
                "`--keep-sums` needs averaged tensors of one element type: F32, BF16 or F16",
                "give `--dtype`, or leave `--keep-sums` out",
            ));
        }
    };
    let summed = summed.map(|(entry, _)| entry.name.to_string()).collect();
    Ok(SumsToKeep { folder, dtype, summed, replace })
}

/// The absolute path of a folder for sums, if they may be written there.
fn check_sums_place(
    output: &OutputPlan,
    folder: &Path,
    replace: Replace,
    cx: &RunContext<'_>,
) -> Result<PathBuf, Error> {
    const ELSEWHERE: &str = "choose another folder for `--keep-sums`";
    let storage = &*cx.storage;
    let path = output_path(storage, folder)?;
    let refuse = |what: &str| Err(refuse_sums(folder, what, ELSEWHERE));
    if output.sources.iter().any(|source| source.is_sum && source.path.starts_with(&path)) {
        return refuse("it holds the sums that this merge reads");
    }
    if path.starts_with(&output.path) || output.path.starts_with(&path) {
        return refuse("it lies inside the merge, or the merge lies inside it");
    }
    check_outside_checkpoints(&cx.storage, &path)?;
    check_folder(storage, &path, SUMS_FOLDER)?;
    let is_free = look_at(storage, &path)? == Place::Free || is_empty_folder(storage, &path)?;
    if is_free || replace == Replace::Force {
        return Ok(path);
    }
    // The same command again keeps what is there.
    let is_same = KeptSums::read(&path, storage)
        .is_ok_and(|sums| read_receipt(&output.path, cx).is_ok_and(|receipt| sums.is_of(&receipt)));
    if is_same {
        return Ok(path);
    }
    Err(refuse_sums(
        folder,
        "it holds the sums of a different merge",
        &format!("{ELSEWHERE}, or replace them with `--force`"),
    ))
}

/// Keeps the exact sum of a mean that was just written.
///
/// # Errors
/// `Request` where a sum does not fit two planes; those of merging. The folder is then as it was.
pub fn keep_sums(receipt: &MergeReceipt, keep: &SumsToKeep, cx: &RunContext<'_>) -> Result<SumsKept, Error> {
    let storage = &*cx.storage;
    let n_elements = receipt.tensors.iter().filter(|tensor| keep.summed.contains(&tensor.name));
    let n_elements: u64 = n_elements.map(|tensor| tensor.shape.iter().product::<u64>()).sum();
    let kept = |n_planes, was_done| SumsKept { n_planes, n_bytes: 8 * n_elements * n_planes as u64, was_done };
    if let Ok(sums) = KeptSums::read(&keep.folder, storage)
        && sums.is_of(receipt)
    {
        return Ok(kept(sums.planes.len(), true));
    }
    let stage = storage.stage_path(&keep.folder);
    clear_planes(storage, &stage)?;
    storage.create_folder(&stage)?;
    let written = write_sums(receipt, keep, &stage, cx);
    let n_planes = written.inspect_err(|_| {
        // Without its description it is of no use. If it cannot be removed, the next attempt clears it.
        let _ = storage.remove(&stage);
    })?;
    publish_folder(storage, &stage, &keep.folder, keep.replace, SUMS_FOLDER, cx)?;
    Ok(kept(n_planes, false))
}

/// Removes what an interrupted attempt left in a stage.
fn clear_planes(storage: &dyn Storage, stage: &Path) -> Result<(), Error> {
    if look_at(storage, stage)? == Place::Free {
        return Ok(());
    }
    let is_plane = |name: &str| {
        let mut planes = PLANES.iter().chain([&REST]);
        planes.any(|plane| name == *plane || name.starts_with(&format!("{plane}.thalweg-")))
    };
    let names = storage.list_folder(stage)?.into_iter().map(|entry| entry.name);
    let foreign: Vec<String> = names.filter(|name| name != SUMS_NAME && !is_plane(name)).collect();
    if foreign.is_empty() {
        return Ok(storage.remove(stage)?);
    }
    let what = format!("sums are staged here, but it holds {}", shown_names(&foreign));
    Err(refuse_sums(stage, &what, "move that away"))
}

/// Writes planes and description into `stage`; how many planes.
fn write_sums(receipt: &MergeReceipt, keep: &SumsToKeep, stage: &Path, cx: &RunContext<'_>) -> Result<usize, Error> {
    // Notes about a plane would be taken for notes about the output.
    let quiet = Quiet(cx.progress);
    let silent = RunContext { progress: &quiet, ..cx.clone() };
    let planes = SumPlanes { receipt, keep, stage, cx: &silent };
    let terms: Vec<Term> = receipt.plan.sources.iter().map(Term::of).collect();
    let mut digests = vec![planes.write(&terms, PLANES[0])?];
    let mut rest: Vec<Term> = terms.iter().map(Term::turned).collect();
    rest.push(Term::plane(stage.join(PLANES[0]), 1));
    let second = planes.write(&rest, PLANES[1])?;
    if planes.is_zero(PLANES[1])? {
        cx.storage.remove(&stage.join(PLANES[1]))?;
    } else {
        digests.push(second);
        rest.push(Term::plane(stage.join(PLANES[1]), -1));
        planes.write(&rest, REST)?;
        if !planes.is_zero(REST)? {
            return Err(Error::request_with_hint(
                "the sum of these checkpoints does not fit into two planes of doubles",
                WITHOUT_SUMS,
            ));
        }
        cx.storage.remove(&stage.join(REST))?;
    }
    let n_planes = digests.len();
    let sums = KeptSums {
        kind: SUMS.kind.to_owned(),
        version: SUMS.version,
        planes: digests,
        digest: receipt.digest.clone(),
        receipt_digest: receipt.receipt_digest.clone(),
        dtype: keep.dtype,
        checkpoints: checkpoints_of(receipt),
    };
    let text = serde_json::to_vec(&sums).map_err(|source| Error::ReportForm { path: None, source })?;
    publish_file(&*cx.storage, &stage.join(SUMS_NAME), &text, SUMS.file())?;
    Ok(n_planes)
}

/// A checkpoint or a plane that is added or taken away.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    pub(crate) source: SourceRef,
    pub(crate) sign: i64,
    pub(crate) is_sum: bool,
}

impl Term {
    /// As the source of a mean is summed.
    pub(crate) fn of(source: &PlanSource) -> Self {
        let sign = if source.numerator.starts_with('-') { -1 } else { 1 };
        Self { source: source.source(), sign, is_sum: source.is_sum }
    }

    /// A plane of an exact sum.
    pub(crate) fn plane(path: PathBuf, sign: i64) -> Self {
        Self { source: SourceRef { path, step: None, tokens: None }, sign, is_sum: true }
    }

    fn turned(&self) -> Self {
        Self { sign: -self.sign, ..self.clone() }
    }
}

/// The sum of the terms over a divisor, in all other respects [`like`] an old output.
pub(crate) fn sum_of(
    terms: &[Term],
    divisor: i64,
    (old, path, scheme): (&OutputPlan, &Path, &str),
    newest: usize,
) -> Result<OutputPlan, Error> {
    let sources: Vec<SourceRef> = terms.iter().map(|term| term.source.clone()).collect();
    let coefficients = Coefficients::new(terms.iter().map(|term| term.sign), divisor)?;
    let mut output = like(old, OutputPlan::new(path, scheme, &sources, &coefficients), newest);
    output.sources.iter_mut().zip(terms).for_each(|(source, term)| source.is_sum = term.is_sum);
    Ok(output)
}

/// Progress without notes.
struct Quiet<'a>(&'a dyn Progress);

impl Progress for Quiet<'_> {
    fn begin(&self, stage: Stage, total_bytes: u64) {
        self.0.begin(stage, total_bytes);
    }

    fn resume(&self, n_bytes: u64) {
        self.0.resume(n_bytes);
    }

    fn advance(&self, n_bytes: u64) {
        self.0.advance(n_bytes);
    }

    fn note(&self, _text: &str) {}
}

/// Writes weighted sums as doubles.
struct SumPlanes<'a> {
    receipt: &'a MergeReceipt,
    keep: &'a SumsToKeep,
    stage: &'a Path,
    cx: &'a RunContext<'a>,
}

impl SumPlanes<'_> {
    /// Writes a sum; the digest of the plane.
    fn write(&self, terms: &[Term], name: &str) -> Result<String, Error> {
        let plan = &self.receipt.plan;
        // The newest of the merge's own sources has the files that travel.
        let newest = plan.policy.newest;
        let mut output = sum_of(terms, 1, (plan, &self.stage.join(name), "custom"), newest)?;
        output.dtype = OutputDtype::F64;
        output.digest = DigestChoice::Xxh3;
        output.policy.model_card = false;
        output.policy.non_float = NonFloatPolicy::Newest;
        let options = ExecuteOptions { replace: Replace::Force, partial: PartialStage::Discard };
        let outcomes = execute_merge(&MergePlan::new(vec![output.of_model_alone()])?, options, self.cx)?;
        outcomes
            .into_iter()
            .find_map(|outcome| outcome.receipt.digest)
            .ok_or(thalweg_merge::Error::Bug { what: "a plane has a digest" }.into())
    }

    /// Whether all that is summed in a plane is zero. NaN and infinities, which the mean has too, have no rest.
    fn is_zero(&self, name: &str) -> Result<bool, Error> {
        let checkpoint = self.cx.pool.open(&self.stage.join(name), &Default::default())?;
        let unbounded: BTreeSet<&str> =
            self.receipt.tensors.iter().filter(|one| one.n_non_finite > 0).map(|one| one.name.as_str()).collect();
        let mut buffer = Vec::new();
        for (t, entry) in checkpoint.catalog().entries().iter().enumerate() {
            if entry.dtype != Dtype::F64 || !self.keep.summed.contains(&*entry.name) {
                continue;
            }
            let n_elements = entry.n_elements();
            for first in (0..n_elements).step_by(to_index(LOOK_BYTES / 8)) {
                let range = first..n_elements.min(first + LOOK_BYTES / 8);
                buffer.resize(to_index(8 * (range.end - range.start)), 0);
                checkpoint.read_elements(t, range, &mut buffer).map_err(|source| {
                    Error::Merge(thalweg_merge::Error::Access { tensor: entry.name.to_string(), source })
                })?;
                let is_rest = |value: f64| value != 0.0 && (value.is_finite() || !unbounded.contains(&*entry.name));
                let (values, _) = buffer.as_chunks::<8>();
                if values.iter().any(|bytes| is_rest(f64::from_le_bytes(*bytes))) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
